"""Stage 1: the row space of a first layer's change, and how precisely it is known.

Gradient steps change a dense first layer by ``sum_i c_i x_i^T``, whatever lies above it, so that
``W(t2) - share W(t1) = C X`` (Tansley, Makhlouf, Massart et al. 2026, arXiv 2605.06519). Two things
make the row space of ``C X`` more precise than its leading singular vectors are. Weights are
rounded in training to the precision of their own size, so small weights carry less noise than large
ones; and the noise of every binade and of every neuron shows in what the span leaves over. A
least-squares fit with these variances halves the error or better.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan

import torch
from torch import Tensor

# Spectra. Singular values of rounding noise fall by a few percent from one to the next.
STEP_DOWN = 2.0  # factor between the last singular value of a signal and the first of the noise
CLEAR_STEP = 10.0  # the same where most directions would be those of a signal
NOISE_SHARE = 1e-3  # of a change's energy; more outside of the span is no noise
LEVEL_ROUNDS = 3  # in which the noise of neurons and of pixels is told apart
LEAST_FREE = 0.1  # share of its noise that a neuron keeps when directions are taken off
EVEN = 4.0  # spread of the level over neurons or pixels, in units of that by chance
NEARLY_WHITE = 3.0  # rounding leans to one side, where pixels are alike (twice, on digits)
AS_WHITE = 1.05  # where noise is even; a start and rounding together are 1.03 of white noise
EDGE_SPREADS = 4.0  # of the largest singular value of white noise, beyond its mean
TAIL = 8  # singular values that must be seen beyond the rank
FIRST_DIRECTIONS = 32
POWER_ITERATIONS = 2
SEEN_WHOLE = 2048  # smallest side up to which weak directions of final weights are looked for
ROWS_FOR_START = 512  # neurons that tell how much of the start is left
SMALL = 96  # smallest side of a matrix whose singular vectors are computed exactly
MOST_ENTRIES = 8_000_000  # of the change; of a wider layer the neurons that moved most are read
# The fit.
MOST_FITTED = 256  # directions; more are left as the singular vectors are
SAMPLE = 64  # normal matrices of which the mean inverse is taken
MOST_PRODUCTS = 4e10  # multiplications of the fit; fewer neurons are used if there were more
ROUNDING_SPACINGS = 1000.0  # rounding over a million steps, in units of one weight's spacing
NOTHING = 1e-7  # share of a change's energy that is taken for rounding in any case
ALIKE = 0.5  # correlation with the earlier weights that only weight decay leaves
SHARE_ROUNDS, SHARE_SETTLED = 12, 1e-13


@dataclass(frozen=True)
class Span:
    """The row space of the change, with its precision.

    >>> x = torch.randn(3, 50, dtype=torch.float64)
    >>> change = torch.randn(40, 3, dtype=torch.float64) @ x
    >>> span = find_span(change, None, torch.Generator())
    >>> span.rank, bool((x - x @ span.basis.T @ span.basis).abs().max() < 1e-9)
    (3, True)

    Attributes:
        basis: (r, d) float64, orthonormal rows that span the training inputs; those with the
            largest share of the change come first.
        noise: (r, r) float64, covariance of the errors of the rows' entries in one pixel, the mean
            over pixels: an input with coordinates a misses the span by ``sqrt(a noise a^T)``.
        values: (r + some,) leading singular values of the change, in falling order.
        share: what is left of the earlier weights, 1 without weight decay; NaN where they are not
            known.
        neurons: those that moved.
        outside: share of the change's energy outside the span, in [0, 1].
        low_rank: what the span leaves over is as small as rounding.
    """

    basis: Tensor
    noise: Tensor
    values: Tensor
    share: float
    neurons: int
    outside: float
    low_rank: bool = True

    @classmethod
    def none(cls, d: int) -> Span:
        """No direction is known."""
        nothing = torch.zeros(0, 0, dtype=torch.float64)
        return cls(nothing.reshape(0, d), nothing, nothing.flatten(), 1.0, 0, 1.0, False)

    @property
    def rank(self) -> int:
        """The number of directions in the span."""
        return len(self.basis)

    @property
    def noisy(self) -> bool:
        """Whether there are more neurons than directions, so that the noise could be measured."""
        return self.neurons > self.rank


@dataclass(frozen=True)
class Added:
    """A vector that is added to every input of a layer, by what its bias reads.

    The bias changes by ``sum_i c_i``, so that ``C X + (C 1) vector^T = C (X + 1 vector^T)``.

    >>> x, c = torch.randn(2, 9), torch.randn(20, 2)
    >>> added = Added(torch.ones(9, dtype=torch.float64), after=c.sum(1))
    >>> basis = find_span(c @ x, None, torch.Generator(), added=added).basis
    >>> bool(((x + 1) - (x + 1).double() @ basis.T @ basis).abs().max() < 1e-3)
    True

    Attributes:
        vector: (d,) float64, in the unit of the scaled inputs.
        after: (h,) the bias at the later checkpoint.
        before: (h,) the same at the earlier checkpoint; None: zeros.
    """

    vector: Tensor
    after: Tensor
    before: Tensor | None = None

    def to(self, weight: Tensor, bias: Tensor) -> Tensor:
        """The weights (h, d) of a layer that reads the inputs with the vector in them."""
        return weight + bias[:, None] * self.vector


def find_span(
    after: Tensor,
    before: Tensor | None,
    generator: torch.Generator,
    max_rank: int = 512,
    scale: Tensor | None = None,
    added: Added | None = None,
) -> Span:
    """Find the span of the training inputs between two checkpoints.

    Args:
        after: (h, d) the first layer's weight at the later checkpoint, in its own type.
        before: the same at the earlier checkpoint; None: zeros.
        generator: for the start of the subspace iteration (Halko, Martinsson, Tropp 2011).
        max_rank: the largest rank that is looked for.
        scale: (d,) by which the inputs are multiplied, so that the span is that of the products;
            None: ones.
        added: what is added to every input after that, by the layer's bias; None: nothing.

    Returns:
        The span; of rank 0 where the change is zero, not finite, or of no low rank.
    """
    later, start = after.detach().cpu(), None if before is None else before.detach().cpu()
    change = later if start is None else later - start
    if not torch.isfinite(change).all() or not change.any():
        return Span.none(change.shape[1])
    used = change.any(1).nonzero().flatten()  # the others tell nothing; their zeros are no noise
    moved = len(used)
    if moved > (most := max(1, MOST_ENTRIES // change.shape[1])):
        used = used[change[used].double().square().sum(1).topk(most).indices]  # that moved most
    later, start = later[used], None if start is None else start[used]
    spacing = _spacing(later) if start is None else torch.maximum(_spacing(later), _spacing(start))
    later, start = later.double(), None if start is None else start.double()
    if scale is not None:
        later, spacing = later * scale, spacing * scale
        start = None if start is None else start * scale
    if added is not None:
        bias = added.after.detach().cpu()[used]
        spacing = spacing + _spacing(bias)[:, None] * added.vector.abs()
        later = added.to(later, bias.double())
        if start is not None and added.before is not None:
            start = added.to(start, added.before.detach().cpu()[used].double())
    directions, values, share = _low_rank(later, start, spacing, generator, max_rank)
    change = later if start is None else later - share * start
    if len(directions) == 0:
        return Span.none(change.shape[1])
    share = share if start is not None else nan
    basis, noise = _fitted(change, directions, spacing)
    rest = _left_over(change, basis)
    outside = float(rest.square().sum() / change.square().sum())
    low_rank = _is_rounding(rest, change, spacing)
    return Span(basis, noise, values, share, moved, outside, low_rank)


def start_left(weight: Tensor) -> float:
    """The factor to which a start of PyTorch's size has shrunk, by the noise in weights (h, d).

    The start is white noise, and the later half of the spectrum of most networks holds nothing else
    (the inputs' span is smaller). It is compared with a matrix of the same shape, uniform between
    -1 / sqrt(d) and 1 / sqrt(d). An Adam-trained layer's change looks like a start, too.

    >>> layer = torch.nn.Linear(300, 50)
    >>> round(start_left(0.2 * layer.weight.detach()), 1)
    0.2
    """
    some = weight.detach().cpu().double()
    some = some[torch.linspace(0, len(some) - 1, min(len(some), ROWS_FOR_START)).long()]
    random = torch.Generator().manual_seed(0)
    start = torch.empty_like(some).uniform_(-1, 1, generator=random) / some.shape[1] ** 0.5
    later = [_all_directions(one)[1][min(some.shape) // 2 :].clamp_min(0) for one in (some, start)]
    return float((later[0].sum() / later[1].sum()).sqrt())


def _low_rank(
    after: Tensor,
    before: Tensor | None,
    spacing: Tensor,
    random: torch.Generator,
    max_rank: int,
) -> tuple[Tensor, Tensor, float]:
    """The leading directions of the change, its singular values, and the share of the start in it.

    More and more directions are looked at, until what they leave over is rounding. With weight
    decay this happens only once the earlier weights are taken off in the right share.
    """
    count, least, decays, share = FIRST_DIRECTIONS, min(after.shape), False, 1.0
    # What is left of a start hides weak directions; a few power iterations do not find them.
    begin = None
    if before is None and SMALL < least <= SEEN_WHOLE:
        begin, energies = _all_directions(after)
        if energies[least // 2 :].sum() > NOISE_SHARE * energies.sum():
            return begin[:0], energies[:0], share  # as many directions as there are neurons
    while True:
        count = least if least <= SMALL else min(count, least)
        if decays:
            assert before is not None
            share = _share_left(after, before, min(count, least // 2), random)
        change = after if before is None else after - share * before
        directions, values = _leading(change, count, random, begin)
        whole = count == least
        steps = _steps(values, whole)
        white, rank = None, steps[-1] if steps else 0
        if before is None:
            if least > SMALL:
                steps = [step for step in steps if step <= least // 2 or _is_clear(values, step)]
                rank = steps[-1] if steps else 0
            white, even = _above_noise(values, change, directions)
            known = _last_step(change, directions, steps, white if even else None)
            if known is not None:
                return directions[:known], values, share
        # Noise steps down too: its smallest values, and where pixels are alike in all inputs.
        for fewer in steps[:-1]:
            rest = _left_over(change, directions[:fewer])
            if _is_rounding(rest, change, spacing) and _is_white(rest, fewer, NEARLY_WHITE):
                rank = fewer
                break
        low = rank < least and (whole or rank <= count - TAIL)
        if low and _is_rounding(rest := _left_over(change, directions[:rank]), change, spacing):
            # Images that training has hardly used are as small as rounding; they are no noise.
            faint = white is not None and white > rank and not _is_white(rest, rank, NEARLY_WHITE)
            if not faint:
                return directions[:rank], values, share
        if before is not None and not decays and least >= TAIL:
            rest = _left_over(change, directions[: least // 2])
            decays = bool((rest * before).sum().abs() > ALIKE * rest.norm() * before.norm())
            if decays:
                continue
        if white is not None:
            return directions[:white], values, share
        if whole and least <= SMALL:  # no noise shows, as with no more neurons than samples
            return directions, values, share
        if count >= min(least, max_rank + TAIL):
            return directions[:rank], values, share
        count *= 2


def _spacing(weight: Tensor) -> Tensor:
    """(h, d) float64 distance of neighbouring floating-point numbers at each weight."""
    _, exponent = torch.frexp(weight.detach().cpu().abs().clamp_min(torch.finfo(weight.dtype).tiny))
    one = torch.full(weight.shape, torch.finfo(weight.dtype).eps / 2, dtype=torch.float64)
    return torch.ldexp(one, exponent)


def _leading(
    change: Tensor, count: int, random: torch.Generator, begin: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The leading right singular vectors (count, d) and singular values (count,).

    Args:
        change: (h, d).
        count: how many.
        random: source of a random start.
        begin: (at least count, d) rows to begin with, the leading ones first; None: random ones.
    """
    if count == min(change.shape):
        _, values, directions = torch.linalg.svd(change, full_matrices=False)
        return directions, values
    rows, _ = _subspace(change, count, random, begin)
    _, values, turn = torch.linalg.svd(torch.linalg.qr((rows @ change.T).T).R)
    return turn @ rows, values


def _all_directions(change: Tensor) -> tuple[Tensor, Tensor]:
    """Right singular vectors (m, d) at any scale and squared singular values (m,), largest first.

    They come from a Gram matrix, which is quick and loses digits of the smallest; m = min(h, d).
    """
    h, d = change.shape
    squares, vectors = torch.linalg.eigh(change.T @ change if h > d else change @ change.T)
    rows = vectors.T.flip(0)
    return rows if h > d else rows @ change, squares.flip(0)


def _subspace(
    change: Tensor, count: int, random: torch.Generator, begin: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Orthonormal rows (count, d) and columns (h, count) near the leading singular vectors."""
    if begin is None:
        begin = torch.randn(count, change.shape[1], generator=random, dtype=torch.float64)
    rows = torch.linalg.qr(begin[:count].T).Q.T
    for _ in range(POWER_ITERATIONS):
        columns = torch.linalg.qr((rows @ change.T).T).Q
        rows = torch.linalg.qr((columns.T @ change).T).Q.T
    return rows, columns


def _steps(values: Tensor, whole: bool) -> list[int]:
    """The places where singular values step down, in rising order.

    The last ones of a part of the spectrum are too small, and tell nothing.
    """
    values = values.clamp_min(values[0] * 1e-15)
    steps = (values[:-1] > STEP_DOWN * values[1:]).nonzero().flatten()
    steps = steps if whole else steps[steps < len(values) - TAIL // 2]
    return [int(place) + 1 for place in steps]


def _is_clear(values: Tensor, step: int) -> bool:
    """Whether a step is far larger than those of the smallest values of rounded weights."""
    return step <= len(values) - TAIL and bool(values[step - 1] > CLEAR_STEP * values[step])


def _above_noise(values: Tensor, change: Tensor, directions: Tensor) -> tuple[int | None, bool]:
    """How many singular values are above those of white noise with the energy of the rest.

    Those of a signal may fall into the noise without a step, as with smooth activations.

    Returns:
        The number; None: it is not seen. And whether that noise has one level everywhere.
    """
    (h, d), total = change.shape, change.square().sum()
    rest = total - torch.cat([torch.zeros(1), values.square()]).cumsum(0)[:-1].to(total)
    known = rest > total * 1e-13  # below, the sums hold no digits of it
    index = torch.arange(len(values))
    edge = _white_edge(h - index, d - index, rest.clamp_min(0))
    noise = known & (rest < NOISE_SHARE * total) & (values < edge)
    below = [int(first) for first in noise.nonzero().flatten()[:1]]
    # What is left of a start is white noise; what Adam leaves may look like it.
    if not below or below[0] > min(len(values) - TAIL, min(h, d) // 2):
        return None, False
    return below[0], _is_even(change, directions[: below[0]])


def _last_step(
    change: Tensor, directions: Tensor, steps: list[int], white: int | None
) -> int | None:
    """The rank of final weights (h, d) that noise is left of, of a level for neurons and pixels.

    It is the first step down of the singular values after which no direction stands out. Even noise
    needs no step: there it is the number of values above white noise, if no step comes earlier.

    Args:
        change: the weights.
        directions: (count, d) their leading directions.
        steps: places where their singular values step down.
        white: how many values are above white noise, if noise is even; None: it is not.
    """
    limit = NEARLY_WHITE if white is None else AS_WHITE
    for step in steps:
        if white is not None and step >= white:
            break
        rest = _left_over(change, directions[:step])
        quiet = rest.square().sum() < NOISE_SHARE * change.square().sum()
        if quiet and _is_white(rest, step, limit):
            return step
    return white


def _white_edge(h: Tensor, d: Tensor, energy: Tensor) -> Tensor:
    """The largest singular value of white noise (h, d) of that energy (Johnstone 2001)."""
    sides = h.double().sqrt(), d.double().sqrt()
    both = sides[0] + sides[1]
    spread = both * (1 / sides[0] + 1 / sides[1]) ** (1 / 3)
    variance = energy / (sides[0] * sides[1]).square()
    return (variance * (both.square() + EDGE_SPREADS * spread)).sqrt()


def _is_even(change: Tensor, directions: Tensor) -> bool:
    """Whether noise has one level everywhere, as a start has and rounding has not.

    Args:
        change: (h, d).
        directions: (k, d) its leading right singular vectors; what they leave over is noise.
    """
    inside = change @ directions.T
    noise = change - inside @ directions
    # They take the more noise of a neuron or a pixel with them, the more it tells about them.
    columns = torch.linalg.qr(inside).Q
    for dim, base in ((1, columns), (0, directions.T)):
        squares = noise.square().mean(dim) / (1 - base.square().sum(1)).clamp_min(LEAST_FREE)
        chance = (2 / noise.shape[dim]) ** 0.5  # of Gaussian noise
        if squares.std() > EVEN * chance * squares.mean():
            return False
    return True


def _is_white(rest: Tensor, rank: int, limit: float) -> bool:
    """Whether a span leaves over (h, d) nothing but noise, with a level for neurons and pixels.

    Once the levels are equal, no direction may be larger than `limit` times that of white noise.
    """
    if min(rest.shape) > SEEN_WHOLE:
        return False  # too large to see all of it
    for _ in range(LEVEL_ROUNDS):
        for dim in (0, 1):
            level = rest.square().mean(dim, keepdim=True).sqrt()
            rest = rest / torch.where(level > 0, level, 1)
    h, d = (int(rest.any(dim).sum()) for dim in (1, 0))
    if min(h, d) <= rank:
        return False
    edge = _white_edge(torch.tensor(h - rank), torch.tensor(d - rank), rest.square().sum())
    gram = rest @ rest.T if len(rest) < rest.shape[1] else rest.T @ rest
    return bool(torch.linalg.eigvalsh(gram)[-1] < (limit * edge) ** 2)


def _left_over(change: Tensor, basis: Tensor) -> Tensor:
    """(h, d) what a span leaves over of the change."""
    return change - (basis @ change.T).T @ basis


def _is_rounding(rest: Tensor, change: Tensor, spacing: Tensor) -> bool:
    """Whether what a span leaves over is as small as rounding over many steps makes it.

    The rounding of weights whose difference alone is known does not show in its own precision.
    """
    error = (ROUNDING_SPACINGS * spacing).square().mean()
    return bool(rest.square().mean() < torch.maximum(error, NOTHING * change.square().mean()))


def _share_left(after: Tensor, before: Tensor, width: int, random: torch.Generator) -> float:
    """What weight decay has left of the earlier weights.

    Outside the leading directions of the change, on both sides, the later weights are the earlier
    ones times this share; a regression there gives it, and the change gives better directions.
    """
    share = float((after * before).sum() / before.square().sum())
    for _ in range(SHARE_ROUNDS):
        rows, columns = _subspace(after - share * before, width, random)
        old = before - columns @ (columns.T @ before)
        old = old - (old @ rows.T) @ rows
        updated = float((after * old).sum() / (before * old).sum())
        settled = abs(updated - share) < SHARE_SETTLED
        share = updated
        if settled:
            break
    return share


def _fitted(change: Tensor, basis: Tensor, spacing: Tensor) -> tuple[Tensor, Tensor]:
    """A weighted fit of ``change = C basis``, and the covariance of the new basis's entries."""
    r, d = basis.shape
    most = max(4 * r, int(MOST_PRODUCTS / (r * r * d)))
    if len(change) > most:
        rows = (basis @ change.T).square().sum(0).topk(most).indices
        change, spacing = change[rows], spacing[rows]
    free = 1 - r / len(change)  # degrees of freedom of the rest, as a share
    rest = _left_over(change, basis)
    variance = _variance(rest, spacing, free)
    inverse = None
    if r <= MOST_FITTED:
        weight = (variance.mean() / variance).float()
        # The rest is orthogonal to the span in the plain metric, not in the weighted one.
        coefficients = (basis @ change.T).T + _correction(rest, weight, basis)[0]
        rest = change - coefficients @ basis
        step, inverse = _correction(rest.T, weight.T, coefficients.T)
        # basis = turn^-T rows, and so its errors turn with it
        orthonormal, turn = torch.linalg.qr(basis.T + step)
        back = torch.linalg.inv(turn)
        basis, inverse = orthonormal.T, back.T @ inverse @ back
    inside = (basis @ change.T).T
    gram = inside.T @ inside
    if inverse is None:
        inverse = torch.linalg.inv(gram)
    # The directions that hold most of the change come first.
    turn = torch.linalg.eigh(gram).eigenvectors.flip(1).T
    noise = turn @ (inverse * variance.mean()) @ turn.T
    return turn @ basis, (noise + noise.T) / 2


def _variance(rest: Tensor, spacing: Tensor, free: float) -> Tensor:
    """(h, d) variance of the noise: a factor of each binade times a factor of each neuron."""
    if free <= 0:  # nothing is left over; all that is known is the rounding of the weights
        return spacing.square()
    square = rest.square() / free
    binade = spacing.log2().round().long()
    binade = binade - binade.min()
    count = torch.bincount(binade.flatten()).double()
    mean = square.mean()
    # A few entries of the overall mean keep empty binades and quiet neurons away from zero.
    total = torch.zeros_like(count).index_add_(0, binade.flatten(), square.flatten())
    levels = (total + 1e-3 * mean) / (count + 1)
    variance = levels.clamp_min(1e-6 * mean)[binade]
    neuron = (square / variance).mean(1, keepdim=True).clamp(0.05, 20)
    return variance * neuron


def _correction(rest: Tensor, weight: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Row by row, weighted least-squares coefficients (h, r) of rest (h, d) on basis (r, d).

    The rest is small, so that float32 does for the normal matrices.

    Returns:
        The coefficients, and the mean inverse (r, r) of a sample of the normal matrices.
    """
    r = len(basis)
    first, second = torch.triu_indices(r, r)
    scale = basis.norm(dim=1)  # far from 1 for coefficients
    rows = (basis / scale[:, None]).float()
    upper = weight @ (rows[first] * rows[second]).T
    place = torch.empty(r, r, dtype=torch.long)
    place[first, second] = place[second, first] = torch.arange(len(first))
    normal = upper[:, place.flatten()].reshape(-1, r, r)
    right = ((weight * rest) @ (basis / scale[:, None]).T)[..., None]
    found = torch.linalg.solve(normal.double(), right).squeeze(-1) / scale
    sample = normal[:: max(1, len(rest) // SAMPLE)].double()
    return found, torch.linalg.inv(sample).mean(0) / scale / scale[:, None]
