"""The projection attack on any network with a linear readout, used as a black box."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from lit_recon.distributed import Ranks, ranks
from lit_recon.errors import InputError
from lit_recon.knowledge import Knowledge
from lit_recon.methods.projection.problem import Problem, target_of
from lit_recon.methods.projection.strategy import Strategy
from lit_recon.models import ReadoutModel
from lit_recon.models.base import class_name
from lit_recon.objectives.network import NetworkObjective
from lit_recon.solvers import Solution
from lit_recon.solvers.search import Move, Perturbation

# Deep features of any two images are similar, so a fit from noise ends in mixtures of images. The
# true images attract candidates from far away (a cosine of 0.55 is enough), so basin hopping works.
# Measured with the paper's network, n = 4 and 8, 8x8 and 16x16 pixels, p = 3 d n: all images are
# found after 1 to 5 hops. Three alternatives never found them: six Gauss-Newton starts in block
# averages, spare candidates alone, and subtracting the mean feature of random inputs.
HOP_SCALE = 1.2
HOPS = 6


@dataclass(frozen=True)
class NetworkProblem(Problem):
    """The problem of a network; every rank holds all of it and computes the same.

    Attributes:
        model: the network; gradients of its weights are not used.
        shape: the shape of one input.
    """

    model: ReadoutModel
    shape: tuple[int, ...]

    def features(self, candidates: Tensor) -> Tensor:
        """Features (m, p) of candidates (m, d)."""
        return self.model.features(candidates.view(-1, *self.shape))

    def objective(self, surrogate_slope: float = 0.0) -> NetworkObjective:
        return NetworkObjective(
            self.features, self.target, radius=self.radius, first=self.ranks.first
        )

    @cached_property
    def ranks(self) -> Ranks:
        return ranks()

    @property
    def p(self) -> int:
        return self.model.p

    @property
    def finite(self) -> bool:
        return all(bool(torch.isfinite(weight).all()) for weight in self.model.parameters())


def network_problem(knowledge: Knowledge, m: int) -> NetworkProblem:
    """Make the problem from what the attacker knows; probes whether features see norm and sign.

    Raises:
        InputError: the shape of an input is not known.
    """
    model, shape = knowledge.model, knowledge.input_shape
    assert isinstance(model, ReadoutModel)
    if shape is None:
        raise InputError("--model", class_name(model), "its attack needs the shape of an input")
    probe = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    probe = probe.to(model.readout.weight.detach())
    phi = model.features(probe)
    homogeneous = torch.allclose(model.features(2 * probe), 2 * phi, rtol=1e-3, atol=1e-5)
    negated = model.features(-probe)
    parity = any(torch.allclose(negated, sign * phi, rtol=1e-3, atol=1e-5) for sign in (1, -1))
    d = prod(shape)
    return NetworkProblem(
        target=target_of(knowledge).to(model.readout.weight),
        m=m,
        d=d,
        pixels=knowledge.pixels,
        # If features do not determine the norm, any fixed norm will do.
        radius=d**0.5 if homogeneous and knowledge.radius is None else knowledge.radius,
        drifts=not model.frozen,
        sign_blind=parity,
        model=model,
        shape=shape,
    )


class NetworkStrategy(Strategy[NetworkProblem]):
    """Basin hopping on the plain loss, from noise with spare candidates."""

    def attempt(self, number: int) -> Solution:
        count = self.problem.m + self.settings.spare
        return self.plain(self.problem.noise(count, self.generator))

    def moves(self) -> list[Move]:
        hops = min(self.settings.hops, HOPS)
        return [Perturbation(HOP_SCALE, self.generator, hops)] if hops else []
