"""Stage 2: integer vectors in the row space, by lattice reduction.

Images are integer vectors, so the row space of a first layer's change holds a lattice: all integer
combinations of the training images. It is looked for in differences of pixels (differences.py). r
of them, the pivots, determine a vector of the r-dimensional row space; every other difference is a
known linear function of them and has to be an integer too. The lattice of the rows

    [ for each pivot:  1 / size at the pivot  | what it gives at the e checks, over their error ]
    [ for each check:  0                      | 1 / error at the check                          ]

has short vectors where all pivots are small and all checks are integers to within the error, and
the algorithm of Lenstra, Lenstra and Lovasz (1982) finds them if there is precision enough;
`margin` says so in advance. `integer_vectors` looks for short vectors without any guess. Where
approximate images are there, `nearest_vectors` needs far less precision: "size" is then what a
guess may miss, and the nearest lattice point (Babai 1986) of each guess is looked for, at many
scales of the guess.

Vectors that are found are exact. They take the place of their noisy directions in the row space,
which is thus more precise for the others.

Shapes: ``values (r, m)`` m differences of r basis rows in levels of 0..255; coordinates (k, r).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import inf, log2, sqrt
from time import perf_counter
from typing import Any

import flint
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr

from lit_recon.methods.rowspace.levels import Array, Integers

# What LLL needs, in bits for each dimension N. A random lattice has a shortest vector of about
# sqrt(N / (2 pi e)) det^(1/N). LLL finds one that is 1.01^N to 1.02^N times longer, and its
# shortest orthogonalised vector is 1.02^N times shorter than det^(1/N) (Nguyen and Stehle 2006).
# Errors of one unit in every coordinate must stay below half of that for the nearest point to be
# found.
SHORT = (log2(sqrt(2 * np.pi * np.e)) + 0.3, 0.015)  # for a short vector: bits, and bits times N
NEAREST = (2.6, 0.027)  # for the nearest point
SPARE_BITS = 0.7  # margin at which more checks are no longer worth their time
# Half the sum of some images is an integer at all pivots and checks once in 2^e searches.
FEWEST_CHECKS = 16
UNIT = 64.0  # a vector's typical entry after scaling, before it is rounded to integers
ERROR_SPARE = 1.5  # factor between a predicted error and what a check may miss
SMALLEST = 0.3  # levels; least assumed size of a difference
# A difference is 0 in all images up to this typical size in levels, or with a mean square of its
# entries of so many times their variance.
ALIKE, NOISE_LIKE = 0.02, 9.0
# Seconds of LLL for dimension 100 and the power with which they grow; 40 to 330, one core.
SECONDS_AT_100, GROWTH = 1.5, 4.2

# What is accepted. Distances of random numbers to the nearest integer have an rms of 0.29.
SIGMAS = 6.0  # largest residual in units of its prediction
LEAST_RESIDUAL = 1e-3  # levels; numerical errors stay below
RESIDUAL_CAP = 0.15  # levels, rms over all differences
LARGEST_MISS = 0.5  # levels, of any difference, from a fit to all of them
FALSE_BITS = -40.0  # log2 of the number of wrong vectors that may be expected to pass
INDEPENDENT = 1e-6  # least share of a vector's norm outside the span of those before it
WIDTH = 4.0  # pivots are assumed to lie within so many sizes to both sides

SHARES = (0.5, 0.8, 1.0)  # of the directions, by precision, whose errors give a search's error
LARGER = 4.0  # rms of an integer vector over its residual, at least
WORSE = 4.0  # factor of the error between the last searches, where it may be underestimated
WORST_ERROR = 0.06  # levels; a pixel error beyond which no search is made
WORTHWHILE = 0.1  # share of the missing vectors that makes it worth while to search again
MISSES = (0.1, 0.15, 0.25)  # of a guess's differences, relative to their size
SCALES = np.exp(np.arange(-1.3, 1.0, 0.04))  # of a guess, in units of a typical image's contrast


@dataclass(frozen=True)
class Search:
    """A lattice to be reduced: which differences are pivots and checks, and what it promises.

    Attributes:
        pivots: (r,) indices of the differences that are unknowns.
        checks: (e,) indices of the differences that have to be integers.
        map: (r, m) every difference as a function of the pivots.
        inverse: (r, r) coordinates as a function of the pivots.
        size: (r,) assumed size of the pivots, or of what a guess misses, in levels.
        error: (e,) assumed error of the checks in levels.
        demand: what LLL needs, SHORT or NEAREST.
        known: vectors that are found already and exact in the basis. They are short and come first,
            so that all others are looked for in a lattice of fewer dimensions.
    """

    pivots: Integers
    checks: Integers
    map: Array
    inverse: Array
    size: Array
    error: Array
    demand: tuple[float, float]
    known: int

    @property
    def dimension(self) -> int:
        """The dimension of the lattice."""
        return len(self.pivots) + len(self.checks)

    @property
    def margin(self) -> float:
        """Bits beyond what LLL needs; far below 0 it will hardly find anything."""
        volume = -np.log2(self.size).sum() - np.log2(self.error).sum()
        return float(_margin(volume, self.dimension, len(self.size), self.known, self.demand))

    @property
    def seconds(self) -> float:
        """A rough prediction of the duration."""
        return SECONDS_AT_100 * (self.dimension / 100) ** GROWTH


def plan(
    space: Space,
    size: Array,
    error: float,
    demand: tuple[float, float] = SHORT,
    known: int = 0,
) -> Search:
    """Choose pivots and checks.

    Pivots are small differences that determine a vector well; checks are those that the row space's
    error disturbs least. There are as many as give a margin of SPARE_BITS, or the largest one, and
    at least FEWEST_CHECKS.

    Args:
        space: the row space.
        size: (m,) assumed size of the differences of what is looked for, in levels.
        error: predicted error of one pixel, in levels.
        demand: what LLL needs, SHORT or NEAREST.
        known: how many vectors of the lattice are exact in the basis.

    Returns:
        The search.
    """
    values, r = space.values, space.rank
    size = size.clip(min=SMALLEST)
    order = qr(values / size, mode="r", pivoting=True)[1]
    pivots, others = order[:r], order[r:]
    others = others[space.telling[others]]
    inverse: Array = np.linalg.inv(values[:, pivots]).astype(float)
    map = inverse @ values
    stencils = space.pixels + (map**2 * space.pixels[pivots][:, None]).sum(0)
    errors = np.sqrt(stencils) * (ERROR_SPARE * error)
    others = others[np.argsort(errors[others], kind="stable")][: 8 * r + 60]
    dimension = r + np.arange(1, len(others) + 1)
    volume = -np.log2(size[pivots]).sum() - np.cumsum(np.log2(errors[others]))
    margin = _margin(volume, dimension, r, known, demand)
    enough = np.flatnonzero(margin > SPARE_BITS)
    best = enough if len(enough) else np.argsort(-margin)
    count = 1 + int(best[0]) if len(best) else 0
    checks = others[: max(count, FEWEST_CHECKS)]
    return Search(pivots, checks, map, inverse, size[pivots], errors[checks], demand, known)


def _margin(volume: Any, dimension: Any, rank: int, known: int, demand: tuple[float, float]) -> Any:
    """Bits for each dimension beyond what LLL needs, for volumes in bits."""
    left = dimension - known
    return (volume - known * log2(rank) / 2) / left - demand[0] - demand[1] * left


def reduced(search: Search) -> Array:
    """The LLL-reduced basis of a search's lattice, (N, N); typical entries are about UNIT."""
    r, e = len(search.pivots), len(search.checks)
    scale = UNIT / search.error
    rows = np.zeros((e + r, r + e))
    rows[:e, r:] = np.diag(scale)
    rows[e:, :r] = np.diag(_pivot_scale(search))
    rows[e:, r:] = search.map[:, search.checks] * scale
    return lll(rows)


def _pivot_scale(search: Search) -> Array:
    return np.maximum(np.rint(UNIT / search.size), 1)


def lll(rows: Array) -> Array:
    """The LLL-reduced basis of the lattice of integer rows; entries are rounded first."""
    return np.array(_whole(_exact(rows).lll()), dtype=float)


def lll_transform(rows: Array) -> Integers:
    """The integer transform (k, k) that makes real rows (k, m) short by LLL."""
    gram = rows @ rows.T
    gram += 1e-12 * np.trace(gram) / len(gram) * np.eye(len(gram))
    triangle = np.linalg.cholesky(gram)
    _, turn = _exact(triangle * (2.0**26 / np.sqrt(gram.diagonal().max()))).lll(True)
    return np.array(_whole(turn), dtype=np.int64)


def _exact(rows: Array) -> flint.fmpz_mat:
    """Rows as integers of any size, which FLINT reduces."""
    return flint.fmpz_mat(_whole(np.rint(rows)))


def _whole(rows: Any) -> list[list[int]]:
    return [[int(value) for value in row] for row in rows.tolist()]


@dataclass(frozen=True)
class Space:
    """The row space as differences of pixels.

    Attributes:
        values: (r, m) differences of the basis, whose rows have norm 1 in pixel space.
        noise: (r, r) covariance of the rows' errors in one pixel.
        pixels: (m,) how many pixels each difference takes.
        norm: norm in pixel space of a typical image without its mean, in levels.
        measured: the noise is a measurement; otherwise it is a least that rounding leaves.
    """

    values: Array
    noise: Array
    pixels: Integers
    norm: float
    measured: bool = True

    @property
    def rank(self) -> int:
        """The dimension of the row space."""
        return len(self.values)

    @property
    def size(self) -> Array:
        """(m,) typical size of an image's differences, in levels."""
        return np.linalg.norm(self.values, axis=0) * (self.norm / sqrt(self.rank))

    @property
    def telling(self) -> NDArray[np.bool_]:
        """(m,) differences that can be other integers than 0: they are more than noise.

        Where pixels are alike in all images, as at the border of digits, any vector is right.
        """
        noise = self.noise.diagonal()[:, None] * self.pixels + np.finfo(float).eps ** 2
        more = (self.values**2 / noise).mean(0) > NOISE_LIKE
        return np.asarray(more & (self.size > ALIKE))

    def error(self, share: float = 1.0) -> float:
        """Predicted error of a pixel, in levels, of an image in this share of the directions."""
        noisy = self.noise[np.ix_(*[self.noise.any(1)] * 2)]  # exact directions have no noise
        variances = np.linalg.eigvalsh(noisy).clip(0)
        used = variances[: max(1, round(share * len(variances)))].sum()
        return max(float(sqrt(used / self.rank)), np.finfo(float).eps) * self.norm

    def predicted(self, coordinates: Array) -> Array:
        """Predicted rms error (k,) of the differences of vectors (k, r), in levels."""
        variance = ((coordinates @ self.noise) * coordinates).sum(1)
        return np.asarray(np.sqrt(variance.clip(min=0) * self.pixels.mean()))


@dataclass(frozen=True)
class Lattice:
    """Integer vectors of a row space, linearly independent.

    Attributes:
        coordinates: (k, r) in the row space's basis.
        integers: (k, m) their differences, exact.
        residual: (k,) rms distance of their differences to integers before rounding, in levels.
        dimension: the largest dimension that was reduced; 0 if none was.
        seconds: predicted duration of the search that was not made for lack of time; 0: none.
        short_of: bits for each dimension that the best search lacked; 0: none was refused.
        levels: (m, d) the pixels of the first m vectors, which are known to be images.
    """

    coordinates: Array
    integers: Integers
    residual: Array
    dimension: int = 0
    seconds: float = 0.0
    short_of: float = 0.0
    levels: Integers = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int64))

    @classmethod
    def empty(cls, space: Space) -> Lattice:
        """No vector yet."""
        r, m = space.values.shape
        return cls(np.zeros((0, r)), np.zeros((0, m), dtype=np.int64), np.zeros(0))

    @classmethod
    def of_images(cls, space: Space, integers: Integers, levels: Integers) -> Lattice:
        """Exact images, by their differences (k, m) and their pixels (k, d).

        Raises:
            ValueError: they are linearly dependent.
        """
        coordinates, _, rank, _ = np.linalg.lstsq(space.values.T, integers.T.astype(float), None)
        if rank < space.rank:
            raise ValueError("the differences of the basis are dependent")
        miss = coordinates.T @ space.values - integers
        residual = np.sqrt((miss**2).mean(1))
        return cls(coordinates.T, integers, residual, levels=levels)

    def __len__(self) -> int:
        return len(self.integers)

    @property
    def images(self) -> int:
        """So many of the first vectors are known to be images."""
        return len(self.levels)

    @property
    def error(self) -> float:
        """The largest residual, in levels."""
        return float(self.residual.max(initial=0))

    def turned(self, turn: Integers) -> Lattice:
        """Integer combinations of the vectors, by the rows of a matrix (m, k)."""
        size = np.abs(turn).max(1, initial=0)
        worst = self.error * np.minimum(size, 1)
        return replace(
            self,
            coordinates=turn @ self.coordinates,
            integers=turn @ self.integers,
            residual=worst,
        )

    def with_more(self, space: Space, coordinates: Array) -> Lattice:
        """The same with those candidates (k, r) that are new integer vectors, the best first."""
        differences = coordinates @ space.values
        whole = np.rint(differences)
        residual = np.sqrt(((differences - whole) ** 2).mean(1))
        sure = residual < RESIDUAL_CAP
        if space.measured:
            # Where there are many images, some of their combinations lie near any given space.
            sure &= residual < SIGMAS * space.predicted(coordinates) + LEAST_RESIDUAL
        sure &= false_bits(space, residual) + log2(len(residual) + 1) < FALSE_BITS
        # A short vector of noise lies near few integers but zero.
        sure &= np.sqrt((whole**2).mean(1)) > LARGER * residual
        sure &= np.abs(whole).any(1)
        # All differences together make more precise coordinates, which a wrong integer misses.
        index = np.flatnonzero(sure)
        precise = np.linalg.lstsq(space.values.T, whole[index].T, rcond=None)[0].T
        sure[index] &= np.abs(precise @ space.values - whole[index]).max(1) < LARGEST_MISS
        kept, basis = [], _orthonormal(self.coordinates)
        for i in np.flatnonzero(sure):
            if len(basis) == space.rank:
                break
            fresh = coordinates[i] - (coordinates[i] @ basis.T) @ basis
            if np.linalg.norm(fresh) > INDEPENDENT * np.linalg.norm(coordinates[i]):
                kept.append(i)
                basis = _orthonormal(np.vstack([basis, fresh]))
        # A multiple of an integer vector is one too, and not what is looked for.
        whole[kept] /= np.gcd.reduce(whole[kept].astype(np.int64), axis=1)[:, None]
        precise = np.linalg.lstsq(space.values.T, whole[kept].T, rcond=None)[0].T
        return replace(
            self,
            coordinates=np.vstack([self.coordinates, precise]),
            integers=np.vstack([self.integers, whole[kept].astype(np.int64)]),
            residual=np.concatenate([self.residual, residual[kept]]),
        )


def _orthonormal(rows: Array) -> Array:
    return np.linalg.qr(rows.T)[0].T


def false_bits(space: Space, residual: Array) -> Array:
    """log2 of the number of wrong vectors of a row space that have such a residual by chance.

    Distances of a wrong vector's differences to integers are independent and uniform but for the
    r that choose it, and for those that are 0 in any vector (`Space.telling`). The chance that D of
    them have an rms below t is at most (t sqrt(2 pi e))^D, the volume of a ball; so many vectors
    have pivots within WIDTH sizes.

    Args:
        space: the row space.
        residual: (k,) rms distances in levels.

    Returns:
        (k,) float64.
    """
    pivots = np.sort(space.size)[-space.rank :]
    many = np.log2(2 * WIDTH * pivots + 1).sum()
    telling = int(space.telling.sum())
    if telling <= space.rank:
        return np.full(len(residual), inf)
    rms = residual * sqrt(len(space.telling) / telling)  # the others' distances are 0
    volume = np.log2(np.maximum(rms, 1e-9) * sqrt(2 * np.pi * np.e)).clip(max=0)
    return many + (telling - space.rank) * volume


def sharpened(space: Space, lattice: Lattice) -> tuple[Space, Array]:
    """The row space with exact vectors in the place of noisy directions.

    Returns:
        The space, and the matrix (r, r) by which its coordinates are those of the given one.
    """
    if not len(lattice):
        return space, np.eye(space.rank)
    length = np.linalg.norm(lattice.coordinates, axis=1, keepdims=True)
    k = len(lattice)
    rest = np.linalg.qr(lattice.coordinates.T, mode="complete")[0][:, k:].T
    noise = np.zeros_like(space.noise)
    noise[k:, k:] = rest @ space.noise @ rest.T
    values = np.vstack([lattice.integers / length, rest @ space.values])
    turn = np.vstack([lattice.coordinates / length, rest])
    return replace(space, values=values, noise=noise), turn


def _errors(space: Space) -> Iterator[float]:
    """Errors to try, from the most precise directions to what noise beyond prediction may be."""
    last = 0.0
    for share in SHARES:
        error = space.error(share)
        if error > 1.3 * last:
            last = error
            yield error
    while not space.measured and last * WORSE < WORST_ERROR:
        last *= WORSE
        yield last


def integer_vectors(space: Space, found: Lattice, seconds: float) -> Lattice:
    """Look for short integer vectors of the row space, by LLL.

    Args:
        space: the row space.
        found: vectors that are known already.
        seconds: no search that is predicted to take longer is made.

    Returns:
        All vectors that were found, at most r.
    """
    deadline, short_of, tried = perf_counter() + seconds, np.inf, 0
    errors = list(_errors(space))
    while tried < len(errors) and len(found) < space.rank:
        sharp, turn = sharpened(space, found)
        search = plan(sharp, sharp.size, errors[tried], known=len(found))
        short_of = min(short_of, -search.margin)
        tried += 1
        if search.margin < 0:
            break
        if search.seconds > deadline - perf_counter():
            return replace(found, seconds=search.seconds)
        rows, before = reduced(search), len(found)
        whole = np.rint(rows[:, : space.rank] / _pivot_scale(search))
        whole = whole[np.argsort((rows**2).sum(1), kind="stable")]
        coordinates = whole @ search.inverse @ turn
        found = replace(
            found.with_more(space, coordinates), dimension=max(found.dimension, search.dimension)
        )
        if len(found) > before:
            tried = 0
    return replace(found, short_of=max(0.0, short_of) if len(found) < space.rank else 0.0)


def nearest_vectors(space: Space, guesses: Array, found: Lattice, seconds: float) -> Lattice:
    """Look for the integer vectors nearest to approximate images.

    Args:
        space: the row space.
        guesses: (g, r) coordinates of approximate images, whose scale and sign do not matter.
        found: vectors that are known already.
        seconds: no search that is predicted to take longer is made.

    Returns:
        All vectors that were found, at most r.
    """
    deadline, short_of = perf_counter() + seconds, np.inf
    guesses = guesses / np.linalg.norm(guesses, axis=1, keepdims=True) * space.norm
    misses, tried = list(MISSES), 0
    while tried < len(misses) and len(found) < space.rank:
        sharp, turn = sharpened(space, found)
        here = guesses @ np.linalg.inv(turn)
        size = misses[tried] * np.sqrt(((here @ sharp.values) ** 2).mean(0))
        search = plan(sharp, size, sharp.error(0.5), NEAREST, len(found))
        short_of = min(short_of, -search.margin)
        tried += 1
        if search.seconds > deadline - perf_counter():
            found = replace(found, seconds=search.seconds)
            continue
        before = len(found)
        whole = _nearest(search, here)
        found = replace(
            found.with_more(space, whole @ search.inverse @ turn),
            dimension=max(found.dimension, search.dimension),
        )
        if len(found) - before > WORTHWHILE * (space.rank - before):
            tried = 0
    return replace(found, short_of=max(0.0, short_of) if len(found) < space.rank else 0.0)


def _nearest(search: Search, guesses: Array) -> Array:
    """Pivots of the lattice points near guesses at all scales, those with small residuals first."""
    rows = reduced(search)
    orthogonal, triangle = np.linalg.qr(rows.T)
    r = len(search.pivots)
    pivots = np.linalg.solve(search.inverse.T, guesses.T).T
    targets = np.einsum("s,gr->sgr", SCALES, pivots).reshape(-1, r) * _pivot_scale(search)
    rest = orthogonal[:r].T @ targets.T
    multiples = np.zeros_like(rest)
    for i in range(len(rest) - 1, -1, -1):
        multiples[i] = np.rint(rest[i] / triangle[i, i])
        rest -= triangle[:, i : i + 1] * multiples[i]
    whole = np.rint((rows.T[:r] @ multiples).T / _pivot_scale(search))
    whole = whole[np.argsort((rest**2).sum(0), kind="stable")]
    _, first = np.unique(whole, axis=0, return_index=True)
    return whole[np.sort(first)]
