"""What autoencoders give back of their training images, over recipes of training, sets and seeds.

The recipes are this project's (TensorAdam, noisy copies, the readout in closed form), the same
without noise, ordinary Adam from PyTorch's start, that of Rao et al. 2025, whose 200,000 steps are
cut, and sequences. A seed chooses the images, the weights and the noise. The attack sees the
weights after the last step, the shape of an image and the pixel scale.

Where a recipe allows it, the network is trained in coordinates of the span of its images. A
rotation of the inputs rotates the whole run of TensorAdam, and a readout that starts at zero stays
in the span. So with Q (r, d) an orthonormal basis of the images, the network W Q^T is trained on
r coordinates instead of d pixels, and has W + (change of W Q^T) Q at the end. This is exact but for
rounding. Isotropic noise leaves the span, and Adam prefers the axes: those train on pixels.

The null is a network trained on points that are no images: training images with noise of half a
level in every pixel. Nothing that it leads to may be certified.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from time import perf_counter, process_time
from typing import Any, Literal

import torch
import yaml
from lightning import Trainer
from torch import Tensor

from benchmarks.final_weights import spread
from benchmarks.lattice import certified
from benchmarks.problems import PRESETS, check_root
from benchmarks.records import Flags, Record, count, one_line_errors, positive, seed
from callbacks import only_our_lines
from datamodules import Digits, ImageFolderSubset, Photos
from datamodules.images import ImageDataModule
from lit_recon.audit.scoring import numbers_of, score_reconstruction
from lit_recon.knowledge import Knowledge
from lit_recon.methods import AttractorReconstructor
from lit_recon.models import Autoencoder
from lit_recon.modules import Adam, Autoencode, Next, Optim, TensorAdam, Training
from lit_recon.modules.tasks import InputTask
from lit_recon.modules.tensor_adam import polish_readout
from lit_recon.randomness import generator
from lit_recon.records.truth import Truth

Images = Literal["photos", "digits", "folder"]
NUMBERS = (
    *("recall", "precision", "fixed_fraction", "attractor_fraction", "spectral_radius_max"),
    *("fixed_points", "cycles", "longest_cycle", "spurious_limits", "starts", "false_chance"),
)
SHOWN = {
    "exact": "exact",
    "attractor_fraction": "share that attracts",
    "spectral_radius_max": "largest radius",
    "recall": "recall",
    "precision": "starts that recall",
    "spurious_limits": "limits, no images",
    "false_certificates": "false certificates",
    "training_cpu_seconds": "training, CPU s",
    "attack_cpu_seconds": "attack, CPU s",
}


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        n: training images.
        steps: training steps.
        task: the targets and the noise.
        optim: the optimiser.
        model: arguments of Autoencoder.
        norm: largest norm of an input.
        clip: largest norm of a gradient; None: any.
        images: whether the inputs are images of whole pixels; false is the null.
        published_steps: of the whole recipe, of which `steps` are the beginning; None: no more.
    """

    n: int
    steps: int
    task: InputTask = field(default_factory=Autoencode)
    optim: Optim = field(default_factory=lambda: TensorAdam(polish=True))
    model: Mapping[str, Any] = field(default_factory=dict)
    norm: float = 32.0
    clip: float | None = None
    images: bool = True
    published_steps: int | None = None

    @property
    def in_span(self) -> bool:
        """Whether training in coordinates of the span of the images is the same."""
        noise = self.task.denoising
        started_at_zero = self.model.get("init", "normal") == "normal"
        inside = noise is None or noise.geometry == "span"
        return isinstance(self.optim, TensorAdam) and started_at_zero and inside


def rao(n: int, steps: int) -> Recipe:
    """The beginning of the recipe of Rao, Zhao and Liu (2025), from its preset."""
    preset = yaml.safe_load((PRESETS / "rao2025.yaml").read_text(encoding="utf-8"))
    return Recipe(
        n,
        steps,
        Autoencode(**preset["task"]["init_args"]),
        Adam(**preset["optim"]["init_args"]),
        preset["model"]["init_args"],
        norm=preset["data.norm"],
        clip=preset["trainer"]["gradient_clip_val"],
        published_steps=preset["trainer"]["max_steps"],
    )


NOISE = Autoencode(noise=0.5)
# From 50 images on, and where images are alike, isotropic noise leaves some of them repelling, and
# noise in their span fewer.
SPAN = Autoencode(noise=0.5, noise_geometry="span")
# One noisy copy instead of two, for half as many steps again at the same cost: 250 images and 256
# units then all attract, and .96 of them with two copies (another seed than those of the results).
ONE_COPY = replace(SPAN, copies=1)
DEEP = {"widths": [512] * 7}
# Five layers keep a sequence of 200 too, but lead only four of ten starts into it; eight lead all.
DEEPER = {"widths": [512] * 8}
RECIPES = {
    "noise 20": Recipe(20, 300, NOISE),
    "span 20": Recipe(20, 300, SPAN),
    "clean 20": Recipe(20, 300),
    "noise 50": Recipe(50, 400, SPAN, model=DEEP, norm=64.0),
    "clean 50": Recipe(50, 400),
    "noise 100": Recipe(100, 600, SPAN, model=DEEP, norm=64.0),
    "noise 200": Recipe(200, 800, SPAN, model=DEEP, norm=64.0),
    "noise 500": Recipe(500, 1500, ONE_COPY, model=DEEP, norm=64.0),
    "sequence 100": Recipe(100, 400, Next(), model=DEEPER, norm=64.0),
    "sequence 200": Recipe(200, 400, Next(), model=DEEPER, norm=64.0),
    "adam 20": Recipe(20, 2000, optim=Adam(1e-3, schedule="cosine"), model={"init": "pytorch"}),
    "rao 20": rao(20, 1000),
    "null noise 20": Recipe(20, 300, NOISE, images=False),
    "null clean 20": Recipe(20, 300, images=False),
}


def images_of(
    recipe: Recipe, images: Images, root: str | None, size: int | None, number: int
) -> ImageDataModule:
    """Random images, other ones for every seed; in the null half a level of noise is added."""
    usual: dict[str, Any] = {"selection": "random", "seed": number, "norm": recipe.norm}
    usual["normalize"] = "norm"
    data: ImageDataModule
    if images == "folder":
        assert root is not None  # `main` has seen it
        data = ImageFolderSubset(recipe.n, root=root, image_size=size, **usual)
    elif images == "digits":
        data = Digits(recipe.n, **usual)
    else:
        data = Photos(recipe.n, image_size=size or 32, **usual)
    data.setup()
    if not recipe.images:
        assert data.pixels is not None
        level = 1 / (255 * torch.as_tensor(data.pixels.std)).to(data.x)
        half = torch.rand(data.x.shape, generator=generator(number, "half levels")) - 0.5
        data.x = data.x + half * level
    data.retarget(recipe.task.targets)
    return data


def trained(recipe: Recipe, data: ImageDataModule, steps: int, number: int) -> Autoencoder:
    """The network after training; the data module's inputs and targets are changed."""
    x, y = data.x.flatten(1), data.y
    d = x.shape[1]
    model = Autoencoder(d, d, seed=number, **recipe.model)
    if recipe.in_span:
        basis = span_of(x)  # (r, d)
        small = Autoencoder(len(basis), len(basis), seed=number, **recipe.model)
        small.load_state_dict(lowered(model.state_dict(), basis))
        start = small.first_layer.weight.detach().clone()
        data.x, data.y = x @ basis.T, y @ basis.T
        fit(recipe, small, data, steps)
        moved = {**small.state_dict()}
        moved["first_layer.weight"] = moved["first_layer.weight"] - start
        model.load_state_dict(lifted(moved, model.first_layer.weight.detach(), basis))
    else:
        fit(recipe, model, data, steps)
    if recipe.optim.polish:
        polish_readout(model, x, y)
    return model.eval()


def fit(recipe: Recipe, model: Autoencoder, data: ImageDataModule, steps: int) -> None:
    """Train with the project's own module; nothing is saved."""
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        gradient_clip_val=recipe.clip,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Training(model, recipe.optim, recipe.task), data)


def span_of(x: Tensor) -> Tensor:
    """(r, d) an orthonormal basis of the span of x (n, d)."""
    _, values, rows = torch.linalg.svd(x.double(), full_matrices=False)
    return rows[values > 1e-6 * values[0]].to(x)


def lowered(weights: Mapping[str, Tensor], basis: Tensor) -> dict[str, Tensor]:
    """The weights of the network on coordinates of a basis (r, d), whose readout is in its span."""
    return {
        **weights,
        "first_layer.weight": weights["first_layer.weight"] @ basis.T,
        "readout.weight": basis @ weights["readout.weight"],
        "readout.bias": basis @ weights["readout.bias"],
    }


def lifted(weights: Mapping[str, Tensor], start: Tensor, basis: Tensor) -> dict[str, Tensor]:
    """The weights of the network on inputs, from changes on coordinates of a basis (r, d).

    Args:
        weights: as of `lowered`, but the first layer's change.
        start: (units, d) the first layer before training.
        basis: (r, d) orthonormal rows.
    """
    return {
        **weights,
        "first_layer.weight": start + weights["first_layer.weight"] @ basis,
        "readout.weight": basis.T @ weights["readout.weight"],
        "readout.bias": basis.T @ weights["readout.bias"],
    }


def trial(name: str, images: Images, number: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train and attack once."""
    recipe = RECIPES[name]
    steps = args.steps or recipe.steps
    data = images_of(recipe, images, args.root, args.size, number)
    truth, y = Truth.of(data), data.y
    start, cpu_start = perf_counter(), process_time()
    with only_our_lines():
        model = trained(recipe, data, steps, number)
    middle, cpu_middle = perf_counter(), process_time()
    attack = AttractorReconstructor(max_seconds=args.seconds, seed=number)
    found = attack.reconstruct(Knowledge(model, pixels=truth.pixels))
    end, cpu_end = perf_counter(), process_time()
    scores = score_reconstruction(found, truth)
    numbers = numbers_of(found, scores, truth, attack.describes)
    accepted, false = certified(found, truth)
    with torch.no_grad():
        error = (model.double()(truth.x.double()) - y.double()).square().mean()
    return {
        "recipe": name,
        "images": images,
        "seed": number,
        "n": recipe.n,
        "d": truth.x.shape[1],
        "steps": steps,
        "published_steps": recipe.published_steps,
        "norm": recipe.norm,
        "model": dict(recipe.model),
        "task": {"name": type(recipe.task).__name__, **asdict(recipe.task)},
        "optim": type(recipe.optim).__name__,
        "in_span": recipe.in_span,
        "train_mse": float(error),
        "exact": sum(bool(row.exact) for row in scores.rows),
        "recovered": sum(row.recovered for row in scores.rows),
        "certified": accepted,
        "false_certificates": false if recipe.images else accepted,
        **{number: numbers.get(number) for number in NUMBERS},
        "status": found.status,
        "reason": found.outcome.reason,
        "training_seconds": middle - start,
        "training_cpu_seconds": cpu_middle - cpu_start,
        "attack_seconds": end - middle,
        "attack_cpu_seconds": cpu_end - cpu_middle,
    }


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table with a line for each recipe and set: medians over seeds, and ranges."""
    lines = [["recipe", "images", "n", "seeds", *SHOWN.values()]]
    lines.append(["---"] * len(lines[0]))
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["recipe"], row["images"]), []).append(row)
    for (recipe, images), group in groups.items():
        cells = [spread([row[key] for row in group]) for key in SHOWN]
        lines.append([recipe, images, str(group[0]["n"]), str(len(group)), *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def judged(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many limits were found in all, and how many certificates were false."""
    images, null = (
        [row for row in rows if RECIPES[row["recipe"]].images is kind] for kind in (True, False)
    )
    spurious = sum(row["spurious_limits"] for row in images)
    wrong = sum(row["false_certificates"] for row in images)
    limits = sum(row["fixed_points"] + row["cycles"] for row in null)
    certificates = sum(row["certified"] for row in null)
    right = sum(row["certified"] for row in images) - wrong
    return (
        f"{len(images)} networks: {right} right certificates, {spurious} limits that are no images,"
        f" {wrong} false certificates. {len(null)} networks trained on points that are no images:"
        f" {limits} limits, {certificates} certificates."
    )


def identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What one result replaces another by."""
    return row["recipe"], row["images"], row["seed"]


@one_line_errors("attractors")
def main(argv: list[str] | None = None) -> int:
    quick: dict[str, Any] = {
        "recipes": ["noise 20", "null clean 20"],
        "steps": 100,
        "size": 8,
        "seeds": [100],
        "seconds": 20.0,
    }
    flags = Flags("attractors", "Trains autoencoders and attacks their weights.", quick)
    add = flags.add_argument
    names = list(RECIPES)
    add("--recipes", nargs="+", choices=names, default=names, help="recipes of training")
    add("--images", choices=["photos", "digits"], default="photos", help="without --root")
    add("--root", metavar="FOLDER", help="images as FOLDER/CLASS/IMAGE.png, such as CIFAR-10")
    add("--seeds", nargs="+", type=seed, default=[*range(100, 110)], help="of images and weights")
    add("--append", action="store_true", help="keep earlier results of other recipes and seeds")
    add("--steps", type=count, help="training steps; left out: the recipe's")
    add("--size", type=count, help="side of the images; left out: the source's")
    add("--seconds", type=positive, default=600.0, help="time budget of an attack")
    args = flags.read(argv)
    check_root(args.root)
    images: Images = args.images if args.root is None else "folder"
    record = Record(flags, argv, args, seeds=args.seeds)
    kept = record.earlier(of_any_run=True) if args.append else []
    results = {identity(row): row for row in kept}
    for name in args.recipes:
        for number in args.seeds:
            row = trial(name, images, number, args)
            results[identity(row)] = {**row, "git": record.facts["git"]}
            line = f"{name}, {images}, seed {number}: {row['exact']} exact of {row['n']}, "
            line += f"{row['status']}, {row['training_cpu_seconds']:.0f} + "
            line += f"{row['attack_cpu_seconds']:.0f} s of CPU"
            print(line, file=sys.stderr, flush=True)
            record.write([*results.values()])  # after each, so that an interrupted run leaves some
    print(markdown([*results.values()]), judged([*results.values()]), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
