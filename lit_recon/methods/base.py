"""What every reconstruction method takes and gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from lit_recon.knowledge import Knowledge
from lit_recon.metrics.certificate import Certificates
from lit_recon.models import ReadoutModel
from lit_recon.solvers import OnStep, Row, Status


@dataclass(frozen=True)
class Earlier:
    """What the attack on an earlier checkpoint of the same run gave.

    Attributes:
        candidates: (m, d).
        sure: that attack ended with evidence of success.
    """

    candidates: Tensor
    sure: bool


@dataclass(frozen=True)
class Reconstruction:
    """The outcome of one attack.

    Attributes:
        candidates: (m, d) reconstructed inputs on the CPU.
        projection_loss: the loss at the candidates, NaN where there is none.
        oracle: ``x (n, d) -> loss`` at other inputs; for scoring only, never called by a method.
            All ranks call it together.
        status: how the attack ended.
        certificates: what the integer-pixel certificate says, None without pixels.
        sign_blind: candidates are known up to sign only.
        warm: the attack began at the candidates of an earlier checkpoint.
        rows: the inner curve.
        applications, restarts, seconds: what it cost.
        p_over_dn: equations over unknowns, k p / (n d).
    """

    candidates: Tensor
    projection_loss: float
    oracle: Callable[[Tensor], float]
    status: Status
    certificates: Certificates | None
    sign_blind: bool
    p_over_dn: float
    warm: bool = False
    rows: list[Row] = field(default_factory=list)
    applications: int = 0
    restarts: int = 0
    seconds: float = 0.0

    @property
    def steps(self) -> int:
        return len(self.rows)


class Reconstructor(ABC):
    """A published attack: feature map, objective, constraint, solver and defaults.

    Attributes:
        evidence: what it takes beyond the final weights: the initial ``readout``, or the initial
            ``first_layer`` too.
        warm_start: whether it begins at an earlier checkpoint's candidates.
    """

    evidence: str
    warm_start: bool
    citation: ClassVar[str]
    seed: int
    enabled: bool

    @property
    @abstractmethod
    def name(self) -> str:
        """The method in the names of numbers; another one for other evidence."""

    @abstractmethod
    def check(self, model: ReadoutModel) -> None:
        """Refuse a model that these settings cannot attack.

        Raises:
            InputError: the flag that does not fit the model.
        """

    @abstractmethod
    def reconstruct(
        self,
        knowledge: Knowledge,
        generator: torch.Generator,
        on_step: OnStep | None = None,
        earlier: Earlier | None = None,
    ) -> Reconstruction:
        """Reconstruct the training inputs from what the attacker knows.

        All ranks of the process group, where there is one, call this together and share the work;
        each gets the same candidates, status and counts.

        Args:
            knowledge: the threat model.
            generator: the only source of randomness.
            on_step: called with every row of the inner curve and its candidates (m, d), which
                in a coarse phase are coordinates in its subspace.
            earlier: where to begin, if anywhere.
        """
