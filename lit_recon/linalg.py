"""Linear algebra on tall matrices V (p, d) that are read but never copied.

Products with V are written so that the long side stays outermost: on CPU ``(V @ x.T).T`` is about
twice as fast as ``x @ V.T`` for ten rows of x.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lit_recon.randomness import generator

BLOCK_ROWS = 4096
EXPLICIT_DIMENSIONS = 1024
SUBSPACE_ITERATIONS = 4


def gaussian_rows(seed: int, p: int, d: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """(p, d) matrix of independent N(0, 1 / d) entries, block by block from (seed, block index).

    Row j depends on the seed and on j alone, so a part of the matrix can be made without the rest,
    on any device and by any number of processes.
    """
    rows = torch.empty(p, d, dtype=dtype)
    for block, start in enumerate(range(0, p, BLOCK_ROWS)):
        part = rows[start : start + BLOCK_ROWS]
        # A shorter draw has other numbers at its end, so the last block is drawn whole and cut.
        whole = part if len(part) == BLOCK_ROWS else rows.new_empty(BLOCK_ROWS, d)
        whole.normal_(0, d**-0.5, generator=generator(seed, "first layer", block))
        part.copy_(whole[: len(part)])
    return rows


def times_rows(x: Tensor, v: Tensor) -> Tensor:
    """``x V^T``: (m, d) and (p, d) to (m, p)."""
    return (v @ x.T).T


def weigh_rows(w: Tensor, v: Tensor) -> Tensor:
    """``w V``: (m, p) and (p, d) to (m, d)."""
    return w.contiguous() @ v


def least_squares_rows(v: Tensor, target: Tensor, tolerance: float = 1e-5) -> Tensor:
    """(k, d) rows w that minimise ``||target - w V^T||``, by conjugate gradients for all k at once.

    A Gaussian V has a condition number below 10 for p > 2 d, so a few passes are enough.

    Args:
        v: (p, d).
        target: (k, p).
        tolerance: relative size of the gradient at which to stop.
    """
    w = target.new_zeros(len(target), v.shape[1])
    r = weigh_rows(target, v)
    direction, rr = r, (r * r).sum(1, keepdim=True)
    enough = tolerance**2 * rr.clamp_min(torch.finfo(rr.dtype).tiny)
    for _ in range(100):
        q = weigh_rows(times_rows(direction, v), v)
        step = rr / (direction * q).sum(1, keepdim=True).clamp_min(torch.finfo(rr.dtype).tiny)
        w, r = w + step * direction, r - step * q
        new = (r * r).sum(1, keepdim=True)
        if bool((new <= enough).all()):
            break
        direction, rr = r + new / rr.clamp_min(torch.finfo(rr.dtype).tiny) * direction, new
    return w


def _identity(x: Tensor) -> Tensor:
    return x


def spectral_directions(
    v: Tensor,
    weights: Tensor,
    count: int,
    random: torch.Generator,
    down: Callable[[Tensor], Tensor] = _identity,
    up: Callable[[Tensor], Tensor] = _identity,
) -> Tensor:
    """(count, q) orthonormal leading eigenvectors of sum_l M_l^2, M_l = V^T diag(weights_l) V.

    For weights that are a sum of even features of a few inputs these span, approximately, the
    inputs (the method of moments for a layer of neurons with Gaussian data: Janzamin, Sedghi,
    Anandkumar 2015, arXiv 1506.08473; Lu and Li 2017, arXiv 1702.06435).

    Args:
        v: (p, d).
        weights: (k, p), one weight per row of V and output.
        count: number of directions, at most q.
        random: for the start of the subspace iteration.
        down: rows (r, d) to their coordinates (r, q) in a subspace with an orthonormal basis.
        up: coordinates (r, q) to rows (r, d).
    """
    weights = weights - weights.mean(1, keepdim=True)
    q = down(v[:1]).shape[1]
    if q <= EXPLICIT_DIMENSIONS:
        square = _sum_of_squares([_moment(v, row, down) for row in weights])
        return torch.linalg.eigh(square).eigenvectors[:, -count:].flip(1).T.to(v.dtype)

    def moments(rows: Tensor, weights: Tensor) -> Tensor:
        """(l, r, q) ``rows M_l`` for coordinates rows (r, q) and weights (l, p)."""
        h = times_rows(up(rows), v)
        return torch.stack([down(weigh_rows(h * row, v)) for row in weights])

    rows = torch.randn(min(count + 4, q), q, generator=random, dtype=v.dtype).to(v.device)
    for _ in range(SUBSPACE_ITERATIONS):
        once = moments(_orthonormal_rows(rows), weights)
        twice = [moments(y, w[None])[0] for y, w in zip(once, weights, strict=True)]
        rows = torch.stack(twice).sum(0)
    rows = _orthonormal_rows(rows)
    small = _sum_of_squares(list(moments(rows, weights).double()))
    turn = torch.linalg.eigh(small).eigenvectors.flip(1)
    return (turn.T.to(rows) @ rows)[:count]


def _sum_of_squares(rows: list[Tensor]) -> Tensor:
    """(r, r) sum of ``y y^T`` over matrices y (r, q)."""
    return torch.stack([y @ y.T for y in rows]).sum(0)


def _orthonormal_rows(rows: Tensor) -> Tensor:
    return torch.linalg.qr(rows.T).Q.T


def _moment(v: Tensor, weights: Tensor, down: Callable[[Tensor], Tensor]) -> Tensor:
    """(q, q) ``V^T diag(weights) V`` in the subspace, in float64, summed over blocks of rows."""
    q = down(v[:1]).shape[1]
    total = torch.zeros(q, q, dtype=torch.float64, device=v.device)
    for rows, part in zip(v.split(BLOCK_ROWS), weights.split(BLOCK_ROWS), strict=True):
        coordinates = down(rows)
        total += ((coordinates * part[:, None]).T @ coordinates).double()
    return total


def minimum_norm(phi: Tensor, y: Tensor) -> Tensor:
    """(k, p) weights of minimum norm among those that fit y (n, k) best on features phi (n, p).

    Solved on the smaller of the two Gram matrices, in float64, by its eigenvectors, so that equal
    samples and p < n need no case of their own.
    """
    phi, y = phi.double(), y.double()
    wide = phi.shape[0] <= phi.shape[1]
    gram = phi @ phi.T if wide else phi.T @ phi
    values, vectors = torch.linalg.eigh(gram)
    cut = values[-1].clamp_min(0) * len(gram) * torch.finfo(values.dtype).eps
    inverse = torch.where(values > cut, 1 / values.clamp_min(torch.finfo(values.dtype).tiny), 0)
    pseudo = (vectors * inverse) @ vectors.T
    return y.T @ pseudo @ phi if wide else (pseudo @ (phi.T @ y)).T
