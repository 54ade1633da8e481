"""The settings of the projection attack, as its stages read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lit_recon.solvers import Solver, Stop

EvenStage = Literal["auto", "never"]


@dataclass(frozen=True)
class Settings:
    """What `ProjectionReconstructor` was told; its docstring describes each.

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
    ignore_evidence: bool
