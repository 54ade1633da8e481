"""Measures how much of a protection ends reconstruction, and at which accuracy of the model.

One network of each family is trained for every seed, protected at several strengths, and attacked
by the family's own method: `law`, the readout of random features; `change`, the change of a dense
first layer from a start that the attacker holds unprotected; `final`, a dense first layer after
weight decay; `attractors`, an autoencoder. Noise, rounding and pruning change the trained weights.
Weight decay, early stopping and DP-SGD (through Opacus, if it is installed) change the training.
The attacks are not adapted to the protection, so a protection that holds here can fail elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import chain, islice, repeat
from math import cos, inf, pi
from statistics import fmean
from time import perf_counter
from typing import Any, Literal

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.lattice import certified
from benchmarks.problems import check_root, two_classes
from benchmarks.records import Flags, Record, count, one_line_errors, positive, seed, table
from datamodules.batches import Batches
from datamodules.images import ImageDataModule, Normalize
from lit_recon.audit.scoring import score_reconstruction
from lit_recon.distributed import ranks
from lit_recon.knowledge import DenseLayer, Knowledge
from lit_recon.methods import (
    AttractorReconstructor,
    ProjectionReconstructor,
    Reconstructor,
    RowSpaceReconstructor,
)
from lit_recon.models import Autoencoder, DeepMLP, RandomFeatures, ReadoutModel
from lit_recon.modules.losses import LOSSES, Loss
from lit_recon.modules.noise import Noise, NoisyCopies
from lit_recon.modules.tensor_adam import PerTensorAdam, polish_readout
from lit_recon.protection import Grid, noisy, privacy_warning, pruned, rounded
from lit_recon.randomness import generator
from lit_recon.records.truth import Truth
from lit_recon.report.grid import DPI, EXACT, FAINT, INK, RECOVERED

Protection = Literal["none", "noise", "rounding", "pruning", "decay", "stopping", "dp"]
SIGMAS = [1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0]
GRIDS: list[Grid] = ["bf16", "int8", "int4"]
SHARES = [0.01, 0.1, 0.5, 0.9, 0.99]
MULTIPLIERS = [0.0, 1e-2, 1.0, 100.0]
DELTA = 1e-5
HELD_OUT = 100  # images that say how well a network generalises
NO_OPACUS = "DP-SGD is skipped: Opacus is not installed; pip install 'lit_recon[dp]'"
STRENGTHS: dict[Protection, str] = {
    "noise": "noise over rms weight",
    "rounding": "bits",
    "pruning": "share of weights set to 0",
    "decay": "weight decay",
    "stopping": "attacked after step",
    "dp": "DP-SGD: noise multiplier",
}
SHARES_FOUND = {"exact": EXACT, "recovered": RECOVERED}
FITS = {"train_fit": "-", "held_out_fit": ":"}


@dataclass(frozen=True)
class Family:
    """One family of attacks and the training that it attacks.

    Attributes:
        model: makes the untrained network from the data, the number of images and a seed.
        attack: makes the attack from a time budget in seconds.
        loss, lr, momentum, batch, steps: of the training; batch None: all images.
        decay: weight decay of the training that the other protections start from.
        decays: those that protect.
        stops: steps at which an early stop is attacked.
        clip: largest norm of a sample's gradient in DP-SGD.
        smaller: the images' side is that of the flags divided by this.
        normalize: of the images.
        cosine: whether the learning rate falls to 0.
    """

    model: Callable[[ImageDataModule, int, int], ReadoutModel]
    attack: Callable[[float], Reconstructor]
    loss: Loss
    lr: float
    steps: int
    decays: tuple[float, ...]
    stops: tuple[int, ...]
    clip: float
    momentum: float = 0.9
    decay: float = 0.0
    batch: int | None = None
    smaller: int = 1
    normalize: Normalize = "standardize"
    cosine: bool = False

    @property
    def autoencoder(self) -> bool:
        return self.normalize == "norm"

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0 on."""
        return self.lr * ((1 + cos(pi * step / self.steps)) / 2 if self.cosine else 1)

    def optimizer(self, model: nn.Module) -> Optimizer:
        """The optimiser of the trained parameters; its decay is that of `shrink` with Adam."""
        trained = [p for p in model.parameters() if p.requires_grad]
        if self.autoencoder:
            return PerTensorAdam(trained, self.lr)
        return torch.optim.SGD(trained, self.lr, self.momentum, weight_decay=self.decay)

    @torch.no_grad()
    def shrink(self, model: nn.Module, step: int) -> None:
        """Weight decay beside the step, as in AdamW, where the optimiser has none."""
        for p in model.parameters() if self.autoencoder and self.decay else ():
            p.mul_(1 - self.rate(step) * self.decay)


FAMILIES = {
    "law": Family(
        lambda data, n, number: RandomFeatures(data.d, data.k, n, p_over_dn=8.0, seed=number),
        lambda seconds: ProjectionReconstructor(max_seconds=seconds),
        loss="mse",
        lr=1e-4,
        steps=300,
        decays=(1.0, 10.0, 100.0, 1000.0),
        stops=(1, 10, 100),
        clip=100.0,
        smaller=4,
    ),
    "change": Family(
        lambda data, n, number: DeepMLP(data.d, data.k, (256, 64), seed=number),
        lambda seconds: RowSpaceReconstructor(max_seconds=seconds),
        loss="logistic",
        lr=0.02,
        steps=30,
        decays=(1e-4, 1e-2, 1.0, 10.0),
        stops=(1, 3, 10),
        clip=1.0,
        batch=4,
    ),
    "final": Family(
        lambda data, n, number: DeepMLP(data.d, data.k, (256, 64), "first", seed=number),
        lambda seconds: RowSpaceReconstructor(evidence="final", max_seconds=seconds),
        loss="mse",
        lr=0.05,
        steps=2000,
        decays=(0.0, 3e-3, 1e-2, 0.1, 1.0),
        stops=(100, 500, 1000),
        clip=1.0,
        decay=0.03,  # what is left of the start is e^-15
        cosine=True,
    ),
    "attractors": Family(
        lambda data, n, number: Autoencoder(data.d, data.d, (256, 256, 256), seed=number),
        lambda seconds: AttractorReconstructor(starts=100, max_seconds=seconds),
        loss="mse",
        lr=0.1,
        steps=300,
        decays=(1e-4, 1e-3, 1e-2, 1.0),
        stops=(30, 100, 200),
        clip=1.0,
        normalize="norm",
        cosine=True,
    ),
}


# --- training


@dataclass(frozen=True)
class Trained:
    """A network and what an attack and its score need.

    Attributes:
        start: the weights before the first step.
        model: the network after the last step.
        stops: the weights after the steps of an early stop.
        epsilon: of DP-SGD with DELTA; None: without it.
    """

    family: Family
    start: dict[str, Tensor]
    model: ReadoutModel
    stops: dict[int, dict[str, Tensor]]
    data: ImageDataModule
    seconds: float
    epsilon: float | None = None

    def released(self, weights: dict[str, Tensor]) -> ReadoutModel:
        """The network with these weights."""
        model = deepcopy(self.model)
        model.load_state_dict(weights)
        return model.eval()


def train(
    family: Family, data: ImageDataModule, number: int, multiplier: float | None = None
) -> Trained:
    """Train one network; with a noise multiplier by DP-SGD on all images in one batch."""
    begin, n = perf_counter(), len(data.x)
    model = family.model(data, n, number)
    start = deepcopy(model.state_dict())
    x, y = data.x, data.x.flatten(1) if family.autoencoder else data.y
    optimizer, private = family.optimizer(model), multiplier is not None
    network: nn.Module = model
    if multiplier is not None:
        network, optimizer = privately(model, optimizer, multiplier, family.clip, n, number)
    copies = None
    if family.autoencoder and not private:  # copies of one sample would need a clip of their own
        copies = NoisyCopies(Noise(0.5, seed=number), x)
    stops: dict[int, dict[str, Tensor]] = {}
    for step, (inputs, targets, samples) in enumerate(batches(family, x, y, number, private)):
        noise_ends = 0.8 * family.steps  # as in the configuration autoencoder_photos.yaml
        if copies is not None and step < noise_ends:
            inputs, targets = copies(inputs, targets, samples, step=step, rank=0, ranks=1)
        optimizer.param_groups[0]["lr"] = family.rate(step)
        optimizer.zero_grad()
        LOSSES[family.loss](network(inputs), targets).backward()
        optimizer.step()
        family.shrink(model, step)
        if step + 1 in family.stops:
            stops[step + 1] = deepcopy(model.state_dict())
    if family.autoencoder and not private:  # the closed form would not be private
        polish_readout(model, x, y)
    epsilon = None if multiplier is None else epsilon_of(multiplier, family.steps)
    plain = family.model(data, n, number)  # without the hooks of Opacus
    plain.load_state_dict(model.state_dict())
    seconds = perf_counter() - begin
    return Trained(family, start, plain.eval(), stops, data, seconds, epsilon)


def batches(
    family: Family, x: Tensor, y: Tensor, number: int, whole: bool
) -> Iterator[tuple[Tensor, Tensor, slice | Tensor]]:
    """The batches of all steps; `whole`: all images in each."""
    size = None if whole else family.batch
    epoch = Batches(x, y, size or len(x), None if size is None else number, ranks())
    return islice(chain.from_iterable(repeat(epoch)), family.steps)


def privately(
    model: nn.Module, optimizer: Optimizer, multiplier: float, clip: float, n: int, number: int
) -> tuple[nn.Module, Optimizer]:
    """The network and the optimiser of DP-SGD (Abadi et al. 2016, arXiv 1607.00133)."""
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    # Our losses are means over samples and outputs, so gradients of samples are those times n.
    sampled = GradSampleModule(model, loss_reduction="mean")
    private = DPOptimizer(
        optimizer,
        noise_multiplier=multiplier,
        max_grad_norm=clip,
        expected_batch_size=n,
        loss_reduction="mean",
        generator=generator(number, "privacy noise"),
    )
    return sampled, private


def epsilon_of(multiplier: float, steps: int) -> float:
    """The epsilon of so many steps on all samples; without noise it is infinite."""
    from opacus.accountants import RDPAccountant

    if multiplier == 0:
        return inf
    accountant = RDPAccountant()
    accountant.history = [(multiplier, 1.0, steps)]
    return float(accountant.get_epsilon(delta=DELTA))


# --- protections


@dataclass(frozen=True)
class Point:
    """A protected network.

    Attributes:
        protection: what protects it.
        strength: how strongly, as in STRENGTHS.
        model: the network that is released.
        epsilon: of DP-SGD.
    """

    protection: Protection
    strength: float | str
    model: ReadoutModel
    trained: Trained


def points(family: Family, data: ImageDataModule, number: int, dp: bool) -> Iterator[Point]:
    """The network without protection, then with each at several strengths."""
    trained = train(family, data, number)
    yield Point("none", 0.0, trained.model, trained)
    names = {name for name, p in trained.model.named_parameters() if p.requires_grad}
    weights = trained.model.state_dict()
    secret = {name: value for name, value in weights.items() if name in names}

    def changed(protection: Protection, strength: float | str, new: dict[str, Tensor]) -> Point:
        return Point(protection, strength, trained.released({**weights, **new}), trained)

    for sigma in SIGMAS:
        random = generator(number, "protection")  # the same noise, larger and larger
        yield changed("noise", sigma, noisy(secret, sigma, random))
    for grid in GRIDS:
        yield changed("rounding", grid, rounded(secret, grid))
    for share in SHARES:
        yield changed("pruning", share, pruned(secret, share))
    for step, stopped in trained.stops.items():
        yield changed("stopping", step, stopped)
    for decay in family.decays:
        other = train(replace(family, decay=decay), data, number)
        yield Point("decay", decay, other.model, other)
    for multiplier in MULTIPLIERS if dp else ():
        other = train(family, data, number, multiplier)
        yield Point("dp", multiplier, other.model, other)


@torch.no_grad()
def fits(trained: Trained, model: ReadoutModel) -> dict[str, float]:
    """How well the network does its task, on training images and on others.

    Accuracy for classes. For an autoencoder the share of the images' mean square that it gives
    back, 1 - mse / mean square, at least 0, and the mse itself.
    """
    data, found = trained.data, {}
    for name, x, y in (("train", data.x, data.y), ("held_out", data.val_x, data.val_y)):
        output = model(x)
        if trained.family.autoencoder:
            mse = float((output - x.flatten(1)).square().mean())
            found[f"{name}_mse"] = mse
            found[f"{name}_fit"] = max(0.0, 1 - mse / float(x.square().mean()))
        else:
            found[f"{name}_fit"] = float(((output > 0) == (y > 0)).float().mean())
    return found


def measure(point: Point, seconds: float) -> dict[str, Any]:
    """Attack and score one network."""
    trained, truth = point.trained, Truth.of(point.trained.data)
    start = trained.start
    held = Knowledge(
        point.model,
        initial_readout=start["readout.weight"],
        earlier_first_layer=(
            DenseLayer.of(start, "first_layer", step=0) if "first_layer.weight" in start else None
        ),
        optimiser_keeps_span=True,
        n=truth.n,
        pixels=truth.pixels,
    )
    found = trained.family.attack(seconds).reconstruct(held)
    numbers = score_reconstruction(found, truth, point.model).metrics.as_dict()
    accepted, false = certified(found, truth)
    return {
        "protection": point.protection,
        "strength": point.strength,
        "epsilon": None if trained.epsilon == inf else trained.epsilon,
        **fits(trained, point.model),
        "n": truth.n,
        "exact": numbers["exact_fraction"] or 0.0,
        "recovered": numbers["recovered_fraction"] or 0.0,
        "good": numbers["good_fraction"] or 0.0,
        "certified": accepted,
        "false_certificates": false,
        "attack_seconds": found.seconds,
        "training_seconds": trained.seconds,
        "status": found.status,
    }


# --- what is shown

SHOWN = ("exact", "recovered", "good", "train_fit", "held_out_fit", "epsilon")


def summaries(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over the seeds of each family, protection and strength, with the extremes of shares."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        key = (row["family"], row["protection"], row["strength"])
        groups.setdefault(key, []).append(row)
    return [
        {
            **dict(zip(("family", "protection", "strength"), key, strict=True)),
            "seeds": len(group),
            **{
                name: None if group[0][name] is None else fmean(row[name] for row in group)
                for name in SHOWN
            },
            "extremes": {
                name: [bound(row[name] for row in group) for bound in (min, max)]
                for name in (*SHARES_FOUND, *FITS)
            },
        }
        for key, group in groups.items()
    ]


def show(means: Sequence[dict[str, Any]]) -> None:
    """Print one line for each family, protection and strength."""
    lines = [
        [f"{m['family']}, {m['protection']}", m["strength"], *(m[name] for name in SHOWN)]
        for m in means
    ]
    print(table(["protection", "strength", *SHOWN], lines))


def figure(means: Sequence[dict[str, Any]], title: str) -> Figure:
    """A row of panels for each family, a column for each protection that was measured."""
    families = list(dict.fromkeys(m["family"] for m in means))
    measured = {m["protection"] for m in means}
    columns = [protection for protection in STRENGTHS if protection in measured]
    size = (2.5 * len(columns), 0.8 + 1.9 * len(families))
    picture = Figure(figsize=size, dpi=DPI, facecolor="white", layout="constrained")
    picture.suptitle(title, fontsize=10, color=INK)
    grid = picture.subplots(len(families), len(columns), squeeze=False, sharey=True)
    for family, row in zip(families, grid, strict=True):
        of_family = [m for m in means if m["family"] == family]
        none = [m for m in of_family if m["protection"] == "none"]
        for protection, axes in zip(columns, row, strict=True):
            own = [m for m in of_family if m["protection"] == protection]
            if protection == "decay":  # the other networks have a decay too, that of their family
                usual = {"protection": protection, "strength": FAMILIES[family].decay}
                own += [{**m, **usual} for m in none]
                own.sort(key=lambda m: m["strength"])
            panel(axes, own if protection in ("decay", "stopping") else none + own)
            if family == families[-1]:
                axes.set_xlabel(STRENGTHS[protection], fontsize=8)
        row[0].set_ylabel(family, fontsize=9)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    picture.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return picture


def panel(axes: Axes, means: Sequence[dict[str, Any]]) -> None:
    """Shares that came back, with their extremes, and how well the network does its task."""
    places = range(len(means))
    for name, style in FITS.items():
        values = [m[name] for m in means]
        label = "training images right" if name == "train_fit" else "held-out images right"
        axes.plot(places, values, color=FAINT, linestyle=style, linewidth=1.2, label=label)
    for name, colour in reversed(SHARES_FOUND.items()):
        values = [m[name] for m in means]
        axes.plot(places, values, color=colour, marker="o", markersize=3.5, label=name)
        low, high = ([m["extremes"][name][i] for m in means] for i in (0, 1))
        axes.fill_between(places, low, high, color=colour, alpha=0.2, linewidth=0)
    words = ["none" if m["protection"] == "none" else word(m["strength"]) for m in means]
    axes.set_xticks(places, words, fontsize=6.5)
    axes.tick_params(axis="y", labelsize=7)
    axes.set_ylim(-0.05, 1.05)


def word(strength: float | str) -> str:
    """A strength in the few letters that an axis has room for."""
    if isinstance(strength, str):
        return strength
    return (f"{strength:.0e}" if 0 < strength < 0.01 else f"{strength:g}").replace("e-0", "e-")


@one_line_errors("protection")
def main(argv: list[str] | None = None) -> int:
    quick = {"families": ["change"], "seeds": [0], "n": 4, "max_seconds": 1.0}
    flags = Flags("protection", "How much of a protection ends reconstruction.", quick)
    add = flags.add_argument
    add("--root", metavar="FOLDER", help="CIFAR-10 as FOLDER/CLASS/IMAGE.png; else photographs")
    add("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES), help="what is attacked")
    add("--seeds", nargs="+", type=seed, default=[0, 1, 2], help="of images, weights and noise")
    add("--n", type=count, default=8, help="training images")
    add("--size", type=count, default=16, help="side in pixels; a quarter of it in the family law")
    add("--max-seconds", type=positive, default=3.0, help="time budget of one attack")
    args = flags.read(argv)
    check_root(args.root)
    record = Record(flags, argv, args, seeds=args.seeds)
    dp = find_spec("opacus") is not None
    warning = privacy_warning(args.n, DELTA) if dp else NO_OPACUS
    rows: list[dict[str, Any]] = []
    means: list[dict[str, Any]] = []
    for number in args.seeds:
        for name in args.families:
            family = FAMILIES[name]
            side = max(1, args.size // family.smaller)
            data = two_classes(args.root, args.n, side, number, family.normalize, HELD_OUT)
            for point in points(family, data, number, dp):
                new = {"family": name, "seed": number, **measure(point, args.max_seconds)}
                rows.append(new)
                line = f"{name}, seed {number}, {new['protection']} {word(new['strength'])}:"
                line += f" exact {new['exact']:.2f}, recovered {new['recovered']:.2f},"
                line += f" right {new['train_fit']:.2f} and {new['held_out_fit']:.2f},"
                line += f" {new['attack_seconds']:.1f} s"
                print(line, file=sys.stderr, flush=True)
            # After each network, so that an interrupted run leaves results.
            means, seeds = summaries(rows), len({row["seed"] for row in rows})
            record.write(rows, summaries=means, warning=warning)
            record.draw(figure(means, f"n = {args.n}, {seeds} seed{'s' if seeds > 1 else ''}"))
    show(means)
    if warning:
        print(f"warning: {warning}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
