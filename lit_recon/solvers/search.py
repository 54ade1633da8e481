"""Single-candidate restarts: keep what is right, replace what is stuck.

A stuck run nearly always has all but one or two candidates right. The residual of its fit is then
the feature of the missing samples, and a few spare candidates, proposed from that residual, find
them; the ones that explain least are dropped again. Spare candidates also open ways around the poor
local minima of an exact-size fit (Safran and Shamir 2018, arXiv 1712.08968).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lit_recon.solvers.loop import (
    Linearised,
    Monitor,
    Objective,
    Solution,
    Solver,
    Status,
    Stop,
    minimise,
)

Propose = Callable[[Linearised, int], Tensor]


@dataclass(frozen=True)
class Search:
    """Minimise with spare candidates that are proposed, tried and dropped in rounds.

    Args:
        m: candidates wanted in the end.
        spare: candidates beyond m during the search.
        rounds: rounds without progress after which the search gives up.
        propose: ``(linearisation, count) -> (count, d)`` new candidates.
    """

    m: int
    spare: int
    rounds: int
    propose: Propose

    def __call__(
        self,
        objective: Objective,
        z: Tensor,
        solver: Solver,
        stop: Stop,
        monitor: Monitor,
        phase: str,
    ) -> Solution:
        """Search from z (m + spare + l, d), or from z (m + l, d) when candidates are complete."""
        brisk = replace(stop, min_decrease=solver.min_decrease, patience=solver.patience)
        best: Solution | None = None
        failures = 0
        while True:
            wide = minimise(objective, z, solver, brisk, monitor, phase)
            if wide.status is Status.CERTIFIED:
                return wide  # nothing to drop: only a complete set of candidates is certified
            narrow = minimise(objective, keep(wide.at, self.m), solver, brisk, monitor, phase)
            if best is None or narrow.at.loss < 0.9 * best.at.loss:
                best, failures = narrow, 0
            else:
                failures += 1
            if narrow.status is not Status.STALLED or failures > self.rounds:
                return best if narrow.status is Status.STALLED else narrow
            monitor.restarts += 1
            base = best.at if failures % 2 else narrow.at
            z = join(base, self.propose(base, self.spare))


def keep(at: Linearised, m: int) -> Tensor:
    """(m + l, d) the point with its m most important candidates and its linear rows."""
    count = len(at.candidates)
    return torch.cat([at.candidates[at.keep(m)], at.z[count:]])


def join(at: Linearised, new: Tensor) -> Tensor:
    """The point with further candidates (r, d) before its linear rows."""
    return torch.cat([at.candidates, new, at.z[len(at.candidates) :]])
