"""A small zoo of seeded attack problems with known answers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lit_recon.knowledge import DenseLayer, Knowledge, PixelScale
from lit_recon.linalg import minimum_norm
from lit_recon.models import DeepMLP, RandomFeatures, ReadoutModel


def sphere(n: int, d: int, seed: int) -> Tensor:
    """(n, d) points of norm sqrt(d)."""
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return x * d**0.5 / x.norm(dim=1, keepdim=True)


def images(n: int, size: int, seed: int) -> tuple[Tensor, PixelScale]:
    """(n, 3, size, size) uint8 smooth random pictures and their pixel scale."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, 3, size // 2, size // 2, generator=generator)
    fine = torch.randn(n, 3, size, size, generator=generator)
    up = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
    u = (128 + 45 * up + 15 * fine).round().clamp(0, 255).to(torch.uint8)
    unit = u.double() / 255
    return u, PixelScale((3, size, size), float(unit.mean()), float(unit.std()))


def trained(
    x: Tensor, p: int, *, k: int = 1, seed: int = 0, activation="relu", stored: int | None = None
) -> RandomFeatures:
    """A random-features model that interpolates random targets on x (n, d)."""
    n, d = x.shape
    model = RandomFeatures(d=d, k=k, n=n, p=p, seed=seed, activation=activation, stored_rows=stored)
    y = torch.randn(n, k, generator=torch.Generator().manual_seed(seed + 1)).sign()
    with torch.no_grad():
        model.readout.weight.copy_(minimum_norm(model.features(x), y))
    return model


def taught(
    model: ReadoutModel,
    x: Tensor,
    *,
    steps: int,
    lr: float,
    pixels: PixelScale | None = None,
    radius: float | None = None,
    first_layer: bool = False,
) -> Knowledge:
    """What is known of a model after so many steps of SGD on x (n, *input shape) and random signs.

    Args:
        first_layer: the first layer's start is known too.
    """
    start = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    y = torch.randn(len(x), model.readout.out_features, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - y.sign()).square().sum().backward()
        optimizer.step()
    layer = DenseLayer.of(start, "first_layer", step=0) if first_layer else None
    return Knowledge(
        model.eval(),
        initial_readout=start["readout.weight"],
        earlier_first_layer=layer,
        n=len(x),
        pixels=pixels,
        radius=radius,
    )


def knowledge(
    model: RandomFeatures, n: int, pixels: PixelScale | None = None, radius: float | None = None
) -> Knowledge:
    """What is known of a random-features model, whose readout starts at 0."""
    start = torch.zeros_like(model.readout.weight)
    return Knowledge(model, initial_readout=start, n=n, pixels=pixels, radius=radius)


def readout_of(held: Knowledge) -> Tensor:
    """(k, p) the final readout."""
    assert isinstance(held.model, ReadoutModel)
    return held.model.readout.weight.detach()


def with_readout(held: Knowledge, weight: Tensor) -> Knowledge:
    """The same of a network with another final readout (k, p)."""
    model = copy.deepcopy(held.model)
    assert isinstance(model, ReadoutModel)
    with torch.no_grad():
        model.readout.weight.copy_(weight)
    return replace(held, model=model)


def folder_of_images(root: Path, classes: Sequence[str] = ("frog", "truck")) -> Path:
    """Folders of classes with eight random 8x8 images each."""
    random = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(8):
            pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


@torch.no_grad()
def autoencoder(
    x: Tensor, y: Tensor | None = None, *, widths: Sequence[int] = (64, 64), gain: float = 3.0
) -> DeepMLP:
    """A network whose readout of least norm maps x (n, d) to themselves, or to y (n, d).

    Args:
        gain: of the hidden layers' weights over PyTorch's start; with 3, inputs of unit variance
            attract.
    """
    d = x.shape[1]
    model = DeepMLP(d=d, k=d, widths=widths, activation="tanh", bias="all", seed=0).double()
    for name, weight in model.named_parameters():
        weight.mul_(gain if name.endswith("weight") else 0.0)
    model.readout.weight.copy_(minimum_norm(model.features(x), x if y is None else y))
    return model.float().eval()
