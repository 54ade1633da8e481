"""The loop of the projection attack: attempts until there is evidence of success."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Generic, TypeVar

import torch
from torch import Tensor

from lit_recon.methods.base import Earlier
from lit_recon.methods.projection.problem import Problem, all_certified
from lit_recon.methods.projection.settings import Settings
from lit_recon.metrics.matching import DIRECTION, SIGN_BLIND_DIRECTION, match
from lit_recon.solvers import Monitor, Solution, Status, Stop, minimise
from lit_recon.solvers.contracts import Objective, SpanPoint
from lit_recon.solvers.search import Move, Search

SAME = 0.1  # direction error below which two candidates count as equal
P = TypeVar("P", bound=Problem)


@dataclass(frozen=True)
class Ending:
    """The result of all attempts.

    Attributes:
        solution: the best solution.
        agreed: two attempts, or one attempt and a sure earlier checkpoint, have the same
            candidates.
        warm: the first attempt began at the candidates of an earlier checkpoint.
    """

    solution: Solution
    agreed: bool = False
    warm: bool = False


@dataclass(frozen=True)
class Strategy(ABC, Generic[P]):
    """One attack on one problem.

    Attributes:
        settings: the settings of the attack.
        problem: the problem.
        monitor: the clock, the counters and the inner curve.
        generator: the only source of randomness.
    """

    settings: Settings
    problem: P
    monitor: Monitor
    generator: torch.Generator

    @abstractmethod
    def attempt(self, number: int) -> Solution:
        """Minimise the plain loss from a new start; attempts are numbered from 0."""

    @abstractmethod
    def moves(self) -> Sequence[Move]:
        """The moves that the search tries when the descent on the plain loss is stuck."""

    def run(self, earlier: Earlier | None) -> Ending:
        """Make attempts until one converges; if none does, the best one is the result.

        If the features have drifted, the smallest possible loss is not known, so convergence cannot
        be seen. Attempts then end when two have the same candidates, or when an attempt that starts
        at the candidates of a successful earlier checkpoint stays there.
        """
        numbers = count()
        if earlier is not None and earlier.candidates.shape == (self.problem.m, self.problem.d):
            ending = self._continued(earlier)
        else:
            ending = Ending(self.attempt(next(numbers)))
        for _ in range(self.settings.restarts):
            best = ending.solution
            if ending.agreed or best.status is not Status.STALLED:
                break
            self.monitor.restarts += 1
            fresh = self.attempt(next(numbers))
            better = fresh if fresh.at.loss < best.at.loss else replace(best, status=fresh.status)
            stalled = fresh.status is Status.STALLED
            agreed = stalled and self._confirms(fresh.at.candidates, best.at.candidates)
            ending = Ending(better, agreed, ending.warm)
        return ending

    def finish(self, ending: Ending) -> Ending:
        """A last step after all attempts; here it does nothing."""
        return ending

    def plain(self, z: Tensor) -> Solution:
        """Minimise the plain loss from z (m' + l, unknowns): m' >= m candidates, l linear rows."""
        objective = self.problem.objective(self.settings.solver.surrogate_slope)
        stop = replace(self.settings.stop, satisfied=all_certified(self.problem))
        return self.search(objective, z, stop, self.moves(), "plain")

    def search(
        self,
        objective: Objective[SpanPoint],
        z: Tensor,
        stop: Stop,
        moves: Sequence[Move],
        phase: str,
    ) -> Solution:
        """Minimise an objective from z (m' + l, unknowns), with the given moves."""
        if not (moves or self.settings.spare):
            return minimise(objective, z, self.settings.solver, stop, self.monitor, phase)
        search = Search(self.problem.m, moves, self.generator)
        return search(objective, z, self.settings.solver, stop, self.monitor, phase)

    def _continued(self, earlier: Earlier) -> Ending:
        start = self.problem.coordinates(earlier.candidates)
        found = self.plain(start)
        stalled = found.status is Status.STALLED
        agreed = earlier.sure and stalled and self._confirms(start, found.at.candidates)
        return Ending(found, agreed, warm=True)

    def _confirms(self, some: Tensor, others: Tensor) -> bool:
        """Whether two sets of candidates are equal; always false if the loss has a known floor."""
        problem = self.problem
        if not problem.drifts or len(some) != len(others):
            return False
        cost = SIGN_BLIND_DIRECTION if problem.sign_blind else DIRECTION
        return self.monitor.agreed(bool((match(some, others, cost).error < SAME).all()))
