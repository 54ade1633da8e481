"""The LightningModule around every model: loss, metrics, optimiser."""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer
from torchmetrics.functional import accuracy

from lit_recon.errors import RunError
from lit_recon.models import ReadoutModel
from lit_recon.modules.optimisers import Optim

KNOWN_SAMPLES = 256  # whose features are kept, p numbers each


class Regression(LightningModule):
    """Trains a model on squared error, the loss of the papers for targets in {-1, 1} or one-hot.

    Args:
        model: a network with ``features(x)`` and a linear ``readout``.
        optim: how it is trained.
    """

    def __init__(self, model: ReadoutModel, optim: Optim) -> None:
        super().__init__()
        self.model: ReadoutModel = model
        self.optim = optim
        self._known = KnownFeatures(model)
        self._batch: tuple[Tensor, Tensor] | None = None
        self._logged_step = -1

    def forward(self, x: Tensor) -> Tensor:
        """(n, *input shape) to (n, k)."""
        return self.model.readout(self._known(x))

    def configure_optimizers(self) -> Optimizer:
        if self.optim.span_warning:
            rank_zero_warn(self.optim.span_warning)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        return self.optim.build(trained, self._design)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self._batch = batch
        x, y = batch
        values = _values(self(x), y)
        # Means over ranks, whose shares are equal. All see the failure of one: none waits for it.
        means = {name: self._gathered(value.detach()).mean() for name, value in values.items()}
        if not bool(torch.isfinite(means["train/loss"])):
            raise RunError(self._broken("the training loss is"))
        self.log_dict(means, prog_bar=True, logger=False)
        self._log_in_turn(means)
        return values["train/loss"]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take the step, and end the run before weights that are no numbers are saved."""
        super().optimizer_step(*args, **kwargs)
        if not all(bool(torch.isfinite(p).all()) for p in self.model.parameters()):
            raise RunError(self._broken("the weights are"))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        values = _accuracy("val", self(x), y)
        self.log_dict(values, prog_bar=True, logger=False, batch_size=len(x), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        metrics = self.trainer.callback_metrics
        self._log_now({name: value for name, value in metrics.items() if name == "val/acc"})

    def on_fit_end(self) -> None:
        """Log the loss of the final weights: training_step sees the weights before its step."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        weight = self.model.readout.weight
        with torch.no_grad():
            output = self(data.x.to(weight))
        self._log_now(_values(output, data.y.to(weight)))

    def _log_in_turn(self, values: dict[str, Tensor]) -> None:
        """Log every few steps, and once where a step takes several batches or evaluations."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        step = self.global_step
        if every and step % every == 0 and step != self._logged_step:
            self._logged_step = step
            self._log_now(values)

    def _log_now(self, values: dict[str, Tensor]) -> None:
        """Log at the step of these weights; Lightning's own count is off by one in places."""
        if not values:
            return
        numbers = {name: float(value) for name, value in values.items()}
        for logger in self.loggers:
            logger.log_metrics({"epoch": self.current_epoch, **numbers}, step=self.global_step)

    def _broken(self, what: str) -> str:
        return (
            f"{what} not finite at step {self.global_step} with {self.optim}; lower --optim.lr."
            " The files written so far are kept."
        )

    def _design(self) -> tuple[Tensor, Tensor]:
        """Features and targets of the current batch, gathered over ranks."""
        assert self._batch is not None
        x, y = self._batch
        phi = self._known(x)
        if self.trainer.world_size > 1:
            phi, y = self._gathered(phi).flatten(0, 1), self._gathered(y).flatten(0, 1)
        return phi, y

    def _gathered(self, values: Tensor) -> Tensor:
        """The values of all ranks, (ranks, *shape) where there are several."""
        gathered = self.all_gather(values)
        assert isinstance(gathered, Tensor)
        return gathered


class KnownFeatures:
    """The features of inputs, not computed again where nothing of them is trained.

    They are kept sample by sample, so that shuffled mini-batches find them too. They are kept here
    and not in the model, which an attacker gets.

    Args:
        model: whose features.
    """

    def __init__(self, model: ReadoutModel) -> None:
        self._model = model
        self._known: dict[tuple[bytes, torch.device], Tensor] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """(n, *input shape) to (n, p)."""
        if not self._model.frozen or x.requires_grad or len(x) > KNOWN_SAMPLES:
            return self._model.features(x)
        samples = x.detach().cpu().contiguous().view(torch.uint8).numpy()
        keys = [(sample.tobytes(), x.device) for sample in samples]
        if not all(key in self._known for key in keys):
            for key, row in zip(keys, self._model.features(x), strict=True):
                self._known[key] = row.clone()
            for key in list(self._known)[:-KNOWN_SAMPLES]:
                del self._known[key]
        # One layout, new or known: sums over features must not differ after a resume.
        return torch.stack([self._known[key] for key in keys], dim=1).T


def _values(output: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Training loss, and accuracy where the targets are classes."""
    return {"train/loss": F.mse_loss(output, y), **_accuracy("train", output, y)}


def _accuracy(stage: str, output: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Accuracy where the targets are classes, one-hot or -1 and 1; nothing for other targets."""
    name = f"{stage}/acc"
    if y.shape[1] > 1:
        classes = y.shape[1]
        return {
            name: accuracy(output.argmax(1), y.argmax(1), task="multiclass", num_classes=classes)
        }
    if bool((y.abs() == 1).all()):
        return {name: accuracy(output[:, 0] > 0, y[:, 0] > 0, task="binary")}
    return {}
