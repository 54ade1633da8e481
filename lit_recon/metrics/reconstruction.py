"""Means of scores over several reconstructions, on one process or many."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_recon.metrics.scores import Metrics

NAMES = tuple(field.name for field in fields(Metrics))


class ReconstructionScores(Metric):
    """Mean of every score over the reconstructions that have it, summed over processes.

    For a run with several seeds, restarts or checkpoints to average over. A score that is None, as
    pixels of synthetic data are, does not enter its mean; one that is None everywhere stays None.
    """

    full_state_update = False
    is_differentiable = False

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        zeros = torch.zeros(len(NAMES), dtype=torch.float64)
        self.add_state("total", zeros.clone(), dist_reduce_fx="sum")
        self.add_state("count", zeros.clone(), dist_reduce_fx="sum")

    def update(self, metrics: Metrics) -> None:
        """Adds the numbers of one reconstruction."""
        for i, value in enumerate(metrics.as_dict().values()):
            if value is not None:
                self.total[i] += value
                self.count[i] += 1

    def compute(self) -> dict[str, float | None]:
        """The means under the scores' public names."""
        pairs = zip(self.total.tolist(), self.count.tolist(), strict=True)
        return {
            name: total / count if count else None
            for name, (total, count) in zip(NAMES, pairs, strict=True)
        }
