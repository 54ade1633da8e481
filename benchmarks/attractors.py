"""What autoencoders give back of their training images, over recipes of training, sets and seeds.

Every run is ``python train.py`` in a process of its own: it trains, saves the last checkpoint, and
attacks it with the weights alone. The recipes are this project's (TensorAdam, noisy copies, the
readout in closed form), the same without noise, ordinary Adam from PyTorch's start, that of Rao et
al. 2025, whose 200,000 steps are cut, and sequences. A seed chooses the images too.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.problems import ROOT
from benchmarks.records import Flags, Record, count, one_line_errors, table
from benchmarks.resume import finished, started

CONFIG = ROOT / "configs" / "autoencoder_photos.yaml"
RAO = ROOT / "configs" / "presets" / "rao2025.yaml"
Settings = Mapping[str, Any]
CLEAN: Settings = {"task.noise": 0.0}
ADAM: Settings = {
    **CLEAN,
    "model.init": "pytorch",
    "optim": "Adam",
    "optim.lr": 1e-3,
    "optim.schedule": "cosine",
    "optim.polish": False,
}
# From 50 images on, isotropic noise leaves some of them repelling; noise in their span does not.
SPAN: Settings = {
    "task.noise_geometry": "span",
    "data.norm": 64.0,
    "model.widths": [512] * 7,
}
# Five layers keep a sequence of 200 too, but lead only four of ten starts into it; eight lead all.
SEQUENCE: Settings = {
    **CLEAN,
    "task": "Next",
    "data.norm": 64.0,
    "model.widths": [512] * 8,
}
NUMBERS = (
    *("exact_fraction", "certified_fraction", "recall", "precision"),
    *("fixed_fraction", "attractor_fraction", "spectral_radius_max", "status", "seconds"),
)


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        n: training images.
        steps: training steps.
        settings: flags that differ from the configuration CONFIG.
        preset: whether RAO is read after it.
    """

    n: int
    steps: int
    settings: Settings
    preset: bool = False


RECIPES = {
    "noise 20": Recipe(20, 300, {}),
    "noise 50": Recipe(50, 400, SPAN),
    "noise 100": Recipe(100, 600, SPAN),
    "noise 200": Recipe(200, 800, SPAN),
    "clean 20": Recipe(20, 300, CLEAN),
    "clean 50": Recipe(50, 400, CLEAN),
    "adam 20": Recipe(20, 3000, ADAM),
    "rao 20": Recipe(20, 3000, {}, preset=True),
    "sequence 100": Recipe(100, 400, SEQUENCE),
    "sequence 200": Recipe(200, 400, SEQUENCE),
}


def command_line(recipe: Recipe, seed: int, args: argparse.Namespace) -> list[str]:
    """The flags of train.py."""
    flags: dict[str, Any] = {"data.selection": "random", "data.n": recipe.n}
    if args.root is not None:
        flags = {"data": "ImageFolderSubset", "data.root": args.root, **flags}
    flags |= {"checkpoint.at_steps": [], "wandb.mode": "disabled", "run.seed": seed}
    flags |= {"trainer.max_steps": args.steps or recipe.steps, "trainer.accelerator": "cpu"}
    flags |= {"recon": args.method, "recon.max_seconds": args.seconds, **recipe.settings}
    if args.size is not None:
        flags["data.image_size"] = args.size
    files = [CONFIG, RAO] if recipe.preset else [CONFIG]
    configs = [f"--config={file}" for file in files]
    return [*configs, *(f"--{flag}={value}" for flag, value in flags.items())]


def trial(name: str, seed: int, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train and attack once."""
    directory = folder / f"{name.replace(' ', '-')}-{seed}"
    recipe, begin = RECIPES[name], time.perf_counter()
    with started(command_line(recipe, seed, args), directory, args.threads) as process:
        finished(process, limit=args.limit)
    seconds = time.perf_counter() - begin
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    (file,) = directory.glob(f"recon/*/step={args.steps or recipe.steps:08d}/metrics.json")
    found = json.loads(file.read_text())
    return {
        "recipe": name,
        **asdict(recipe),
        "seed": seed,
        "train_mse": [row["train/mse"] for row in rows if "train/mse" in row][-1],
        "command_seconds": seconds,
        **{number: found.get(number) for number in NUMBERS},
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Print one line for every run."""
    columns = ["recipe", "seed", "train_mse", "command_seconds", *NUMBERS]
    print(table(columns, [[row[column] for column in columns] for row in rows]))


@one_line_errors("attractors")
def main(argv: list[str] | None = None) -> int:
    quick: dict[str, Any] = {
        "recipes": ["noise 20"],
        "steps": 20,
        "size": 8,
        "seeds": 1,
    }
    flags = Flags("attractors", "Trains autoencoders and attacks their weights.", quick)
    add = flags.add_argument
    names = list(RECIPES)
    add("--recipes", nargs="+", choices=names, default=names, help="recipes of training")
    add("--seeds", type=count, default=5, help="number of seeds, from 100 on")
    add("--steps", type=count, default=None, help="training steps; left out: the recipe's")
    add("--size", type=count, default=None, help="side of the images; left out: the source's")
    add("--seconds", type=count, default=300, help="time budget of an attack")
    add("--limit", type=count, default=3600, help="seconds after which a command is ended")
    add("--method", default="AttractorReconstructor", help="the attack, as after --recon")
    add("--root", type=Path, default=None, help="folder of class folders; left out: photographs")
    args = flags.read(argv)
    seeds = list(range(100, 100 + args.seeds))
    record = Record(flags, argv, args, seeds=seeds)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.recipes:
            for seed in seeds:
                rows.append(trial(name, seed, args, Path(folder)))
                print(f"{name}, seed {seed}: {rows[-1]['status']}", file=sys.stderr, flush=True)
                record.write(rows)  # after each, so that an interrupted run leaves results
    show(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
