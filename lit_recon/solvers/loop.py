"""The one loop that every solver runs in: time, history, non-finite checks and status."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from math import inf, isfinite
from typing import ClassVar, Protocol

from torch import Tensor

from lit_recon.distributed import Ranks
from lit_recon.errors import InputError


class Status(str, Enum):
    """How an iteration ended; every value has a sentence.

    What that means for an attack is the method's own verdict.
    """

    CONVERGED = "converged"
    SATISFIED = "satisfied"
    STALLED = "stalled"
    MAX_STEPS = "max_steps"
    OUT_OF_TIME = "out_of_time"
    NONFINITE = "nonfinite"

    @property
    def sentence(self) -> str:
        """What happened, for people."""
        return _SENTENCES[self]


_SENTENCES = {
    Status.CONVERGED: "the loss reached its numerical floor",
    Status.SATISFIED: "the stop test was met",
    Status.STALLED: "steps no longer lower the loss",
    Status.MAX_STEPS: "the step limit was reached",
    Status.OUT_OF_TIME: "the time budget ran out",
    Status.NONFINITE: "the loss is not finite",
}


@dataclass(frozen=True)
class SolverStep:
    """One step of the inner curve."""

    step: int
    phase: str
    loss: float
    candidates: int
    applications: int
    seconds: float


OnStep = Callable[[SolverStep, Tensor], None]


@dataclass
class Monitor:
    """What all phases of one reconstruction share: the clock, the counters and the inner curve.

    Args:
        max_seconds: time budget, counted from the making of the monitor.
        on_step: called with every row and its candidates (m, d), for a progress bar or a log.
        ranks: who works on the reconstruction; the clock of rank 0 counts for all.
    """

    max_seconds: float = inf
    on_step: OnStep | None = None
    ranks: Ranks = field(default_factory=Ranks)
    rows: list[SolverStep] = field(default_factory=list)
    applications: int = 0
    restarts: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def late(self) -> bool:
        """Whether the budget is spent by this rank's clock alone."""
        return self.seconds >= self.max_seconds

    @property
    def out_of_time(self) -> bool:
        return self.agreed(self.late)

    def agreed(self, word: bool) -> bool:
        """Rank 0's answer to a question that ranks might answer differently."""
        return self.ranks.agreed(word)

    def record(self, phase: str, loss: float, candidates: Tensor) -> None:
        row = SolverStep(
            len(self.rows), phase, loss, len(candidates), self.applications, self.seconds
        )
        self.rows.append(row)
        if self.on_step is not None:
            self.on_step(row, candidates)


class Linearised(Protocol):
    """An objective at a point, as far as the solvers need it."""

    @property
    def z(self) -> Tensor: ...
    @property
    def loss(self) -> Tensor: ...
    @property
    def residual(self) -> Tensor: ...
    @property
    def candidates(self) -> Tensor: ...
    def jvp(self, step: Tensor) -> Tensor: ...
    def vjp(self, u: Tensor) -> Tensor: ...
    def inner(self, u: Tensor, w: Tensor) -> Tensor: ...
    def gradient(self) -> Tensor: ...
    def curvature(self) -> Tensor: ...
    def floor(self) -> float: ...
    def keep(self, m: int) -> Tensor: ...
    def gain(self, directions: Tensor) -> Tensor: ...


class Objective(Protocol):
    """What is minimised: a point can be linearised and brought back to the constraint."""

    @property
    def energy(self) -> float: ...
    def linearise(self, z: Tensor) -> Linearised: ...
    def retract(self, z: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class State:
    """A solver between two steps. ``stuck`` means that no step can lower the loss any more."""

    at: Linearised
    stuck: bool = False


class Solver(ABC):
    """How an objective is minimised: a start and a step.

    Attributes:
        surrogate_slope: slope of the activation that the solver wants where its own is 0.
        min_decrease, patience: when a search should turn to other candidates; see `Stop`.
    """

    surrogate_slope: float = 0.0
    min_decrease: ClassVar[float]
    patience: ClassVar[int]

    @abstractmethod
    def start(self, objective: Objective, z: Tensor) -> State:
        """The state at z (m + l, d)."""

    @abstractmethod
    def step(self, objective: Objective, state: State, monitor: Monitor) -> State:
        """One step; counts its applications of J^T J in the monitor."""


@dataclass(frozen=True)
class Stop:
    """When a phase ends.

    Args:
        loss: stop at this loss.
        min_decrease: a step that lowers the loss by less than this share is a slow one; 0 lets no
            step be slow.
        patience: stop after so many slow steps in a row.
        max_steps: steps of this phase.
        satisfied: asked after every step that lowered the loss; True ends the phase as satisfied.
    """

    loss: float = 0.0
    min_decrease: float = 0.0
    patience: int = 1
    max_steps: int = 1_000_000
    satisfied: Callable[[Linearised], bool] | None = None


@dataclass(frozen=True)
class Solution:
    at: Linearised
    status: Status


def minimise(
    objective: Objective, z: Tensor, solver: Solver, stop: Stop, monitor: Monitor, phase: str
) -> Solution:
    """Run a solver from z (m + l, d) until its stop rule or its budget ends it.

    A phase that gets slow at its numerical floor has converged; one that gets slow above it has
    stalled.

    Returns the best point seen, which for a solver that may climb need not be the last.
    """
    state = solver.start(objective, objective.retract(z))
    best, loss, slow = state.at, float(state.at.loss), 0
    if not isfinite(loss):
        return Solution(best, Status.NONFINITE)
    for _ in range(stop.max_steps):
        if loss <= stop.loss:
            return Solution(best, Status.CONVERGED)
        if state.stuck or (stop.min_decrease and slow >= stop.patience):
            at_floor = monitor.agreed(loss <= best.floor())
            return Solution(best, Status.CONVERGED if at_floor else Status.STALLED)
        if monitor.out_of_time:
            return Solution(best, Status.OUT_OF_TIME)
        state = solver.step(objective, state, monitor)
        new = float(state.at.loss)
        monitor.record(phase, new, state.at.candidates)
        if not isfinite(new):
            return Solution(best, Status.NONFINITE)
        slow = slow + 1 if loss - new < stop.min_decrease * loss else 0
        if new < loss:
            best, loss = state.at, new
            if stop.satisfied is not None and monitor.agreed(stop.satisfied(best)):
                return Solution(best, Status.SATISFIED)
    return Solution(best, Status.MAX_STEPS)


def positive(flag: str, value: float) -> None:
    """Refuse a setting that is not a finite number above 0."""
    if not (isfinite(value) and value > 0):
        raise InputError(flag, value, "give a finite number above 0")
