"""What may be learnt from somebody's own data loaders: shape, pixel scale, and the true data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from lit_recon.audit.transforms import scale_of, transform_of
from lit_recon.knowledge import PixelScale
from lit_recon.metrics.likeness import MOST_HELD_OUT
from lit_recon.records.truth import Truth

MOST_SCORED = 2000
"""Training samples up to which results are compared with all of them."""
READ_TWICE = 16  # samples; transforms that are random change one of them
WHOLE = 1e-3  # levels; float32 inputs give whole levels back within some 1e-4


def inputs_in(batch: Any) -> Tensor | None:
    """The inputs in a batch or an item: its first tensor of floating-point numbers.

    >>> inputs_in({"image": torch.zeros(4, 1, 2, 2), "label": torch.zeros(4)}).shape
    torch.Size([4, 1, 2, 2])
    """
    leaves = (leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor))
    return next((leaf for leaf in leaves if leaf.is_floating_point()), None)


def datasets_in(loaders: Any) -> list[Any]:
    """The datasets of whose items the loaders make batches, in their order.

    Args:
        loaders: a loader, or a list, a mapping or a `CombinedLoader` of some; None: none.
    """
    flat = getattr(loaders, "flattened", None) or tree_leaves(loaders)
    return [loader.dataset for loader in flat if isinstance(loader, DataLoader)]


def truth_of(
    dataset: Any, held_out: Sequence[Any], pixels: PixelScale | None
) -> tuple[Truth | None, str]:
    """The training data as scoring needs them.

    Random numbers are drawn from a copy of the generators, so that training is not disturbed.

    Args:
        dataset: the training set.
        held_out: datasets of samples that are not trained on.
        pixels: the pixel scale; None: not known, or the inputs are no images.

    Returns:
        The data, or None; and if None, a clause that says why.
    """
    size = _size(dataset)
    if size is None:
        return None, "the training set has no length"
    if size > MOST_SCORED:
        return None, f"the training set has {size} samples, more than {MOST_SCORED}"
    with isolate_rng():
        items = [dataset[i] for i in range(size)]
        again = [inputs_in(dataset[i]) for i in range(min(size, READ_TWICE))]
        others = list(_first_inputs(held_out))
    inputs = [x for x in map(inputs_in, items) if x is not None]
    if len(inputs) != size or len({x.shape for x in inputs}) != 1:
        return None, "its samples are no tensors of one shape"
    if not all(torch.equal(x, y) for x, y in zip(inputs, again, strict=False) if y is not None):
        return None, "transforms change its samples at random"
    x = torch.stack([value.detach().cpu() for value in inputs])
    labels = [_label(item) for item in items]
    known = [label for label in labels if label is not None]
    kinds = sorted(set(known)) if len(known) == size else []
    held = [value.detach().cpu() for value in others if value.shape == x.shape[1:]]
    return Truth(
        x=x.flatten(1),
        held_out=torch.stack(held).flatten(1) if held else x[:0].flatten(1),
        images=None if pixels is None else whole_pixels(x, pixels),
        pixels=pixels,
        radius=None,
        labels=[kinds.index(label) for label in known] if kinds else [],
        class_names=[str(kind) for kind in kinds],
        indices=list(range(size)),
        input_shape=tuple(x.shape[1:]),
    ), ""


def whole_pixels(x: Tensor, pixels: PixelScale) -> Tensor | None:
    """(n, c, h, w) uint8 images of the inputs; None if their levels are no whole ones in 0..255.

    >>> whole_pixels(torch.tensor([[0.0, 1.0]]), PixelScale((1, 1, 2), 0.2, 0.4)).flatten().tolist()
    [51, 153]
    """
    levels = 255 * pixels.values(x.double())
    rounded = levels.round()
    fits = (levels - rounded).abs().max() < WHOLE and 0 <= rounded.min() <= rounded.max() <= 255
    return rounded.to(torch.uint8) if fits else None


def _size(dataset: Any) -> int | None:
    try:
        return len(dataset) if hasattr(dataset, "__getitem__") else None
    except (TypeError, NotImplementedError):
        return None


def _first_inputs(datasets: Sequence[Any]) -> Iterator[Tensor]:
    """The inputs of the first samples of the datasets, at most `MOST_HELD_OUT` in all."""
    left = MOST_HELD_OUT
    for dataset in datasets:
        for i in range(min(_size(dataset) or 0, left)):
            found = inputs_in(dataset[i])
            if found is not None:
                left -= 1
                yield found


def _label(item: Any) -> int | None:
    """The class in an item: its first whole number after the input."""
    for leaf in tree_leaves(list(item.values()) if isinstance(item, Mapping) else item):
        if isinstance(leaf, int) and not isinstance(leaf, bool):
            return leaf
        if isinstance(leaf, Tensor) and leaf.numel() == 1 and not leaf.is_floating_point():
            return int(leaf)
    return None


def scale_from(dataset: Any, shape: Sequence[int]) -> PixelScale | None:
    """The pixel scale that a dataset's transforms of torchvision give; None: not known."""
    return scale_of(transform_of(dataset), shape)
