"""Sizes at which networks memorise labels, and at which they hold the images, on the same images.

A threshold is the first width of a geometric grid at which a network succeeds, found by bisection
for every seed, which chooses images, weights and random labels. Labels are fitted if every training
image gets its own. Images are given back if an attack returns SHARE of them, exact to the pixel.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, log
from statistics import median
from time import process_time
from typing import Any

import pandas as pd
import torch

from benchmarks.lattice import inputs
from benchmarks.problems import check_root, two_classes
from benchmarks.protection import FAMILIES, Point, Trained, fits, measure, train
from benchmarks.records import Flags, Record, count, one_line_errors, positive, seed, table
from datamodules.images import ImageDataModule, Normalize
from lit_recon.capacity.construction import construct
from lit_recon.errors import InputError
from lit_recon.linalg import minimum_norm
from lit_recon.methods import AttractorReconstructor
from lit_recon.models import MLP, Autoencoder, DeepMLP, RandomFeatures
from lit_recon.modules.construct import labels_of
from lit_recon.modules.tasks import RandomLabels
from lit_recon.report.capacity import thresholds_figure

SHARE = 0.9  # of the images; at n = 80 integer combinations of two images are left among the exact
HELD_OUT = 10  # images, which no threshold is about
RESIDUAL = 0.01  # of targets -1 and 1 that count as fitted exactly
CLOSED_FORM = replace(FAMILIES["law"], stops=())
LABELS = replace(FAMILIES["change"], stops=(), batch=None, steps=500)
CHANGE = replace(FAMILIES["change"], stops=())
EPOCHS = 20  # of the network whose first layer's change is attacked
REPEATING = replace(
    FAMILIES["attractors"],
    stops=(),
    attack=lambda seconds: AttractorReconstructor(starts=400, max_seconds=seconds),
)
STEPS_PER_IMAGE = 30  # of an autoencoder: with 300 steps for 40 images one in ten is not learnt


@dataclass(frozen=True)
class Trial:
    """A network of one width.

    Attributes:
        succeeds: whether it does what the threshold is about.
        learned: numbers that training has set; of a constructed network its masks and thresholds.
        total: all its numbers, with those that are random and stay so.
        told: what else is worth keeping.
    """

    succeeds: bool
    learned: int
    total: int
    told: dict[str, Any]


# Images, a width, a seed and the seconds of an attack.
Try = Callable[[ImageDataModule, int, int, float], Trial]


def constructed(data: ImageDataModule, width: int, number: int, seconds: float) -> Trial:
    """The network of Genzel, Finke and Dirksen, with threshold units and no biases."""
    x, labels = data.x.flatten(1), labels_of(data.y)
    made = construct(x, labels, width=width, max_bias=0.0, activation="threshold", seed=number)
    learned = made.width * (width + 1)
    return Trial(made.interpolates, learned, made.parameters, {"second_width": made.width})


def closed_form(data: ImageDataModule, p: int, number: int) -> Trained:
    """Random features with the readout of least squares."""
    model = RandomFeatures(data.d, data.k, len(data.x), p=p, seed=number)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        model.readout.weight.copy_(minimum_norm(model.features(data.x), data.y))
    return Trained(CLOSED_FORM, start, model.eval(), {}, data, 0.0)


def features(data: ImageDataModule, p: int, number: int, seconds: float) -> Trial:
    """Random features that give every image its label."""
    trained = closed_form(data, p, number)
    right = fits(trained, trained.model)["train_fit"]
    return Trial(right == 1, p, p * (data.d + 1), {"right": right})


@torch.no_grad()
def exact_features(data: ImageDataModule, p: int, number: int, seconds: float) -> Trial:
    """Random features whose outputs are the targets -1 and 1."""
    model = closed_form(data, p, number).model
    residual = float((model(data.x) - data.y).abs().max())
    return Trial(residual < RESIDUAL, p, p * (data.d + 1), {"residual": residual})


def mlp(data: ImageDataModule, width: int, number: int, seconds: float) -> Trial:
    """Two layers, trained by gradient descent with momentum on all images at once."""
    family = replace(LABELS, model=lambda d, n, s: MLP(d.d, d.k, n, width=width, seed=s))
    trained = train(family, data, number)
    right = fits(trained, trained.model)["train_fit"]
    size = parameters(trained)
    return Trial(right == 1, size, size, {"right": right})


def projection(data: ImageDataModule, p: int, number: int, seconds: float) -> Trial:
    """The projection attack on random features."""
    return attacked(closed_form(data, p, number), p, p * (data.d + 1), seconds)


def rowspace(data: ImageDataModule, h: int, number: int, seconds: float) -> Trial:
    """The row-space attack on a first layer of h units, before and after training, in float64."""

    def network(d: ImageDataModule, n: int, s: int) -> DeepMLP:
        return DeepMLP(d.d, d.k, (h,), seed=s).double()

    steps = EPOCHS * ceil(len(data.x) / (CHANGE.batch or 1))
    trained = train(replace(CHANGE, model=network, steps=steps), precise(data), number)
    return attacked(trained, parameters(trained), parameters(trained), seconds)


def autoencoder(data: ImageDataModule, width: int, number: int, seconds: float) -> Trial:
    """Iteration of an autoencoder with three hidden layers."""

    def network(d: ImageDataModule, n: int, s: int) -> Autoencoder:
        return Autoencoder(d.d, d.d, (width,) * 3, seed=s)

    steps = max(REPEATING.steps, STEPS_PER_IMAGE * len(data.x))
    trained = train(replace(REPEATING, model=network, steps=steps), data, number)
    return attacked(trained, parameters(trained), parameters(trained), seconds)


def attacked(trained: Trained, learned: int, total: int, seconds: float) -> Trial:
    """The attack of the family on a trained network."""
    row = measure(Point("none", 0.0, trained.model, trained), seconds)
    kept = ("exact", "certified", "false_certificates", "status", "attack_seconds")
    return Trial(row["exact"] >= SHARE, learned, total, {name: row[name] for name in kept})


def parameters(trained: Trained) -> int:
    return sum(p.numel() for p in trained.model.parameters())


def precise(data: ImageDataModule) -> ImageDataModule:
    """The same images with inputs in float64; those of a data module are rounded to float32."""
    assert data.images is not None and data.val_images is not None and data.pixels is not None
    data.x, data.val_x = (inputs(raw, data.pixels) for raw in (data.images, data.val_images))
    data.y, data.val_y = data.y.double(), data.val_y.double()
    return data


@dataclass(frozen=True)
class Threshold:
    """What is looked for, and where.

    Attributes:
        words: its name in the figure.
        trial: makes a network and says whether it succeeds.
        theory: the width at which it should, of n images of d values; the grid lies around it.
        span: the ends of the grid over that width.
        normalize: of the images.
        random: whether labels are in a random order.
        slow: whether fewer numbers of images and fewer seeds are measured.
    """

    words: str
    trial: Try
    theory: Callable[[int, int], float] = lambda n, d: n
    span: tuple[float, float] = (0.25, 8.0)
    normalize: Normalize = "standardize"
    random: bool = False
    slow: bool = False

    @property
    def what(self) -> str:
        """What is looked for, without how: a colour of the figure."""
        return self.words.partition(",")[0]

    def widths(self, n: int, d: int, factor: float) -> list[int]:
        """The grid, from the smallest width on; the theory's is one of them."""
        low, high = (round(log(end) / log(factor)) for end in self.span)
        centre = self.theory(n, d)
        return sorted({max(1, round(centre * factor**i)) for i in range(low, high + 1)})


THRESHOLDS = {
    "constructed": Threshold("constructed, labels", constructed, normalize="mean_image"),
    "constructed_random": Threshold(
        "constructed, random labels", constructed, normalize="mean_image", random=True
    ),
    "features": Threshold("random features, labels", features),
    "features_random": Threshold("random features, random labels", features, random=True),
    "features_exact": Threshold("random features, exact targets", exact_features, random=True),
    "mlp": Threshold("MLP, labels", mlp, lambda n, d: 8),
    "mlp_random": Threshold("MLP, random labels", mlp, lambda n, d: 8, random=True),
    "rowspace": Threshold("images from a first layer's change", rowspace, span=(0.5, 2.0)),
    "projection": Threshold(
        "images from a readout", projection, lambda n, d: d * n, span=(0.8, 5.0), slow=True
    ),
    "autoencoder": Threshold(
        "images from an autoencoder", autoencoder, normalize="norm", slow=True
    ),
}


def first_width(
    threshold: Threshold, widths: Sequence[int], data: ImageDataModule, number: int, seconds: float
) -> tuple[int | None, dict[int, Trial]]:
    """The first width that succeeds, by bisection: wider networks should succeed too.

    Returns:
        The width, None if the largest ones fail; and all trials by width.
    """
    tried: dict[int, Trial] = {}
    below, at = -1, len(widths)
    while at - below > 1:
        middle = (below + at) // 2
        trial = threshold.trial(data, widths[middle], number, seconds)
        tried[widths[middle]] = trial
        below, at = (below, middle) if trial.succeeds else (middle, at)
    return (widths[at] if at < len(widths) else None), tried


def search(name: str, n: int, number: int, args: Any) -> dict[str, Any]:
    """One row: the threshold of some images."""
    threshold, begin = THRESHOLDS[name], process_time()
    data = two_classes(args.root, n, args.size, number, threshold.normalize, HELD_OUT)
    if threshold.random:
        data.y = RandomLabels(number).targets(data.x, data.y)
    widths = threshold.widths(n, data.d, args.factor)
    width, tried = first_width(threshold, widths, data, number, args.seconds)
    found = None if width is None else tried[width]
    return {
        "threshold": name,
        "n": n,
        "d": data.d,
        "seed": number,
        "width": width,
        "learned": None if found is None else found.learned,
        "total": None if found is None else found.total,
        "tried": [
            {"width": w, "succeeds": trial.succeeds, **trial.told} for w, trial in tried.items()
        ],
        "cpu_seconds": process_time() - begin,
    }


def planned(args: Any) -> Iterator[tuple[str, int, int]]:
    """Threshold, number of images and seed of each row; slow ones last."""
    for name in args.thresholds:
        slow = THRESHOLDS[name].slow
        for n in args.few_samples if slow else args.samples:
            for number in args.seeds[: args.few_seeds] if slow else args.seeds:
                yield name, n, number


def summaries(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The median, the least and the most over the seeds of a threshold and a number of images.

    Where a seed never succeeds, the number is a lower bound: None.
    """
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["threshold"], row["n"]), []).append(row)
    means = []
    for (name, n), group in groups.items():
        done = [row for row in group if row["width"] is not None]
        threshold = THRESHOLDS[name]
        mean: dict[str, Any] = {"threshold": name, "what": threshold.what, "n": n}
        mean |= {
            "words": threshold.words,
            "d": group[0]["d"],
            "seeds": len(group),
            "succeeded": len(done),
        }
        for what in ("width", "learned", "total"):
            values = [row[what] for row in done]
            mean[what] = median(values) if values else None
            mean |= {f"{what}_{end.__name__}": end(values, default=None) for end in (min, max)}
        means.append(mean)
    return means


def show(means: Sequence[dict[str, Any]]) -> None:
    """Print one line for each threshold and number of images."""
    columns = ["succeeded", "seeds", "width", "width_min", "width_max", "learned", "total"]
    lines = [[f"{m['words']}, n = {m['n']}", *(m[name] for name in columns)] for m in means]
    print(table(["threshold", *columns], lines))


@one_line_errors("thresholds")
def main(argv: list[str] | None = None) -> int:
    quick: dict[str, Any] = {"samples": [4], "few_samples": [4], "seeds": [0], "few_seeds": 1}
    quick |= {"size": 4, "factor": 2.0, "seconds": 5.0}
    flags = Flags("thresholds", "Sizes that memorise labels, and sizes that hold images.", quick)
    add = flags.add_argument
    names = list(THRESHOLDS)
    add("--root", metavar="FOLDER", help="CIFAR-10 as FOLDER/CLASS/IMAGE.png; else photographs")
    add("--thresholds", nargs="+", choices=names, default=names, help="what is looked for")
    add("--samples", nargs="+", type=count, default=[10, 20, 40, 80], help="even numbers of images")
    add("--seeds", nargs="+", type=seed, default=[0, 1, 2, 3, 4], help="of images and networks")
    add("--few-samples", nargs="+", type=count, default=[10, 20, 40, 80], help="for slow ones")
    add("--few-seeds", type=count, default=3, help="seeds for slow ones")
    add("--size", type=count, default=8, help="side of the images in pixels")
    add("--factor", type=positive, default=1.1, help="between widths of the grid")
    add("--seconds", type=positive, default=60.0, help="time budget of one attack")
    args = flags.read(argv)
    check_root(args.root)
    if args.factor <= 1:
        raise InputError("--factor", args.factor, "give a number above 1")
    record = Record(flags, argv, args, seeds=args.seeds)
    rows = record.earlier()
    done = {(row["threshold"], row["n"], row["seed"]) for row in rows}
    for name, n, number in planned(args):
        if (name, n, number) in done:
            continue
        rows.append(row := search(name, n, number, args))
        line = f"{name}, n = {n}, seed {number}: width {row['width']}, {row['learned']} learned"
        print(f"{line}, {row['cpu_seconds']:.1f} s", file=sys.stderr, flush=True)
        record.write(rows, summaries=summaries(rows))  # so that a run that is cut off can go on
    means = summaries(rows)
    show(means)
    record.draw(thresholds_figure(pd.DataFrame(means), rows[0]["d"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
