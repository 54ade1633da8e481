"""Measures which training images come back from the final weights alone.

Every row is a way of training a dense network, with weight decay or to the margin. Each seed has
its own random images, none of them from the first files of a class, on which the attack was tuned,
and its own initial weights and batches. The attack sees the weights after the last step, the image
shape and the normalisation.

Training is quick because it runs in coordinates of the span of the inputs. Gradient descent with
weight decay is equivariant under rotations of the inputs: with Q (n, d) an orthonormal basis of the
n training inputs and z = Q x, the first layer sees W x = (W Q^T) z, and its gradient is a
combination of training inputs. So W Q^T is trained like any layer, on inputs of n numbers instead
of d, and the part of W outside the span only decays, by a factor that the learning rates, the decay
and the momentum give. At the end W = (W Q^T) Q + factor W(0) (1 - Q^T Q). This is exact but for one
thing: W itself is rounded once, at the end, and not after every step. The rounding of thousands of
steps is noise outside the span, which an attack has to live with, so rows named `plain` are trained
on pixels in float32 as users do it. Training to the margin takes steps in proportion to the norm of
the weights; there the part outside the span, a start of 1e-4, is left out of the norm.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice, repeat
from math import cos, pi
from statistics import median
from time import perf_counter, process_time
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.lattice import certified
from benchmarks.problems import check_root, preset
from benchmarks.records import Flags, Record, count, one_line_errors, positive, seed, text
from datamodules import ImageFolderSubset, Photos
from datamodules.batches import Batches
from datamodules.images import ImageDataModule, ImageSource
from lit_recon.activations import Name
from lit_recon.audit.scoring import score_reconstruction
from lit_recon.distributed import ranks
from lit_recon.knowledge import DenseLayer, Knowledge
from lit_recon.methods import KKTReconstructor, Reconstruction, RowSpaceReconstructor
from lit_recon.methods.base import Outcome
from lit_recon.methods.rowspace.images import Frame
from lit_recon.methods.rowspace.layer import space_of_images, span_of_inputs
from lit_recon.metrics import inputs_from_images
from lit_recon.metrics.likeness import MOST_HELD_OUT, null_good
from lit_recon.models import DeepMLP
from lit_recon.modules import Margin
from lit_recon.modules.losses import LOSSES, Loss
from lit_recon.modules.margin import MarginDescent
from lit_recon.records.truth import Truth

MOMENTUM = 0.9
PUBLISHED_MARGIN = 12.0  # that of the published networks, for which the preset's numbers hold
TUNED = 75  # first files of each class: among them are the images that the attack was tuned on
GROUPS = [
    ["airplane", "automobile", "ship", "truck"],
    ["bird", "cat", "deer", "dog", "frog", "horse"],
]
SCORED = ("null_good_fraction", "null_good_rows", "null_good_mean")
NULLS = (*SCORED, "null_good_without")
NULL_WORDS = ("null: held out", "null: rows", "null: mean", "null: another network")
SHOWN = {
    "left": "factor of the start",
    "start_share": "start in W",
    "masks": "masks",
    "oracle_rank": "oracle rank",
    "oracle_recovered": "oracle error < .1",
    "oracle_good": "oracle SSIM > .4",
    "rank": "rank",
    "exact": "exact",
    "certified": "certified",
    "false_certificates": "false",
    "recovered": "error < .1",
    "good": "SSIM > .4",
    "ncc": "NCC",
    **dict(zip(NULLS, NULL_WORDS, strict=True)),
    "attack_seconds": "attack s",
    "attack_cpu_seconds": "CPU s",
    "training_seconds": "training s",
}


@dataclass(frozen=True)
class Row:
    """One way of training.

    Attributes:
        name: of the row.
        n: training images.
        widths: units of the hidden layers.
        loss: a key of LOSSES. With cross-entropy every class has an output, otherwise two groups
            of classes share one.
        weight_decay: of all parameters; None: trained to the margin, without decay.
        lr: at the first step; it falls to 0 along a cosine.
        steps: optimiser steps.
        normalize: of the images.
        batch: images in a batch; None: all of them.
        bias: which layers have one.
        first_layer_std: of the first layer's initial weights; None: those of PyTorch.
        activation: of the hidden layers.
        plain: trained on pixels, not on coordinates of the span.
    """

    name: str
    n: int
    widths: tuple[int, ...] = (1000,)
    loss: Loss = "mse"
    weight_decay: float | None = 0.01
    lr: float = 0.05
    steps: int = 5000
    normalize: Literal["standardize", "mean_image"] = "mean_image"
    batch: int | None = None
    bias: Literal["first", "all"] = "first"
    first_layer_std: float | None = None
    activation: Name = "relu"
    plain: bool = False

    @property
    def published(self) -> str:
        """The preset of the published attack: on margins of two or several classes, or any loss."""
        if self.loss == "cross_entropy":
            return "buzaglo2023_multiclass"
        return "haim2022_cifar" if self.weight_decay is None else "buzaglo2023_regression"

    @property
    def rates(self) -> Iterator[float]:
        """The learning rate of every step."""
        return (self.lr * (1 + cos(pi * i / self.steps)) / 2 for i in range(self.steps))

    @property
    def exponent(self) -> float:
        """Sum of rate times decay over 1 - momentum: pictures need some 7, exact pixels 10."""
        return sum(self.rates) * (self.weight_decay or 0.0) / (1 - MOMENTUM)

    @property
    def left(self) -> float:
        """The factor by which decay has shrunk the part of W outside the span of the inputs."""
        weight, velocity = 1.0, 0.0
        for rate in self.rates:
            velocity = MOMENTUM * velocity + (self.weight_decay or 0.0) * weight
            weight -= rate * velocity
        return weight


TEN = Row(
    "ten_classes_100",
    n=100,
    widths=(1000, 256),
    loss="cross_entropy",
    weight_decay=0.012,
    lr=0.03,
    steps=6000,
    normalize="standardize",
    batch=20,
    bias="all",
)
LOGISTIC = Row("", 50, loss="logistic", lr=0.03, steps=8000, normalize="standardize")
PUBLISHED = Row(
    "margin_50",
    n=50,
    widths=(1000, 1000),
    loss="logistic",
    weight_decay=None,
    steps=800,  # to margins of some 10^8
    first_layer_std=1e-4,
)
ROWS = {
    row.name: row
    for row in (
        TEN,
        replace(TEN, name="ten_classes_100_plain", plain=True),
        *(replace(LOGISTIC, name=f"logistic_{n}", n=n) for n in (20, 50, 100)),
        *(Row(f"mse_{n}", n) for n in (20, 50, 100)),
        PUBLISHED,
        replace(PUBLISHED, name="margin_50_long", steps=4000),
        Row("common_decay_50", 50, weight_decay=5e-4, steps=80_000),
        Row("small_start_50", 50, widths=(1000, 1000), first_layer_std=1e-4),
        *(replace(TEN, name=f"{name}_50", n=50, activation=name) for name in ("gelu", "tanh")),
        Row("huber_50", 50, loss="huber"),
        Row("mse_200", 200),
        Row("mse_500", 500, lr=0.03, steps=10_000),  # a rate of .05 diverges
        replace(PUBLISHED, name="margin_500", n=500, steps=1500),
    )
}


# --- training


class Untuned(ImageFolderSubset):
    """Images of a folder, without the first ones of every class."""

    def source(self) -> ImageSource:
        found = super().source()
        return replace(found, train={name: pool[TUNED:] for name, pool in found.train.items()})


def images_of(row: Row, root: str | None, size: int, number: int) -> ImageDataModule:
    """The training images of a seed; the photographs, which are for checks, are always the same."""
    data: ImageDataModule = Photos(row.n, image_size=size, normalize=row.normalize)
    if root is not None:
        data = Untuned(
            row.n,
            root=root,
            image_size=size,
            selection="random",
            seed=number,
            normalize=row.normalize,
            n_val=MOST_HELD_OUT,
            groups=None if row.loss == "cross_entropy" else GROUPS,
        )
    data.setup()
    return data


def targets_of(row: Row, data: ImageDataModule) -> Tensor:
    """(n, k) float32: -1 and 1 for two groups, or one-hot with cross-entropy."""
    if row.loss == "cross_entropy":
        return F.one_hot(data.labels, len(data.class_names)).float()
    return data.y


def network(row: Row, d: int, k: int, number: int) -> DeepMLP:
    """The network before the first step, with inputs of d numbers and k outputs."""
    std = row.first_layer_std
    return DeepMLP(d, k, row.widths, row.bias, row.activation, first_layer_std=std, seed=number)


def trained(row: Row, x: Tensor, y: Tensor, number: int) -> DeepMLP:
    """The network after the last step.

    Args:
        row: how it is trained.
        x: (n, d) float32 inputs.
        y: (n, k) float32 targets.
        number: seed of the initial weights and of the batches.
    """
    model = network(row, x.shape[1], y.shape[1], number)
    train = descend if row.weight_decay is not None else to_margin
    if row.plain:
        train(model, x, y, row, number)
        return model.eval()
    basis = torch.linalg.qr(x.double().T)[0].T  # (n, d)
    start = model.first_layer.weight.detach().double()
    layer = nn.Linear(len(basis), len(start))
    layer.bias = model.first_layer.bias
    layer.weight = nn.Parameter((start @ basis.T).float())
    whole, model.first_layer = model.first_layer, layer
    train(model, (x.double() @ basis.T).float(), y, row, number)
    outside = row.left * (start - (start @ basis.T) @ basis)
    with torch.no_grad():
        whole.weight.copy_(layer.weight.double() @ basis + outside)
    model.first_layer = whole
    return model.eval()


def descend(model: nn.Module, x: Tensor, y: Tensor, row: Row, number: int) -> None:
    """Gradient descent with momentum and weight decay."""
    assert row.weight_decay is not None
    optimizer = torch.optim.SGD(
        model.parameters(), row.lr, MOMENTUM, weight_decay=row.weight_decay, fused=True
    )
    batches = Batches(x, y, row.batch or row.n, None if row.batch is None else number, ranks())
    epochs = islice(chain.from_iterable(repeat(batches)), row.steps)
    for rate, (inputs, targets, _) in zip(row.rates, epochs, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        LOSSES[row.loss](model(inputs), targets).backward()
        optimizer.step()


def to_margin(model: nn.Module, x: Tensor, y: Tensor, row: Row, number: int) -> None:
    """Gradient descent to the margin, on all samples at once."""
    optim = Margin()

    def outputs() -> tuple[Tensor, Tensor]:
        return model(x).double(), y.double()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss, _ = optim.losses(*outputs())
        loss.backward()
        return loss

    optimizer = MarginDescent(model.parameters(), optim.lr, optim.loss, outputs)
    for _ in range(row.steps):
        optimizer.step(closure)


# --- attack


@dataclass(frozen=True)
class Attacked:
    """A trained network and the data for scoring.

    Attributes:
        row: how it was trained.
        number: seed.
        model: the network.
        truth: its training images.
        y: (n, k) their targets.
        seconds: duration of the training.
        without: (m, c, h, w) uint8 images that the attack found in another seed's network, which
            was trained without these images in the same way; None: it was not attacked.
    """

    row: Row
    number: int
    model: DeepMLP
    truth: Truth
    y: Tensor
    seconds: float
    without: Tensor | None

    @classmethod
    def of(
        cls, row: Row, root: str | None, size: int, number: int, without: Tensor | None = None
    ) -> Attacked:
        data = images_of(row, root, size, number)
        y, start = targets_of(row, data), perf_counter()
        model = trained(row, data.x.flatten(1), y, number)
        return cls(row, number, model, Truth.of(data), y, perf_counter() - start, without)

    @torch.no_grad()
    def facts(self) -> dict[str, Any]:
        """What training has led to."""
        x, model = self.truth.x, self.model
        output = model(x)
        margin = float((self.y * output).min()) if self.y.shape[1] == 1 else None
        masks = model.first_layer(x) > 0  # (n, h)
        start = network(self.row, x.shape[1], self.y.shape[1], self.number).first_layer.weight
        share = self.row.left * float(start.norm() / model.first_layer.weight.norm())
        return {
            "seed": self.number,
            "training": asdict(self.row),
            "exponent": self.row.exponent,
            "left": self.row.left,
            "start_share": share,
            "loss": float(LOSSES[self.row.loss](output, self.y)),
            "margin": margin,
            "masks": len(masks.T.unique(dim=0)),
            "oracle_rank": oracle_rank(model.first_layer, x),
            "training_seconds": self.seconds,
        }

    def ours(self, seconds: float) -> tuple[dict[str, Any], Tensor | None]:
        """The attack on the row space, and the images (m, c, h, w) that it found."""
        attack = RowSpaceReconstructor(evidence="final", max_seconds=seconds)
        held = Knowledge(self.model, pixels=self.truth.pixels)
        measured, images = self._measured("rowspace", lambda: attack.reconstruct(held))
        return {**measured, **self._oracle()}, images

    def published(self, seconds: float) -> dict[str, Any]:
        """The attack of its authors on such training, with the settings of its preset."""
        settings = {**preset(self.row.published), "max_seconds": seconds}
        model = self.model
        if self.row.weight_decay is None:
            model = scaled(model, self.truth.x, self.y)
        held = Knowledge(model, n=self.truth.n, pixels=self.truth.pixels)
        attack = KKTReconstructor(**settings)
        return self._measured("published", lambda: attack.reconstruct(held))[0]

    def kkt(self, seconds: float) -> dict[str, Any]:
        """The KKT attack with this project's defaults, which are told the number of images."""
        attack = KKTReconstructor(max_seconds=seconds)
        held = Knowledge(self.model, n=self.truth.n, pixels=self.truth.pixels)
        return self._measured("kkt", lambda: attack.reconstruct(held))[0]

    def _measured(
        self, name: str, attack: Callable[[], Reconstruction]
    ) -> tuple[dict[str, Any], Tensor | None]:
        start, cpu_start = perf_counter(), process_time()
        found = attack()
        seconds, cpu_seconds = perf_counter() - start, process_time() - cpu_start
        scored = score_reconstruction(found, self.truth, self.model)
        numbers = scored.metrics.as_dict()
        accepted, false = certified(found, self.truth)
        ssims = [sample.ssim_stretched or 0.0 for sample in scored.rows]
        images = None if found.certificates is None else found.certificates.images
        measured = {
            "attack": name,
            "n": self.truth.n,
            **self.facts(),
            "rank": found.numbers.get("rank"),
            "steps_of_attack": found.numbers.get("steps"),
            "exact": sum(bool(sample.exact) for sample in scored.rows),
            "certified": accepted,
            "false_certificates": false,
            "recovered": sum(sample.recovered for sample in scored.rows),
            "good": round((numbers["good_fraction"] or 0) * self.truth.n),
            "median_ssim_stretched": median(ssims),
            **{key: numbers[key] for key in ("ncc", "direction_error", *SCORED, "null_held_out")},
            "null_good_without": self._good_without(),
            "attack_seconds": seconds,
            "attack_cpu_seconds": cpu_seconds,
            "status": found.status,
            "reason": found.outcome.reason,
        }
        return measured, images

    def _oracle(self) -> dict[str, int]:
        """How many images the row space holds well enough, for one who knows the images."""
        best = nearest_in_row_space(self.model.first_layer, self.truth)
        outcome = Outcome("oracle", "the nearest vectors of the row space")
        scored = score_reconstruction(Reconstruction(best, outcome), self.truth, self.model)
        good = scored.metrics.as_dict()["good_fraction"] or 0
        recovered = sum(sample.recovered for sample in scored.rows)
        return {"oracle_recovered": recovered, "oracle_good": round(good * self.truth.n)}

    def _good_without(self) -> float | None:
        """Share of images that look good among those of the network trained without them."""
        pixels, images = self.truth.pixels, self.truth.images
        if self.without is None or pixels is None or images is None:
            return None
        others = inputs_from_images(self.without, pixels)
        x, others = (inputs.reshape(-1, *pixels.shape) for inputs in (self.truth.x, others))
        return null_good(x, others, images, pixels.values)


def oracle_rank(layer: nn.Linear, x: Tensor) -> int:
    """The rank that an attack could find which knew the noise, by the training inputs.

    The noise is what is left of the first layer without the span of its inputs. An image whose loss
    has no slope any more is forgotten as the start is.

    Args:
        layer: the trained first layer, with a bias.
        x: (n, d) training inputs.
    """
    inputs = torch.cat([x, x.new_ones(len(x), 1)], 1).double()
    weights = torch.cat([layer.weight, layer.bias[:, None]], 1).double()
    noise = weights - weights @ torch.linalg.pinv(inputs) @ inputs
    return int((torch.linalg.svdvals(weights) > torch.linalg.matrix_norm(noise, 2)).sum())


def nearest_in_row_space(layer: nn.Linear, truth: Truth) -> Tensor:
    """The vectors (n, d) nearest to the training inputs in the row space that the attack finds."""
    pixels = truth.pixels
    assert pixels is not None and truth.images is not None and layer.bias is not None
    frame = Frame.of(pixels.shape, pixels)
    dense = DenseLayer("first_layer", layer.weight.detach(), layer.bias.detach())
    span = span_of_inputs(dense, None, frame, torch.Generator().manual_seed(0))
    if not span.rank:
        return torch.zeros(0, pixels.d)
    space = space_of_images(dense, None, frame, span)
    assert space.frame.offset is not None and frame.offset is not None
    offset, rows = torch.tensor(space.frame.offset), torch.tensor(space.rows)
    levels = truth.images.flatten(1).double() - offset
    nearest = levels @ rows.T @ rows + offset - torch.tensor(frame.offset)
    return (nearest / (frame.level * torch.tensor(frame.weights))).float()


@torch.no_grad()
def scaled(model: DeepMLP, x: Tensor, y: Tensor) -> DeepMLP:
    """The network with all weights multiplied so that its margin is that of the published ones.

    It stays a point of the margin problem, because the network is homogeneous: its only biases are
    in the first layer. The authors' learning rates hold for this size alone.
    """
    margin = float((y * model(x)).min())
    model = deepcopy(model)
    layers = 2 + len(model.layers)
    for parameter in model.parameters():
        parameter.mul_((PUBLISHED_MARGIN / margin) ** (1 / layers))
    return model


# --- what is shown


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """A table with a line for each row and attack: medians over seeds, and ranges."""
    lines = [["row", "attack", "n", "seeds", *SHOWN.values()]]
    lines.append(["---"] * len(lines[0]))
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["training"]["name"], row["attack"]), []).append(row)
    for (name, attack), group in groups.items():
        cells = [spread([shown(row, key) for row in group]) for key in SHOWN]
        lines.append([name, attack, str(group[0]["n"]), str(len(group)), *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(row: dict[str, Any], key: str) -> float | None:
    """A number of a row, with shares of images as numbers of images like the others."""
    value: float | None = row.get(key)  # results of an earlier version can lack one
    return value * row["n"] if key in NULLS and value is not None else value


def spread(values: Sequence[float | None]) -> str:
    """The median, and the range where values differ; a dash where there are none."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    words = [text(value) for value in (median(known), min(known), max(known))]
    return words[0] if words[1] == words[2] else "{} ({}..{})".format(*words)


def identity(row: dict[str, Any]) -> tuple[Any, ...]:
    """What one result replaces another by."""
    return row["training"]["name"], row["attack"], row["seed"]


def chosen(args: argparse.Namespace) -> Iterator[tuple[Row, int]]:
    """The rows with the sizes that the flags ask for."""
    for name in args.rows:
        row = ROWS[name]
        row = replace(
            row,
            n=args.n or row.n,
            steps=args.steps or row.steps,
            widths=tuple(min(width, args.width or width) for width in row.widths),
        )
        yield from ((row, number) for number in args.seeds)


@one_line_errors("final_weights")
def main(argv: list[str] | None = None) -> int:
    quick = {
        "rows": ["ten_classes_100", "mse_20", "margin_50"],
        "seeds": [0],
        "n": 8,
        "size": 8,
        "steps": 1000,
        "width": 200,
        "max_seconds": 5.0,
        "published": 1.0,
        "kkt": 1.0,
    }
    flags = Flags("final_weights", "Training images from the final weights alone.", quick)
    add = flags.add_argument
    add("--root", metavar="FOLDER", help="CIFAR-10 as FOLDER/CLASS/IMAGE.png; else photographs")
    add("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="ways of training")
    add("--seeds", nargs="+", type=seed, default=[*range(100, 105)], help="of images and weights")
    add("--max-seconds", type=positive, default=60.0, help="time budget of one attack")
    add(
        "--published",
        type=positive,
        metavar="SECONDS",
        help="attack each network also as its authors published it, for so long",
    )
    add(
        "--kkt",
        type=positive,
        metavar="SECONDS",
        help="attack each network also by KKT conditions with the defaults, for so long",
    )
    add("--append", action="store_true", help="keep earlier results of other rows and seeds")
    add("--size", type=count, default=32, help="side in pixels")
    add("--n", type=count, help="images, instead of those of the rows")
    add("--steps", type=count, help="training steps, instead of those of the rows")
    add("--width", type=count, help="largest number of units of a layer")
    args = flags.read(argv)
    check_root(args.root)
    record = Record(flags, argv, args, seeds=args.seeds)
    kept = record.earlier(of_any_run=True) if args.append else []
    results = {identity(row): row for row in kept}
    found: dict[str, Tensor | None] = {}  # by the seed before, in the same row
    for row, number in chosen(args):
        without = found.get(row.name) if args.root else None  # photographs are always the same
        attacked = Attacked.of(row, args.root, args.size, number, without)
        ours, found[row.name] = attacked.ours(args.max_seconds)
        measured = [ours]
        if args.published:
            measured.append(attacked.published(args.published))
        if args.kkt:
            measured.append(attacked.kkt(args.kkt))
        for new in measured:
            results[identity(new)] = {**new, "git": record.facts["git"]}
            line = f"{row.name}, seed {number}, {new['attack']}: {new['exact']} exact of {row.n},"
            line += f" {new['good']} good, {new['false_certificates']} false, {new['status']},"
            line += f" {new['training_seconds']:.0f} + {new['attack_seconds']:.1f} s"
            print(line, file=sys.stderr, flush=True)
        record.write([*results.values()])  # after each, so that an interrupted run leaves results
    print(markdown([*results.values()]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
