"""Gradient descent with momentum: the solver of the paper."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import ClassVar

from torch import Tensor

from lit_recon.errors import InputError
from lit_recon.solvers.contracts import Objective, PointT
from lit_recon.solvers.loop import Monitor, Solver, State, positive


@dataclass(frozen=True)
class MovingState(State[PointT]):
    """A state with the velocity (m + l, d) of the last step; None before the first."""

    velocity: Tensor | None = None


@dataclass(frozen=True)
class MomentumDescent(Solver[PointT]):
    """Projected gradient descent with heavy-ball momentum, as in Iurada et al. 2025.

    With the gradient g of the loss the velocity becomes v <- momentum v + g, and the point
    z <- z - lr rates v, where the rates are the objective's. It needs a gradient and no more, so it
    minimises any objective.

    >>> MomentumDescent(lr=20.0)  # for d = 100
    MomentumDescent(lr=20.0, momentum=0.9, surrogate_slope=0.02)

    Args:
        lr: step size for the gradient of the loss; the paper uses 2000 for d = 3072 and 20 for
            d = 100.
        momentum: share of the last step that is kept, in [0, 1).
        surrogate_slope: slope of the activation where its own is 0; the paper uses 0.02.
    """

    min_decrease: ClassVar[float] = 1e-3
    patience: ClassVar[int] = 100

    lr: float = 2000.0
    momentum: float = 0.9
    surrogate_slope: float = 0.02

    def __post_init__(self) -> None:
        positive("--recon.solver.lr", self.lr)
        if not 0 <= self.momentum < 1:
            raise InputError("--recon.solver.momentum", self.momentum, "give 0 up to below 1")
        if not (isfinite(self.surrogate_slope) and self.surrogate_slope >= 0):
            raise InputError(
                "--recon.solver.surrogate_slope", self.surrogate_slope, "give 0 or more"
            )

    def start(self, objective: Objective[PointT], z: Tensor) -> MovingState[PointT]:
        return MovingState(objective.linearise(z))

    def step(
        self, objective: Objective[PointT], state: State[PointT], monitor: Monitor
    ) -> MovingState[PointT]:
        assert isinstance(state, MovingState)
        gradient = state.at.gradient()
        velocity = gradient if state.velocity is None else self.momentum * state.velocity + gradient
        monitor.applications += 1
        step, rates = self.lr * velocity, objective.rates
        if isinstance(rates, Tensor) or rates != 1.0:
            step = rates * step
        at = objective.linearise(objective.retract(state.at.z - step))
        return MovingState(at, velocity=velocity)
