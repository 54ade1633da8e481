"""Stage 3: the images among the integer vectors of their lattice.

Any basis of the lattice spans the images' integer combinations; the images are the basis that looks
most like images. How much a vector does is told by its differences d of neighbouring pixels: in
photographs most of them are near zero and a few are large, in sums and differences of photographs
fewer are. `unlikeliness` is minus the log-likelihood of a heavy-tailed law for them,
``sum log(d^2 + e)``, and of two bases the one with the smaller sum is the better one.

1. LLL in a metric in which images are nearly orthogonal gives most images at once: differences,
   each spatial frequency divided by its power in the basis found so far. With many vectors,
   independent components (components.py) are rounded to integer combinations instead.
2. `descend` adds and subtracts other vectors from each one as long as this lowers its unlikeliness.
"""

from __future__ import annotations

from math import prod

import numpy as np

from lit_recon.methods.rowspace.lattice import lll_transform
from lit_recon.methods.rowspace.levels import OPPONENT, Array, Integers, outside

FLOOR = 2.0  # e: squared levels, of the order of the rounding of pixels
ROUNDS = 3  # of LLL, each in the metric of the last one's basis
WHITE_FLOOR = 1e-3  # of the mean power, added to the power of every frequency
SCALES = np.exp(np.arange(-0.4, 2.2, 0.02))  # largest coefficients of an approximate image
TRIPLES = 48  # largest number of vectors for which sums of three are tried
SHORTLIST = 200_000  # differences of the moves whose unlikeliness is computed; the shortest sums
ROUND_UP = (0.3, 0.5, 0.7)  # shares of another vector from which one whole one is taken off
PASSES = 30
LEAST_GAIN = 1e-6  # nats
LEAST_LISTED = 24
REWEIGHTED = 20
ZERO = 1e-2  # of a column's rms; zeros are as small as rounding, and other entries seldom so
FEWEST_ZEROS, LOST = 0.1, 0.2  # share of the units that are inactive, and of zeros that a sum loses
OUTSIDE_COST = 0.05  # for each level by which a pixel lies outside of 0..255


def opponent(images: Array | Integers, shape: tuple[int, int, int]) -> Array:
    """Images (m, d) as (m, c, h, w), three channels mixed to opponent colours."""
    pictures: Array = images.reshape(len(images), *shape).astype(float)
    return np.einsum("ab,mbij->maij", OPPONENT, pictures) if shape[0] == 3 else pictures


def gradients(images: Array | Integers, shape: tuple[int, int, int]) -> Array:
    """All differences of neighbouring pixels in opponent colours, (m, d) to (m, many)."""
    pictures = opponent(images, shape)
    parts = [np.diff(pictures, axis=axis) for axis in (3, 2)]
    return np.concatenate([part.reshape(len(part), prod(part.shape[1:])) for part in parts], 1)


def whitened(images: Array | Integers, shape: tuple[int, int, int]) -> Array:
    """Spatial frequencies, each divided by the root of its mean power, (m, d) to (m, many)."""
    waves = np.fft.rfft2(opponent(images, shape))
    power = (np.abs(waves) ** 2).mean(0)
    flat = (waves / np.sqrt(power + WHITE_FLOOR * power.mean())).reshape(len(images), -1)
    return np.concatenate([flat.real, flat.imag], 1)


def unlikeliness(images: Array | Integers, shape: tuple[int, int, int]) -> Array:
    """Minus the log-likelihood of images up to constants, in nats: (m, d) to (m,).

    Right and down differences of a pixel go together, so each counts half.
    """
    return 0.5 * np.log(gradients(images, shape) ** 2 + FLOOR).sum(1)


def shortened(
    vectors: Integers, multiples: Integers | None, shape: tuple[int, int, int]
) -> Integers:
    """The transform (k, k) to a basis that is short in metrics in which images are orthogonal.

    Args:
        vectors: (k, d) integer vectors in levels.
        multiples: (k,) how often the offset is in each, 1 for an image; they are a further
            coordinate. None: not known.
        shape: (c, h, w).
    """
    turn = lll_transform(gradients(vectors, shape))
    for _ in range(ROUNDS):
        here = turn @ vectors
        metric = whitened(here, shape)
        if multiples is not None:
            weight = 0.3 * np.sqrt(np.median((metric**2).sum(1)))
            metric = np.column_stack([metric, weight * (turn @ multiples)])
        turn = lll_transform(metric) @ turn
    return turn


def rounded(components: Array, multiples: Integers | None) -> Integers:
    """Integer combinations nearest to approximate images.

    The scale of an approximate image is not known. It is the one at which its coefficients are
    nearest to integers, among those at which the rounded combination holds the offset once.

    Args:
        components: (m, k) approximate images as real combinations of k vectors, up to scale.
        multiples: (k,) how often the offset is in each vector; None: not known.

    Returns:
        (m, k) the combinations, a row of zeros where there is none.
    """
    found = np.zeros(components.shape, dtype=np.int64)
    for row, combination in zip(components, found, strict=True):
        trials = np.outer(SCALES / np.abs(row).max(), row)
        whole = np.rint(trials)
        miss = ((trials - whole) ** 2).mean(1)
        usable = np.abs(whole).any(1)
        if multiples is not None:
            usable &= np.abs(whole @ multiples) == 1
        if usable.any():
            combination[:] = whole[np.where(usable, miss, np.inf).argmin()]
    return found


def basis_of(combinations: Integers) -> bool:
    """Whether k integer combinations of k vectors are a basis of the same lattice."""
    square = combinations.shape[0] == combinations.shape[1]
    return square and abs(round(float(np.linalg.det(combinations)))) == 1


def sparsest(coefficients: Array) -> tuple[Integers, bool]:
    """The basis in which most coefficients of the layer's change are zero.

    A unit that was inactive on an image has a zero in the column of this image, and seldom in that
    of a sum. To add a vector to another one changes the column of the first: it is the column of
    the dual basis.

    Args:
        coefficients: (h, k) of the change in k vectors.

    Returns:
        The transform (k, k) of the vectors, and whether it is certain: every column has zeros, and
        every further sum of two vectors has far fewer.
    """
    k = coefficients.shape[1]
    turn, columns = np.eye(k, dtype=np.int64), coefficients.copy()
    zeros, lost = _zeros(columns), np.zeros((k, k))
    for _ in range(PASSES):
        changed = False
        for j in range(k):
            sums = columns[:, [j]] + np.concatenate([columns, -columns], 1)
            moves = np.concatenate([np.eye(k), -np.eye(k), _sparse_move(columns, j)[None]])
            found = _zeros(np.column_stack([sums, columns[:, j] + columns @ moves[-1]]))
            found[[j, k + j]] = 0
            lost[j] = zeros[j] - np.maximum(found[:k], found[k : 2 * k])
            best = int(found.argmax())
            if found[best] > zeros[j]:
                columns[:, j] += columns @ moves[best]
                # The others give up what column j now holds of them.
                turn -= np.outer(moves[best], turn[j]).astype(np.int64)
                zeros[j], changed = found[best], True
        if not changed:
            break
    np.fill_diagonal(lost, np.inf)
    enough = zeros.min(initial=len(columns)) > FEWEST_ZEROS * len(columns)
    return turn, bool(enough and not changed and (lost.min(1) > LOST * zeros).all())


def _sparse_move(columns: Array, j: int) -> Array:
    """Integers (k,) by which other columns are added to column j, so that its sum of sizes falls.

    Real numbers do so by least squares with weights 1 / size, over and over; then they are rounded.
    """
    others = np.delete(np.arange(columns.shape[1]), j)
    least = ZERO * np.sqrt((columns[:, j] ** 2).mean())
    weight, target = np.ones(len(columns)), columns[:, j]
    for _ in range(REWEIGHTED):
        weighted = columns[:, others] * weight[:, None]
        gram = weighted.T @ columns[:, others]
        gram[np.diag_indices_from(gram)] += 1e-9 * np.trace(gram)
        found = -np.linalg.solve(gram, weighted.T @ target)
        weight = 1 / (np.abs(target + columns[:, others] @ found) + least)
    move = np.zeros(columns.shape[1])
    move[others] = np.rint(found)
    return move


def _zeros(columns: Array) -> Array:
    """(k,) how many entries of each column (h, k) are zeros, next to those that are not."""
    size = np.sqrt((columns**2).mean(0))
    return np.asarray((np.abs(columns) < ZERO * size).sum(0), dtype=float)


def descend(
    vectors: Integers, shape: tuple[int, int, int], *, boxed: bool, known: int = 0
) -> tuple[Integers, Array]:
    """Replace vectors by sums with others, as long as this makes them likelier images.

    Args:
        vectors: (k, d) a basis of the lattice in levels.
        shape: (c, h, w).
        boxed: images have pixels in 0..255; false where brightness is not known.
        known: so many of the first vectors are images already, and stay.

    Returns:
        The transform (k, k), and for each vector the nats by which the best further sum is less
        likely than it is (k,), 0 or more.
    """
    k = len(vectors)
    turn, moves, gap = np.eye(k, dtype=np.int64), _moves(k), np.full(k, np.inf)
    here = vectors.astype(float)
    metric = gradients(here, shape)
    gram = metric @ metric.T
    cost = cost_of(here, shape, boxed=boxed)
    count = max(LEAST_LISTED, SHORTLIST // metric.shape[1])
    for _ in range(PASSES if k > 1 else 0):
        changed = False
        for b in range(known, k):
            tried = moves[moves[:, b] == 0]
            tried = tried[_shortest(tried, gram, b, min(count, len(tried)))]
            tried = np.concatenate([tried, _projections(gram, b)])
            sums = here[b] + tried @ here
            costs = cost_of(sums, shape, boxed=boxed)
            best = int(costs.argmin())
            gap[b] = costs[best] - cost[b]
            if gap[b] < -LEAST_GAIN:
                turn[b] += tried[best].astype(np.int64) @ turn
                here[b], cost[b] = sums[best], costs[best]
                metric[b] = gradients(here[b : b + 1], shape)[0]
                gram[b] = gram[:, b] = metric @ metric[b]
                changed = True
        if not changed:
            break
    return turn, gap.clip(0)


def _moves(k: int) -> Array:
    """All sums of one or two vectors with signs: (many, k) of -1, 0 and 1."""
    one = np.concatenate([np.eye(k), -np.eye(k)])
    if k > TRIPLES:
        return one
    i, j = np.triu_indices(2 * k, 1)
    apart = (j - i) != k
    return np.concatenate([one, one[i[apart]] + one[j[apart]]])


def _shortest(moves: Array, gram: Array, b: int, count: int) -> Integers:
    """The `count` moves (many, k) that leave vector b shortest, by the gradients' Gram matrix."""
    change = ((moves @ gram) * moves).sum(1) + 2 * moves @ gram[b]
    return np.argpartition(change, count - 1)[:count]


def _projections(gram: Array, b: int) -> Array:
    """Moves that take off vector b what the others explain of it, rounded to integers: (few, k).

    Images are nearly orthogonal in their gradients, so this undoes a sum of many at once.
    """
    others = np.delete(np.arange(len(gram)), b)
    explained = np.linalg.lstsq(gram[np.ix_(others, others)], gram[others, b], rcond=None)[0]
    moves = np.zeros((len(ROUND_UP), len(gram)))
    for move, least in zip(moves, ROUND_UP, strict=True):
        move[others] = -np.sign(explained) * np.floor(np.abs(explained) + 1 - least)
    return moves[moves.any(1)]


def cost_of(vectors: Array | Integers, shape: tuple[int, int, int], *, boxed: bool) -> Array:
    """Unlikeliness (m,) of vectors (m, d), with a cost for pixels outside of 0..255 if `boxed`.

    A vector that is the negative of an image has pixels in -255..0.
    """
    cost = unlikeliness(vectors, shape)
    if boxed:
        cost = cost + OUTSIDE_COST * np.minimum(outside(vectors), outside(-vectors))
    return cost
