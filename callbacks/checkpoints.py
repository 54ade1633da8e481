"""When checkpoints are saved: at step 0, at chosen steps, and at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_recon.errors import InputError


class StepCheckpoint(ModelCheckpoint):
    """Saves ``step=00000100.ckpt`` at step 0, every n steps, at listed steps, and at the end.

    The initial weights are the checkpoint at step 0, which is never deleted.

    Args:
        dirpath: the folder of the checkpoints.
        every_n_steps: save every so many steps, at least 1; null saves at listed steps only.
        at_steps: further steps at which to save, for example 1, 10, 100, 1000.
        keep: how many checkpoints to keep beside that of step 0, at least 1; null keeps all.
    """

    def __init__(
        self,
        dirpath: Path,
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
            dirpath=dirpath,
            filename="{step:08d}",
            save_top_k=-1,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )
        self._every = every_n_steps
        self._steps = frozenset(at_steps)
        self._keep = keep
        self._saved: list[str] = []

    @property
    def last_saved_step(self) -> int:
        """The step of the newest checkpoint of this process; below 0 before the first."""
        return self._last_global_step_saved if self._saved else -1

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

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: steps alone decide."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if self._saved and self._last_global_step_saved == trainer.global_step:
            return
        path = self.format_checkpoint_name({"step": trainer.global_step})
        self._save_checkpoint(trainer, path)
        self._saved.append(path)
        if self._keep is not None:
            later = [p for p in self._saved if not p.endswith(f"step={0:08d}.ckpt")]
            for old in later[: -self._keep]:
                trainer.strategy.remove_checkpoint(old)
                self._saved.remove(old)
