"""When a reconstruction runs during training, without leaving a trace in it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from callbacks.checkpoints import StepCheckpoint, checkpoint_path, load_weights
from callbacks.recorder import Recorder
from callbacks.terminal import StepProgressBar
from lit_recon.methods import Reconstructor
from lit_recon.models import ReadoutModel
from lit_recon.records.directory import RunDirectory
from lit_recon.records.truth import Truth
from lit_recon.solvers import OnStep


class ReconstructionCallback(Checkpoint):
    """Runs an attack whenever the checkpoint callback has saved, on every rank; rank 0 writes.

    List it after the checkpoint callback. It works on a copy of the model, with its own generator,
    and looks at the training data only after the attack has returned. A step whose results are on
    disk is not done again.

    Args:
        reconstructor: the attack.
        checkpoint: the callback that saves checkpoints.
        directory: where results go.
    """

    def __init__(
        self, reconstructor: Reconstructor, checkpoint: StepCheckpoint, directory: RunDirectory
    ) -> None:
        self.reconstructor = reconstructor
        self.checkpoint = checkpoint
        self.directory = directory
        self._recorder: Recorder | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        truth = Truth.of(trainer.datamodule)  # type: ignore[attr-defined]
        if trainer.is_global_zero:
            truth.write(self.directory)
        self._recorder = Recorder(
            self.reconstructor,
            self.directory,
            truth,
            trainer.loggers,
            trainer.is_global_zero,
            trainer.strategy.broadcast,
        )
        # The checkpoint that is resumed from: the run may have ended before its reconstruction did.
        self._reconstruct_if_saved(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._reconstruct_if_saved(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        self._reconstruct_if_saved(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._reconstruct_if_saved(trainer, pl_module)

    def _reconstruct_if_saved(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step, recorder = self.checkpoint.last_saved_step, self._recorder
        assert recorder is not None
        if step < 0 or recorder.done(step):
            return
        live = model_of(pl_module)
        # Only buffers, which training leaves, are shared.
        model = copy.deepcopy(live, memo={id(b): b for b in live.buffers()}).eval()
        initial = load_weights(checkpoint_path(self.directory, 0))
        with _progress(trainer, step) as on_step:
            share = pl_module.optim.initial_share(step)  # type: ignore[operator, union-attr]
            epoch = self.checkpoint.last_saved_epoch
            recorder.attack(step, epoch, model, initial, share, on_step)


def model_of(pl_module: LightningModule) -> ReadoutModel:
    """The network that is trained and attacked."""
    return cast(ReadoutModel, pl_module.model)


@contextmanager
def _progress(trainer: Trainer, step: int) -> Iterator[OnStep]:
    """What the solver calls with every row: an inner bar where there is a training bar."""
    bar = trainer.progress_bar_callback
    if isinstance(bar, StepProgressBar):
        with bar.inner(f"reconstruct at step {step}") as show:
            yield lambda row, candidates: show(row)
    else:
        yield lambda row, candidates: None
