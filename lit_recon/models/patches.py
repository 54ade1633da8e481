"""Finds a first layer that reads patches of an image, each as a dense layer reads a small image."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Patches:
    """Which values of an image a first layer reads together.

    >>> embedding = nn.Sequential(nn.Conv2d(3, 16, 4, stride=4), nn.Flatten())
    >>> found = Patches.of(embedding, (3, 8, 8))
    >>> found.name, found.shape, found.count
    ('0', (3, 4, 4), 4)

    Attributes:
        name: the layer's dotted name.
        shape: (c, h, w) of a patch.
        index: (patches, c h w) positions in a flat image, in the order of `shape`.
        order: (c h w,) columns of the layer's weight (units, c h w) in that order.
    """

    name: str
    shape: tuple[int, int, int]
    index: Tensor
    order: Tensor

    @property
    def count(self) -> int:
        """The number of patches in an image."""
        return len(self.index)

    @classmethod
    def of(cls, network: nn.Module, shape: Sequence[int]) -> Patches | None:
        """The patches that a network's first layer reads; None: it reads no patches.

        The network is run on an image in which every value is its own position. So a convolution
        without overlap is found, and a dense layer on patches in whatever order it has their
        values; a network that scales its input first is not.

        Args:
            network: in eval mode.
            shape: (c, h, w) of an image; others have no patches.
        """
        if len(shape) != 3:
            return None
        name, read = _positions(network, shape)
        if read is None or len(read) < 2 or len(read.unique()) != read.numel():
            return None
        order = read[0].argsort()
        index = read[:, order]
        corner = index - index[:, :1]
        parts = torch.unravel_index(index[0], tuple(shape))
        c, h, w = (len(part.unique()) for part in parts)
        if (
            (c, c * h * w) != (shape[0], len(order))
            or h * w == 1
            or bool((corner[0] != corner).any())
        ):
            return None
        return cls(name, (c, h, w), index, order)


@torch.no_grad()
def _positions(network: nn.Module, shape: Sequence[int]) -> tuple[str, Tensor | None]:
    """The first dense or convolutional layer that is met, and the positions that it reads.

    Returns:
        Its dotted name, and (patches, values); None: it does not read values of an image, each in
        one patch.
    """
    device = next(network.parameters()).device
    image = torch.arange(prod(shape), dtype=torch.float32, device=device).reshape(1, *shape)
    layers = {n: m for n, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    met: list[tuple[str, Tensor]] = []
    handles = [
        layer.register_forward_pre_hook(lambda _, inputs, n=name: met.append((n, inputs[0])))
        for name, layer in layers.items()
    ]
    with suppress(Exception):  # the user's code can raise anything, also after the layer
        network(image)
    for handle in handles:
        handle.remove()
    if not met:
        return "", None
    name, seen = met[0]
    layer = layers[name]
    if isinstance(layer, nn.Conv2d):
        apart = layer.kernel_size == layer.stride and layer.padding in ((0, 0), "valid")
        plain = layer.groups == 1 and set(layer.dilation) == {1}
        if not (apart and plain and torch.equal(seen, image)):
            return name, None
        values = nn.functional.unfold(image, layer.kernel_size, stride=layer.kernel_size)[0].T
    else:
        values = seen.reshape(-1, layer.in_features)
    positions = values.round().long()
    of_image = torch.equal(positions.to(values), values) and bool(torch.isin(values, image).all())
    return name, positions.cpu() if of_image else None
