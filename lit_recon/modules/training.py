"""The LightningModule around every model: loss, metrics, optimiser."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import ceil
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from lit_recon.errors import RunError
from lit_recon.models import Model, ReadoutModel
from lit_recon.modules.losses import LOSSES, accuracy, are_classes
from lit_recon.modules.optimisers import Optim

KNOWN_SAMPLES = 256  # whose features are kept, p numbers each

Batch = tuple[Tensor, Tensor, slice | Tensor]


class Training(LightningModule):
    """Trains `model`; `optim` names the loss, the optimiser and the stopping loss.

    Batches are ``(x, y, samples)``: inputs (b, *input shape), targets (b, k), and which of the data
    module's training samples they are.

    Held-out samples are looked at whenever a row is logged, and not in a loop of their own: a row
    is then written at once, and a run that is killed has it or lacks it and never has half of it.

    >>> from lit_recon.models import MLP
    >>> from lit_recon.modules.optimisers import SGD
    >>> module = Training(MLP(d=12, k=1, n=4, width=60), SGD(lr=1e-3))
    >>> module.optim.loss
    'mse'

    Args:
        model: the network.
        optim: how it is trained; a closed form needs a `ReadoutModel`.
    """

    def __init__(self, model: Model, optim: Optim) -> None:
        super().__init__()
        self.model: Model = model
        self.optim = optim
        self._classes: bool
        self._training: Split
        self._held_out: Split | None = None
        self._batch: Batch | None = None
        self._logged_step = -1
        self._epoch = EpochLoss()
        self.row: dict[str, float] = {}
        """The numbers that were logged last."""

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes here which hook it is in, many times a step, and every time torch would
        # look whether that is a parameter.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def configure_optimizers(self) -> Optimizer:
        if self.optim.span_warning:
            rank_zero_warn(self.optim.span_warning)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        return self.optim.build(trained, self._design)

    def on_fit_start(self) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self._classes = are_classes(data.y)
        self._training = Split.of(self.model, data.x, data.y)
        if self._classes and len(data.val_y):
            self._held_out = Split.of(self.model, data.val_x, data.val_y)
        if self._epoch.low:  # in the run that goes on here
            self.trainer.should_stop = True

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        output, y = self._output(batch), batch[1]
        loss = LOSSES[self.optim.loss](output, y)
        # First evaluation of this batch; LBFGS calls the closure repeatedly.
        if batch is not self._batch:
            self._batch = batch
            self._log_in_turn(loss.detach(), output.detach(), y)
            self._stop_in_turn(loss.detach(), len(y) * self.trainer.world_size)
        return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """End the run rather than save weights that are no numbers.

        The weights are the same on all ranks, which so end together.
        """
        if not all(bool(torch.isfinite(p).all()) for p in self.model.parameters()):
            raise RunError(self._broken("the weights are"))
        checkpoint["epoch"] = epochs_over(self.trainer)
        checkpoint["epoch_loss"] = asdict(self._epoch)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._epoch = EpochLoss(**checkpoint["epoch_loss"])

    @torch.no_grad()
    def on_fit_end(self) -> None:
        """Log the numbers of the final weights: training_step sees the weights before its step."""
        weight = next(self.model.parameters())  # on the CPU: Lightning has put everything away
        self._training = self._training.to(weight)
        self._held_out = self._held_out and self._held_out.to(weight)
        output, y = self._training.output(self.model), self._training.y
        loss = LOSSES[self.optim.loss](output, y)
        self._log({"train/loss": loss, **self._accuracy("train", output, y)})

    def _output(self, batch: Batch) -> Tensor:
        """(b, k) outputs, from known features where nothing of these is trained."""
        x, _, samples = batch
        known = self._training.known
        if known is None:
            output: Tensor = self.model(x)
            return output
        assert isinstance(self.model, ReadoutModel)
        return self.model.readout(known[samples])

    def _log_in_turn(self, loss: Tensor, output: Tensor, y: Tensor) -> None:
        """Log every few steps, and once where a step takes several batches.

        Nothing else in a step waits for a GPU or for other ranks, or looks at the loss.
        """
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        step = self.global_step
        if not every or step % every or step == self._logged_step:
            return
        self._logged_step = step
        values = {"train/loss": loss, **self._accuracy("train", output, y)}
        # Means over ranks, whose shares are equal. All see the failure of one: none waits for it.
        means = {name: self._gathered(value).mean() for name, value in values.items()}
        if not bool(torch.isfinite(means["train/loss"])):
            raise RunError(self._broken("the training loss is"))
        self._log(means)

    def _stop_in_turn(self, loss: Tensor, samples: int) -> None:
        """End the run after this epoch where its mean loss is low enough, on all ranks alike."""
        if self.optim.stop_loss is None:
            return
        epoch = self._epoch
        epoch.total = epoch.total + self._gathered(loss).mean() * samples
        epoch.samples += samples
        if epoch.samples < len(self._training.y):
            return
        if epoch.total <= self.optim.stop_loss * epoch.samples:
            epoch.low = self.trainer.should_stop = True
        epoch.total, epoch.samples = 0.0, 0

    @torch.no_grad()
    def _log(self, values: dict[str, Tensor]) -> None:
        """Log at the step of these weights; Lightning's own count is off by one in places."""
        numbers = {**values, **self._validated()}
        self.row = {name: float(value) for name, value in numbers.items()}
        epoch = epochs_over(self.trainer)
        for logger in self.loggers:
            logger.log_metrics({"epoch": epoch, **self.row}, step=self.global_step)

    def _validated(self) -> dict[str, Tensor]:
        """Accuracy on held-out samples, where there are any and they have classes."""
        if self._held_out is None:
            return {}
        self.model.eval()
        output = self._held_out.output(self.model)
        self.model.train()
        return self._accuracy("val", output, self._held_out.y)

    def _accuracy(self, stage: str, output: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Nothing where the targets are no classes."""
        return {f"{stage}/acc": accuracy(output, y)} if self._classes else {}

    def _broken(self, what: str) -> str:
        return (
            f"{what} not finite at step {self.global_step} with {self.optim}; lower --optim.lr."
            " The files written so far are kept."
        )

    def _design(self) -> tuple[Tensor, Tensor]:
        """Features and targets of the current batch, gathered over ranks."""
        assert self._batch is not None and isinstance(self.model, ReadoutModel)
        x, y, samples = self._batch
        known = self._training.known
        phi = self.model.features(x) if known is None else known[samples]
        if self.trainer.world_size > 1:
            phi, y = self._gathered(phi).flatten(0, 1), self._gathered(y).flatten(0, 1)
        return phi, y

    def _gathered(self, values: Tensor) -> Tensor:
        """The values of all ranks, (ranks, *shape) where there are several."""
        gathered = self.all_gather(values)
        assert isinstance(gathered, Tensor)
        return gathered


def epochs_over(trainer: Trainer) -> int:
    """How many epochs are over; Lightning also counts one that the last step has cut short."""
    steps = ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    return trainer.global_step // steps


@dataclass
class EpochLoss:
    """The loss of an epoch as its batches come, and what it decided; a part of checkpoints.

    Attributes:
        total: sum over samples so far of the loss, before each batch's step.
        samples: how many, on all ranks.
        low: whether the mean of an epoch was low enough to end the run.
    """

    total: Tensor | float = 0.0
    samples: int = 0
    low: bool = False


@dataclass(frozen=True)
class Split:
    """All training samples, or all held-out ones, on the model's device.

    They are kept here and not in the model, which an attacker gets.

    Attributes:
        x: (n, *input shape).
        y: (n, k).
        known: (n, p) features, where nothing of them is trained and they are few enough to keep.
    """

    x: Tensor
    y: Tensor
    known: Tensor | None

    @classmethod
    @torch.no_grad()
    def of(cls, model: Model, x: Tensor, y: Tensor) -> Split:
        """Move the samples to the model.

        All features are computed here together: in mini-batches they would differ in their last
        bits with the order, and with the place where a run goes on.
        """
        split = cls(x, y, None).to(next(model.parameters()))
        if not isinstance(model, ReadoutModel) or not model.frozen or len(x) > KNOWN_SAMPLES:
            return split
        return replace(split, known=model.features(split.x))

    def to(self, like: Tensor) -> Split:
        """The same on the device of a tensor, in its precision."""
        known = None if self.known is None else self.known.to(like)
        return Split(self.x.to(like), self.y.to(like), known)

    def output(self, model: Model) -> Tensor:
        """(n, k) of all samples."""
        if self.known is None:
            output: Tensor = model(self.x)
            return output
        assert isinstance(model, ReadoutModel)
        return model.readout(self.known)
