"""Steps per second of training: the trainer of train.py against a bare loop of PyTorch.

The model has two linear layers without biases, both trained, by SGD on all samples in one batch.
What train.py does goes through its own functions, with all loggers and callbacks; the attacks at
the start and at the end are outside the clock. Other rows tell what it is made of: Lightning's loop
with nothing of ours around it, and train.py with one habit of many Lightning programs put back.

A row is logged every 50 steps, and a figure is the median over stretches of 50 steps. Beside the
steps in a second of the clock stand those in a second of the processor, which other programs on a
machine change less.
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

LR = 1e-6  # of no interest here, and small enough for any size
STRETCH = 50
SEED = 0
Now = tuple[float, float]


@dataclass(frozen=True)
class Size:
    """n samples of d dimensions, hidden units, k outputs, and steps to take."""

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
    """Seconds on the clock, and of the processor for this process."""
    return time.perf_counter(), time.process_time()


class Clock(Callback):
    """The time at the start of every step."""

    def __init__(self) -> None:
        self.times: list[Now] = []

    def on_train_batch_start(self, *args: Any) -> None:
        self.times.append(now())


def bare(module: Training, data: ReconDataModule, steps: int) -> list[Now]:
    """The times of a loop as one writes it by hand."""
    model, times = module.model, []
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for _ in range(steps):
        times.append(now())
        optimizer.zero_grad()
        F.mse_loss(model(data.x), data.y).backward()
        optimizer.step()
    return times


class Plain(LightningModule):
    """The least that Lightning trains."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, _ = batch
        return F.mse_loss(self.model(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=LR)


def lightning(module: Training, data: ReconDataModule, steps: int) -> list[Now]:
    """The times of Lightning's loop with nothing around it."""
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
    """Looks in every step whether the weights are numbers."""

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        assert all(bool(torch.isfinite(p).all()) for p in self.model.parameters())


class LogsSteps(Training):
    """Gives loss and accuracy of every step to Lightning."""

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
    """Let torch's loader serve the batches, and Lightning move them."""
    dataset = TensorDataset(data.x, data.y, torch.arange(data.n))
    data.train_dataloader = lambda: DataLoader(dataset, data.n)  # type: ignore
    move = LightningDataModule.transfer_batch_to_device
    data.transfer_batch_to_device = MethodType(move, data)  # type: ignore


def nothing(data: ReconDataModule) -> None:
    """As it is."""


@dataclass(frozen=True)
class Ours:
    """train.py, or what it would be with another habit.

    Attributes:
        module: what is trained.
        change: of the data module.
        flags: more of them for train.py.
    """

    module: type[Training] = Training
    change: Callable[[ReconDataModule], None] = nothing
    flags: Sequence[str] = ()

    def __call__(self, argv: Sequence[str]) -> tuple[list[Now], Training, ReconDataModule]:
        """The times of one run, its module and its data."""
        command, clock = train.command_line(), Clock()
        with tempfile.TemporaryDirectory() as runs:
            flags = [*argv, "--run.dir", runs, *self.flags]
            sources, _ = read_sources(command, flags)
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
    """Pictures of noise, FOLDER/CLASS/NUMBER.png, as many as are trained on and held out."""
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
    """What every stretch took, but for the first, in which a machine warms up."""
    ends = times[STRETCH::STRETCH]
    return [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(ends)]


def speeds(taken: list[Now]) -> tuple[float, float]:
    """Steps per second of both kinds, in the median of all stretches."""
    wall, processor = zip(*taken, strict=True)
    return STRETCH / median(wall), STRETCH / median(processor)


def measure(name: str, size: Size, repeats: int) -> list[dict[str, Any]]:
    """All rows of one size; they take turns, so that a busy minute is nobody's alone."""
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
    """Print the table."""
    header = ["what", "size", "n", "d", "width", "k", "steps/s", "over bare"]
    header += ["steps/CPU s", "over bare"]
    names = ["what", "size", "n", "d", "width", "k", "steps_per_second", "over_bare"]
    names += ["steps_per_processor_second", "over_bare_processor"]
    print(table(header, [[row[name] for name in names] for row in rows]))


@one_line_errors("training_speed")
def main(argv: list[str] | None = None) -> int:
    quick: dict[str, Any] = {"sizes": ["quick"], "repeats": 1}
    flags = Flags("training_speed", "Steps per second, through the trainer and without.", quick)
    add = flags.add_argument
    add("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="which")
    add("--repeats", type=count, default=2, help="runs of everything")
    args = flags.read(argv)
    record = Record(flags, argv, args, seeds=[SEED])
    sizes = {"quick": QUICK, **SIZES}
    rows = [row for name in args.sizes for row in measure(name, sizes[name], args.repeats)]
    show(rows)
    record.write(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
