"""Linear algebra on tall matrices V (p, d) that are read but never copied.

Products with V are written so that the long side stays outermost: on CPU ``(V @ x.T).T`` is about
twice as fast as ``x @ V.T`` for ten rows of x. Where V is shared among ranks, a length p means this
rank's share of p; everything else is the same on all ranks.
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
    """z = V x for V (p, d), with the rows of V shared among ranks."""

    @property
    def rows(self) -> TallMatrix:
        """(r, d) this rank's rows of V."""
        ...

    @property
    def ranks(self) -> Ranks:
        """The processes that share V."""
        ...

    @property
    def p(self) -> int:
        """The number of rows of V, over all ranks."""
        ...

    def apply(self, x: Tensor) -> Tensor:
        """``x V^T``: (m, d) to (m, r), this rank's columns."""
        ...

    def transpose(self, w: Tensor) -> Tensor:
        """``w V``: this rank's columns (m, r) to (m, d), the sum over all ranks."""
        ...


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


def _identity(x: Tensor) -> Tensor:
    return x


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor],
    right: Tensor,
    precondition: Callable[[Tensor], Tensor] = _identity,
    *,
    steps: int,
    tolerance: float,
    independent_rows: bool = False,
    every: int = 1,
    finished: Callable[[bool], bool] = bool,
) -> Tensor:
    """Solve ``apply(x) = right`` for a symmetric positive definite operator, from x = 0.

    Hestenes and Stiefel 1952. A right side of zeros gives x = 0.

    >>> scales = torch.tensor([[2.0, 4.0]])
    >>> conjugate_gradients(lambda x: scales * x, torch.tensor([[2.0, 0.0]]), steps=2, tolerance=0)
    tensor([[1., 0.]])

    Args:
        apply: the operator, rows (m, d) to (m, d).
        right: (m, d).
        precondition: approximate inverse of the operator, symmetric positive definite.
        steps: the most applications of the operator.
        tolerance: solved when the preconditioned norm of the residual has fallen to this share.
        independent_rows: every row of x is a system of its own, with a step length of its own, and
            all are solved when the last one is; False: x is the solution of one system.
        every: ask ``finished`` after every so many steps. A GPU then need not wait at each step.
            Steps that it takes after the system is solved have length 0, so the result is the same.
        finished: gets whether the system is solved; True ends the iteration.

    Returns:
        (m, d) x.
    """

    def dot(u: Tensor, w: Tensor) -> Tensor:
        return (u * w).sum(1, keepdim=True) if independent_rows else (u * w).sum()

    x = torch.zeros_like(right)
    r = right
    direction = y = precondition(r)
    ry = dot(r, y)  # () or (m, 1), as are all numbers of a system
    enough = tolerance**2 * ry
    solved = torch.zeros((), dtype=torch.bool, device=right.device)
    for step in range(1, steps + 1):
        q = apply(direction)
        length = torch.where(solved, 0.0, _ratio(ry, dot(direction, q)))
        x, r = x + length * direction, r - length * q
        y = precondition(r)
        new = dot(r, y)
        solved = solved | ~(new > enough).any()
        if step % every == 0 and finished(bool(solved)):
            break
        direction, ry = y + _ratio(new, ry) * direction, new
    return x


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """``part / whole``, and 0 where the whole is 0: an exact solution stays as it is."""
    return torch.where(whole == 0, 0.0, part / whole)


def least_squares_rows(map: Map, target: Tensor, tolerance: float = 1e-5) -> Tensor:
    """(k, d) rows w that minimise ``||target - w V^T||``, by conjugate gradients for all k at once.

    A Gaussian V has a condition number below 10 for p > 2 d, so a few passes are enough.

    Args:
        map: V.
        target: (k, p).
        tolerance: relative size of the gradient at which to stop.
    """
    return conjugate_gradients(
        lambda w: map.transpose(map.apply(w)),
        map.transpose(target),
        steps=100,
        tolerance=tolerance,
        independent_rows=True,
        finished=map.ranks.agreed,
    )


def spectral_directions(
    map: Map,
    weights: Tensor,
    count: int,
    random: torch.Generator,
    down: Callable[[Tensor], Tensor] = _identity,
    up: Callable[[Tensor], Tensor] = _identity,
) -> Tensor:
    """(count, q) orthonormal leading eigenvectors of sum_l M_l^2, M_l = V^T diag(weights_l) V.

    Where the weights are a sum of even features of a few inputs, the directions span the inputs
    approximately (the method of moments for a layer of neurons with Gaussian data: Janzamin,
    Sedghi, Anandkumar 2015, arXiv 1506.08473; Lu and Li 2017, arXiv 1702.06435).

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
    """(r, r) sum of ``y y^T`` over matrices y (r, q); 0 where it is not finite, or eigh raises."""
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
    """(k, p) the weights of minimum norm that fit y (n, k) best on features phi (n, p).

    Solved by the eigenvectors of the smaller of the two Gram matrices, in float64. Equal samples
    and p < n need no special case then.
    """
    phi, y = phi.double(), y.double()
    wide = phi.shape[0] <= phi.shape[1]
    gram = phi @ phi.T if wide else phi.T @ phi
    values, vectors = torch.linalg.eigh(gram)
    cut = values[-1].clamp_min(0) * len(gram) * torch.finfo(values.dtype).eps
    inverse = torch.where(values > cut, 1 / values.clamp_min(torch.finfo(values.dtype).tiny), 0)
    pseudo = (vectors * inverse) @ vectors.T
    return y.T @ pseudo @ phi if wide else (pseudo @ (phi.T @ y)).T
