"""Approximate images made sharper by exact zeros and rounding, where the lattice is too large."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lit_recon.knowledge import DenseLayer
from lit_recon.methods.rowspace.components import component_spread
from lit_recon.methods.rowspace.images import PixelSpace
from lit_recon.methods.rowspace.levels import Array, Integers
from lit_recon.methods.rowspace.rounding import recover_integers
from lit_recon.methods.rowspace.zeros import Estimate

BIAS_MISSES = 0.01  # of a bias's change, which the coefficients of the weight's explain


@dataclass(frozen=True)
class Change:
    """The first layer at two checkpoints, and its change without what decay has left of the start.

    All are those of inputs whose pixels have the same unit. Where the bias has changed as that of a
    further pixel does, which is 1 in every input, it is the last column.

    Attributes:
        change: (h, d) or (h, d + 1) float64.
        before: float64 of the same shape; None: it was zero, or is forgotten.
        after: float64 of the same shape.
        tags: (r,) the further pixel of each row of the row space; None: there is none.
    """

    change: Tensor
    before: Tensor | None
    after: Tensor
    tags: Tensor | None = None

    @classmethod
    def of(
        cls, after: DenseLayer, before: DenseLayer | None, share: float, pixels: PixelSpace
    ) -> Change:
        """The change of a layer, of which weight decay has left a share of the earlier weights."""
        unit = torch.tensor(pixels.frame.weights)
        later = after.weight.cpu().double()
        start = None if before is None else before.weight.cpu().double()
        change = later if start is None else later - share * start
        found = cls(change * unit, None if start is None else start / unit, later / unit)
        biases = [layer.bias for layer in (after, before) if layer is not None]
        if any(bias is None for bias in biases):
            return found
        return found._with_bias([bias.cpu().double() for bias in biases], share, pixels)  # type: ignore[union-attr]

    def _with_bias(self, biases: list[Tensor], share: float, pixels: PixelSpace) -> Change:
        change = biases[0] - share * biases[1] if len(biases) > 1 else biases[0]
        coefficients = self.change @ torch.tensor(pixels.rows).T
        tags = torch.linalg.lstsq(coefficients, change[:, None]).solution[:, 0]
        if not (coefficients @ tags - change).norm() < BIAS_MISSES * change.norm():
            return self  # it was trained in another way, or not at all
        before = None
        if self.before is not None:
            before = torch.column_stack([self.before, biases[1]])
        after = torch.column_stack([self.after, biases[0]])
        return Change(torch.column_stack([self.change, change]), before, after, tags)


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
    if change.tags is not None:
        candidates = torch.column_stack([images, torch.tensor(guesses) @ change.tags])
    prior = Estimate(candidates, spread)
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
