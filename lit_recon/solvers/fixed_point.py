"""Fixed-point iteration: a map is applied again and again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lit_recon.errors import InputError
from lit_recon.solvers.contracts import FixedPointT, Objective
from lit_recon.solvers.loop import Monitor, Solver, State


@dataclass(frozen=True)
class FixedPointIteration(Solver[FixedPointT]):
    """The relaxed iteration z <- z + relaxation (f(z) - z) of a map f (Krasnoselskii 1955).

    It follows the map and not a gradient: it ends in a fixed point that attracts, and it leaves one
    that repels, although the loss is 0 there too. An objective's step rates are left out.

    `lit_recon.solvers` does not export it, because the exported solvers are the choices of
    ``--recon.solver``, and the projection loss has no map to apply.

    >>> FixedPointIteration()
    FixedPointIteration(relaxation=1.0)

    Args:
        relaxation: the share of the way to f(z) in one step, above 0 and at most 1. 1 applies the
            map itself; less also ends oscillations.
    """

    # A map that contracts by 0.9995 in one step is not slow yet; one that does not contract ends
    # after a hundred steps.
    min_decrease: ClassVar[float] = 1e-3
    patience: ClassVar[int] = 100

    relaxation: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.relaxation <= 1:
            raise InputError("--recon.relaxation", self.relaxation, "give above 0 up to 1")

    def start(self, objective: Objective[FixedPointT], z: Tensor) -> State[FixedPointT]:
        return State(objective.linearise(z))

    def step(
        self, objective: Objective[FixedPointT], state: State[FixedPointT], monitor: Monitor
    ) -> State[FixedPointT]:
        at = state.at
        monitor.applications += 1
        # lerp: exactly f(z) for a relaxation of 1.
        moved = torch.lerp(at.z, at.image, self.relaxation)
        return State(objective.linearise(objective.retract(moved)))
