"""A small zoo of seeded attack problems with known answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lit_recon.knowledge import Knowledge, PixelScale
from lit_recon.linalg import minimum_norm
from lit_recon.models import RandomFeatures


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


def knowledge(
    model: RandomFeatures, n: int, pixels: PixelScale | None = None, radius: float | None = None
) -> Knowledge:
    readout = model.readout.weight.detach()
    return Knowledge(model, readout, torch.zeros_like(readout), n, pixels, radius)


def folder_of_images(root: Path) -> Path:
    """Folders of two classes with eight random 8x8 images each."""
    random = np.random.default_rng(0)
    for name in ("frog", "truck"):
        (root / name).mkdir(parents=True)
        for i in range(8):
            pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root
