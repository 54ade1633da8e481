"""A method that looks at the change of the first layer alone; a plugin in the tests."""

from __future__ import annotations

import time
from typing import ClassVar

import torch
from torch import nn

from lit_recon.knowledge import Knowledge
from lit_recon.methods import Earlier, Outcome, Reconstruction, Reconstructor
from lit_recon.metrics import certify
from lit_recon.metrics.numbers import Number
from lit_recon.models.first_layer import first_dense_layer
from lit_recon.solvers import OnStep


class RowsReconstructor(Reconstructor):
    """The leading right singular vectors of the first layer's change.

    Args:
        count: how many; the first of them is the training input, if there was only one.
    """

    citation: ClassVar[str] = "the row space itself"
    describes: ClassVar[tuple[Number, ...]] = (
        Number("rows_rank", "rank", "rank of the change", "count"),
        Number("rows_missing", "missing", "rank less than the number of samples", "count"),
    )

    def __init__(self, count: int = 1) -> None:
        self.count = count

    @property
    def name(self) -> str:
        return "rows"

    @property
    def asks(self) -> frozenset[str]:
        return frozenset({"earlier_first_layer", "pixels", "shape"})

    def check(self, model: nn.Module) -> None:
        first_dense_layer(model)

    @torch.no_grad()
    def attack(
        self,
        knowledge: Knowledge,
        generator: torch.Generator,
        on_step: OnStep | None,
        earlier: Earlier | None,
    ) -> Reconstruction:
        started, start = time.monotonic(), knowledge.earlier_first_layer
        assert start is not None
        _, layer = first_dense_layer(knowledge.model, start.name)
        change = layer.weight.detach().cpu().double() - start.weight.double()
        _, values, right = torch.linalg.svd(change, full_matrices=False)
        candidates, rank = right[: self.count], int((values > 1e-4 * values[0]).sum())
        certificates = None
        if knowledge.pixels is not None:
            certificates = certify(candidates, knowledge.pixels, both_signs=True)
        return Reconstruction(
            candidates=candidates.float(),
            outcome=Outcome("found", "the change has singular vectors"),
            certificates=certificates,
            numbers={"rows_rank": rank},
            at_truth=lambda x: {"rows_missing": len(x) - rank},
            sign_blind=True,
            seconds=time.monotonic() - started,
        )
