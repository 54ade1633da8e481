"""Runs of train.py that die by SIGKILL, at chosen points."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import train
from callbacks import StepCheckpoint, checkpoints
from lit_recon.methods import ProjectionReconstructor
from lit_recon.modules import Training
from lit_recon.records import directory

Point = Callable[[int], None]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_training(step: int) -> None:
    """Die in the forward pass of a step."""
    take = Training.training_step

    def training_step(self: Training, *args: Any) -> torch.Tensor:
        loss = take(self, *args)
        if self.global_step == step:
            die()
        return loss

    Training.training_step = training_step  # type: ignore


def in_a_checkpoint(step: int) -> None:
    """Die when half of a checkpoint is written."""
    save = torch.save

    def half(checkpoint: dict[str, Any], file: Any) -> None:
        save(checkpoint, file)
        if checkpoint["global_step"] == step:
            file.truncate(file.tell() // 2)
            die()

    checkpoints.torch.save = half  # type: ignore


def after_a_checkpoint(step: int) -> None:
    """Die when a checkpoint has its name, before its attack."""
    save = StepCheckpoint._save

    def saved(self: StepCheckpoint, trainer: Any) -> None:
        save(self, trainer)
        if trainer.global_step == step:
            die()

    StepCheckpoint._save = saved  # type: ignore


def in_an_attack(step: int) -> None:
    """Die in the middle of the attack on a checkpoint."""
    attacks = iter(range(100))
    attack = ProjectionReconstructor.attack

    def cut(self: Any, knowledge: Any, random: Any, on_step: Any, earlier: Any) -> Any:
        last = next(attacks) == step
        return attack(self, knowledge, random, (lambda *_: die()) if last else on_step, earlier)

    ProjectionReconstructor.attack = cut  # type: ignore


def in_the_results(step: int) -> None:
    """Die when the results of an attack are all written, but have no place yet."""
    steps = iter(range(100))
    sync = directory._sync_tree

    def synced(path: Path) -> None:
        sync(path)
        if next(steps) == step:
            die()

    directory._sync_tree = synced  # type: ignore


def killed(point: Point, step: int, argv: list[str], home: Path) -> None:
    """Run a command in a process of its own until it dies at a point."""
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_run, args=(point, step, argv, home))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL, process.exitcode


def _run(point: Point, step: int, argv: list[str], home: Path) -> None:
    os.chdir(home)
    torch.set_num_threads(1)
    point(step)
    train.main(argv)
