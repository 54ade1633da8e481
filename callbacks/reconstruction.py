"""Runs reconstructions during training, without any effect on the training."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from callbacks.checkpoints import StepCheckpoint
from callbacks.terminal import StepProgressBar
from lit_recon.audit.recorder import Recorder, of_method
from lit_recon.audit.threat import TrainingFacts, knowledge_of
from lit_recon.methods import Reconstructor
from lit_recon.modules import Training, keeps_span
from lit_recon.records.checkpoints import checkpoint_path, load_weights
from lit_recon.records.directory import RunDirectory
from lit_recon.records.truth import Truth
from lit_recon.solvers import OnStep


class ReconstructionCallback(Checkpoint):
    """Runs attacks after the checkpoint callback has saved, on every rank; rank 0 writes.

    List it after the checkpoint callback. It works on a copy of the model, every method has its own
    generator, and the training data are used only for scoring, after the attack. A step with
    results on disk is not attacked again.

    Args:
        reconstructors: the methods, in the order in which they run.
        checkpoint: the callback that saves checkpoints.
        directory: the run directory; each method's results go to a folder of its own.
    """

    def __init__(
        self,
        reconstructors: Sequence[Reconstructor],
        checkpoint: StepCheckpoint,
        directory: RunDirectory,
    ) -> None:
        self.reconstructors = list(reconstructors)
        self.checkpoint = checkpoint
        self.directory = directory
        self._recorders: list[Recorder] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        truth = Truth.of(trainer.datamodule)  # type: ignore[attr-defined]
        if trainer.is_global_zero:
            truth.write(self.directory)
        self._recorders = [
            Recorder(
                reconstructor,
                of_method(self.directory, reconstructor.name),
                truth,
                trainer.loggers,
                trainer.is_global_zero,
                trainer.strategy.broadcast,
            )
            for reconstructor in self.reconstructors
        ]
        # The checkpoint that is resumed from may lack results, if the run was killed in its attack.
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
        step = self.checkpoint.last_saved_step
        left = [recorder for recorder in self._recorders if step >= 0 and not recorder.done(step)]
        if not left:
            return
        module = cast(Training, pl_module)
        # The copy shares buffers: the attack is over before training changes a running statistic.
        buffers = {id(buffer): buffer for buffer in module.model.buffers()}
        model = copy.deepcopy(module.model, memo=buffers).eval()
        share = module.optim.initial_share(step)
        training = TrainingFacts(share, keeps_span(module.optim, module.task))
        initial = load_weights(checkpoint_path(self.directory, 0))
        truth = left[0].truth
        assert truth is not None  # from `on_fit_start`
        knowledge = knowledge_of(model, initial, training, truth)
        for recorder in left:
            with _progress(trainer, step, recorder.reconstructor.name) as on_step:
                recorder.attack(step, self.checkpoint.last_saved_epoch, knowledge, on_step)


@contextmanager
def _progress(trainer: Trainer, step: int, method: str) -> Iterator[OnStep]:
    """Yield the solver's `on_step`; it shows an inner progress bar if there is a training bar."""
    bar = trainer.progress_bar_callback
    if isinstance(bar, StepProgressBar):
        with bar.inner(f"{method} at step {step}") as show:
            yield lambda row, candidates: show(row)
    else:
        yield lambda row, candidates: None
