"""The pixel scale that the transforms of torchvision give, from the objects themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lit_recon.knowledge import ChannelScale, PixelScale

# Transforms by the name of their class, which is the same in torchvision.transforms and in its v2.
TO_UNIT = {"ToTensor"}  # whole levels become numbers in [0, 1]
TO_DTYPE = {"ToDtype", "ConvertImageDtype"}  # likewise, but only the first with scale=True
KEEP_LEVELS = {  # move, choose or repeat pixels and leave their levels as they are
    *("CenterCrop", "RandomCrop", "FiveCrop", "TenCrop", "Pad"),
    *("RandomHorizontalFlip", "RandomVerticalFlip", "Identity"),
    *("ToImage", "ToPILImage", "PILToTensor", "ToPureTensor"),
}
ROUND_LEVELS = {"Resize", "RandomResizedCrop", "Grayscale", "RandomRotation", "RandomAffine"}
"""These end in whole levels before the pixels become numbers in [0, 1], and not after."""


def scale_of(transform: Any, shape: Sequence[int]) -> PixelScale | None:
    """The map from whole levels to inputs that a chain of transforms is.

    >>> from torchvision.transforms import Compose, Normalize, ToTensor
    >>> scale_of(Compose([ToTensor(), Normalize([0.5], [0.25])]), (1, 8, 8))
    PixelScale(shape=(1, 8, 8), mean=0.5, std=0.25)
    >>> scale_of(Compose([ToTensor(), torch.log1p]), (1, 8, 8)) is None  # an unknown part
    True

    Args:
        transform: a transform, or a chain of them; None: no transform.
        shape: of one input; a scale needs channels, height and width.

    Returns:
        The scale; None if the chain does not make numbers of pixels, or has an unknown part.
    """
    if len(shape) != 3:
        return None
    channels, height, width = shape
    unit, mean, std = False, torch.zeros(channels), torch.ones(channels)
    for part in _parts(transform):
        kind = type(part).__name__
        if kind in TO_UNIT or (kind in TO_DTYPE and getattr(part, "scale", True)):
            unit = True
        elif kind == "Normalize" and unit:
            shift, factor = (_of_channels(values, channels) for values in (part.mean, part.std))
            mean, std = mean + std * shift, std * factor
        elif not (kind in KEEP_LEVELS or (kind in ROUND_LEVELS and not unit)):
            return None
    if not unit:
        return None
    means, stds = ([round(float(value), 12) for value in values] for values in (mean, std))
    if len(set(means)) == len(set(stds)) == 1:
        return PixelScale((channels, height, width), means[0], stds[0])
    return ChannelScale.of((channels, height, width), means, stds)


def transform_of(dataset: Any) -> Any:
    """The transform of a dataset, through subsets and concatenations; None: it has none."""
    while True:
        transform = getattr(dataset, "transform", None)
        if transform is not None:
            return transform
        parts = getattr(dataset, "datasets", None)
        inner = parts[0] if parts else getattr(dataset, "dataset", None)
        if inner is None:
            return None
        dataset = inner


def _parts(transform: Any) -> Iterator[Any]:
    """The transforms of a chain, one by one."""
    inside = getattr(transform, "transforms", None)
    if isinstance(transform, torch.nn.Sequential):
        inside = list(transform)
    if inside is None:
        yield from () if transform is None else (transform,)
        return
    for part in inside:
        yield from _parts(part)


def _of_channels(values: Any, channels: int) -> Tensor:
    """One number for each channel, in float64."""
    return torch.as_tensor(values, dtype=torch.float64).flatten().expand(channels)
