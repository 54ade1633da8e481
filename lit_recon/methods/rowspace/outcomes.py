"""The outcomes of the row-space attack."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor

from lit_recon.methods.base import Outcome
from lit_recon.methods.rowspace.images import Frame, Images
from lit_recon.methods.rowspace.lattice import WORST_ERROR, Lattice, Space
from lit_recon.methods.rowspace.span import NOISE_SHARE, Span, start_left

LEFT_FOR_PICTURES, LEFT_FOR_PIXELS = 1e-3, 1e-5  # of the start, by benchmarks/final_weights.py
DECAYED = 0.9  # a larger factor tells no rate of decay

NO_START = Outcome(
    "no_start",
    "the first layer at an earlier checkpoint is not known, so neither is its change",
    empty=True,
)
NO_SIGNAL = Outcome(
    "no_signal", "the first layer has not changed, so it holds no information", empty=True
)
NONFINITE = Outcome("nonfinite", "the weights of the first layer are not finite", empty=True)
NO_IMAGES = Outcome(
    "no_images",
    "the shape of the images is not known, or the inputs are none, so nothing has to be an integer",
    empty=True,
)
NO_LOW_RANK = Outcome(
    "no_low_rank",
    "the first layer's change has no low rank, so its row space is not that of the training inputs"
    " (Adam scales every weight on its own; or there are more inputs than are looked for)",
    empty=True,
)


def at_once(after: Tensor, before: Tensor | None, frame: Frame | None) -> Outcome | None:
    """The reason for which these weights (h, d) cannot be attacked; None: none."""
    if not all(bool(weight.isfinite().all()) for weight in (after, before) if weight is not None):
        return NONFINITE
    if not after.any() if before is None else torch.equal(after, before):
        return NO_SIGNAL
    if frame is None:
        return NO_IMAGES
    (c, h, w), d = frame.shape, after.shape[1]
    if c * h * w != d:
        reason = f"the first layer reads {d} numbers, and an image of {c}x{h}x{w} has {c * h * w}"
        return Outcome("no_images", reason, empty=True)
    return None


def of_span(span: Span, frame: Frame, final: Tensor | None = None) -> Outcome | None:
    """The reason for which a span is not that of images; None: none.

    Args:
        span: that of the first layer's change, or of its weights.
        frame: how inputs lie in pixels.
        final: (h, d) the weights, where no earlier ones are known.
    """
    differences = len(frame.weights) - frame.shape[0]
    low_rank = 0 < span.rank < differences and (span.low_rank or span.outside <= NOISE_SHARE)
    if final is None:
        return None if low_rank else NO_LOW_RANK
    # weights at random have as many directions as there are neurons
    return None if low_rank and span.noisy else _not_forgotten(start_left(final))


def _not_forgotten(left: float) -> Outcome:
    """How far final weights are from having forgotten their start, of which that factor is left."""
    reason = (
        f"the first layer's weights have no low rank: they hold as much noise as {left:.2g} of a"
        f" start by PyTorch; pictures need {LEFT_FOR_PICTURES:g} and exact pixels"
        f" {LEFT_FOR_PIXELS:g}"
    )
    if left < DECAYED:
        times = [log(least) / log(left) for least in (LEFT_FOR_PICTURES, LEFT_FOR_PIXELS)]
        reason += ", after {:.1f} and {:.1f} times as many steps with this decay".format(*times)
    reason += "; or training leaves the inputs' span, as Adam does"
    return Outcome("not_forgotten", reason, empty=True)


def ending(
    images: Images | None,
    lattice: Lattice,
    space: Space,
    span: Span,
    pictures: int,
    *,
    scaled: bool,
) -> Outcome:
    """How an attack ended that had a row space to work with.

    Args:
        images: what was separated; None: nothing.
        lattice: the integer vectors.
        space: the row space in differences of pixels.
        span: the row space.
        pictures: how many approximate images there are.
        scaled: the pixel scale was given.
    """
    r, found = space.rank, 0 if images is None else len(images.vectors)
    sure = 0 if images is None else int(images.sure.sum())
    if images is not None and images.only_differences:
        reason = (
            f"the row space holds {found} integer vectors, all of them differences of training"
            " images: batch normalisation leaves the images' common part out"
        )
        return Outcome("differences", reason, sure=found == r)
    if images is not None and sure == r:
        reason = f"every direction of the row space is an image of integer pixels, {r} in all"
        return Outcome("exact", reason, sure=True)
    if images is not None and images.brightnesses and found == r:
        reason = (
            f"every direction of the row space is an image of integer pixels, {r} in all, up to one"
            " sign that all share"
        )
        if images.brightnesses > 1:
            reason += f" and one brightness that all share, of {images.brightnesses}"
        return Outcome("shared_offset", reason, sure=True)
    reason = f"{sure} of {r} training images are certain" if sure else "no image is certain"
    if not sure and not span.noisy:
        reason += f": {_why(lattice, space, span)}"
    elif found == r:
        reason += ": the integer vectors are exact, but not all of them could be told apart"
    else:
        reason += f", {found} of {r} integer vectors were found: {_why(lattice, space, span)}"
    if found and not sure and scaled:
        reason += "; the given mean and std of the pixels may not be those of training"
    if pictures:
        verb = "is" if pictures == 1 else "are"
        reason += f"; {pictures} more {verb} approximate, from independent components"
    status = "partial" if sure else "integers" if found else "pictures" if pictures else "imprecise"
    return Outcome(status, reason, sure=False, empty=not found and not pictures)


def _why(lattice: Lattice, space: Space, span: Span) -> str:
    """What kept the lattice from being found whole."""
    if not span.noisy:
        return (
            f"the layer has {span.neurons} neurons, and shows no more images than neurons; with"
            " more images than neurons, not all can be had back"
        )
    if lattice.seconds:
        return f"the lattice of all would take {_seconds(lattice.seconds)}"
    error = space.error()
    if error > WORST_ERROR:
        return f"a pixel is known to {error:.2g} levels in the weakest direction"
    if lattice.short_of:
        return (
            f"{lattice.short_of:.1f} bits more for each of its dimensions are needed than there are"
        )
    return "a reduction of the lattice found no more"


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
