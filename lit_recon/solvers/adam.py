"""Adam for candidates: steps whose size does not depend on the scale of the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lit_recon.solvers.contracts import Objective, PointT
from lit_recon.solvers.loop import Monitor, Solver, State

TINY = 1e-12  # keeps a gradient of zero from being divided by zero


@dataclass(frozen=True)
class AdamState(State[PointT]):
    """A state with the moments of the gradient, each (m + l, d)."""

    first: Tensor | None = None
    second: Tensor | None = None
    count: int = 0


@dataclass(frozen=True)
class AdaptiveDescent(Solver[PointT]):
    """Adam (Kingma and Ba 2015, arXiv 1412.6980) on the unknowns.

    >>> AdaptiveDescent(lr=0.05)
    AdaptiveDescent(lr=0.05, decay=0.9, square_decay=0.99)

    Args:
        lr: the size of a step in the units of an unknown, above 0.
        decay: share of the mean gradient that a step keeps, in [0, 1).
        square_decay: the same of the mean squared gradient.
    """

    min_decrease: ClassVar[float] = 1e-3
    patience: ClassVar[int] = 50

    lr: float = 0.05
    decay: float = 0.9
    square_decay: float = 0.99

    def start(self, objective: Objective[PointT], z: Tensor) -> AdamState[PointT]:
        zero = torch.zeros_like(z)
        return AdamState(objective.linearise(z), first=zero, second=zero)

    def step(
        self, objective: Objective[PointT], state: State[PointT], monitor: Monitor
    ) -> AdamState[PointT]:
        assert isinstance(state, AdamState)
        assert state.first is not None and state.second is not None
        gradient, count = state.at.gradient(), state.count + 1
        first = self.decay * state.first + (1 - self.decay) * gradient
        second = self.square_decay * state.second + (1 - self.square_decay) * gradient.square()
        mean = first / (1 - self.decay**count)
        size = (second / (1 - self.square_decay**count)).sqrt()
        monitor.applications += 1
        z = objective.retract(state.at.z - self.lr * objective.rates * mean / (size + TINY))
        return AdamState(objective.linearise(z), first=first, second=second, count=count)
