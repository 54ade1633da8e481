"""How the projection attack goes about a problem: attempts until there is evidence of success."""

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

SAME = 0.1  # direction error below which two candidates are the same one
P = TypeVar("P", bound=Problem)


@dataclass(frozen=True)
class Ending:
    """Where the attempts ended.

    Attributes:
        solution: the best of them.
        agreed: two of them, or one and a sure earlier checkpoint, ended in the same candidates.
        warm: the first one began at the candidates of an earlier checkpoint.
    """

    solution: Solution
    agreed: bool = False
    warm: bool = False


@dataclass(frozen=True)
class Strategy(ABC, Generic[P]):
    """One attack on one problem.

    Attributes:
        settings: the flags.
        problem: what is attacked.
        monitor: the clock, the counters and the inner curve.
        generator: the only source of randomness.
    """

    settings: Settings
    problem: P
    monitor: Monitor
    generator: torch.Generator

    @abstractmethod
    def attempt(self, number: int) -> Solution:
        """From noise to a solution of the plain loss; attempts are numbered from 0."""

    @abstractmethod
    def moves(self) -> Sequence[Move]:
        """What to try where the descent on the plain loss is stuck."""

    def run(self, earlier: Earlier | None) -> Ending:
        """Attempts until one converges; the best of them otherwise.

        Where the features drifted, how far the loss can fall is not known. What stands for it then:
        two attempts end in the same candidates, or an attempt that starts at the candidates of an
        earlier checkpoint, itself a success, ends there.
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
        """What is done once, after the last attempt; nothing here."""
        return ending

    def plain(self, z: Tensor) -> Solution:
        """Minimise the plain loss from z (m' + l, unknowns), m' >= m."""
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
        """Minimise from z, with the moves that are switched on."""
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
        """Whether two sets of candidates are the same, of a target whose floor is not known."""
        problem = self.problem
        if not problem.drifts or len(some) != len(others):
            return False
        cost = SIGN_BLIND_DIRECTION if problem.sign_blind else DIRECTION
        return self.monitor.agreed(bool((match(some, others, cost).error < SAME).all()))
