"""The one loop that every solver runs in: time, history, non-finite checks and status."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from math import inf, isfinite
from typing import ClassVar, Generic

from torch import Tensor

from lit_recon.distributed import Ranks
from lit_recon.errors import InputError
from lit_recon.solvers.contracts import Objective, Point, PointT


class Status(str, Enum):
    """How an iteration ended. Every value has a sentence.

    What the ending means for an attack is the method's own verdict.

    >>> Status.MAX_STEPS.sentence
    'the step limit was reached'
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
    """One step of the inner curve.

    >>> SolverStep(0, "plain", loss=0.5, candidates=3, applications=12, seconds=0.1).phase
    'plain'

    Attributes:
        step: its number, from 0, over all phases.
        phase: the name of the phase.
        loss: after the step.
        candidates: how many there are.
        applications: of all steps so far; see `Monitor`.
        seconds: since the start.
    """

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

    >>> monitor = Monitor(max_seconds=60.0)
    >>> monitor.late, monitor.applications
    (False, 0)

    Args:
        max_seconds: time budget in seconds, counted from when the monitor is made.
        on_step: called with every row and its candidates (m, d), for a progress bar or a log.
        ranks: the processes that work on the reconstruction; the clock of rank 0 counts for all.
        rows: the inner curve, one row for each step.
        applications: passes over the objective: products with J^T J, or evaluations of a map.
        restarts: how often a search or an attempt began again.
        started: the clock when the monitor was made, in seconds.
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
        """Seconds since the monitor was made."""
        return time.monotonic() - self.started

    @property
    def late(self) -> bool:
        """Whether the budget is spent by this rank's clock alone."""
        return self.seconds >= self.max_seconds

    @property
    def out_of_time(self) -> bool:
        """Whether the budget is spent; the same on all ranks."""
        return self.agreed(self.late)

    def agreed(self, word: bool) -> bool:
        """Rank 0's answer to a question that ranks may answer differently."""
        return self.ranks.agreed(word)

    def record(self, phase: str, loss: float, candidates: Tensor) -> None:
        """Write one step down: its phase, its loss and its candidates (m, d)."""
        row = SolverStep(
            len(self.rows), phase, loss, len(candidates), self.applications, self.seconds
        )
        self.rows.append(row)
        if self.on_step is not None:
            self.on_step(row, candidates)


@dataclass(frozen=True)
class State(Generic[PointT]):
    """A solver between two steps.

    Attributes:
        at: the point that it has reached.
        stuck: no step can lower the loss any more.
    """

    at: PointT
    stuck: bool = False


class Solver(ABC, Generic[PointT]):
    """How an objective is minimised: a start and a step, for points of the kind that it needs.

    Attributes:
        surrogate_slope: slope of the activation that the solver wants where its own is 0.
        min_decrease, patience: when a search should turn to other candidates; see `Stop`.
    """

    surrogate_slope: float = 0.0
    min_decrease: ClassVar[float]
    patience: ClassVar[int]

    @abstractmethod
    def start(self, objective: Objective[PointT], z: Tensor) -> State[PointT]:
        """The state before the first step.

        Args:
            objective: what is minimised.
            z: (m + l, d) where to begin; it meets the constraint already.
        """

    @abstractmethod
    def step(
        self, objective: Objective[PointT], state: State[PointT], monitor: Monitor
    ) -> State[PointT]:
        """The state after one more step.

        Args:
            objective: the same in every step.
            state: what `start` or the last step returned.
            monitor: where the step adds its applications. A long step also asks it for the time.

        Returns:
            A state whose point meets the constraint. Its loss may be higher than before, or not
            finite: `minimise` keeps the best point. ``stuck`` ends the iteration.
        """


@dataclass(frozen=True)
class Stop:
    """When a phase ends.

    >>> Stop(loss=1e-7).max_steps
    1000000

    Args:
        loss: stop at this loss.
        min_decrease: a step that lowers the loss by less than this share is slow; with 0 no step
            is slow.
        patience: stop after this many slow steps in a row.
        max_steps: the most steps of this phase.
        satisfied: called after every step that reaches a new least loss; True ends the phase as
            satisfied.
    """

    loss: float = 0.0
    min_decrease: float = 0.0
    patience: int = 1
    max_steps: int = 1_000_000
    satisfied: Callable[[Point], bool] | None = None


@dataclass(frozen=True)
class Solution(Generic[PointT]):
    """Where an iteration ended.

    >>> Solution("a point", Status.STALLED).status.sentence
    'steps no longer lower the loss'

    Attributes:
        at: the point with the least loss of all that were seen.
        status: why it ended.
    """

    at: PointT
    status: Status


def minimise(
    objective: Objective[PointT],
    z: Tensor,
    solver: Solver[PointT],
    stop: Stop,
    monitor: Monitor,
    phase: str,
) -> Solution[PointT]:
    """Run a solver until its stop rule or its budget ends it.

    A phase that becomes slow at its numerical floor has converged. One that becomes slow above it
    has stalled.

    Args:
        objective: what is minimised, with points of the kind that the solver needs.
        z: (m + l, d) where to begin.
        solver: makes the steps.
        stop: when to end.
        monitor: the clock, and where every step is written down.
        phase: the name of this phase on the inner curve.

    Returns:
        The best point seen. For a solver that may climb it need not be the last one.
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
