"""The settings of the KKT attack, for its stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TaskFlag = Literal["auto", "binary", "multiclass", "general"]
Duals = Literal["eliminated", "trained"]
StartFlag = Literal["auto", "rowspace", "noise"]
Prior = Literal["pixels", "unit", "none"]


@dataclass(frozen=True)
class Settings:
    """Arguments of `KKTReconstructor`, whose docstring describes them.

    Attributes:
        ignore_evidence: whether ``evidence_against`` is ``ignore``.
    """

    task: TaskFlag
    duals: Duals
    start: StartFlag
    prior: Prior
    candidates: int | None
    surrogate_slope: float | None
    lr: float | None
    dual_lr: float
    start_std: float | None
    min_dual: float
    starts: int
    steps: int
    ignore_evidence: bool

    @property
    def trained(self) -> bool:
        """Whether multipliers are trained beside the candidates, as published."""
        return self.duals == "trained"
