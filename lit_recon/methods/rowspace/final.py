"""Approximate inputs from a layer's final weights alone, where other methods begin."""

from __future__ import annotations

from functools import cache, partial

import torch
from torch import Tensor

from lit_recon.knowledge import DenseLayer
from lit_recon.methods.rowspace import outcomes
from lit_recon.methods.rowspace.images import Frame, pictures
from lit_recon.methods.rowspace.layer import space_of_images, span_of_inputs


def approximate_inputs(
    layer: DenseLayer, frame: Frame, random: torch.Generator
) -> tuple[Tensor, bool] | None:
    """The independent components of a layer's row space, as inputs.

    Args:
        layer: the layer, of which nothing earlier is known.
        frame: how inputs lie in pixels.
        random: the source of randomness.

    Returns:
        Inputs (m, d) float64 on the CPU, up to their norm, and whether their signs are known; None:
        the row space is not that of images.
    """
    if outcomes.at_once(layer.weight, None, frame) is not None:
        return None
    span = span_of_inputs(layer, None, frame, random)
    if outcomes.of_span(span, frame, layer.weight) is not None:
        return None
    space = space_of_images(layer, None, frame, span)
    levels = pictures(None, cache(partial(space.components, random)), space)
    signed = space.tags is not None or frame.image
    return torch.tensor(levels / (frame.level * frame.weights)), signed
