"""A method in forty lines, as lit_recon/methods/README.md shows it; a plugin in the tests."""

from __future__ import annotations

import time
from typing import ClassVar

import torch
from torch import nn

from lit_recon.errors import InputError
from lit_recon.knowledge import Knowledge
from lit_recon.linalg import weigh_rows
from lit_recon.methods import Earlier, Outcome, Reconstruction, Reconstructor
from lit_recon.metrics.numbers import Number
from lit_recon.models import OneHiddenLayer
from lit_recon.solvers import OnStep


class PullBackReconstructor(Reconstructor):
    """The readout, pulled back through the first layer: one blurred sum of all training inputs.

    Args:
        scale: factor of the candidate, not 0.
        max_seconds: time budget in seconds; it needs none.
    """

    citation: ClassVar[str] = "the first guess of anybody"
    cost: ClassVar[float] = 0.0
    describes: ClassVar[tuple[Number, ...]] = (
        Number(
            "pull_back", "pull-back", "norm of the readout's pull-back", "log", panel="pull-back"
        ),
    )

    def __init__(self, scale: float = 1.0, max_seconds: float = 10.0) -> None:
        if scale == 0:
            raise InputError("--recon.scale", scale, "give another number")
        self.scale = scale
        self.max_seconds = max_seconds

    @property
    def name(self) -> str:
        return "pull_back"

    @property
    def asks(self) -> frozenset[str]:
        return frozenset({"radius"})

    def check(self, model: nn.Module) -> None:
        if not isinstance(model, OneHiddenLayer):
            remedy = f"needs one hidden layer, and {type(model).__name__} is another network"
            raise InputError("--recon", type(self).__name__, remedy)

    @torch.no_grad()
    def attack(
        self,
        knowledge: Knowledge,
        generator: torch.Generator,
        on_step: OnStep | None,
        earlier: Earlier | None,
    ) -> Reconstruction:
        started, model = time.monotonic(), knowledge.model
        assert isinstance(model, OneHiddenLayer)
        found = weigh_rows(model.readout.weight.detach(), model.rows(range(model.p)))  # (k, d)
        norm = found.norm(dim=1, keepdim=True)
        radius = knowledge.radius or model.rows(range(1)).d ** 0.5
        return Reconstruction(
            candidates=self.scale * radius * found / norm.clamp_min(1e-12),
            outcome=Outcome("guessed", "the readout was pulled back", empty=not norm.any()),
            numbers={"pull_back": float(norm.norm())},
            seconds=time.monotonic() - started,
        )
