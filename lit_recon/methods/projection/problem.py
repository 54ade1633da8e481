"""The problem of the projection attack, for any network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import isfinite, nan

import torch
from torch import Tensor

from lit_recon.distributed import Ranks
from lit_recon.knowledge import Knowledge, PixelScale
from lit_recon.methods.base import Outcome
from lit_recon.methods.projection import outcomes
from lit_recon.metrics.certificate import Certificates, certify, inputs_from_images
from lit_recon.solvers.contracts import LeastSquaresObjective, Point, SpanPoint

# Loss below which candidates are checked for integer pixels.
CERTIFY_BELOW = 1e-4


@dataclass(frozen=True)
class Problem(ABC):
    """The facts that all stages of the attack use; it is immutable.

    Attributes:
        target: (k, p) final minus initial readout; this rank's columns.
        m: the number of candidates.
        d: the dimension of an input.
        pixels: the pixel scale of images; None for other data.
        radius: the norm that candidates are kept at; None: it is free.
        drifts: the features changed in training, so the readout lies only approximately in their
            span, and the smallest possible loss is not known.
        sign_blind: an input and its negative have the same features up to sign.
    """

    target: Tensor
    m: int
    d: int
    pixels: PixelScale | None
    radius: float | None
    drifts: bool
    sign_blind: bool

    @abstractmethod
    def objective(self, surrogate_slope: float = 0.0) -> LeastSquaresObjective[SpanPoint]:
        """The plain loss."""

    @property
    @abstractmethod
    def ranks(self) -> Ranks:
        """The ranks that share the work."""

    @property
    @abstractmethod
    def p(self) -> int:
        """The number of features, over all ranks."""

    @property
    @abstractmethod
    def finite(self) -> bool:
        """Whether all weights before the readout are finite."""

    @property
    def unknowns(self) -> int:
        """Free coordinates of one candidate: d, or r in a known subspace."""
        return self.d

    @property
    def norm(self) -> float:
        """The norm of an input: `radius`, else sqrt(d) as for standardised data."""
        return self.radius or self.d**0.5

    @property
    def equations(self) -> int:
        """The number of equations, k p."""
        return len(self.target) * self.p

    @cached_property
    def energy(self) -> float:
        """The target's squared norm: 1, or 0 if the readout has not moved, or not finite."""
        return self.objective().energy

    def inputs(self, candidates: Tensor) -> Tensor:
        """(m, d) inputs from candidates (m, unknowns)."""
        return candidates

    def coordinates(self, inputs: Tensor) -> Tensor:
        """Candidates (m, unknowns) from inputs (m, d)."""
        return inputs.to(self.target)

    def noise(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, unknowns) normally distributed candidates with about the norm of an input."""
        dtype = self.target.dtype
        candidates = torch.randn(count, self.unknowns, generator=generator, dtype=dtype)
        return candidates.to(self.target.device) * (self.norm / self.unknowns**0.5)


def target_of(knowledge: Knowledge) -> Tensor:
    """The target (k, p): final minus initial readout, scaled to norm 1, in float64.

    The loss does not depend on the norm, and at norm 1 no square overflows. An unknown initial
    readout counts as 0, its value in a random-features model.
    """
    final = knowledge.model.readout.weight.detach()  # type: ignore[union-attr, operator]
    start = knowledge.initial_readout
    target = final if start is None else final - start.to(final) * left_of_start(knowledge)
    target = target.double()
    return target / torch.linalg.vector_norm(target).clamp_min(torch.finfo(target.dtype).tiny)


def left_of_start(knowledge: Knowledge) -> float:
    """The factor by which weight decay has scaled the initial weights; 1 if it is not known."""
    return 1.0 if knowledge.initial_share is None else knowledge.initial_share


def refused(problem: Problem) -> Outcome | None:
    """The outcome if there is nothing to attack; None otherwise."""
    if not (isfinite(problem.energy) and problem.finite):
        return outcomes.NONFINITE
    if problem.energy == 0:
        return outcomes.NO_SIGNAL
    if problem.m >= problem.p:
        return outcomes.NOT_IDENTIFIABLE
    return None


def all_certified(problem: Problem) -> Callable[[Point], bool] | None:
    """A stop test: every candidate has a certificate for integer pixels; None without images."""
    pixels = problem.pixels
    if pixels is None:
        return None

    def satisfied(at: Point) -> bool:
        if len(at.candidates) > problem.m or at.loss > CERTIFY_BELOW:
            return False
        return bool(certify(problem.inputs(at.candidates).cpu(), pixels).accepted.all())

    return satisfied


def on_pixels(
    candidates: Tensor, certificates: Certificates, pixels: PixelScale, radius: float | None
) -> Tensor:
    """Candidates (m, d), of which certified ones are replaced by their exact integer pixels."""
    exact = inputs_from_images(certificates.images, pixels).to(candidates)
    if radius is not None:
        exact = exact * (radius / torch.linalg.vector_norm(exact, dim=1, keepdim=True))
    accepted = certificates.accepted.to(candidates.device)[:, None]
    return torch.where(accepted, exact, candidates)


@torch.no_grad()
def loss_at(problem: Problem, x: Tensor) -> float:
    """The projection loss at inputs x (n, d); NaN if the readout has not moved."""
    if problem.energy == 0:
        return nan
    return float(problem.objective().linearise(problem.coordinates(x)).loss)
