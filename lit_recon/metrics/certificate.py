"""Exact pixels without ground truth: which candidates are directions of a uint8 image.

Shapes: ``candidates (m, d)``, images ``(m, c, h, w)`` uint8, ``d = c h w``; inside, ``b``
candidates with ``s`` fits each. A *level* is a pixel in units of 1/255; ``offset = 255 mean`` are
the levels of a zero input, one number for all pixels or, with a mean image, one for each. No
function here sees a true image.

A training image is ``x = (u / 255 - mean) / std`` with integer ``u``. Given its direction e alone,
the unknown norm is found by a search over one number, the scale s of ``u(s) = offset + s e``: the
right scale makes all d pixels integers, any other leaves an rms distance of 1/sqrt(12) = 0.289.

An accepted candidate has the direction of a uint8 image under the known offset. The guards against
other ways to get there, each with the wrong acceptances that it removed when it came in:

- Every decoded level counts once in the residual, and few levels must fit better
  (`_residual_limits`). With 80 % of the pixels at 0 and 255 the plain residual is small at
  many scales.
- The error must be below ``DIRECTION_CAP`` of the decoded input's norm: the only difference between
  a posterised image and its low-contrast copies, which fitted 28 of 160 mixtures of such images.
- The error must be spread over the pixels like noise. Where 5 % of the pixels held an error of
  1e-3, 20 of 160 candidates came out with single pixels off by one level.
- An offset fitted freely must come back to the known one. Without this, images with a brightness
  error and mixtures with a flat image passed one time in five.
- No other image may fit. An image of few, evenly spaced levels also fits at multiples.
- With a mean image, no smaller input with the same or the opposite direction may be an image
  (`_is_multiple`). Without this, 37 of 90 negated images passed at n = 3 and 8x8 grey.

Measured acceptance in per cent, isotropic error on unit vectors, sets of 20 images of which 10 gave
the mean and standard deviation (photographs: patches of scikit-learn's sample images). Below the
line: sets of 10 images that gave the mean image, with a std of 1.

    direction error         1e-5   1e-4   5e-4   1e-3   2e-3   1e-2    of
    CIFAR-10 32x32           100    100    100     85      0      0   400
    CIFAR-10 8x8             100    100    100     96      0      0   400
    photographs 32x32        100    100     97     69      0      0   400
    photographs 8x8          100    100     89     76      0      0   400
    photographs 8x8 grey      88     83     59     46      0      0   160
    photographs 4x4 grey      87     70     24      5      0      0   160
    80 % saturated 32x32     100      -     88      -      -      0    40
    95 % saturated 32x32      62      -     25      -      -      0    40
    ---------------------------------------------------------------------
    CIFAR-10 32x32           100    100    100     91      0      0   400
    CIFAR-10 8x8             100    100    100     98      0      0   400
    photographs 32x32        100    100    100     68      0      0   400
    photographs 8x8          100    100     90     76      0      0   400
    photographs 8x8 grey     100     94     66     52      0      0   400
    photographs 4x4 grey      99     82     32     11      0      0   400

Every image accepted there was right in every pixel. In Gauss-Newton runs (random features, 6 images
of 8x8 in colour, every iteration) 176 of the 178 candidates with a direction error below 1e-3 were
accepted, none wrongly. In 1,600 trials of each kind with the first four rows' images, nothing was
accepted among random Gaussian, smooth and negated directions, smooth errors of 3e-3, and random and
1:1 mixtures of two images; nor among Gaussian directions clipped to 60-95 % saturated pixels. The
same holds in 1,600 trials of each kind with the first four rows below the line.

Known limits. Most of them are integer images in their own right, which no test on one candidate can
distinguish from a training image. Wrong acceptances in the same 1,600: mixtures 2 x_1 - x_2 whose
pixels stay in range, 9; images made brighter by a whole level, by chance or by 1 % of a flat image,
5. At 8x8 grey these are 19 and 5 of 160, and errors of 1e-3 that are smooth, heavy-tailed or held
by a few pixels up to 2 of 160 each; mixtures of posterised images 1 in 100; below 8x8 grey up to 1
in 5. With a mean image: 8 and 3 of the 1,600 below the line; images darker by 1 % of the mean
image, 6; at 8x8 grey 62, 2 and 24 of 400.

A negated image is no image itself unless ``510 mean`` is an integer in every pixel: this gives the
sign. With a mean of exactly 0.5 the sign has to be known. With a mean of 0 twice a dark image is an
image as well, so dark images are refused. With a mean image:

- n = 1: the only input is zero, which has no direction. It is refused.
- n = 2: x_2 = -x_1, and both are images. A candidate is accepted as the image on its own side,
  which is a training image for either sign; with ``both_signs`` it is refused.
- n = 3 and more: the sign is certain. Images that differ by a few levels only are refused more
  often, because 1 + n times such an input can be an image as well: in sets of 10 photographs at 8x8
  whose contrast to one another was divided by 8 and by 30, 97 and 10 % were accepted.
- A training image that equals the mean image is a zero input and is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log, pi, sqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_recon.knowledge import PixelScale

# What is accepted. Levels are pixels in units of 1/255.
RESIDUAL_CAP = 0.1  # levels; isotropic errors of this rms leave 5 sigma to a wrong rounding
LARGEST_RESIDUAL = 0.3  # levels; a pixel rounded the wrong way then needs an error above 0.7
HARMLESS = 0.1  # levels; a peak below this is no sign of a pixel that wrapped
DIRECTION_CAP = 1.5e-3  # error norm over decoded norm; wrong low-contrast fits start at 3e-3
FALSE_ALARM = 1e-12  # chance that some scale passes for independent uniform residuals
MIN_LEVELS = 8  # distinct decoded values
OFFSET_CAP = 0.02  # levels by which a freely fitted offset may miss the known one
OFFSET_SHARE = 0.75  # of the error's energy that this miss may hold
OFFSET_ROUNDING = 1e-3  # levels; float32 statistics and inputs miss by less
OFFSET_SIGMAS, OFFSET_UNSURE = 4.0, 0.1  # a miss within 4 sigma is noise, if 4 sigma are < 0.1
CLEARLY = 0.99  # factor by which a fit is better beyond rounding errors
ARITHMETIC = 1e-12  # relative errors of float64: smaller ones are no evidence for either fit

# How the scale is searched.
MIN_CONTRAST = 1.0  # levels, smallest standard deviation of the pixels
SLACK = 1.0  # levels by which a candidate's error may push pixels out of 0..255
STEP = 0.2  # levels by which the fastest pixel moves between two scales of the grid
BINS = 256  # value bins of a candidate; one pixel of each enters the first pass
STARTS = 12  # local minima of the first pass that are refined
PROBES = 32  # pixels on which a multiple of an image is looked for first
ROUNDS = 4  # alternations of rounding and least squares; 2 suffice almost always
CHUNK = 1_000_000  # float64 values of one temporary, 8 MB, of which about six are alive


@dataclass(frozen=True)
class Certificates:
    """What `certify` found, one entry for each candidate.

    Attributes:
        accepted: (m,) bool, true where the candidate is the direction of its image.
        residual: (m,) float64 in [0, 0.5], rms distance of the best fit's pixels to integers with
            every decoded level counted once; 0.2 to 0.29 for a wrong candidate, inf for one that no
            scale makes an image (flat, zero or not finite).
        scale: (m,) float64, norm of the input that the image decodes to.
        images: (m, c, h, w) uint8. Where not accepted, the candidate as it stands: de-normalised
            with its own norm, rounded and clamped to 0..255.
        sign: (m,) float64, -1 where the negated candidate was accepted, else 1.
    """

    accepted: Tensor
    residual: Tensor
    scale: Tensor
    images: Tensor
    sign: Tensor


def inputs_from_images(images: Tensor, pixels: PixelScale) -> Tensor:
    """Normalised inputs of uint8 images, ``x = (u / 255 - mean) / std``.

    Args:
        images: (m, c, h, w) uint8.
        pixels: the pixel scale.

    Returns:
        (m, d) float64.
    """
    return ((images.double() / 255 - pixels.mean) / pixels.std).flatten(1)


def images_from_inputs(x: Tensor, pixels: PixelScale) -> Tensor:
    """The nearest uint8 images to normalised inputs, by one fixed de-normalisation for all.

    Args:
        x: (m, d) inputs; a value that is not finite becomes the pixel of a zero input.
        pixels: the pixel scale.

    Returns:
        (m, c, h, w) uint8 on the CPU, rounded and clamped to 0..255.
    """
    x = torch.nan_to_num(x.detach().to("cpu", torch.float64), nan=0.0, posinf=0.0, neginf=0.0)
    return (255 * pixels.values(x)).round().clamp(0, 255).to(torch.uint8)


def certify(candidates: Tensor, pixels: PixelScale, *, both_signs: bool = False) -> Certificates:
    """Decodes candidates to exact uint8 images and says which of them can be trusted.

    The work is done in float64 on the CPU, whatever the device: 0.04 s for 10 candidates with
    d = 3072, 0.11 s for 100 with d = 192, 0.5 s for 100 with d = 3072, on one core.

    >>> image = torch.arange(0, 240, 5, dtype=torch.uint8).reshape(1, 3, 4, 4)
    >>> pixels = PixelScale((3, 4, 4), mean=0.47, std=0.25)
    >>> found = certify(0.01 * inputs_from_images(image, pixels), pixels)
    >>> bool(found.accepted), torch.equal(found.images, image)
    (True, True)

    Args:
        candidates: (m, d), each known up to a positive scale, and up to sign if ``both_signs``.
        pixels: the public constants of the pipeline.
        both_signs: also accept the negated candidate. If false the negative is still looked at: a
            candidate whose negative fits better is refused. With a mean of one half every image
            and its negative fit alike: then all are refused with this, and none without for that.

    Returns:
        The certificates, on the CPU.

    Raises:
        ValueError: if the candidates do not have ``pixels.d`` columns.
    """
    candidates = candidates.detach().to("cpu", torch.float64)
    if candidates.ndim != 2 or candidates.shape[1] != pixels.d:
        raise ValueError(f"candidates {tuple(candidates.shape)} do not have d = {pixels.d} columns")
    in_levels = candidates * _relative_spread(pixels)
    norm = in_levels.norm(dim=1, keepdim=True)
    usable = torch.isfinite(norm) & (norm > 0)
    unit = torch.where(usable, in_levels / norm, 0.0)
    at_once = max(1, CHUNK // (2 * STARTS * pixels.d))
    offset = torch.as_tensor(pixels.offset, dtype=torch.float64).expand(pixels.d)
    verdicts = [_judge(part, offset, both_signs) for part in unit.split(at_once)]
    accepted, residual, levels, sign = (torch.cat(parts) for parts in zip(*verdicts, strict=True))

    decoded = levels.to(torch.uint8).reshape(-1, *pixels.shape)
    as_it_stands = images_from_inputs(candidates, pixels)
    images = torch.where(accepted[:, None, None, None], decoded, as_it_stands)
    scale = inputs_from_images(images, pixels).norm(dim=1)
    return Certificates(accepted, residual, scale, images, sign)


def _relative_spread(pixels: PixelScale) -> float | Tensor:
    """How fast each pixel moves with its input: 1 for all, or (d,) with one std per channel."""
    if not isinstance(pixels.std, Tensor):
        return 1.0
    return (pixels.std / pixels.std.amax()).expand(pixels.shape).flatten()


def _judge(unit: Tensor, offset: Tensor, both_signs: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fits unit (b, d) and its negative, takes the best fit and accepts it if it stands alone.

    Args:
        unit: (b, d) candidates of norm 1.
        offset: (d,) levels of a zero input.
        both_signs: as in `certify`.

    Returns:
        accepted (b,) bool, residual (b,), levels (b, d) and sign (b,) of the best fit.
    """
    b, d = unit.shape
    signed = torch.stack([unit, -unit], 1).reshape(2 * b, d)
    low, high = _scale_range(signed, offset)
    farthest = torch.maximum(offset + SLACK, 255 + SLACK - offset).amax().item()
    grid = ceil(farthest / STEP) + 1
    scale = _screen(signed, offset, low, high, grid)  # (2b, s)
    levels, error = _refine(signed, offset, scale)  # (2b, s, d) each
    residual, distinct = _level_residual(levels, error, offset)  # (2b, s) each
    residual = torch.where((low < high)[:, None], residual, torch.inf)
    relative = error.norm(dim=-1) / (levels - offset).norm(dim=-1)
    plausible = (
        (residual <= _residual_limits(2 * grid)[distinct])
        & (relative <= DIRECTION_CAP)
        & _error_is_spread(error)
        & _offset_agrees(signed, error)
    )

    residual, relative, plausible = (
        v.reshape(b, 2 * STARTS) for v in (residual, relative, plausible)
    )
    levels = levels.reshape(b, 2 * STARTS, d)  # (b, 2s, d)
    negated = torch.arange(2 * STARTS) >= STARTS  # (2s,) fits of the negative
    allowed = ~negated | both_signs
    rank = torch.where(allowed, residual + ~plausible, torch.inf)  # every plausible one comes first
    best = rank.argmin(1, keepdim=True)  # (b, 1)
    image = levels.take_along_dim(best[..., None], 1)  # (b, 1, d)
    than_best = torch.where(allowed, 1.0, CLEARLY) * relative.gather(1, best)
    better = relative < than_best - ARITHMETIC
    rival = (better | (plausible & allowed)) & (levels != image).any(-1)
    image = image[:, 0]  # (b, d)
    accepted = plausible.gather(1, best)[:, 0] & ~rival.any(1)
    if offset.amin() < offset.amax():
        accepted[accepted.clone()] &= ~_is_multiple(image[accepted], offset)
    sign = torch.where(accepted & negated[best[:, 0]], -1.0, 1.0).double()
    return accepted, residual.gather(1, best)[:, 0], image, sign


def _is_multiple(levels: Tensor, offset: Tensor) -> Tensor:
    """(a,) bool, for levels (a, d): the input divided by a whole number decodes to an image too.

    The number is 2 to 256, positive or negative. Only a mean image makes this common: the n inputs
    add up to zero and n times the mean image is an integer image, so that a training input times
    1 - n or 1 + n decodes to integers, too. The training image is then the smaller one.
    """
    inputs = levels - offset  # (a, d), in levels
    whole = torch.arange(2, 257, dtype=levels.dtype)
    divisors = torch.cat([whole, -whole])  # (f,)
    # Most divisors fail on a few pixels already; only the others are tried on all d.
    some = inputs.abs().topk(min(PROBES, inputs.shape[1]), dim=1).indices  # (a, PROBES)
    tried = offset[some][:, None] + inputs.gather(1, some)[:, None] / divisors[:, None]
    multiple = torch.zeros(len(levels), dtype=torch.bool)
    for i, j in _near_integers(tried).nonzero().tolist():
        multiple[i] |= _near_integers(offset + inputs[i] / divisors[j])
    return multiple


def _near_integers(u: Tensor) -> Tensor:
    """Whether all levels u (..., d) are integers, up to the rounding of statistics."""
    return ((u - u.round()).abs() <= OFFSET_ROUNDING).all(-1)


def _scale_range(unit: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Scales (b,) from the lowest contrast to the last one with all pixels in range.

    Both are 1 where there is no such scale, to keep the arithmetic finite.
    """
    contrast = (unit - unit.mean(1, keepdim=True)).square().mean(1).sqrt()
    low = MIN_CONTRAST / contrast
    room = torch.where(unit > 0, 255 + SLACK - offset, -SLACK - offset) / unit
    high = torch.where(unit == 0, torch.inf, room).amin(1)
    usable = low < high
    return torch.where(usable, low, 1.0), torch.where(usable, high, 1.0)


def _screen(unit: Tensor, offset: Tensor, low: Tensor, high: Tensor, grid: int) -> Tensor:
    """Scales (b, STARTS) at the deepest local minima of the residual on an even grid.

    Only one pixel of each of 256 value bins is looked at: for the speed, and so that a large group
    of equal pixels counts once. This holds with an offset for each pixel too: pixels of one value
    move alike with the scale, and at the right scale all of them are integers.
    """
    b, d = unit.shape
    lowest = unit.amin(1, keepdim=True)
    span = (unit.amax(1, keepdim=True) - lowest).clamp_min(torch.finfo(unit.dtype).tiny)
    bins = ((unit - lowest) / span * (BINS - 1)).long()
    # The largest index in each bin: any pixel would do, but the choice has to be reproducible and
    # must not depend on the value, which would pick the largest errors.
    pixel = torch.full((b, BINS), -1).scatter_reduce(1, bins, torch.arange(d).expand(b, d), "amax")
    weight = (pixel >= 0).float()
    weight /= weight.sum(1, keepdim=True)
    sample = unit.gather(1, pixel.clamp_min(0)).float()  # (b, BINS)
    start = offset[pixel.clamp_min(0)].float()  # (b, BINS)

    scales = low[:, None] + (high - low)[:, None] * torch.linspace(0, 1, grid, dtype=low.dtype)
    cost = torch.empty(b, grid)
    for i in range(b):
        u = start[i] + scales[i, :, None].float() * sample[i]  # (grid, BINS)
        cost[i] = (u - u.round()).square_() @ weight[i]
    around = F.pad(cost, (1, 1), value=torch.inf)
    is_minimum = (cost <= around[:, :-2]) & (cost <= around[:, 2:])
    index = torch.where(is_minimum, cost, torch.inf).topk(STARTS, dim=1, largest=False).indices
    return scales.gather(1, index)


def _refine(unit: Tensor, offset: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Alternates rounding and the least-squares scale; levels and signed errors, (b, s, d) each."""
    for _ in range(ROUNDS):
        levels = (offset + scale[..., None] * unit[:, None]).round_().clamp_(0, 255)
        scale = ((levels - offset) @ unit[..., None])[..., 0]
    u = offset + scale[..., None] * unit[:, None]
    levels = u.round().clamp_(0, 255)
    return levels, u.sub_(levels)


def _level_residual(levels: Tensor, error: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """rms error with every decoded level counted once, and the number of levels, (b, s) each.

    A scale that is wrong by a factor 1 + t moves a pixel by t (level - offset). So pixels with the
    same level - offset have the same error, and one bin of width 1 holds them. With one offset for
    all pixels a bin is a level.
    """
    low, high = offset.aminmax()
    extra = ceil((high - low).item() / 2)  # bins below level 0 and above level 255
    index = (levels - offset + ((low + high) / 2 + extra)).round_().long()
    zeros = torch.zeros(*levels.shape[:2], 256 + 2 * extra, dtype=error.dtype)
    count = zeros.scatter_add(2, index, torch.ones_like(error))
    square = zeros.scatter_add(2, index, error.square())
    distinct = (count > 0).sum(-1)
    return ((square / count.clamp_min(1)).sum(-1) / distinct).sqrt(), distinct


def _residual_limits(trials: int) -> Tensor:
    """(513,) largest acceptable residual for each number of distinct levels; -1 below MIN_LEVELS.

    Residuals of k independent levels are uniform in a cube of volume 1, so the chance of an rms
    below r is at most the volume of the ball of radius r sqrt(k). The limit makes this chance,
    summed over the trials, ``FALSE_ALARM``: 0.004 for 8 levels, 0.03 for 16, the cap from 38.
    """
    k = torch.arange(1, 513, dtype=torch.float64)
    log_unit_ball = k / 2 * log(pi) - torch.lgamma(k / 2 + 1)
    limit = ((log(FALSE_ALARM / trials) - log_unit_ball) / k).exp() / k.sqrt()
    limit[: MIN_LEVELS - 1] = -1.0
    return F.pad(limit.clamp_max(RESIDUAL_CAP), (1, 0), value=-1.0)


def _error_is_spread(error: Tensor) -> Tensor:
    """(b, s) bool: no pixel has a larger error than d normal variables would show, plus 1 sigma."""
    rms = error.square().mean(-1).sqrt()
    peak = sqrt(2 * log(error.shape[-1])) + 1
    return error.abs().amax(-1) <= (peak * rms).clamp(HARMLESS, LARGEST_RESIDUAL)


def _offset_agrees(unit: Tensor, error: Tensor) -> Tensor:
    """(b, s) bool: an offset fitted freely next to the scale comes back to the known one."""
    d = unit.shape[1]
    free = d - unit.sum(1).square()  # (b,) squared norm of what no scale explains of (1, ..., 1)
    free = free.clamp_min(torch.finfo(unit.dtype).eps)[:, None]
    shift = error.sum(-1).abs() / free
    energy = error.square().sum(-1)
    unsure = OFFSET_SIGMAS * (energy / d / free).sqrt()
    small = (shift <= OFFSET_CAP) & (shift.square() * free <= OFFSET_SHARE * energy)
    return (small | (shift <= unsure.clamp_min(OFFSET_ROUNDING))) & (unsure <= OFFSET_UNSURE)
