"""Measures what `ReconstructionCallback` costs at a checkpoint.

The same training runs twice in one process, without the callback and with it, and must end with
the same weights to the bit. Each pair gives the seconds of the callback at a checkpoint: to copy
the module, to attack, and in all, with scores, pictures and files. All are of wall time. An
unmeasured pair runs first, because the first picture of a process loads fonts and libraries.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from copy import deepcopy
from dataclasses import asdict, dataclass
from io import StringIO
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.records import Flags, Record, count, one_line_errors, positive, seed, table
from datamodules import Photos
from lit_recon.audit.callback import ReconstructionCallback

EPOCHS_EACH = 25  # between two checkpoints


@dataclass(frozen=True)
class Size:
    """A network with two hidden layers, and n images of a side in pixels."""

    n: int
    side: int
    widths: tuple[int, int]
    adam: bool = False


SIZES = {
    "small": Size(12, 32, (256, 64)),
    "large": Size(20, 32, (2048, 512)),
    "adam": Size(20, 32, (2048, 512), adam=True),  # nothing comes back, and no attack is sure
}
QUICK = {"small": Size(4, 8, (32, 16))}


class Classifier(LightningModule):
    """A dense network of two classes."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.adam = size.adam
        layers: list[nn.Module] = [nn.Flatten()]
        widths = (3 * size.side**2, *size.widths)
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.network = nn.Sequential(*layers, nn.Linear(widths[-1], 2))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.network(x)
        return y

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.adam:
            return torch.optim.Adam(self.parameters(), lr=1e-3)
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


class Timed(ReconstructionCallback):
    """Records the seconds of the attacks at every checkpoint."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seconds: list[float] = []

    def _attack(self, *args: Any) -> None:
        start = perf_counter()
        super()._attack(*args)
        self.seconds.append(perf_counter() - start)


@dataclass(frozen=True)
class Pair:
    """One training without the callback and one with it; seconds at a checkpoint are medians.

    Attributes:
        parameters: of the network.
        same_weights: whether both ended with the same bits.
        without, with_it: seconds of the whole training.
        checkpoints: how many were attacked.
        copy: seconds to copy the module.
        attack: seconds of all methods.
        whole: seconds of the callback.
        exact: share of the images that came back at the last checkpoint.
    """

    size: str
    seed: int
    parameters: int
    same_weights: bool
    without: float
    with_it: float
    checkpoints: int
    copy: float
    attack: float
    whole: float
    exact: float


def train(
    size: Size, data: Photos, number: int, root: Path, checkpoints: int, audit: Timed | None
) -> tuple[Classifier, float]:
    """Train a network with some checkpoints, and return it with the seconds of the training."""
    seed_everything(number, verbose=False)
    module = Classifier(size)
    saving = ModelCheckpoint(root, every_n_epochs=EPOCHS_EACH, save_top_k=-1)
    trainer = Trainer(
        max_epochs=EPOCHS_EACH * checkpoints,
        accelerator="cpu",
        default_root_dir=root,
        callbacks=[saving, *([] if audit is None else [audit])],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(TensorDataset(data.x, data.y.long().flatten()), batch_size=4, shuffle=True)
    start = perf_counter()
    with redirect_stdout(StringIO()):
        trainer.fit(module, loader)
    return module, perf_counter() - start


def measure(name: str, size: Size, number: int, checkpoints: int, seconds: float) -> Pair:
    """One pair."""
    data = Photos(size.n, image_size=size.side)
    data.setup()
    data.y = (data.y > 0).long()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        plain, without = train(size, data, number, root / "a", checkpoints, None)
        audit = Timed(pixels=data.pixels, max_seconds=seconds, folder=root / "found")
        module, with_it = train(size, data, number, root / "b", checkpoints, audit)
        rows = results(root / "found")
    pairs = zip(plain.state_dict().values(), module.state_dict().values(), strict=True)
    steps = sorted({row["step"] for row in rows})
    of_step = [[row for row in rows if row["step"] == step] for step in steps]
    return Pair(
        name,
        number,
        sum(p.numel() for p in module.parameters()),
        all(torch.equal(*two) for two in pairs),
        without,
        with_it,
        len(steps),
        median(timed(lambda: deepcopy(module)) for _ in range(5)),
        median(sum(row["seconds"] for row in group) for group in of_step),
        median(audit.seconds),
        max(row["exact_fraction"] for row in of_step[-1]),
    )


def results(folder: Path) -> list[dict[str, Any]]:
    """What every attack gave, with its step."""
    return [
        {**json.loads(file.read_text()), "step": int(file.parent.name[5:])}
        for file in folder.glob("recon/*/step=*/metrics.json")
    ]


def timed(act: Callable[[], object]) -> float:
    """Seconds of a call."""
    start = perf_counter()
    act()
    return perf_counter() - start


def show(pairs: Sequence[Pair]) -> None:
    """Print one line for each pair."""
    header = ["training", "parameters", "same weights", "without", "with", "checkpoints"]
    header += ["copy", "attack", "whole", "exact"]
    lines = [
        [
            f"{pair.size}, seed {pair.seed}",
            pair.parameters,
            pair.same_weights,
            *(pair.without, pair.with_it, pair.checkpoints),
            *(pair.copy, pair.attack, pair.whole, pair.exact),
        ]
        for pair in pairs
    ]
    print(table(header, lines))


@one_line_errors("callback")
def main(argv: list[str] | None = None) -> int:
    quick = {"seeds": [0], "checkpoints": 2, "max_seconds": 5.0}
    flags = Flags("callback", "What the callback costs at a checkpoint.", quick)
    add = flags.add_argument
    add("--seeds", nargs="+", type=seed, default=[0, 1, 2], help="of weights and batches")
    add("--checkpoints", type=count, default=4, help="checkpoints of each training")
    add("--max-seconds", type=positive, default=60.0, help="time budget at a checkpoint")
    args = flags.read(argv)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    record = Record(flags, argv, args, seeds=args.seeds)
    pairs: list[Pair] = []
    measure("unmeasured", QUICK["small"], 0, 1, args.max_seconds)
    for number in args.seeds:
        for name, size in (QUICK if args.quick else SIZES).items():
            pairs.append(measure(name, size, number, args.checkpoints, args.max_seconds))
            record.write([asdict(pair) for pair in pairs])  # an interrupted run leaves results
    show(pairs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
