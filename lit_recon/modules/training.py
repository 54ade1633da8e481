"""The LightningModule around every model: loss, metrics, optimiser."""

from __future__ import annotations

import torch
from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torchmetrics.functional import accuracy

from lit_recon.errors import RunError
from lit_recon.modules.optimisers import Optim


class Regression(LightningModule):
    """Trains a model on squared error, the loss of the papers for targets in {-1, 1} or one-hot.

    Args:
        model: a network with ``features(x)`` and a linear ``readout``.
        optim: how it is trained.
    """

    def __init__(self, model: nn.Module, optim: Optim) -> None:
        super().__init__()
        self.model = model
        self.optim = optim
        self._batch: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(n, *input shape) to (n, k)."""
        return self.model(x)

    def configure_optimizers(self) -> Optimizer:
        if self.optim.span_warning:
            rank_zero_warn(self.optim.span_warning)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        return self.optim.build(trained, self._design)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self._batch = batch
        return self._loss("train", batch)

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        if not all(bool(torch.isfinite(p).all()) for p in self.model.parameters()):
            raise RunError(self._broken("the weights are"))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._loss("val", batch)

    def on_train_end(self) -> None:
        """Log the loss of the final weights: training_step sees the weights before its step."""
        if self._batch is None:
            return
        x, y = self._batch
        with torch.no_grad():
            values = _values("train", self(x), y)
        for logger in self.loggers:
            logger.log_metrics({k: float(v) for k, v in values.items()}, step=self.global_step)
        self.trainer.callback_metrics.update(values)

    def _loss(self, stage: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        values = _values(stage, self(x), y)
        loss = values[f"{stage}/loss"]
        if stage == "train" and not torch.isfinite(loss):
            raise RunError(self._broken("the training loss is"))
        self.log_dict(values, prog_bar=True, batch_size=len(x), sync_dist=True)
        return loss

    def _broken(self, what: str) -> str:
        return (
            f"{what} not finite at step {self.global_step} with {self.optim}; lower --optim.lr."
            " The files written so far are kept."
        )

    def _design(self) -> tuple[Tensor, Tensor]:
        """Features and targets of the current batch, gathered over ranks."""
        assert self._batch is not None
        x, y = self._batch
        phi = self.model.features(x)
        if self.trainer.world_size > 1:
            phi, y = self.all_gather(phi).flatten(0, 1), self.all_gather(y).flatten(0, 1)
        return phi, y


def _values(stage: str, output: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Loss, and accuracy where the targets are classes."""
    values = {f"{stage}/loss": F.mse_loss(output, y)}
    if y.shape[1] > 1:
        hits = accuracy(output.argmax(1), y.argmax(1), task="multiclass", num_classes=y.shape[1])
        values[f"{stage}/acc"] = hits
    elif bool((y.abs() == 1).all()):
        values[f"{stage}/acc"] = accuracy(output[:, 0] > 0, y[:, 0] > 0, task="binary")
    return values
