"""What the projection attack works on, and what its stages do with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import isfinite, nan

import torch
from torch import Tensor

from lit_recon.activations import Activation
from lit_recon.features import BlockAverages, LinearMap
from lit_recon.knowledge import PixelScale
from lit_recon.linalg import spectral_directions
from lit_recon.metrics.certificate import Certificates, certify, inputs_from_images
from lit_recon.objectives.projection import ProjectionObjective
from lit_recon.solvers import Status
from lit_recon.solvers.loop import Linearised

# The coarse subspace is the finest one that still has so many equations per unknown.
COARSE_RATIO = 10.0
COARSEST = 4  # pixels on a side
# Loss below which candidates are near enough to integer pixels to be worth a look.
CERTIFY_BELOW = 1e-4


@dataclass(frozen=True)
class Problem:
    """The attack's inputs in the shape that the stages need.

    Of V and the target every rank holds its share; all that the attack makes is the same on all.
    """

    map: LinearMap
    activation: Activation
    target: Tensor  # (k, p) this rank's columns
    m: int
    pixels: PixelScale | None
    radius: float | None

    def objective(self, surrogate_slope: float = 0.0) -> ProjectionObjective:
        """The plain loss."""
        return ProjectionObjective(
            self.map,
            self.activation,
            self.target,
            radius=self.radius,
            surrogate_slope=surrogate_slope,
        )

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
    def norm(self) -> float:
        """The norm of an input: the known one, else that of standardised data."""
        return self.radius or self.map.d**0.5

    @property
    def equations(self) -> int:
        """k p"""
        return len(self.target) * self.map.p

    @property
    def per_unknown(self) -> float:
        """Equations per unknown of a fit with linear rows."""
        return self.equations / ((self.m + len(self.target)) * self.map.d)

    @cached_property
    def energy(self) -> float:
        """The target's squared norm: 1, 0 for a readout that has not moved, or not finite."""
        return self.objective().energy


def unit(target: Tensor) -> Tensor:
    """The target (k, p) at norm 1, which the loss does not see, so that no square overflows."""
    target = target.double()
    return target / torch.linalg.vector_norm(target).clamp_min(torch.finfo(target.dtype).tiny)


def refused(problem: Problem) -> Status | None:
    """Why there is nothing to attack, None where there is."""
    # The norm of V is finite if V is; isfinite(V) would make a copy of it.
    if not (isfinite(problem.energy) and isfinite(problem.map.mean_square)):
        return Status.NONFINITE
    if problem.energy == 0:
        return Status.NO_SIGNAL
    if problem.m >= problem.map.p:
        return Status.NOT_IDENTIFIABLE
    return None


def noise(problem: Problem, count: int, generator: torch.Generator) -> Tensor:
    """(count, d) standard normal candidates."""
    dtype = problem.target.dtype
    candidates = torch.randn(count, problem.map.d, generator=generator, dtype=dtype)
    return candidates.to(problem.target.device)


def proposals(
    problem: Problem, generator: torch.Generator, *, both_signs: bool
) -> Callable[[Linearised, int], Tensor]:
    """New candidates (count, d) for a fit: what its residual is most likely the feature of."""

    def propose(at: Linearised, count: int) -> Tensor:
        directions = min(count + 3, problem.map.d)
        new = spectral_directions(problem.map, at.residual, directions, generator)
        new = problem.norm * new
        new = torch.cat([new, -new]) if both_signs else new
        return new[at.gain(new).argsort(descending=True)[:count]]

    return propose


def coarse_blocks(problem: Problem) -> BlockAverages:
    """The finest block averages with COARSE_RATIO equations per unknown; single pixels at best."""
    if problem.pixels is None:
        return BlockAverages((1, 1, problem.map.d), 1)
    c, h, w = problem.pixels.shape
    factor = 1
    while problem.equations < COARSE_RATIO * problem.m * c * h * w / factor**2:
        if h % (2 * factor) or w % (2 * factor) or min(h, w) // (2 * factor) < COARSEST:
            break
        factor *= 2
    return BlockAverages(problem.pixels.shape, factor)


def with_signs(problem: Problem, candidates: Tensor) -> Tensor:
    """Candidates (m, d) with the sign whose features carry the target.

    One least-squares fit of the target on the features of both signs (2m, p).
    """
    both = torch.cat([candidates, -candidates])
    at = problem.objective().linearise(both)
    weight = at.importance().view(2, -1)
    return torch.where((weight[0] >= weight[1])[:, None], candidates, -candidates)


def all_certified(problem: Problem) -> Callable[[Linearised], bool] | None:
    """A stop test for images with a known pixel scale: every candidate has integer pixels."""
    pixels = problem.pixels
    if pixels is None:
        return None

    def satisfied(at: Linearised) -> bool:
        if len(at.candidates) > problem.m or at.loss > CERTIFY_BELOW:
            return False
        return bool(certify(at.candidates.cpu(), pixels).accepted.all())

    return satisfied


def on_pixels(
    candidates: Tensor, certificates: Certificates, pixels: PixelScale, radius: float | None
) -> Tensor:
    """Candidates with the certified ones put onto the integer pixels that they certify."""
    exact = inputs_from_images(certificates.images, pixels).to(candidates)
    if radius is not None:
        exact = exact * (radius / torch.linalg.vector_norm(exact, dim=1, keepdim=True))
    accepted = certificates.accepted.to(candidates.device)[:, None]
    return torch.where(accepted, exact, candidates)


def loss_at(problem: Problem, x: Tensor) -> float:
    """The projection loss at other inputs (n, d)."""
    if problem.energy == 0:
        return nan
    return float(problem.objective().linearise(x.to(problem.target)).loss)
