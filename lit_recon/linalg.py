"""Linear algebra on tall matrices V (p, d) that are read but never copied.

Products with V are written so that the long side stays outermost: on CPU ``(V @ x.T).T`` is about
twice as fast as ``x @ V.T`` for ten rows of x. Where V is shared among ranks, what has length p is
here this rank's share of it, and all else is the same on all ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from lit_recon.distributed import Ranks
from lit_recon.tall_matrix import BLOCK_ROWS, TallMatrix

EXPLICIT_DIMENSIONS = 1024
SUBSPACE_ITERATIONS = 4


class Map(Protocol):
    """z = V x, with the rows of V shared among ranks."""

    @property
    def rows(self) -> TallMatrix: ...
    @property
    def ranks(self) -> Ranks: ...
    @property
    def p(self) -> int: ...
    def apply(self, x: Tensor) -> Tensor: ...
    def transpose(self, w: Tensor) -> Tensor: ...


def times_rows(x: Tensor, rows: TallMatrix) -> Tensor:
    """``x V^T``: (m, d) and rows (r, d) to (m, r)."""
    products = [part @ x.T for part in rows]
    return (products[0] if len(products) == 1 else torch.cat(products)).T


def weigh_rows(w: Tensor, rows: TallMatrix) -> Tensor:
    """``w V``: (m, r) and rows (r, d) to (m, d)."""
    total = None
    for columns, part in rows.blocks():
        product = w[:, columns].contiguous() @ part
        total = product if total is None else total.add_(product)
    assert total is not None
    return total


def least_squares_rows(map: Map, target: Tensor, tolerance: float = 1e-5) -> Tensor:
    """(k, d) rows w that minimise ``||target - w V^T||``, by conjugate gradients for all k at once.

    A Gaussian V has a condition number below 10 for p > 2 d, so a few passes are enough.

    Args:
        map: V.
        target: (k, p).
        tolerance: relative size of the gradient at which to stop.
    """
    r = map.transpose(target)
    w = torch.zeros_like(r)
    direction, rr = r, (r * r).sum(1, keepdim=True)
    enough = tolerance**2 * rr.clamp_min(torch.finfo(rr.dtype).tiny)
    for _ in range(100):
        q = map.transpose(map.apply(direction))
        step = rr / (direction * q).sum(1, keepdim=True).clamp_min(torch.finfo(rr.dtype).tiny)
        w, r = w + step * direction, r - step * q
        new = (r * r).sum(1, keepdim=True)
        if map.ranks.agreed(bool((new <= enough).all())):
            break
        direction, rr = r + new / rr.clamp_min(torch.finfo(rr.dtype).tiny) * direction, new
    return w


def _identity(x: Tensor) -> Tensor:
    return x


def spectral_directions(
    map: Map,
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
        map: V.
        weights: (k, p), one weight per row of V and output.
        count: number of directions, at most q.
        random: for the start of the subspace iteration.
        down: rows (r, d) to their coordinates (r, q) in a subspace with an orthonormal basis.
        up: coordinates (r, q) to rows (r, d).
    """
    weights = weights - map.ranks.total(weights.sum(1, keepdim=True)) / map.p
    q = down(weights.new_zeros(1, map.rows.d)).shape[1]
    if q <= EXPLICIT_DIMENSIONS:
        square = _sum_of_squares(list(map.ranks.total(_moments(map.rows, weights, q, down))))
        leading = torch.linalg.eigh(square).eigenvectors[:, -count:].flip(1).T
        return map.ranks.first(leading.to(weights.dtype))

    def moments(rows: Tensor, weights: Tensor) -> Tensor:
        """(l, r, q) ``rows M_l`` for coordinates rows (r, q) and weights (l, p)."""
        h = map.apply(up(rows))
        return torch.stack([down(map.transpose(h * row)) for row in weights])

    rows = torch.randn(min(count + 4, q), q, generator=random, dtype=weights.dtype).to(weights)
    for _ in range(SUBSPACE_ITERATIONS):
        once = moments(_orthonormal_rows(rows), weights)
        twice = [moments(y, w[None])[0] for y, w in zip(once, weights, strict=True)]
        rows = torch.stack(twice).sum(0)
    rows = _orthonormal_rows(rows)
    small = _sum_of_squares(list(moments(rows, weights).double()))
    turn = torch.linalg.eigh(small).eigenvectors.flip(1)
    return map.ranks.first((turn.T.to(rows) @ rows)[:count])


def widest_directions(map: Map, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """The leading right singular vectors of V, and their singular values.

    Args:
        map: V.
        count: how many, at most d.
        random: for the start of the subspace iteration (Halko, Martinsson, Tropp 2011).

    Returns:
        (count, d) orthonormal rows, and (count,) values in falling order, in float64.
    """
    like, d = map.rows.like, map.rows.d
    if d <= EXPLICIT_DIMENSIONS:
        rows = torch.eye(d).to(like)
    else:
        rows = torch.randn(min(count + 8, d), d, generator=random, dtype=like.dtype).to(like)
        for _ in range(SUBSPACE_ITERATIONS):
            rows = _orthonormal_rows(map.transpose(map.apply(rows)))
    images = map.apply(rows).double()
    gram = map.ranks.total(images @ images.T).nan_to_num(0, 0, 0)
    values, turn = torch.linalg.eigh(gram)
    leading = turn[:, -count:].flip(1).T.to(like) @ rows
    widest = values[-count:].flip(0).clamp_min(0).sqrt()
    return map.ranks.first(leading), map.ranks.first(widest)


def _sum_of_squares(rows: list[Tensor]) -> Tensor:
    """(r, r) sum of ``y y^T`` over matrices y (r, q); 0 where that is not finite: eigh raises."""
    return torch.stack([y @ y.T for y in rows]).sum(0).nan_to_num(0, 0, 0)


def _orthonormal_rows(rows: Tensor) -> Tensor:
    return torch.linalg.qr(rows.T).Q.T


def _moments(rows: TallMatrix, weights: Tensor, q: int, down: Callable[[Tensor], Tensor]) -> Tensor:
    """(k, q, q) this rank's part of every ``V^T diag(weights) V`` in the subspace, in float64.

    One pass over V, block by block, for all weights (k, r).
    """
    total = torch.zeros(len(weights), q, q, dtype=torch.float64, device=weights.device)
    for columns, block in rows.blocks(BLOCK_ROWS):
        coordinates = down(block)
        for moment, row in zip(total, weights[:, columns], strict=True):
            moment += ((coordinates * row[:, None]).T @ coordinates).double()
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
