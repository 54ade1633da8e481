"""The settings of the projection attack, for its stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lit_recon.solvers import Solver, Stop

EvenStage = Literal["auto", "never"]


@dataclass(frozen=True)
class Settings:
    """Arguments of `ProjectionReconstructor`, whose docstring describes them.

    Attributes:
        stop: when a phase ends, from ``loss`` and ``max_steps``.
        candidates: a number, ``auto``, or None for the number of training samples.
    """

    solver: Solver
    stop: Stop
    restarts: int
    rounds: int
    hops: int
    candidates: int | Literal["auto"] | None
    spare: int
    even_stage: EvenStage
    spectral_start: bool
    polish: bool
    evidence_against: Literal["stop", "strict", "ignore"]
