"""Approximate images made sharper by exact zeros and rounding, where the lattice is too large."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lit_recon.knowledge import DenseLayer
from lit_recon.methods.rowspace.components import component_spread
from lit_recon.methods.rowspace.images import PixelSpace
from lit_recon.methods.rowspace.layer import less
from lit_recon.methods.rowspace.levels import Array, Integers
from lit_recon.methods.rowspace.rounding import recover_integers
from lit_recon.methods.rowspace.zeros import Estimate


@dataclass(frozen=True)
class Change:
    """The first layer at two checkpoints, and its change without what decay has left of the start.

    All are those of inputs whose pixels have the same unit. Where the bias is a further pixel of
    the inputs (see :mod:`layer`), it is the last column.

    Attributes:
        change: (h, d) or (h, d + 1) float64.
        before: float64 of the same shape; None: it was zero, or is forgotten.
        after: float64 of the same shape.
    """

    change: Tensor
    before: Tensor | None
    after: Tensor

    @classmethod
    def of(
        cls, after: DenseLayer, before: DenseLayer | None, share: float, pixels: PixelSpace
    ) -> Change:
        """The change of a layer, of which weight decay has left a share of the earlier weights."""
        layers = [layer for layer in (after, before) if layer is not None]
        unit = torch.tensor(pixels.frame.weights)
        weights = [layer.weight.cpu().double() for layer in layers]
        change, seen = less(weights, share) * unit, [weight / unit for weight in weights]
        if pixels.tags is not None:
            biases = [layer.bias.cpu().double() for layer in layers if layer.bias is not None]
            bias, shift = less(biases, share), torch.tensor(pixels.shift / pixels.frame.level)
            # What reads x and 1 reads an image without its mean, that is the image and 1.
            change = torch.column_stack([change + bias[:, None] * shift, bias])
            seen = [
                torch.column_stack([weight, own - weight @ shift])
                for weight, own in zip(seen, biases, strict=True)
            ]
        return cls(change, seen[1] if len(seen) > 1 else None, seen[0])

    def coefficients(self, pixels: PixelSpace) -> Array:
        """(h, r) of the change in the unit rows of the row space."""
        inside = self.change[:, : pixels.rows.shape[1]] @ torch.tensor(pixels.rows).T
        return np.asarray(inside.numpy())


def by_rounding(
    change: Change,
    pixels: PixelSpace,
    guesses: Array | None,
    random: torch.Generator,
    deadline: float,
) -> tuple[Array | None, Integers]:
    """Sharpen independent components by neurons that were inactive, and round them to integers.

    Args:
        change: the first layer.
        pixels: the row space; its offset must be known, and be no image.
        guesses: (m, r) approximate images in its coordinates; None: there are none.
        random: source of the random choices.
        deadline: value of ``time.perf_counter()`` after which no further pass begins.

    Returns:
        Better guesses, and the pixels (k, d) of the images that are exact.
    """
    frame, rows = pixels.frame, pixels.rows
    none = np.zeros((0, rows.shape[1]), dtype=np.int64)
    usable = guesses is not None and len(guesses) == len(rows)
    if guesses is None or not usable or frame.offset is None or frame.image:
        return guesses, none
    images = torch.tensor(guesses @ rows)
    spread, candidates = component_spread(images, frame.shape), images
    if pixels.tags is not None:
        tags = torch.tensor(guesses @ pixels.tags) * frame.level
        candidates = torch.column_stack([images, tags]) * tags.sign()[:, None]
    prior = Estimate(candidates, spread, signed=pixels.tags is not None)
    best, rounded = recover_integers(
        change.change,
        change.before,
        change.after,
        prior,
        torch.tensor(frame.offset),
        frame.level,
        frame.shape,
        random,
        deadline,
    )
    sharper = best.candidates[:, : rows.shape[1]].numpy() @ rows.T
    return sharper, rounded.levels[rounded.exact].long().numpy()
