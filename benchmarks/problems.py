"""Trained models to attack, and the paper's attack."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

import datamodules
from datamodules.images import ImageDataModule, Normalize
from lit_recon.errors import InputError
from lit_recon.knowledge import Knowledge
from lit_recon.linalg import minimum_norm
from lit_recon.methods import ProjectionReconstructor
from lit_recon.models import RandomFeatures
from lit_recon.solvers import MomentumDescent

ROOT = Path(__file__).parents[1]
PRESETS = ROOT / "configs" / "presets"
FROG_AND_TRUCK = ("frog", "truck")


@dataclass(frozen=True)
class Problem:
    """Data and a random-features model, whose readout is fitted in closed form.

    Attributes:
        data: name of a data module.
        n: number of training samples.
        d: input dimension.
        p: number of features.
        arguments: constructor arguments of the data module, without n, root and seed.
    """

    data: str
    n: int
    d: int
    p: int
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def needs_root(self) -> bool:
        return self.data == "ImageFolderSubset"

    @property
    def first_layer_bytes(self) -> int:
        """Size of V in bytes, in float32."""
        return 4 * self.p * self.d

    @property
    def size(self) -> dict[str, float]:
        """The columns of a row of results that describe the problem."""
        return {"n": self.n, "d": self.d, "p": self.p, "p_over_dn": self.p / (self.d * self.n)}

    def settings(self, root: str | None) -> dict[str, Any]:
        """Arguments of the data module, with the folder if it needs one."""
        place = {"root": root} if self.needs_root else {}
        return {"n": self.n, **self.arguments, **place}


def sphere(n: int, d: int, p: int) -> Problem:
    """The paper's synthetic regression: n points in d dimensions, p features."""
    return Problem("Sphere", n, d, p, {"d": d})


def pictures(n: int, size: int, p: int, classes: tuple[str, str] = FROG_AND_TRUCK) -> Problem:
    """The first colour images of two classes of a folder such as CIFAR-10; `size` in pixels."""
    arguments = {"classes": list(classes), "image_size": size}
    return Problem("ImageFolderSubset", n, 3 * size**2, p, arguments)


def photos(n: int, size: int, p: int) -> Problem:
    """Patches of scikit-learn's two photographs, `size` pixels on a side; needs no folder."""
    return Problem("Photos", n, 3 * size**2, p, {"image_size": size})


def two_classes(
    root: str | None, n: int, size: int, seed: int, normalize: Normalize, n_val: int
) -> ImageDataModule:
    """Random frogs and trucks of a folder; without one the same photographs for every seed.

    Args:
        root: as FOLDER/CLASS/IMAGE.png.
        n: training images, an even number.
        size: side in pixels.
        seed: of the choice.
        normalize: of the images; which they are does not depend on it.
        n_val: held-out images.
    """
    usual: dict[str, Any] = {"image_size": size, "normalize": normalize, "n_val": n_val}
    data: ImageDataModule = datamodules.Photos(n, **usual)
    if root is not None:
        usual |= {"selection": "random", "seed": seed, "classes": list(FROG_AND_TRUCK)}
        data = datamodules.ImageFolderSubset(n, root=root, **usual)
    data.setup()
    return data


def check_root(root: str | None) -> None:
    """Refuse a folder of images that is not there.

    Raises:
        InputError: the folder does not exist.
    """
    if root is not None and not Path(root).expanduser().is_dir():
        raise InputError("--root", root, "there is no such folder; give one of class folders")


def runnable(chosen: dict[str, Problem], root: str | None) -> list[str]:
    """Names of the problems whose data are available; prints one line for each of the others.

    Raises:
        InputError: the folder does not exist.
    """
    check_root(root)
    names = []
    for name, problem in chosen.items():
        if problem.needs_root and root is None:
            print(f"{name}: skipped, its images need --root FOLDER (FOLDER/CLASS/IMAGE.png)")
        else:
            names.append(name)
    return names


@dataclass(frozen=True)
class Trained:
    """The attacker's knowledge of a trained model, and the training inputs for scoring."""

    knowledge: Knowledge
    x: Tensor  # (n, d)


@torch.no_grad()
def train(problem: Problem, root: str | None, seed: int) -> Trained:
    """The model that train.py would train with ``--run.seed SEED``, without its run directory."""
    data = getattr(datamodules, problem.data)(**problem.settings(root), seed=seed)
    data.setup()
    model = RandomFeatures(d=data.d, k=data.k, n=data.n, p=problem.p, seed=seed).eval()
    model.readout.weight.copy_(minimum_norm(model.features(data.x), data.y))
    knowledge = Knowledge(model, n=data.n, pixels=data.pixels, radius=data.radius)
    return Trained(knowledge, data.x.flatten(1))


def preset(name: str) -> dict[str, Any]:
    """The settings of the attack in a preset."""
    content = yaml.safe_load((PRESETS / f"{name}.yaml").read_text(encoding="utf-8"))
    settings: dict[str, Any] = content["recon"]["init_args"]
    return settings


def published(lr: float, max_seconds: float) -> ProjectionReconstructor:
    """The attack with its authors' settings, from the preset iurada2025.yaml."""
    settings = preset("iurada2025")
    solver: MomentumDescent = MomentumDescent(**{**settings.pop("solver")["init_args"], "lr": lr})
    return ProjectionReconstructor(solver, max_seconds, **settings)
