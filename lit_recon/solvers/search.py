"""What to do when a solver is stuck: change the point, minimise again, keep the better point.

There are two moves. Spare candidates replace the few candidates that are wrong. A perturbation of
all candidates moves a fit in which most are wrong. A search tries the moves in turn.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from lit_recon.solvers.contracts import Objective, Point, SpanPoint, SpanT
from lit_recon.solvers.loop import Monitor, Solution, Solver, Status, Stop, minimise

# A trial this much worse, in units of the logarithm of the loss, is accepted with chance 1 / e.
TEMPERATURE = 0.1
# Least decrease and patience of the descents after a move has failed once: a sample that explains
# little of the target is found slowly.
PATIENT = (0.1, 2)
DONE = (Status.SATISFIED, Status.CONVERGED)
PROGRESS = 0.9  # a loss below this share of the one at the last progress is progress

MovedT_contra = TypeVar("MovedT_contra", bound=Point, contravariant=True)


class Move(ABC, Generic[MovedT_contra]):
    """A change of the point after which a descent may end better; for points of one kind.

    Attributes:
        patience: trials without progress after which another move is tried.
        slow: least decrease and patience of the descent after it (see `Stop`); None for the
            solver's own.
    """

    patience: int
    slow: ClassVar[tuple[float, int] | None] = None

    @abstractmethod
    def __call__(self, at: MovedT_contra) -> Tensor:
        """The point (m' + l, d) from which to minimise, m' >= m."""


@dataclass(frozen=True)
class SpareCandidates(Move[SpanPoint]):
    """Further candidates, after which the search drops the same number: single-candidate restarts.

    A stuck run often has all but one or two candidates right. The residual of its fit is then the
    feature of the missing samples, and a few candidates proposed from it find them. Those that
    explain least are dropped. Spare candidates also open ways around the poor local minima of an
    exact-size fit (Safran and Shamir 2018, arXiv 1712.08968).

    Args:
        count: how many, at least 1.
        propose: ``(point, count) -> (count, d)`` new candidates.
        patience: see `Move`.
    """

    count: int
    propose: Callable[[SpanPoint, int], Tensor]
    patience: int

    def __call__(self, at: SpanPoint) -> Tensor:
        return join(at, self.propose(at, self.count))


@dataclass(frozen=True)
class Perturbation(Move[Point]):
    """Gaussian noise on every candidate: basin hopping (Wales and Doye 1997).

    With 1.2 times a candidate's norm a trial keeps a cosine of 0.64 to its origin. That is far
    enough to leave a basin, and near enough to keep the directions that are right. Close to the
    threshold there are many poor minima, and fresh starts do not succeed; there basin hopping finds
    the training set. Source: J. Phys. Chem. A 101: 5111.

    Args:
        scale: the norm of the noise over that of the candidate.
        generator: source of the noise.
        patience: see `Move`.
    """

    # Descend far enough before comparing, or acceptance is luck.
    slow: ClassVar[tuple[float, int] | None] = (0.05, 2)

    scale: float
    generator: torch.Generator
    patience: int

    def __call__(self, at: Point) -> Tensor:
        x = at.candidates
        noise = torch.randn(x.shape, generator=self.generator, dtype=x.dtype).to(x)
        length = self.scale * torch.linalg.vector_norm(x, dim=1, keepdim=True)
        return torch.cat([x + length / x.shape[1] ** 0.5 * noise, at.z[len(x) :]])


@dataclass(frozen=True)
class Search(Generic[SpanT]):
    """Minimise, and minimise again after moves, until no move makes progress.

    A trial that is worse may be accepted as the next move's origin (Metropolis et al. 1953).

    Args:
        m: the number of candidates in the end, at least 1.
        moves: tried in turn, each until its patience ends.
        generator: for the acceptance of trials.
    """

    m: int
    moves: Sequence[Move[SpanT]]
    generator: torch.Generator

    def __call__(
        self,
        objective: Objective[SpanT],
        z: Tensor,
        solver: Solver[SpanT],
        stop: Stop,
        monitor: Monitor,
        phase: str,
    ) -> Solution[SpanT]:
        """Search from z (m' + l, d), m' >= m; the other arguments are those of `minimise`.

        Returns:
            The best point seen, with m candidates unless a descent with more was cut short. Its
            status is that of the last trial.
        """

        def settle(z: Tensor, slow: tuple[float, int] | None) -> Solution[SpanT]:
            share, patience = slow or (solver.min_decrease, solver.patience)
            brisk = replace(stop, min_decrease=share, patience=patience)
            wide = minimise(objective, z, solver, brisk, monitor, phase)
            # Only a complete set of m candidates meets the stop test: there is nothing to drop.
            if wide.status is Status.SATISFIED or len(wide.at.candidates) == self.m:
                return wide
            return minimise(objective, keep(wide.at, self.m), solver, brisk, monitor, phase)

        first = self.moves[0].slow if self.moves else None
        best = current = settle(z, first)
        mark = float(best.at.loss)  # the loss at the last progress
        turn = failures = exhausted = 0
        while best.status is Status.STALLED and exhausted < len(self.moves):
            move = self.moves[turn]
            monitor.restarts += 1
            slow = move.slow or (PATIENT if failures else None)
            trial = settle(move(current.at), slow)
            loss, done = float(trial.at.loss), trial.status in DONE
            if self._accepts(loss, float(current.at.loss)):
                current = trial
            if done or loss < PROGRESS * mark:
                mark, failures, exhausted = loss, 0, 0
            else:
                failures += 1
            if done or loss < float(best.at.loss):
                best = trial
            else:
                best = replace(best, status=trial.status)
            if failures == move.patience:
                turn, failures, exhausted = (turn + 1) % len(self.moves), 0, exhausted + 1
        return best

    def _accepts(self, loss: float, before: float) -> bool:
        chance = (before / loss) ** (1 / TEMPERATURE) if loss > before else 1.0
        return float(torch.rand((), generator=self.generator)) < chance


def fewest(
    found: Solution[SpanT],
    objective: Objective[SpanT],
    solver: Solver[SpanT],
    stop: Stop,
    monitor: Monitor,
    phase: str,
) -> Solution[SpanT]:
    """The fewest candidates with which a converged solution still converges, by bisection.

    For every number of candidates the most important ones are tried.

    Args:
        found: the solution to begin with; returned as it is where it has not converged.
        objective, solver, stop, monitor, phase: see `minimise`.

    Returns:
        The smallest solution that converged; its status says why if the budget ended before.
    """
    brisk = replace(stop, min_decrease=solver.min_decrease, patience=solver.patience)
    few, enough = 0, len(found.at.candidates)
    while found.status in DONE and enough - few > 1:
        middle = (few + enough) // 2
        trial = minimise(objective, keep(found.at, middle), solver, brisk, monitor, phase)
        if trial.status is Status.STALLED:
            few = middle
        elif trial.status in DONE:
            found, enough = trial, middle
        else:
            return replace(found, status=trial.status)
    return found


def keep(at: SpanPoint, m: int) -> Tensor:
    """(m + l, d) the point with its m most important candidates and its further rows."""
    count = len(at.candidates)
    return torch.cat([at.candidates[at.keep(m)], at.z[count:]])


def join(at: Point, new: Tensor) -> Tensor:
    """(m + r + l, d) the point with new candidates (r, d) behind its own m."""
    return torch.cat([at.candidates, new, at.z[len(at.candidates) :]])
