"""Measures how many training images are exact in the row space of a first layer's change.

Every row is one training in a plain loop and one attack on its first and last checkpoint. The
images are random ones of a folder such as CIFAR-10, or patches of two photographs without it. The
parts of the results: numbers of images, image sizes, precision of the weights, training steps,
widths of the first layer, ways of training, and the projection attack on the same checkpoints.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import chain, islice, repeat
from math import log2
from statistics import fmean
from time import perf_counter
from typing import Any, Literal

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from benchmarks.problems import check_root
from benchmarks.records import Flags, Record, count, one_line_errors, positive, seed, table
from datamodules import ImageFolderSubset, Photos
from datamodules.batches import Batches
from datamodules.images import ImageDataModule
from lit_recon.activations import Name
from lit_recon.audit.scoring import score_reconstruction
from lit_recon.distributed import ranks
from lit_recon.knowledge import DenseLayer, Knowledge, PixelScale
from lit_recon.methods import (
    ProjectionReconstructor,
    Reconstruction,
    Reconstructor,
    RowSpaceReconstructor,
)
from lit_recon.models import MLP, DeepMLP, ReadoutModel
from lit_recon.randomness import generator
from lit_recon.records.truth import Truth
from lit_recon.report.grid import DPI, EXACT, FAINT, RECOVERED

TYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16}
SIGMAS = [1e-8, 1e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2]
WIDTHS = [10, 15, 19, 20, 21, 22, 25, 40, 100, 512]
ALIKE = 0.4  # SSIM above which an image counts as recovered, as in Haim et al. (2022)
MANY = 40  # images from which training has larger batches and more steps
LARGE = 60  # images above which the network is wider
MLP_WIDTH = 5000
LR = 0.002  # with 0.02, all units of the networks at 32x32 die in the first steps
EVIDENCE: dict[str, Literal["readout", "first_layer"]] = {
    "projection": "readout",
    "projection_first_layer": "first_layer",
}
COLOURS = {"recovered": RECOVERED, "exact": EXACT}
COPIED = ("precision_bits", "rank", "lattice_rank", "lattice_dimension", "exact_differences")

Point = tuple[float, ...]  # a number of the row, then the shares of COLOURS
Method = Literal["rowspace", "projection", "projection_first_layer"]


@dataclass(frozen=True)
class Training:
    """One training; cross-entropy, and SGD with momentum 0.9 or Adam.

    Attributes:
        n: training images.
        size: side of an image in pixels.
        seed: of the choice of images, the initial weights and the order of the batches.
        widths: units of each hidden layer of a DeepMLP; None: an MLP of MLP_WIDTH units.
        batch: images in a batch.
        steps: optimiser steps.
        lr: learning rate.
        precision: a key of TYPES; bf16 weights are rounded after every step of float32 arithmetic.
        bias, activation, batch_norm: of the DeepMLP.
        weight_decay: of the optimiser.
        adam: Adam instead of SGD.
    """

    n: int
    size: int
    seed: int
    widths: tuple[int, ...] | None = (512, 256)
    batch: int = 4
    steps: int = 500
    lr: float = LR
    precision: str = "fp32"
    bias: Literal["none", "all"] = "none"
    activation: Name = "relu"
    batch_norm: bool = False
    weight_decay: float = 0.0
    adam: bool = False

    @classmethod
    def of(cls, n: int, size: int, seed: int) -> Training:
        """The training that the parts vary, by the number of images."""
        usual = cls(n, size, seed)
        if n >= MANY:
            usual = replace(usual, batch=8, steps=2000)
        return replace(usual, widths=(1024, 256)) if n > LARGE else usual


@dataclass(frozen=True)
class Row:
    """One attack on one training.

    Attributes:
        part: the table that it is in.
        name: what is special about it.
        training: the training.
        sigma: standard deviation of noise added to the last first layer, over the rms weight.
        method: the attack.
    """

    part: str
    name: str
    training: Training
    sigma: float = 0.0
    method: Method = "rowspace"


@dataclass(frozen=True)
class Trained:
    """A trained network, its weights at the start, and the data for scoring.

    Attributes:
        seen: the number of training images in at least one batch.
        loss: of the training images at the end; ln 10 is that of guesses between ten classes.
    """

    model: ReadoutModel
    before: dict[str, Tensor]
    truth: Truth
    seen: int
    loss: float
    seconds: float


# --- the rows of each part


def samples(args: argparse.Namespace) -> list[Row]:
    """Numbers of images, in float32 and float64."""
    return [
        Row("samples", f"n = {n}, {precision}", replace(usual, precision=precision))
        for n in args.samples
        for usual in [Training.of(n, args.size, args.seeds[0])]
        for precision in ("fp32", "fp64")
    ]


def sizes(args: argparse.Namespace) -> list[Row]:
    """Image sizes."""
    return [
        Row("sizes", f"{size}x{size}, seed {s}", Training.of(args.n, size, s))
        for size in args.sizes
        for s in args.seeds
    ]


def precision(args: argparse.Namespace) -> list[Row]:
    """Types of the weights, and noise on the last first layer."""
    usual = [Training.of(args.n, args.size, s) for s in args.seeds]
    typed = [
        Row("precision", name, replace(training, precision=name))
        for name in TYPES
        for training in usual
    ]
    noisy = [
        Row("precision", f"noise {sigma:g}", training, sigma)
        for training in usual
        for sigma in sorted(args.sigmas)
    ]
    return typed + noisy


def steps(args: argparse.Namespace) -> list[Row]:
    """Training steps."""
    return [
        Row("steps", f"{number} steps", replace(Training.of(args.n, args.size, s), steps=number))
        for number in args.steps
        for s in args.seeds
    ]


def widths(args: argparse.Namespace) -> list[Row]:
    """Units of the first layer: h / n is p / (d n) with p the weights of the first layer."""
    return [
        Row("widths", f"h = {h}", replace(Training.of(args.n, args.size, s), widths=(h, 256)))
        for h in sorted(args.widths)
        for s in args.seeds
    ]


def variants(args: argparse.Namespace) -> list[Row]:
    """Ways of training."""
    usual = Training.of(args.n, args.size, args.seeds[0])
    changed = {
        "bias in all layers": replace(usual, bias="all"),
        "gelu": replace(usual, activation="gelu"),
        "weight decay 5e-4": replace(usual, weight_decay=5e-4),
        "full batch": replace(usual, batch=args.n),
        "full batch, 1 step": replace(usual, batch=args.n, steps=1),
        "batch norm": replace(usual, batch_norm=True),
        "Adam": replace(usual, adam=True),
    }
    return [Row("variants", name, training) for name, training in changed.items()]


def projection(args: argparse.Namespace) -> list[Row]:
    """The projection attack on the same checkpoints, on small images."""
    rows = []
    for n in args.projected:
        deep = Training.of(n, 8, args.seeds[0])
        wide = replace(deep, widths=None)
        networks: list[tuple[str, Training, Sequence[Method]]] = [
            ("DeepMLP", deep, ("rowspace", "projection")),
            ("MLP", wide, ("rowspace", "projection", "projection_first_layer")),
        ]
        rows += [
            Row("projection", f"{network}, n = {n}, {method}", training, method=method)
            for network, training, methods in networks
            for method in methods
        ]
    return rows


PARTS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "samples": samples,
    "sizes": sizes,
    "precision": precision,
    "steps": steps,
    "widths": widths,
    "variants": variants,
    "projection": projection,
}


# --- one row


@lru_cache(maxsize=1)  # rows of one training follow each other
def train(training: Training, root: str | None) -> Trained:
    """Train a network on random images."""
    start = perf_counter()
    n, size = training.n, training.size
    data: ImageDataModule = Photos(n, image_size=size)  # random patches are too much alike
    if root is not None:
        data = ImageFolderSubset(
            n, image_size=size, root=root, selection="random", seed=training.seed
        )
    data.setup()
    truth, dtype = Truth.of(data), TYPES[training.precision]
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    model = network(training, data.d, len(data.class_names)).to(dtype).to(arithmetic)
    before = {name: value.to(dtype, copy=True) for name, value in model.state_dict().items()}
    assert data.images is not None and data.pixels is not None
    x = inputs(data.images, data.pixels).to(arithmetic)
    seen = learn(model, x, data.labels, training, dtype)
    model.eval()
    with torch.no_grad():
        loss = float(F.cross_entropy(model(x), data.labels))
    return Trained(model.to(dtype), before, truth, seen, loss, perf_counter() - start)


def inputs(images: Tensor, pixels: PixelScale) -> Tensor:
    """(n, c, h, w) float64; those of a data module are rounded to float32."""
    return (images.double() / 255 - pixels.mean) / pixels.std


def network(training: Training, d: int, k: int) -> ReadoutModel:
    """The untrained network, in float32."""
    t = training
    if t.widths is None:
        return MLP(d, k, t.n, width=MLP_WIDTH, seed=t.seed)
    return DeepMLP(d, k, t.widths, t.bias, t.activation, t.batch_norm, seed=t.seed)


def learn(
    model: ReadoutModel, x: Tensor, labels: Tensor, training: Training, dtype: torch.dtype
) -> int:
    """Train in place, with weights kept in `dtype`; returns the number of images seen."""
    t, parameters = training, list(model.parameters())
    common: dict[str, Any] = {"lr": t.lr, "weight_decay": t.weight_decay, "fused": True}
    optimizer: torch.optim.Optimizer = torch.optim.SGD(parameters, momentum=0.9, **common)
    if t.adam:
        optimizer = torch.optim.Adam(parameters, **common)
    batches = Batches(x, labels, t.batch, t.seed, ranks())
    epochs = chain.from_iterable(repeat(batches))
    seen: set[int] = set()
    model.train()
    for batch, targets, samples in islice(epochs, t.steps):
        optimizer.zero_grad()
        F.cross_entropy(model(batch), targets).backward()
        optimizer.step()
        with torch.no_grad():
            for parameter in parameters if dtype != x.dtype else []:
                parameter.copy_(parameter.to(dtype))
        seen.update(torch.arange(t.n)[samples].tolist())
    return len(seen)


@torch.no_grad()
def released(trained: Trained, row: Row) -> ReadoutModel:
    """The network with the noise of a row."""
    model = deepcopy(trained.model)
    weight = model.get_submodule("first_layer").weight
    assert isinstance(weight, Tensor)
    random = generator(row.training.seed, "noise")
    noise = torch.randn(weight.shape, generator=random, dtype=torch.float64)
    size = row.sigma * weight.double().square().mean().sqrt()
    weight.copy_(weight.double() + size * noise)
    return model


def attack_of(method: Method, seconds: float) -> Reconstructor:
    """The attack with a time budget."""
    if method == "rowspace":
        return RowSpaceReconstructor(max_seconds=seconds)
    return ProjectionReconstructor(max_seconds=seconds, evidence=EVIDENCE[method])


def measure(row: Row, root: str | None, seconds: float) -> dict[str, Any]:
    """Train, attack and score: one row of the results."""
    trained = train(row.training, root)
    held = Knowledge(
        released(trained, row),
        initial_readout=trained.before["readout.weight"],
        earlier_first_layer=DenseLayer.of(trained.before, "first_layer", step=0),
        optimiser_keeps_span=not row.training.adam,
        n=row.training.n,
        pixels=trained.truth.pixels,
    )
    found = attack_of(row.method, seconds).reconstruct(held)
    return {
        **asdict(row),
        "seen": trained.seen,
        "loss": trained.loss,
        **scores(found, trained.truth),
        "training_seconds": trained.seconds,
        "attack_seconds": found.seconds,
        "status": found.status,
        "reason": found.outcome.reason,
    }


def scores(found: Reconstruction, truth: Truth) -> dict[str, Any]:
    """How many images came back, how many are certified, and the method's numbers."""
    scored = score_reconstruction(found, truth)
    numbers = {**found.numbers, **found.at_truth(truth.x)}
    accepted, false = certified(found, truth)
    return {
        "exact": sum(bool(sample.exact) for sample in scored.rows),
        "recovered": sum((sample.ssim or 0) > ALIKE for sample in scored.rows),
        "certified": accepted,
        "false_certificates": false,
        **{name: numbers.get(name) for name in COPIED},
    }


def certified(found: Reconstruction, truth: Truth) -> tuple[int, int]:
    """How many images the attack certifies, and how many of these are no training image."""
    if found.certificates is None:
        return 0, 0
    assert truth.images is not None
    accepted = found.certificates.images[found.certificates.accepted]
    real = {image.numpy().tobytes() for image in truth.images}
    return len(accepted), sum(image.numpy().tobytes() not in real for image in accepted)


# --- what is shown


def show(rows: list[dict[str, Any]]) -> None:
    """Print a table for every part."""
    header = [
        "n",
        "seen",
        "loss",
        "exact",
        "recovered",
        "certified",
        "false",
        "status",
        "attack: s",
    ]
    header += ["lattice", "bits", "differences"]
    names = ["seen", "loss", "exact", "recovered", "certified", "false_certificates", "status"]
    names += ["attack_seconds", "lattice_dimension", "precision_bits", "exact_differences"]
    for part in dict.fromkeys(row["part"] for row in rows):
        lines = [
            [row["name"], row["training"]["n"], *(row[name] for name in names)]
            for row in rows
            if row["part"] == part
        ]
        print(table([part, *header], lines), end="\n\n")


def shares(rows: list[dict[str, Any]], over: Callable[[dict[str, Any]], float]) -> list[Point]:
    """Mean exact and recovered shares over seeds, in the order of a number of a row."""
    groups: dict[float, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(over(row), []).append(row)
    return [
        (x, *(fmean(row[name] / row["training"]["n"] for row in group) for name in COLOURS))
        for x, group in sorted(groups.items())
    ]


def h_over_n(row: dict[str, Any]) -> float:
    """Units of the first layer over images."""
    ratio: float = row["training"]["widths"][0] / row["training"]["n"]
    return ratio


def weight_bits(row: dict[str, Any]) -> float:
    """Bits of precision of a released weight: those of its type, or of the noise in it."""
    spacing = torch.finfo(TYPES[row["training"]["precision"]]).eps / 2
    return -log2(row["sigma"] or spacing)


def figure(rows: list[dict[str, Any]], title: str) -> Figure:
    """Plot the shares over the width of the first layer, and over the precision of the weights."""
    picture = Figure(figsize=(9.6, 4.0), dpi=DPI, facecolor="white", layout="constrained")
    left, right = picture.subplots(1, 2, sharey=True)
    widths = [row for row in rows if row["part"] == "widths"]
    plot(left, shares(widths, h_over_n), "-")
    left.axvline(1, color=FAINT, linewidth=1, linestyle=":")
    left.set(xlabel="h / n = p / (d n)", ylabel="share of images", title=title)
    left.set_xscale("log", base=2)
    left.xaxis.set_major_formatter("{x:g}")
    left.set(ylim=(-0.03, 1.03))
    left.legend(frameon=False)
    precise = [row for row in rows if row["part"] == "precision"]
    plot(right, shares([row for row in precise if row["sigma"]], weight_bits), "-")
    typed = [row for row in precise if not row["sigma"]]
    plot(right, shares(typed, weight_bits), "none")
    right.set(xlabel="bits of a weight", title="noise on the weights (line), and their types")
    right.set_xscale("log", base=2)
    names = {weight_bits(row): row["training"]["precision"] for row in typed}
    right.set_xticks(list(names), [f"{bits:g}\n{name}" for bits, name in names.items()])
    right.set_xticks(
        [10, 12, 16, 20, 32, 40], minor=True, labels=["10", "12", "16", "", "32", "40"]
    )
    for bits in names:
        right.axvline(bits, color=FAINT, linewidth=1, linestyle=":")
    return picture


def plot(axes: Axes, points: list[Point], line: str) -> None:
    """The recovered and the exact share."""
    x, *both = zip(*points, strict=True)
    for (name, colour), y, size in zip(COLOURS.items(), both, (7, 4), strict=True):
        axes.plot(x, y, color=colour, marker="o", markersize=size, linestyle=line, label=name)


@one_line_errors("lattice")
def main(argv: list[str] | None = None) -> int:
    quick = {
        "samples": [8],
        "sizes": [8],
        "sigmas": [1e-6],
        "steps": [100],
        "widths": [7, 100],
        "projected": [4],
        "seeds": [0],
        "n": 8,
        "size": 8,
        "seconds": 10.0,
    }
    description = "Exact images in the row space of a first layer's change."
    flags = Flags("lattice", description, quick)
    add = flags.add_argument
    add("--root", metavar="FOLDER", help="CIFAR-10 as FOLDER/CLASS/IMAGE.png; else photographs")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    add(
        "--seeds",
        nargs="+",
        type=seed,
        default=[0, 1, 2],
        help="seeds of images, model and batches; samples, variants and projection: the first",
    )
    add("--n", type=count, default=20, help="images where their number does not vary")
    add("--size", type=count, default=32, help="side in pixels where it does not vary")
    add("--samples", nargs="+", type=count, default=[10, 20, 40, 60, 100, 200], help="images")
    add("--sizes", nargs="+", type=count, default=[8, 16, 32], help="sides in pixels")
    add("--sigmas", nargs="+", type=positive, default=SIGMAS, help="noise over the rms weight")
    add("--steps", nargs="+", type=count, default=[1, 10, 100, 500], help="training steps")
    add("--widths", nargs="+", type=count, default=WIDTHS, help="units of the first layer")
    add("--projected", nargs="+", type=count, default=[10, 20], help="images for projection")
    add("--lr", type=positive, default=LR, help="learning rate")
    add("--seconds", type=positive, default=60.0, help="time budget of one attack")
    args = flags.read(argv)
    check_root(args.root)
    record = Record(flags, argv, args, seeds=args.seeds)
    planned = [row for part in args.parts for row in PARTS[part](args)]
    todo = [replace(row, training=replace(row.training, lr=args.lr)) for row in planned]
    rows = []
    for row in todo:
        rows.append(measured := measure(row, args.root, args.seconds))
        done = f"{len(rows)} of {len(todo)}: {row.part}, {row.name}, seed {row.training.seed}"
        ended = f"{measured['exact']} of {row.training.n} exact, {measured['status']}"
        seconds = f"{measured['training_seconds']:.1f} + {measured['attack_seconds']:.1f} s"
        print(f"{done}: {ended}, {seconds}", file=sys.stderr, flush=True)
    show(rows)
    record.write(rows)
    if {"widths", "precision"} <= set(args.parts):
        images = f"n = {args.n} images of {args.size}x{args.size}"
        record.draw(figure(rows, images))
    return 0


if __name__ == "__main__":
    sys.exit(main())
