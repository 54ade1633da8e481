"""Measures training steps per second of train.py, compared with a bare PyTorch loop.

The model has two linear layers without biases, both trained by SGD on all samples in one batch. The
row train.py uses the functions of train.py, with all loggers and callbacks; the attacks at the
start and at the end are not timed. Other rows explain the difference: Lightning's loop alone, and
train.py with one habit of many Lightning programs added.

A row is logged every 50 steps, and a speed is the median over stretches of 50 steps. Speeds are
given per second of wall time and per second of processor time, which depends less on other programs
of the machine.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from itertools import pairwise
from os import devnull
from pathlib import Path
from statistics import median
from types import MethodType
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.functional import accuracy

import train
from benchmarks.records import Flags, Record, count, one_line_errors, table
from callbacks import ReconstructionCallback, only_our_lines
from datamodules import ReconDataModule
from lit_recon.audit.choice import chosen
from lit_recon.audit.loggers import wandb_run
from lit_recon.fit.run import open_directory
from lit_recon.fit.settings import read_sources, record_of, settle
from lit_recon.models import Model
from lit_recon.modules import Training

LR = 1e-6  # has no effect on speed; small enough for every size
STRETCH = 50
SEED = 0
Now = tuple[float, float]


@dataclass(frozen=True)
class Size:
    """n samples of dimension d, hidden units, k outputs, and training steps."""

    n: int
    d: int
    width: int
    k: int
    steps: int


SIZES = {
    "small": Size(10, 192, 500, 1, 10_000),
    "medium": Size(20, 192, 5000, 10, 2000),
    "large": Size(20, 3072, 4000, 10, 400),
}
QUICK = Size(4, 192, 50, 1, 200)


# --- what is measured


def now() -> Now:
    """Seconds of wall time, and of processor time of this process."""
    return time.perf_counter(), time.process_time()


class Clock(Callback):
    """Records the time at the start of every step."""

    def __init__(self) -> None:
        self.times: list[Now] = []

    def on_train_batch_start(self, *args: Any) -> None:
        self.times.append(now())


def bare(module: Training, data: ReconDataModule, steps: int) -> list[Now]:
    """The times of a hand-written training loop."""
    model, times = module.model, []
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for _ in range(steps):
        times.append(now())
        optimizer.zero_grad()
        F.mse_loss(model(data.x), data.y).backward()
        optimizer.step()
    return times


class Plain(LightningModule):
    """A minimal LightningModule."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, _ = batch
        return F.mse_loss(self.model(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=LR)


def lightning(module: Training, data: ReconDataModule, steps: int) -> list[Now]:
    """The times of Lightning's loop without loggers and checkpoints."""
    clock = Clock()
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Plain(module.model), datamodule=data)
    return clock.times


class ChecksWeights(Training):
    """Checks in every step that the weights are finite."""

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        assert all(bool(torch.isfinite(p).all()) for p in self.model.parameters())


class LogsSteps(Training):
    """Logs loss and accuracy of every step through Lightning."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, _ = batch
        output = self.model(x)
        loss = F.mse_loss(output, y)
        if y.shape[1] == 1:
            share = accuracy(output[:, 0] > 0, y[:, 0] > 0, task="binary")
        else:
            classes = output.argmax(1), y.argmax(1)
            share = accuracy(*classes, task="multiclass", num_classes=y.shape[1])
        self.log("train/loss", loss.detach(), prog_bar=True, logger=False)
        self.log("train/acc", share, prog_bar=True, logger=False)
        return loss


def with_loader(data: ReconDataModule) -> None:
    """Use torch's DataLoader for the batches, and let Lightning move them to the device."""
    dataset = TensorDataset(data.x, data.y, torch.arange(data.n))
    data.train_dataloader = lambda: DataLoader(dataset, data.n)  # type: ignore
    move = LightningDataModule.transfer_batch_to_device
    data.transfer_batch_to_device = MethodType(move, data)  # type: ignore


def nothing(data: ReconDataModule) -> None:
    """No change."""


@dataclass(frozen=True)
class Ours:
    """train.py, or train.py with one change.

    Attributes:
        module: the LightningModule.
        change: changes the data module in place.
        flags: additional flags of train.py.
    """

    module: type[Training] = Training
    change: Callable[[ReconDataModule], None] = nothing
    flags: Sequence[str] = ()

    def __call__(self, argv: Sequence[str]) -> tuple[list[Now], Training, ReconDataModule]:
        """The times of one run, its module and its data."""
        command, clock = train.command_line(), Clock()
        with tempfile.TemporaryDirectory() as runs:
            flags = [*argv, "--run.dir", runs, *self.flags]
            sources, _ = read_sources(command, flags, train.DEMO)
            config, data = settle(command, sources)
            checkpoint = train.make_checkpoint(config)
            loaded, choice = train.load(config, data, chosen(command, config))
            self.change(data)
            module = self.module(loaded.model, loaded.optim)
            directory = open_directory(config, leader=True)
            record = record_of(command, config)
            with wandb_run(config.wandb, record, directory, "offline", []) as logger:
                callbacks: list[Any] = [checkpoint, clock]
                if choice.methods:
                    attacks = ReconstructionCallback(choice.methods, checkpoint, directory)
                    callbacks.insert(1, attacks)
                trainer = train.build_trainer(config, directory, callbacks, logger)
                trainer.fit(module, datamodule=data)
        return clock.times, module, data


OURS = {
    "train.py": Ours(),
    "weights checked in every step": Ours(module=ChecksWeights),
    "numbers of every step to Lightning": Ours(module=LogsSteps),
    "DataLoader and transfer": Ours(change=with_loader),
    "a row for every step": Ours(flags=("--trainer.log_every_n_steps", "1")),
}


# --- the script


def noise(folder: Path, size: Size) -> Path:
    """Write noise images FOLDER/CLASS/NUMBER.png, enough for training and held-out samples."""
    random = np.random.default_rng(SEED)
    classes = max(2, size.k)
    side = round((size.d // 3) ** 0.5)
    for name in range(classes):
        (folder / str(name)).mkdir(parents=True)
        for number in range(2 * size.n // classes):
            pixels = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / str(name) / f"{number}.png")
    return folder


def command_line(folder: Path, size: Size) -> list[str]:
    """The flags of train.py for one size."""
    flags = {
        "data": "ImageFolderSubset",
        "data.root": folder,
        "data.n": size.n,
        "model": "MLP",
        "model.width": size.width,
        "optim": "SGD",
        "optim.lr": LR,
        "trainer.max_steps": size.steps,
        "trainer.accelerator": "cpu",
        "trainer.log_every_n_steps": STRETCH,
        "recon.max_seconds": 0.01,
        "run.seed": SEED,
    }
    return [f"--{flag}={value}" for flag, value in flags.items()]


def stretches(times: list[Now]) -> list[Now]:
    """Seconds of every stretch, without the first one, which warms up the machine."""
    ends = times[STRETCH::STRETCH]
    return [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(ends)]


def speeds(taken: list[Now]) -> tuple[float, float]:
    """Median steps per second over all stretches, by wall time and by processor time."""
    wall, processor = zip(*taken, strict=True)
    return STRETCH / median(wall), STRETCH / median(processor)


def measure(name: str, size: Size, repeats: int) -> list[dict[str, Any]]:
    """All rows of one size; they are measured in turn, so that a busy machine slows all of them."""
    taken: dict[str, list[Now]] = {}
    with tempfile.TemporaryDirectory() as folder, open(devnull, "w") as nowhere:
        argv = command_line(noise(Path(folder, "images"), size), size)
        for _ in range(repeats):
            for row, ours in OURS.items():
                with redirect_stdout(nowhere), only_our_lines():
                    times, module, data = ours(argv)
                    runs = {row: times, "bare loop": bare(module, data, size.steps)}
                    if row == "train.py":
                        runs["Lightning alone"] = lightning(module, data, size.steps)
                for key, value in runs.items():
                    taken.setdefault(key, []).extend(stretches(value))
                print(f"{name}: {row}", file=sys.stderr, flush=True)
    speed = {row: speeds(each) for row, each in taken.items()}
    return [
        {
            "size": name,
            **asdict(size),
            "what": row,
            "steps_per_second": speed[row][0],
            "over_bare": speed[row][0] / speed["bare loop"][0],
            "steps_per_processor_second": speed[row][1],
            "over_bare_processor": speed[row][1] / speed["bare loop"][1],
        }
        for row in ("bare loop", "Lightning alone", *OURS)
    ]


def show(rows: list[dict[str, Any]]) -> None:
    """Print one line for every row."""
    header = ["what", "size", "n", "d", "width", "k", "steps/s", "over bare"]
    header += ["steps/CPU s", "over bare"]
    names = ["what", "size", "n", "d", "width", "k", "steps_per_second", "over_bare"]
    names += ["steps_per_processor_second", "over_bare_processor"]
    print(table(header, [[row[name] for name in names] for row in rows]))


@one_line_errors("training_speed")
def main(argv: list[str] | None = None) -> int:
    quick: dict[str, Any] = {"sizes": ["quick"], "repeats": 1}
    flags = Flags("training_speed", "Training steps per second, with and without Lightning.", quick)
    add = flags.add_argument
    add("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="sizes")
    add("--repeats", type=count, default=2, help="repetitions of all runs")
    args = flags.read(argv)
    record = Record(flags, argv, args, seeds=[SEED])
    sizes = {"quick": QUICK, **SIZES}
    rows = [row for name in args.sizes for row in measure(name, sizes[name], args.repeats)]
    show(rows)
    record.write(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
