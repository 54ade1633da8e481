"""The LightningModule around every model: loss, metrics, optimiser."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from math import ceil, inf
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import LambdaLR

from lit_recon.errors import InputError, RunError
from lit_recon.models import FeatureModel, Model, ReadoutModel
from lit_recon.modules.construct import network_numbers
from lit_recon.modules.losses import Loss, accuracy, are_classes
from lit_recon.modules.noise import NoisyCopies
from lit_recon.modules.optimality import Optimality
from lit_recon.modules.optimisers import Current, Optim
from lit_recon.modules.tasks import Labels, Task
from lit_recon.modules.tensor_adam import polish_readout

KNOWN_SAMPLES = 256  # up to so many samples, fixed features are kept in memory, p numbers each

Batch = tuple[Tensor, Tensor, slice | Tensor]


class Training(LightningModule):
    """Trains `model`; `optim` names the loss, the optimiser and the stopping loss.

    Batches are ``(x, y, samples)``: inputs (b, *input shape), targets (b, k), and their indices
    among the data module's training samples.

    Held-out samples are evaluated whenever a row is logged, without a validation loop: all numbers
    of a row are then written at once, and a killed run never has half a row.

    >>> from lit_recon.models import MLP
    >>> from lit_recon.modules.optimisers import SGD
    >>> module = Training(MLP(d=12, k=1, n=4, width=60), SGD(lr=1e-3))
    >>> module.optim.loss
    'mse'

    Args:
        model: the network.
        optim: how it is trained; a closed form needs a `ReadoutModel`.
        task: what the targets are.
    """

    def __init__(self, model: Model, optim: Optim, task: Task | None = None) -> None:
        super().__init__()
        self.model: Model = model
        self.optim = optim
        self.task = task or Labels()
        self._classes: bool
        self._training: Split
        self._noisy: NoisyCopies | None = None
        self._held_out: Split | None = None
        self._batch: Batch | None = None
        self._steps = inf  # of the whole run, where something depends on it
        self._logged_step = self._measured_step = -1
        self._optimality = Optimality(model, optim)
        self._epoch = EpochLoss()
        self.row: dict[str, float] = {}
        """The last logged numbers, by name."""

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning sets this many times a step; skip torch's check whether it is a parameter.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def configure_optimizers(self) -> Any:
        if self.optim.span_warning:
            rank_zero_warn(self.optim.span_warning)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        if self.optim.schedule != "constant" or self.optim.polish or self.task.denoising:
            self._steps = float(self.trainer.estimated_stepping_batches)
        current = Current(self._design, self._outputs, self._problem)
        optimizer = self.optim.build(trained, current)
        if self.optim.schedule == "constant":
            return optimizer
        if self._steps == inf:
            remedy = "needs a number of steps; give --trainer.max_steps"
            raise InputError("--optim.schedule", self.optim.schedule, remedy)
        schedule = LambdaLR(optimizer, lambda step: self.optim.rate(step / self._steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_start(self) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if self.optim.full_batch:
            check_full_batch(self.optim, data.n, data.batch_size, self.trainer.world_size)
        self.optim.check(self.model, self.task, *data.y.shape)
        if self.optim.polish:
            check_polish(self.model, data.n, self.optim.loss)
        check_batch_norm(self.model, data.n, data.batch_size, self.trainer.world_size)
        self._classes = are_classes(data.y)
        self._training = Split.of(self.model, data.x, data.y)
        if self.task.denoising is not None:
            self._noisy = NoisyCopies(self.task.denoising, self._training.x)
        if self._classes and len(data.val_y):
            self._held_out = Split.of(self.model, data.val_x, data.val_y)
        if self._epoch.low:  # restored from the checkpoint of a run that had ended so
            self.trainer.should_stop = True

    def on_train_start(self) -> None:
        self._measure()  # of the checkpoint that is resumed from

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        output, y = self._noisy_output(batch)  # of the batch first, then of its noisy copies
        minimised, loss = self.optim.losses(output, y)
        # First evaluation of this batch; LBFGS calls the closure repeatedly.
        if batch is not self._batch:
            self._batch = batch
            size = len(batch[1])
            self._log_in_turn(loss.detach(), output[:size].detach(), y[:size])
            self._stop_in_turn(loss.detach(), size * self.trainer.world_size)
        return minimised.requires_grad_()  # Lightning asks for a gradient where there is none too

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        last = self.trainer.should_stop or self.global_step + 1 >= self._steps
        if self.optim.polish and last:
            assert isinstance(self.model, ReadoutModel)
            polish_readout(self.model, self._training.x, self._training.y)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """End the run instead of saving weights that are not finite.

        All ranks have the same weights, so they all end here.
        """
        if not all(bool(torch.isfinite(p).all()) for p in self.model.parameters()):
            raise RunError(self._broken("the weights are"))
        self._measure()
        checkpoint["epoch"] = epochs_over(self.trainer)
        checkpoint["epoch_loss"] = asdict(self._epoch)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._epoch = EpochLoss(**checkpoint["epoch_loss"])
        # Lightning loads the weights before it converts the model to --trainer.precision, which
        # would round them to float32.
        stored = checkpoint["state_dict"].values()
        self.to(next(value.dtype for value in stored if value.is_floating_point()))

    @torch.no_grad()
    def on_fit_end(self) -> None:
        """Log the numbers of the final weights; training_step sees those before each step.

        In eval mode, because in training mode batch normalisation would count one more batch.
        """
        self.model.eval()
        weight = next(self.model.parameters())  # Lightning has moved the model to the CPU
        self._training = self._training.to(weight)
        self._held_out = self._held_out and self._held_out.to(weight)
        output, y = self._training.output(self.model), self._training.y
        loss = self.optim.losses(output, y)[1]
        self._log({"train/loss": loss, **self._scores("train", output, y), **self._exact_error()})
        self._measure()

    def _measure(self) -> None:
        """Log how nearly these weights solve the equations of attacks; once per step.

        At checkpoints and at the end only, because it takes longer than a step.
        """
        if self.global_step == self._measured_step:
            return
        self._measured_step = self.global_step
        training = self.model, self._training.x, self._training.y
        found = {**self._optimality.measured(*training), **network_numbers(*training)}
        if found:
            self._send(found)

    def _noisy_output(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Outputs and targets of a batch and, while noise lasts, of noisy copies of it."""
        x, y, samples = batch
        step, noisy = self.global_step, self._noisy
        if noisy is None or step >= (1 - noisy.noise.clean_share) * self._steps:
            return self._output(batch), y
        x, y = noisy(x, y, samples, step=step, rank=self.global_rank, ranks=self.trainer.world_size)
        return self.model(x), y

    def _output(self, batch: Batch) -> Tensor:
        """(b, k) outputs, computed from stored features if these are not trained."""
        x, _, samples = batch
        known = self._training.known
        if known is None:
            output: Tensor = self.model(x)
            return output
        assert isinstance(self.model, ReadoutModel)
        return self.model.readout(known[samples])

    def _log_in_turn(self, loss: Tensor, output: Tensor, y: Tensor) -> None:
        """Log every `log_every_n_steps` steps; once per step, also if a step takes several batches.

        Only this waits for the GPU and for other ranks, and only this checks that the loss is
        finite.
        """
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        step = self.global_step
        if not every or step % every or step == self._logged_step:
            return
        self._logged_step = step
        values = {"train/loss": loss, **self._scores("train", output, y)}
        # Means over ranks with equal shares. If one rank's loss is not finite, all ranks see it and
        # none waits for it.
        means = {name: self._gathered(value).mean() for name, value in values.items()}
        if not bool(torch.isfinite(means["train/loss"])):
            raise RunError(self._broken("the training loss is"))
        self._log(means)

    def _stop_in_turn(self, loss: Tensor, samples: int) -> None:
        """End training after this epoch, on all ranks, if its mean loss is at most `stop_loss`."""
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
        """Log at the step of these weights; Lightning's own step is off by one in some hooks."""
        numbers = {**values, **self._validated()}
        self.row = {name: float(value) for name, value in numbers.items()}
        self._send(self.row)

    def _send(self, row: Mapping[str, float]) -> None:
        epoch = epochs_over(self.trainer)
        for logger in self.loggers:
            logger.log_metrics({"epoch": epoch, **row}, step=self.global_step)

    def _validated(self) -> dict[str, Tensor]:
        """Accuracy on held-out samples; empty if there are none or they have no classes."""
        if self._held_out is None:
            return {}
        self.model.eval()
        output = self._held_out.output(self.model)
        self.model.train()
        return self._scores("val", output, self._held_out.y)

    def _scores(self, stage: str, output: Tensor, y: Tensor) -> dict[str, Tensor]:
        """By their logged names, the accuracy of classes, or the mean squared error of images."""
        scores = {f"{stage}/acc": accuracy(output, y)} if self._classes else {}
        if self.task.gives_inputs:
            scores[f"{stage}/mse"] = F.mse_loss(output, y)
        return scores

    def _exact_error(self) -> dict[str, Tensor]:
        """The mean squared error of the weights as they are stored, in float64 arithmetic."""
        if not self.task.gives_inputs:
            return {}
        model, x, y = deepcopy(self.model).double(), self._training.x, self._training.y
        return {"train/mse": F.mse_loss(model(x.double()), y.double())}

    def _broken(self, what: str) -> str:
        return (
            f"{what} not finite at step {self.global_step} with {self.optim}; lower --optim.lr."
            " The files written so far are kept."
        )

    def _design(self) -> tuple[Tensor, Tensor]:
        """Features and targets of the current batch, gathered over ranks."""
        assert self._batch is not None and isinstance(self.model, FeatureModel)
        x, y, samples = self._batch
        known = self._training.known
        phi = self.model.features(x) if known is None else known[samples]
        if self.trainer.world_size > 1:
            phi, y = self._gathered(phi).flatten(0, 1), self._gathered(y).flatten(0, 1)
        return phi, y

    @torch.no_grad()
    def _outputs(self) -> tuple[Tensor, Tensor]:
        """Outputs and targets of the current batch with the present weights."""
        assert self._batch is not None
        return self._output(self._batch).double(), self._batch[1].double()

    def _problem(self) -> tuple[Model, Tensor, Tensor]:
        """The network, and inputs and targets of the current batch."""
        assert self._batch is not None
        return self.model, *self._batch[:2]

    def _gathered(self, values: Tensor) -> Tensor:
        """The values of all ranks: (ranks, *shape), or (*shape) with one rank."""
        gathered = self.all_gather(values)
        assert isinstance(gathered, Tensor)
        return gathered


def keeps_span(optim: Optim, task: Task) -> bool:
    """Whether every update is a combination of the training samples' gradients.

    >>> from lit_recon.modules import SGD, Autoencode
    >>> keeps_span(SGD(), Autoencode()), keeps_span(SGD(), Autoencode(noise=0.1))
    (True, False)
    """
    return optim.keeps_span and task.denoising is None


def check_full_batch(optim: Optim, n: int, batch_size: int | None, ranks: int) -> None:
    """Refuse mini-batches and several processes.

    Raises:
        InputError: a step would not see all n samples.
    """
    remedy = f"{type(optim).__name__} takes all samples at once"
    if batch_size is not None and batch_size < n:
        raise InputError("--data.batch_size", batch_size, f"{remedy}; give null")
    if ranks > 1:
        raise InputError("--trainer.devices", ranks, f"{remedy}, in one process; give 1")


def check_polish(model: Model, n: int, loss: Loss) -> None:
    """Refuse a readout in closed form that cannot reach the targets.

    Raises:
        InputError: there is no readout, it has fewer features than samples, or the loss is another.
    """
    if loss != "mse":
        raise InputError("--optim.polish", "true", f"solves for mse, and the loss is {loss}")
    if not isinstance(model, ReadoutModel):
        raise InputError("--optim.polish", "true", f"{type(model).__name__} has no readout")
    if model.p < n:
        remedy = f"needs a last layer as wide as the {n} samples, not {model.p}; give more units"
        raise InputError("--optim.polish", "true", remedy)


def check_batch_norm(model: Model, n: int, batch_size: int | None, ranks: int) -> None:
    """Refuse batches that batch normalisation cannot train on.

    Args:
        model: the network.
        n: number of training samples.
        batch_size: samples in a batch; None: all of them.
        ranks: number of processes that share every batch.

    Raises:
        InputError: a batch has one sample, whose variance is 0, or processes normalise by their
            parts of a batch.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    if not layers:
        return
    size = min(batch_size or n, n)
    if (n % size or size) == 1:
        remedy = f"leaves a batch of one sample of {n}; batch normalisation needs two or more"
        raise InputError("--data.batch_size", "null" if batch_size is None else size, remedy)
    if ranks > 1 and not all(isinstance(layer, nn.SyncBatchNorm) for layer in layers):
        remedy = f"batch normalisation on {ranks} processes needs true, or --trainer.devices 1"
        raise InputError("--trainer.sync_batchnorm", "false", remedy)


def epochs_over(trainer: Trainer) -> int:
    """The number of complete epochs; Lightning also counts one that the last step has cut short."""
    steps = ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    return trainer.global_step // steps


@dataclass
class EpochLoss:
    """The running loss of an epoch, for `stop_loss`; saved in checkpoints.

    Attributes:
        total: sum of the loss over the samples so far, each batch before its step.
        samples: number of samples so far, on all ranks.
        low: whether the mean loss of an epoch has ended the run.
    """

    total: Tensor | float = 0.0
    samples: int = 0
    low: bool = False


@dataclass(frozen=True)
class Split:
    """All training samples, or all held-out ones, on the model's device.

    They are not kept in the model, because the attacker gets the model.

    Attributes:
        x: (n, *input shape).
        y: (n, k).
        known: (n, p) features; None if they are trained or n is above KNOWN_SAMPLES.
    """

    x: Tensor
    y: Tensor
    known: Tensor | None

    @classmethod
    @torch.no_grad()
    def of(cls, model: Model, x: Tensor, y: Tensor) -> Split:
        """Move the samples to the model's device, and compute their features if these are fixed.

        All features are computed in one batch. In mini-batches their last bits would depend on the
        order of the samples and on the step at which a run is resumed.
        """
        split = cls(x, y, None).to(next(model.parameters()))
        if not isinstance(model, ReadoutModel) or not model.frozen or len(x) > KNOWN_SAMPLES:
            return split
        return replace(split, known=model.features(split.x))

    def to(self, like: Tensor) -> Split:
        """The samples with the device and dtype of a tensor."""
        known = None if self.known is None else self.known.to(like)
        return Split(self.x.to(like), self.y.to(like), known)

    def output(self, model: Model) -> Tensor:
        """(n, k) outputs of all samples."""
        if self.known is None:
            output: Tensor = model(self.x)
            return output
        assert isinstance(model, ReadoutModel)
        return model.readout(self.known)
