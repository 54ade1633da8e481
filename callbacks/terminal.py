"""The terminal's output during a run: filtered warnings, a training bar, and an inner bar."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isfinite
from typing import Any, cast

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lit_recon.modules import Training
from lit_recon.solvers import SolverStep

SECONDS = 0.1  # between two updates of a bar; a training step may take only a millisecond

# Warnings that are expected here: a few samples make one batch; a resumed run writes into its own
# directory, which may have been moved; a cluster has srun, used or not; the others are about
# Lightning's own code.
NO_NEWS = (
    ".*The `srun` command is available",
    ".*is smaller than the logging interval",
    ".*Checkpoint directory .* exists and is not empty",
    ".*The dirpath has changed from",
    ".*isinstance\\(treespec, LeafSpec\\)",
    ".*torch.jit.script.* is deprecated",
    ".*torch.distributed.nn.functional.all_gather is deprecated",
)
CHATTER = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.distributed")


@contextmanager
def only_our_lines() -> Iterator[None]:
    """Hide Lightning's messages and expected warnings; print other warnings on one line each."""
    loggers = [logging.getLogger(name) for name in CHATTER]
    form = warnings.formatwarning
    with warnings.catch_warnings():
        for message in NO_NEWS:
            warnings.filterwarnings("ignore", message)
        levels = [log.level for log in loggers]
        for log in loggers:
            log.setLevel(logging.WARNING)
        warnings.formatwarning = lambda message, *_, **__: f"train.py: warning: {message}\n"
        try:
            yield
        finally:
            warnings.formatwarning = form
            for log, level in zip(loggers, levels, strict=True):
                log.setLevel(level)


class StepProgressBar(ProgressBar):
    """One progress bar over the steps of the whole run, which disappears at the end.

    Lightning's bars cover one epoch each, which here is often a single step.

    Args:
        console: where to draw; None: the terminal.
    """

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self._looked = 0.0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("train", total=None, visible=False, numbers="")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._progress.start()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        steps = trainer.estimated_stepping_batches
        total = steps if isfinite(steps) else None
        self._progress.update(self._task, total=total, completed=trainer.global_step, visible=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        if self._turn():
            row = cast(Training, pl_module).row
            numbers = ", ".join(f"{name} {value:.3g}" for name, value in row.items())
            self._progress.update(self._task, completed=trainer.global_step, numbers=numbers)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._progress.stop()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._progress.stop()

    @contextmanager
    def inner(self, description: str) -> Iterator[Callable[[SolverStep], None]]:
        """Show a second bar under the training bar during the block.

        Yields a function that shows one row of a solver's curve.
        """
        task = self._progress.add_task(description, total=None, numbers="")

        def show(row: SolverStep) -> None:
            if self._turn():
                numbers = f"{row.phase}, loss {row.loss:.1e}"
                self._progress.update(task, completed=row.step, numbers=numbers, refresh=True)

        try:
            yield show
        finally:
            self._progress.remove_task(task)

    def _turn(self) -> bool:
        """Whether SECONDS have passed since the last update of a bar."""
        now = time.monotonic()
        if now - self._looked < SECONDS:
            return False
        self._looked = now
        return True
