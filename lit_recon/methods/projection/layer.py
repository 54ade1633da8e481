"""The problem of a network with one hidden layer, and the steps that only such a network allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from lit_recon.activations import Activation
from lit_recon.distributed import Ranks, ranks
from lit_recon.knowledge import Knowledge
from lit_recon.linalg import spectral_directions, widest_directions
from lit_recon.linear_map import BlockAverages, LinearMap
from lit_recon.methods.projection.problem import Problem, left_of_start, target_of
from lit_recon.models import OneHiddenLayer
from lit_recon.objectives.projection import ProjectionObjective
from lit_recon.solvers.contracts import SpanPoint
from lit_recon.tall_matrix import TallMatrix

# The coarse subspace is the finest one with at least so many equations per unknown.
COARSE_RATIO = 10.0
COARSEST = 4  # smallest image side in pixels
# The first number of candidates to try when their number is not given.
FIRST = 2
MOST_DIRECTIONS = 256  # largest number of inputs that the first layer's change can show
# Limits for a low rank of the first layer's change. Measured on photographs of 8x8 and 16x16, n = 4
# and 10, steps 1 to 100. Share of its energy outside of n directions: at most 1.4e-5 after SGD, at
# least 0.11 after Adam. Largest ratio of neighbouring singular values: at least 60 after SGD (2 to
# 11 if the rate is so small that rounding hides the change), 1.4 to 2.4 after Adam (46 after one
# step on four images).
OUTSIDE = 0.05
JUMP = 5.0


@dataclass(frozen=True)
class LayerProblem(Problem):
    """The problem of a network with one hidden layer.

    Every rank holds its share of V and of the target; candidates are the same on all ranks.

    Attributes:
        map: V, or V B^T.
        activation: the activation function s.
        basis: B (r, d), orthonormal rows that span the training inputs; candidates are then
            coordinates (m, r). None: the span is not known.
        low_rank: whether the first layer's change has a low rank, so that B can be trusted.
    """

    map: LinearMap
    activation: Activation
    basis: Tensor | None = None
    low_rank: bool = True

    def objective(self, surrogate_slope: float = 0.0) -> ProjectionObjective:
        return ProjectionObjective(
            self.map,
            self.activation,
            self.target,
            radius=self.radius,
            surrogate_slope=surrogate_slope,
        )

    @property
    def ranks(self) -> Ranks:
        return self.map.ranks

    @property
    def p(self) -> int:
        return self.map.p

    @property
    def finite(self) -> bool:
        # The norm of V is finite if V is; isfinite(V) would allocate a second V.
        return isfinite(self.map.mean_square)

    @property
    def unknowns(self) -> int:
        return self.map.d

    @property
    def even_part(self) -> Activation:
        """The even part of the activation; only if it has one."""
        assert self.activation.even_part is not None
        return self.activation.even_part

    def even_objective(self) -> ProjectionObjective:
        """The loss of the even part, with linear rows that fit the activation's other part."""
        even = self.even_part
        radius = self.norm if even.homogeneous else self.radius
        return ProjectionObjective(self.map, even, self.target, linear=True, radius=radius)

    @property
    def per_unknown(self) -> float:
        """Equations per unknown of a fit with candidates and linear rows."""
        return self.equations / ((self.m + len(self.target)) * self.unknowns)

    def inputs(self, candidates: Tensor) -> Tensor:
        return candidates if self.basis is None else candidates @ self.basis.to(candidates)

    def coordinates(self, inputs: Tensor) -> Tensor:
        inputs = inputs.to(self.target)
        return inputs if self.basis is None else inputs @ self.basis.T


def layer_problem(knowledge: Knowledge, m: int | None, generator: torch.Generator) -> LayerProblem:
    """Make the problem from what the attacker knows.

    Args:
        knowledge: of a network with one hidden layer.
        m: the number of candidates; None: the rank of the first layer's change, or FIRST if the
            first layer is not known at an earlier checkpoint.
        generator: for the subspace iteration on the first layer's change.
    """
    model = knowledge.model
    assert isinstance(model, OneHiddenLayer)
    us = ranks()
    share = us.share(model.p)
    rows = model.rows(share)
    radius = knowledge.radius
    if model.activation.homogeneous and radius is None:
        radius = rows.d**0.5  # features do not determine the norm: any fixed one will do
    map, basis, low_rank = LinearMap(rows, us), None, True
    if knowledge.earlier_first_layer is not None:
        start = knowledge.earlier_first_layer.weight[share.start : share.stop].to(rows.like)
        change = next(iter(rows)) - start * left_of_start(knowledge)
        moved = LinearMap(TallMatrix.of(change), us)
        space = row_space(moved, m, generator)
        basis, low_rank = space.basis, space.low_rank
        map = LinearMap(TallMatrix.of(map.apply(basis).T.contiguous()), us)
    target = target_of(knowledge)[:, share.start : share.stop]
    return LayerProblem(
        target=target.to(rows.like),
        m=m or (FIRST if basis is None else len(basis)),
        d=rows.d,
        pixels=knowledge.pixels,
        radius=radius,
        drifts=not model.frozen,
        sign_blind=model.activation.odd,
        map=map,
        activation=model.activation,
        basis=basis,
        low_rank=low_rank,
    )


@dataclass(frozen=True)
class RowSpace:
    """The row space of a first layer's change.

    Attributes:
        basis: (r, d) orthonormal rows that span it.
        low_rank: whether the change has a low rank, so that `basis` spans the training inputs.
    """

    basis: Tensor
    low_rank: bool


def row_space(change: LinearMap, m: int | None, generator: torch.Generator) -> RowSpace:
    """Find the span of the training inputs from the first layer's change.

    Gradient descent changes the first layer by ``sum_i c_i x_i^T`` (Tansley, Makhlouf, Massart et
    al. 2026, arXiv 2605.06519), so the leading right singular vectors of the change span the
    training inputs; the others are rounding errors.

    Args:
        change: (p, d) the final minus the earlier first layer.
        m: the number of inputs; None: the position of the largest jump of the singular values.
        generator: for the subspace iteration.
    """
    most = min(m or MOST_DIRECTIONS, change.d)
    directions, values = widest_directions(change, most, generator)
    if m is not None:
        return RowSpace(directions, _outside(directions, change) <= OUTSIDE)
    # Raise singular values below the rounding error of a float64 Gram matrix, or the drop to a
    # rounded zero would count as a jump.
    floor = float(values[0]) * (change.d * torch.finfo(values.dtype).eps) ** 0.5
    values = values.clamp_min(max(floor, torch.finfo(values.dtype).tiny))
    jumps = values[:-1] / values[1:]
    rank = 1 + int(jumps.argmax())
    return RowSpace(directions[:rank], bool(jumps[rank - 1] >= JUMP))


def _outside(basis: Tensor, change: LinearMap) -> float:
    """Share of the squared norm of a matrix (p, d) outside the span of orthonormal rows (r, d)."""
    total = change.mean_square * change.p * change.d
    inside = change.ranks.total(change.apply(basis).double().square().sum())
    return max(0.0, 1 - float(inside) / total) if total > 0 else 0.0


def proposals(
    problem: LayerProblem, generator: torch.Generator, *, both_signs: bool
) -> Callable[[SpanPoint, int], Tensor]:
    """A function that proposes new candidates (count, unknowns) for the residual of a fit.

    It takes spectral directions of the residual and keeps those with the largest gain.
    """

    def propose(at: SpanPoint, count: int) -> Tensor:
        directions = min(count + 3, problem.unknowns)
        new = spectral_directions(problem.map, at.residual, directions, generator)
        new = problem.norm * new
        new = torch.cat([new, -new]) if both_signs else new
        return new[at.gain(new).argsort(descending=True)[:count]]

    return propose


def coarse_blocks(problem: LayerProblem) -> BlockAverages:
    """The smallest blocks of pixels that leave at least COARSE_RATIO equations per unknown.

    The blocks are single pixels without image data, in a known subspace, or with enough equations.
    """
    if problem.pixels is None or problem.basis is not None:
        return BlockAverages((1, 1, problem.unknowns), 1)
    c, h, w = problem.pixels.shape
    factor = 1
    while problem.equations < COARSE_RATIO * problem.m * c * h * w / factor**2:
        if h % (2 * factor) or w % (2 * factor) or min(h, w) // (2 * factor) < COARSEST:
            break
        factor *= 2
    return BlockAverages(problem.pixels.shape, factor)


def with_signs(problem: LayerProblem, candidates: Tensor) -> Tensor:
    """Candidates (m, unknowns), each with the sign whose features explain more of the target.

    One least-squares fit of the target on the features of both signs (2m, p) decides.
    """
    both = torch.cat([candidates, -candidates])
    at = problem.objective().linearise(both)
    weight = at.importance().view(2, -1)
    return torch.where((weight[0] >= weight[1])[:, None], candidates, -candidates)
