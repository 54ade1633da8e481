"""Approximate images made sharper by exact zeros and rounding, where the lattice is too large."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lit_recon.methods.rowspace.components import component_spread
from lit_recon.methods.rowspace.images import PixelSpace
from lit_recon.methods.rowspace.levels import Array, Integers
from lit_recon.methods.rowspace.rounding import recover_integers
from lit_recon.methods.rowspace.zeros import Estimate


@dataclass(frozen=True)
class Change:
    """The first layer at two checkpoints, and its change without what decay has left of the start.

    All are those of inputs whose pixels have the same unit.

    Attributes:
        change: (h, d) float64.
        before: (h, d) float64.
        after: (h, d) float64.
    """

    change: Tensor
    before: Tensor
    after: Tensor

    @classmethod
    def of(cls, after: Tensor, before: Tensor, share: float, weights: Array) -> Change:
        """From the weights of a layer, the share of the earlier ones in the later ones, and what
        the input's pixels are multiplied by to have the same unit (d,).
        """
        unit = torch.tensor(weights)
        later, start = after.cpu().double(), before.cpu().double()
        return cls((later - share * start) * unit, start / unit, later / unit)


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
        Better guesses, and the differences (k, m) of the images that are exact.
    """
    frame, rows, differences = pixels.frame, pixels.rows, pixels.differences
    none = np.zeros((0, len(differences.pixels)), dtype=np.int64)
    usable = guesses is not None and len(guesses) == len(rows)
    if guesses is None or not usable or frame.offset is None or frame.image:
        return guesses, none
    candidates = torch.tensor(guesses @ rows)
    prior = Estimate(candidates, component_spread(candidates, frame.shape))
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
    sharper = best.candidates.numpy() @ rows.T
    exact = rounded.levels[rounded.exact].numpy()
    return sharper, np.rint(differences(exact)).astype(np.int64)
