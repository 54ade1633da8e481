"""The problem of a network with one hidden layer, and what only such a network allows."""

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

# The coarse subspace is the finest one that still has so many equations per unknown.
COARSE_RATIO = 10.0
COARSEST = 4  # pixels on a side
# The candidates with which to begin where their number is to be found.
FIRST = 2
MOST_DIRECTIONS = 256  # that are looked at where the number of inputs is to be found
# When the first layer's change has a low rank. Measured on photographs of 8x8 and 16x16, n = 4 and
# 10, steps 1 to 100, after SGD and after Adam. Share of its energy outside of n directions: at most
# 1.4e-5, and at least 0.11. Largest ratio of neighbouring singular values: at least 60 (rates whose
# change is lost in rounding: 2 to 11), and 1.4 to 2.4 (46 after one step of four images).
OUTSIDE = 0.05
JUMP = 5.0


@dataclass(frozen=True)
class LayerProblem(Problem):
    """The problem of a network with one hidden layer.

    Of V and the target every rank holds its share; all that the attack makes is the same on all.

    Attributes:
        map: V, or V B^T.
        activation: s.
        basis: B (r, d), orthonormal rows that are known to span the training inputs; candidates
            are then coordinates (m, r). None: nothing is known.
        low_rank: the first layer's change has so low a rank that B can be trusted.
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
        # The norm of V is finite if V is; isfinite(V) would make a copy of it.
        return isfinite(self.map.mean_square)

    @property
    def unknowns(self) -> int:
        return self.map.d

    @property
    def even_part(self) -> Activation:
        """The even part of an activation that has one."""
        assert self.activation.even_part is not None
        return self.activation.even_part

    def even_objective(self) -> ProjectionObjective:
        """The loss of the even part, with linear rows for the rest."""
        even = self.even_part
        radius = self.norm if even.homogeneous else self.radius
        return ProjectionObjective(self.map, even, self.target, linear=True, radius=radius)

    @property
    def per_unknown(self) -> float:
        """Equations per unknown of a fit with linear rows."""
        return self.equations / ((self.m + len(self.target)) * self.unknowns)

    def inputs(self, candidates: Tensor) -> Tensor:
        return candidates if self.basis is None else candidates @ self.basis.to(candidates)

    def coordinates(self, inputs: Tensor) -> Tensor:
        inputs = inputs.to(self.target)
        return inputs if self.basis is None else inputs @ self.basis.T


def layer_problem(knowledge: Knowledge, m: int | None, generator: torch.Generator) -> LayerProblem:
    """What the attacker knows, in the shape of a problem.

    Args:
        knowledge: of a network with one hidden layer.
        m: the number of candidates; None: as many as the change of the first layer has dimensions,
            or FIRST where nothing is known of it.
        generator: for the search of its row space.
    """
    model = knowledge.model
    assert isinstance(model, OneHiddenLayer)
    us = ranks()
    share = us.share(model.p)
    rows = model.rows(share)
    radius = knowledge.radius
    if model.activation.homogeneous and radius is None:
        radius = rows.d**0.5  # the norm cannot be seen, so any fixed one will do
    map, basis, low_rank = LinearMap(rows, us), None, True
    if knowledge.initial_first_layer is not None:
        start = knowledge.initial_first_layer[share.start : share.stop].to(rows.like)
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
    """The directions in which a first layer has changed.

    Attributes:
        basis: (r, d) orthonormal rows that span the training inputs.
        low_rank: whether the change has so low a rank that they can be believed.
    """

    basis: Tensor
    low_rank: bool


def row_space(change: LinearMap, m: int | None, generator: torch.Generator) -> RowSpace:
    """The span of the training inputs from the first layer's change.

    Gradient descent changes the first layer by ``sum_i c_i x_i^T`` (Tansley, Makhlouf, Massart et
    al. 2026, arXiv 2605.06519), so its leading right singular vectors span the training inputs; the
    others are rounding.

    Args:
        change: the first layer less its start.
        m: how many inputs; None: as many as stand out.
        generator: for the subspace iteration.
    """
    most = min(m or MOST_DIRECTIONS, change.d)
    directions, values = widest_directions(change, most, generator)
    if m is not None:
        return RowSpace(directions, _outside(directions, change) <= OUTSIDE)
    # What rounding leaves of a zero is no jump; in the Gram it is that of float64.
    floor = float(values[0]) * (change.d * torch.finfo(values.dtype).eps) ** 0.5
    values = values.clamp_min(max(floor, torch.finfo(values.dtype).tiny))
    jumps = values[:-1] / values[1:]
    rank = 1 + int(jumps.argmax())
    return RowSpace(directions[:rank], bool(jumps[rank - 1] >= JUMP))


def _outside(basis: Tensor, change: LinearMap) -> float:
    """Share of the squared norm of a matrix that is not in the span of orthonormal rows (r, d)."""
    total = change.mean_square * change.p * change.d
    inside = change.ranks.total(change.apply(basis).double().square().sum())
    return max(0.0, 1 - float(inside) / total) if total > 0 else 0.0


def proposals(
    problem: LayerProblem, generator: torch.Generator, *, both_signs: bool
) -> Callable[[SpanPoint, int], Tensor]:
    """New candidates (count, d) for a fit: what its residual is most likely the feature of."""

    def propose(at: SpanPoint, count: int) -> Tensor:
        directions = min(count + 3, problem.unknowns)
        new = spectral_directions(problem.map, at.residual, directions, generator)
        new = problem.norm * new
        new = torch.cat([new, -new]) if both_signs else new
        return new[at.gain(new).argsort(descending=True)[:count]]

    return propose


def coarse_blocks(problem: LayerProblem) -> BlockAverages:
    """The finest block averages with COARSE_RATIO equations per unknown; single pixels at best."""
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
    """Candidates (m, d) with the sign whose features carry the target.

    One least-squares fit of the target on the features of both signs (2m, p).
    """
    both = torch.cat([candidates, -candidates])
    at = problem.objective().linearise(both)
    weight = at.importance().view(2, -1)
    return torch.where((weight[0] >= weight[1])[:, None], candidates, -candidates)
