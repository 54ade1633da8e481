"""Changes of first layers whose row space holds photographs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from datamodules.photos import Photos
from lit_recon.knowledge import DenseLayer, Knowledge, PixelScale
from lit_recon.models import DeepMLP


def photographs(n: int, size: int, *, grey: bool = False) -> tuple[Tensor, PixelScale]:
    """(n, c, size, size) uint8 patches of photographs and their pixel scale."""
    data = Photos(n=n, image_size=size)
    data.load()
    assert data.images is not None
    u = data.images[:, 1:2] if grey else data.images
    unit = u.double() / 255
    return u, PixelScale((u.shape[1], size, size), float(unit.mean()), float(unit.std()))


def changed(
    x: Tensor,
    h: int,
    *,
    size: float = 1e-2,
    share: float = 1.0,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """The weight of a first layer (h, d) before and after ``C x`` was added to a share of it.

    Args:
        x: (n, d) float64.
        h: neurons.
        size: norm of the change over that of the weight; rounding counts more in a small one.
        share: what weight decay leaves of the weight.
        dtype: of the weights.
        seed: of the weight before and of C.
    """
    random = torch.Generator().manual_seed(seed)
    before = nn.init.kaiming_uniform_(torch.empty(h, x.shape[1]), 5**0.5, generator=random)
    change = torch.randn(h, len(x), generator=random, dtype=torch.float64) @ x
    before = before.to(dtype)
    change *= size * before.double().norm() / change.norm()
    return before, (share * before.double() + change).to(dtype)


def knowledge(before: Tensor, after: Tensor, pixels: PixelScale | None) -> Knowledge:
    """What the attacker holds whose network has this first layer (h, d), before and after."""
    h, d = after.shape
    model = DeepMLP(d=d, k=1, widths=[h]).to(after.dtype)
    with torch.no_grad():
        model.first_layer.weight.copy_(after)
    layer = DenseLayer("first_layer", before)
    return Knowledge(model.eval(), earlier_first_layer=layer, pixels=pixels)


def matching(found: Tensor, images: Tensor) -> set[int]:
    """Which of the images (n, c, h, w) are among those found (m, c, h, w), to the last pixel."""
    pixels = {image.numpy().tobytes() for image in found}
    return {i for i, image in enumerate(images) if image.numpy().tobytes() in pixels}
