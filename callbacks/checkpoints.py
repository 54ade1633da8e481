"""Saves checkpoints at step 0, at chosen steps and at the end, and writes them atomically."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lit_recon.errors import InputError, RunError
from lit_recon.files import whole_file
from lit_recon.modules import epochs_over
from lit_recon.records.checkpoints import checkpoint_path, saved_checkpoints, step_of
from lit_recon.records.directory import RunDirectory


class StepCheckpoint(ModelCheckpoint):
    """Saves ``step=00000100.ckpt`` at step 0, every n steps, at listed steps, and at the end.

    The checkpoint at step 0 has the initial weights and is never deleted. The run directory is the
    trainer's ``default_root_dir``.

    Args:
        every_n_steps: steps from one checkpoint to the next, at least 1; null: only listed steps.
        at_steps: more steps at which to save, for example 1, 10, 100, 1000.
        keep: number of latest checkpoints to keep besides step 0, at least 1; null: all.
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        at_steps: Sequence[int] = (),
        keep: int | None = None,
    ) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise InputError("--checkpoint.every_n_steps", every_n_steps, "give at least 1")
        if any(step < 0 for step in at_steps):
            raise InputError("--checkpoint.at_steps", list(at_steps), "give steps of 0 or more")
        if keep is not None and keep < 1:
            raise InputError("--checkpoint.keep", keep, "give at least 1")
        super().__init__(
            save_top_k=-1,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )
        self._every = every_n_steps
        self._steps = frozenset(at_steps)
        self._keep = keep
        self._saved: list[str] = []
        self.last_saved_step = -1
        """The step of the latest checkpoint, saved or resumed from; -1 before the first."""
        self.last_saved_epoch = 0
        """The number of complete epochs at that step."""

    @property
    def state_key(self) -> str:
        """The key of its state in checkpoints; constant, since Lightning reads it in every hook."""
        return "StepCheckpoint"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.dirpath = str(RunDirectory(trainer.default_root_dir).checkpoints)
        super().setup(trainer, pl_module, stage)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """List the resumed run's checkpoints, so that `keep` counts them too."""
        self.last_saved_step = int(checkpoint["global_step"])
        self.last_saved_epoch = int(checkpoint["epoch"])
        self._saved = [str(path) for path in saved_checkpoints(trainer.default_root_dir)]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if trainer.global_step == 0:
            self._save(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        step = trainer.global_step
        if step in self._steps or (self._every and step % self._every == 0):
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if trainer.global_step == self.last_saved_step:
            return
        path = str(checkpoint_path(RunDirectory(trainer.default_root_dir), trainer.global_step))
        trainer.save_checkpoint(path, weights_only=False)
        self.last_saved_step = trainer.global_step
        self.last_saved_epoch = epochs_over(trainer)
        self._saved.append(path)
        if self._keep is not None:
            later = [path for path in self._saved if step_of(path) > 0]
            for old in later[: -self._keep]:
                trainer.strategy.remove_checkpoint(old)
                self._saved.remove(old)


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints atomically: under a temporary name in the same folder, then renames.

    Lightning writes to the system's temporary directory and copies the file if that is on another
    disk. A run that is killed during the copy leaves half a checkpoint, which a resumed run would
    load.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as draft, draft.open("wb") as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch turns an OSError into a RuntimeError
            cause = error if isinstance(error, OSError) else error.__context__
            reason = getattr(cause, "strerror", None) or error
            raise RunError(f"{path} could not be written: {reason}") from error
