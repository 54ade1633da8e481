"""Exact integer images near candidates, within the space that the candidates span.

Shapes: ``candidates (n, d)`` with ``spread (n, n)`` as in :mod:`zeros`; ``levels (n, d)`` are
pixels in 0..255; *features* as in :mod:`features`.

An image is ``u = offset + a (y_k + sum_i e_i y_i)``, with directions y in levels, a scale a, and
unknown coefficients e whose standard deviations are row k of the spread.

1. *Scale*. A bias is a pixel that is 1 in every image, and so gives the scale. Without one it is
   the a in front of which differences are most nearly integers, by the sum of their cosines (a
   periodogram). Each counts as precisely as it is known.
2. *Progressive rounding*: features whose predicted deviation is below ``SURE`` are rounded, e is
   fitted to them by robust least squares, which predicts further features.
3. *Search*, once that brings nothing new: a few coefficients may be far from what the spread says,
   where neurons that were taken for inactive were not. These are looked for one after the other.
4. *Certificate*: a fifth of the pixels takes no part in 1 to 3. In an exact image they are
   integers up to the noise of the row space; otherwise their distances from integers are uniform,
   but for pixels that are the same in nearly all images, which are left out.
   So the chance of a wrong acceptance is the volume of a ball, times the number of scales tried.

A negated image is an integer image as well where ``2 offset`` is nearly an integer. If both are in
0..255, the bias tells which one is right, or else neither is accepted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, lgamma, log, pi, prod
from time import perf_counter

import torch
from torch import Tensor

from lit_recon.methods.rowspace.features import Features, coherence
from lit_recon.methods.rowspace.zeros import Estimate, refine_by_zeros

SURE = 0.17  # levels; three standard deviations are then half a level
ROUNDING_SIGMA = 0.05  # levels; deviation of a feature that counts as rounded rightly
FITTED = 600  # of them in one fit, and EXTRA for each unknown: those that tell most
EXTRA = 6
ROUNDS, FITS = 16, 3
SCALES = 8.0  # the largest scale that keeps the image in 0..255, over the smallest one tried
SCALE_STEP = 0.004  # between two scales, relative
SCALE_FEATURES = 1000
LEAST_SCORE = 5.0  # standard deviations of the periodogram
LIMIT = 0.05  # levels; largest rms residual of the held-out pixels, plus twice the noise
LARGEST_LIMIT = 0.1  # levels; a wrong pixel is then five standard deviations away
TELLING_SHARE, LEAST_CHANGE = 0.1, 1.0  # a pixel changes so many levels in so many candidates
FARTHEST = 0.4  # levels from an integer; a pixel farther away may be the next integer
DOUBTS = (0.0, 0.1, 0.3, 1.0)  # in the spread, one after the other, each with a search
LEAST_DOUBT, LARGEST_DOUBT = 1e-4, 0.5  # of a scale that a bias gives, relative
SMALL_SHARE = 2e-5  # of a candidate's norm; smaller spreads are not fitted
LOG10_CHANCE = -12.0  # of all wrong acceptances together
LEAST_CONTRAST = 2.0  # levels; anything nearly flat is near integers
CHUNK = 16  # candidates in one batch, fewer where more than CHUNK_UNKNOWNS directions are fitted,
CHUNK_UNKNOWNS = 100  # so that a batch takes no more than a few seconds


@dataclass(frozen=True)
class Rounded:
    """Integer images, and which of them are certain.

    >>> Rounded(torch.zeros(1, 4), torch.tensor([True]), torch.tensor([0.01]), -20.0).exact
    tensor([True])

    Attributes:
        levels: (n, d) float64 integers; NaN where nothing was found.
        exact: (n,) bool, accepted by the certificate.
        residual: (n,) rms distance from integers of the held-out pixels; 0.29 is chance.
        log10_chance: expected number of wrong acceptances among n, as a decimal logarithm.
    """

    levels: Tensor
    exact: Tensor
    residual: Tensor
    log10_chance: float


def log10_chance(residual: float, pixels: int, trials: float) -> float:
    """Expected number of times that unrelated pixels are so close to integers, as a logarithm.

    >>> round(log10_chance(0.05, 600, 1e5))
    -408
    """
    ball = pixels / 2 * log(pi) - lgamma(pixels / 2 + 1) + pixels * log(residual + 1e-12)
    return (ball + pixels / 2 * log(pixels) + log(trials)) / log(10)


def round_to_integers(
    estimate: Estimate,
    offset: float | Tensor,
    factor: float,
    shape: tuple[int, int, int],
    generator: torch.Generator,
    noise: float | Tensor = 0.0,
    deadline: float = inf,
    *,
    search: bool = False,
) -> Rounded:
    """Find the exact image of every candidate that is not known yet.

    Args:
        estimate: candidates of inputs ``x = (u - offset) / factor``, at any scale and with either
            sign. A column beyond the pixels is that of a bias, which reads 1 in every image. It
            gives the scale.
        offset: levels of a zero input, one number or (d,).
        factor: levels of one unit of an input, ``255 std``.
        shape: (c, h, w) of an image.
        generator: draws the held-out pixels and the pool of features.
        noise: (n,) rms error of a candidate's pixels that the rounding of weights causes, or one
            number for all.
        deadline: value of ``time.perf_counter()`` after which the remaining candidates are left.
        search: look for coefficients that are far from what the spread says.

    Returns:
        Levels, exact where the certificate accepts; those of known candidates as they are.
    """
    d = prod(shape)
    candidates = factor * estimate.candidates[:, :d]
    zero = torch.as_tensor(offset, dtype=candidates.dtype).expand(d)
    features = Features.drawn(shape, generator)
    tags = estimate.candidates[:, d] if estimate.candidates.shape[1] > d else None
    maps = features.of(candidates)
    given = _Given(candidates, estimate.spread, tags, zero, factor, features, maps)
    held = features.held[_telling(given)]
    wanted = torch.nonzero(~estimate.known).flatten()
    levels = (zero + candidates).round()
    levels[wanted] = torch.nan
    residual = torch.zeros(len(candidates), dtype=candidates.dtype)
    residual[wanted] = torch.inf
    other = torch.full_like(residual, torch.inf)  # of the image with the other sign
    expected = torch.as_tensor(noise, dtype=candidates.dtype).expand(len(candidates)).clone()
    few = CHUNK * CHUNK_UNKNOWNS**2 // max(len(wanted), CHUNK_UNKNOWNS) ** 2
    for part in wanted.split(max(1, few)):
        if perf_counter() > deadline:
            break
        image, scale = _fit(given, part, expected[part])
        expected[part] *= factor * scale.abs()
        if search:
            image = _searched(given, part, image, scale, deadline)
        both = torch.stack([image, 2 * zero - image])
        whole = both.round()
        rest = both - whole
        error = rest[:, :, held].square().mean(2).sqrt().nan_to_num(torch.inf)
        impossible = (whole < 0).any(2) | (whole > 255).any(2) | (rest.abs() > FARTHEST).any(2)
        if tags is not None:
            negative = scale * tags[part] < 0
            impossible |= torch.stack([negative, ~negative])
        error[impossible] = torch.inf
        better = error.argmin(0)
        levels[part] = whole[better, torch.arange(len(part))]
        residual[part], other[part] = error.amin(0), error.amax(0)
    limit = (LIMIT + 2 * expected).clamp_max(LARGEST_LIMIT)
    trials = 2.0 * len(wanted) * log(SCALES) / SCALE_STEP
    chance = log10_chance(float(limit.amax()), max(1, len(held)), trials)
    exact = (residual < limit) & (other > limit) & (chance < LOG10_CHANCE)
    exact &= levels.std(1) > LEAST_CONTRAST
    return Rounded(levels, _once(levels, exact | estimate.known, residual), residual, chance)


def _once(levels: Tensor, exact: Tensor, residual: Tensor) -> Tensor:
    """(n,) bool: the exact images without those that another candidate is nearer to."""
    index = torch.nonzero(exact).flatten()
    index = index[residual[index].argsort(stable=True)]  # known ones have a residual of 0
    same = (levels[index, None] == levels[None, index]).all(2)
    single = torch.zeros_like(exact)
    single[index[~same.tril(-1).any(1)]] = True
    return single


def recover_integers(
    change: Tensor,
    before: Tensor | None,
    after: Tensor | None,
    prior: Estimate,
    offset: float | Tensor,
    factor: float,
    shape: tuple[int, int, int],
    generator: torch.Generator,
    deadline: float = inf,
) -> tuple[Estimate, Rounded]:
    """Zeros and rounding by turns, until all images are exact or a pass brings nothing new.

    Args:
        change: (h, d) float64 change of the first layer, or (h, d + 1) with that of its bias.
        before: the first layer at the first checkpoint, of the same shape; None: not used.
        after: the same at the second checkpoint; None with ``before`` None: rounding alone.
        prior: candidates that span the row space of the change.
        offset: levels of a zero input, one number or (d,).
        factor: levels of one unit of an input.
        shape: (c, h, w) of an image.
        generator: source of the random choices.
        deadline: value of ``time.perf_counter()`` after which no batch of columns or of candidates
            begins.

    Returns:
        The best candidates, exact ones at their own scale and sign, and the rounded images.
    """
    best, doubts, search = prior, iter(DOUBTS), False
    doubt: float | None = 0.0
    while doubt is not None:
        found = prior.known.sum() + prior.settled.sum()
        if before is not None or after is not None:
            prior, best = refine_by_zeros(change, before, after, prior, best, deadline)
        best, noise = _refit(change, best)
        doubtful = best.doubted(prior, doubt)
        rounded = round_to_integers(
            doubtful, offset, factor, shape, generator, noise, deadline, search=search
        )
        prior, best = (_with_known(each, rounded, offset, factor) for each in (prior, best))
        if prior.known.all() or perf_counter() > deadline:
            break
        if prior.known.sum() + prior.settled.sum() == found:
            doubt, search = next(doubts, None), True
    return best, rounded


def _refit(change: Tensor, estimate: Estimate) -> tuple[Estimate, Tensor]:
    """Candidates of which the known ones no longer carry the rounding of the weights.

    With ``C = change pinv(candidates)``, unknown candidates are fitted to what the known ones leave
    of the change. Their noise then is that of their own columns of C, whose condition is better.

    Returns:
        The estimate, and the rms noise (n,) of the candidates' pixels.
    """
    candidates, unknown = estimate.candidates.clone(), ~estimate.known
    coefficients = torch.linalg.lstsq(candidates.T, change.T).solution.T  # (h, n)
    own = coefficients[:, unknown]
    rest = change - coefficients[:, ~unknown] @ candidates[~unknown]
    inverse = torch.linalg.pinv(own)
    candidates[unknown] = inverse @ rest
    error = (rest - own @ candidates[unknown]).square().mean(1)  # of each neuron
    noise = torch.zeros(len(candidates), dtype=change.dtype)
    noise[unknown] = (inverse.square() @ error).sqrt()
    return replace(estimate, candidates=candidates), noise


def _with_known(
    estimate: Estimate, rounded: Rounded, offset: float | Tensor, factor: float
) -> Estimate:
    """The estimate with exact images in the place of their candidates."""
    new = rounded.exact & ~estimate.known
    pixels = (rounded.levels[new] - offset) / factor
    rest = torch.ones(len(pixels), estimate.candidates.shape[1] - pixels.shape[1]).to(pixels)
    candidates, spread = estimate.candidates.clone(), estimate.spread.clone()
    candidates[new] = torch.cat([pixels, rest], 1)
    # E_ki is in units of candidate i, whose scale is another one now.
    spread[:, new] *= estimate.candidates[new].norm(dim=1) / candidates[new].norm(dim=1)
    spread[new] = 0
    return replace(estimate, candidates=candidates, spread=spread, known=rounded.exact)


@dataclass(frozen=True)
class _Given:
    """What is known of all candidates.

    Attributes:
        candidates: (n, d) in levels, at any scale.
        spread: (n, n) as in :mod:`zeros`.
        tags: (n,) the pixel that a bias reads, which is 1 in every image; None: there is none.
        zero: (d,) the image of a zero input, in levels.
        factor: levels of one unit of an input.
        features: that should be whole.
        maps: (n, f) those of the candidates.
    """

    candidates: Tensor
    spread: Tensor
    tags: Tensor | None
    zero: Tensor
    factor: float
    features: Features
    maps: Tensor


def _telling(given: _Given) -> Tensor:
    """(q,) bool: held-out pixels that are not the same in nearly all images, as a background is."""
    pixels = given.candidates[:, given.features.held]
    if given.tags is None or len(pixels) == 1:  # there is nothing to compare a pixel with
        pixels = pixels / given.candidates.square().mean(1, keepdim=True).sqrt() * given.factor
    else:
        pixels = pixels / given.tags[:, None]
        pixels = pixels - pixels.nanmedian(0).values
    least = max(1, round((1 - TELLING_SHARE) * len(pixels)))
    return pixels.abs().kthvalue(least, dim=0).values > LEAST_CHANGE


def _fit(given: _Given, part: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Images (b, d), NaN where no scale stands out, and their scales (b,).

    Args:
        given: all candidates.
        part: (b,) those that are fitted.
        noise: (b,) rms error of their pixels, in units of the inputs.
    """
    candidates, features = given.candidates, given.features
    norms = candidates.norm(dim=1)
    share = given.spread[part] * norms / norms[part, None]
    unknown = torch.nonzero((share > SMALL_SHARE).any(0)).flatten()
    unknown = torch.cat([unknown, part[torch.isin(part, unknown, invert=True)]])
    prior, own = given.spread[part][:, unknown], part[:, None] == unknown  # (b, q)
    base, maps = features.of(given.zero), given.maps[unknown]
    if given.tags is None:
        simple = features.count == 2
        scale, clear = _signed_scale(
            given.maps[part][:, simple],
            prior.square() @ maps[:, simple].square(),
            base[simple],
            _largest_scale(candidates[part], given.zero),
        )
        prior[own] = SCALE_STEP
        precision = _diagonal(prior)
    else:
        scale = 1 / given.tags[part]
        doubt = (given.spread[part].square() @ given.tags.square()).sqrt() * scale.abs()
        clear = doubt < LARGEST_DOUBT
        prior[own] = doubt.clamp_min(LEAST_DOUBT)
        # With all shares the tag is 1, up to the noise of a pixel.
        sure = scale / (noise * scale).abs().clamp_min(LEAST_DOUBT)
        sure = given.tags[unknown] * sure[:, None]
        precision = _diagonal(prior) + sure[:, :, None] * sure[:, None]
    out = torch.nonzero(clear).flatten()
    image = torch.full((len(part), len(given.zero)), torch.nan, dtype=maps.dtype)
    start = base + scale[out, None] * given.maps[part[out]]
    extra = (features.count - 2) * (given.factor * noise * scale).square()[out, None]
    shift = _progressive(start, scale[out], maps, precision[out], extra)
    moved = candidates[part[out]] + shift @ candidates[unknown]
    image[out] = given.zero + scale[out, None] * moved
    return image, scale


def _diagonal(deviation: Tensor) -> Tensor:
    """(b, q, q) the precision of independent coefficients with standard deviations (b, q)."""
    return torch.diag_embed(deviation.clamp_min(torch.finfo(deviation.dtype).eps).pow(-2))


def _searched(
    given: _Given, part: Tensor, images: Tensor, scale: Tensor, deadline: float
) -> Tensor:
    """Images (b, d) in which features are more nearly whole; no search begins after the deadline.

    Args:
        given: all candidates.
        part: (b,) those that are searched.
        images: (b, d) what rounding gave; NaN where it gave nothing.
        scale: (b,) of the candidates.
        deadline: value of ``time.perf_counter()``.
    """
    images, features = images.clone(), given.features
    norms = given.candidates.norm(dim=1)
    units = given.candidates / norms[:, None]
    for place, row in enumerate(part.tolist()):
        if perf_counter() > deadline:
            break
        start = given.zero + scale[place] * given.candidates[row]
        begin = [one for one in (images[place], start) if one.isfinite().all()]
        if not begin:
            continue
        free = begin[0][features.free]
        if (free - free.round()).square().mean() < LIMIT**2:
            continue  # it is whole already
        begin.sort(key=lambda one: coherence(features.of(one)))
        directions = units
        if given.tags is not None:  # then no share changes the tag
            tags = given.tags / norms
            directions = units - (tags / tags[row])[:, None] * units[row]
            directions = directions[torch.arange(len(units)) != row]
        contrast = (start - given.zero).norm()
        images[place] = features.whole_near(begin[-1], contrast * directions)
    return images


def _largest_scale(candidates: Tensor, zero: Tensor) -> Tensor:
    """(b,) a little more than the largest scale at which some sign keeps the image in 0..255."""
    room = torch.stack([255 - zero, zero])[:, None] + 1
    sides = torch.stack([candidates, -candidates]).clamp_min(1e-12)
    signs = torch.stack([room / sides, room / sides.flip(0)])  # (2, 2, b, d)
    return 1.1 * signs.amin((1, 3)).amax(0)


def _signed_scale(
    own: Tensor, variance: Tensor, base: Tensor, largest: Tensor
) -> tuple[Tensor, Tensor]:
    """The scale (b,) of either sign, and whether it stands out (b,)."""
    scale, score = _scale(own, variance, base, largest)
    if base.any():  # else both signs have the same features
        negative, other = _scale(-own, variance, base, largest)
        scale, score = torch.where(other > score, -negative, scale), torch.maximum(score, other)
    return scale, score > LEAST_SCORE


def _scale(own: Tensor, variance: Tensor, base: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """The scale (b,) at which features (b, f) are integers, and how far it stands out (b,)."""
    count = round(log(SCALES) / SCALE_STEP)
    grid = largest[:, None] * torch.exp(-SCALE_STEP * torch.arange(count, dtype=own.dtype))
    weight = torch.exp(-2 * pi**2 * variance * (largest[:, None] / 2).square())
    telling = weight * (own * largest[:, None]).square().clamp_max(1)
    chosen = telling.topk(min(SCALE_FEATURES, own.shape[1]), dim=1).indices
    weight, own, base = weight.gather(1, chosen), own.gather(1, chosen), base[chosen]
    phase = base[:, None] + grid[:, :, None] * own[:, None]  # (b, scales, f)
    total = (torch.cos(2 * pi * phase.float()) @ weight.float()[:, :, None])[:, :, 0]
    score, place = (total / (weight.square().sum(1, keepdim=True) / 2).sqrt()).max(1)
    return grid.gather(1, place[:, None])[:, 0], score


def _progressive(
    start: Tensor, scale: Tensor, maps: Tensor, precision: Tensor, extra: Tensor
) -> Tensor:
    """Coefficients (b, q) that make features integers.

    Args:
        start: (b, f) features of the candidates.
        scale: (b,) levels of the candidates.
        maps: (q, f) features of the directions, before scaling.
        precision: (b, q, q) of the coefficients, before features say anything.
        extra: (b, f) variance of each feature by the noise of the pixels beyond two of them.
    """
    b, q = precision.shape[:2]
    mean, covariance = torch.zeros(b, q).to(start), torch.linalg.inv(precision)
    most, before = FITTED + EXTRA * q, torch.zeros(b, dtype=torch.long)
    active = torch.arange(b)
    for _ in range(ROUNDS):
        variance = ((covariance[active] @ maps) * maps).sum(1).clamp_min(0)
        deviation = (variance * scale[active, None].square() + extra[active]).sqrt()  # (a, f)
        sure = deviation < SURE
        count = sure.sum(1)
        grows = count > 1.02 * before[active] + 2
        before[active] = count
        active, sure, deviation = active[grows], sure[grows], deviation[grows]
        if len(active) == 0:
            break
        # Of the features that are sure, the least certain ones tell most.
        told, chosen = torch.where(sure, deviation, -1).topk(min(most, maps.shape[1]), dim=1)
        rows = maps[:, chosen].permute(1, 2, 0) * scale[active, None, None]  # (a, l, q)
        aim = start[active].gather(1, chosen)
        fitted = _fit_integers(rows, aim, told >= 0, precision[active], mean[active])
        mean[active], covariance[active] = fitted
    return mean


def _fit_integers(
    rows: Tensor, start: Tensor, used: Tensor, prior: Tensor, mean: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean (a, q) and covariance (a, q, q) of coefficients with which features are integers.

    Args:
        rows: (a, l, q) features of the directions.
        start: (a, l) features of the candidates.
        used: (a, l) bool, features that are rounded.
        prior: (a, q, q) precision of the coefficients.
        mean: (a, q) coefficients to begin with.
    """
    weight = used / ROUNDING_SIGMA**2
    for _ in range(FITS):
        value = start + (rows @ mean[:, :, None])[:, :, 0]
        weighted = (rows * weight[:, :, None]).transpose(1, 2)
        factor = torch.linalg.cholesky(weighted @ rows + prior)
        aim = value.round() - start
        mean = torch.cholesky_solve(weighted @ aim[:, :, None], factor)[:, :, 0]
        residual = aim - (rows @ mean[:, :, None])[:, :, 0]
        weight = used / (ROUNDING_SIGMA**2 + residual.square())
    return mean, torch.cholesky_inverse(factor)
