"""From a dense first layer, with its bias, to the row space of its inputs in pixels.

A bias changes as the weights of a further pixel do that is 1 in every input. So it tells how many
images are in a vector of the row space, and it puts a mean image that was subtracted back into the
inputs: those of mean 0 over the training set span one direction less than there are images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lit_recon.knowledge import DenseLayer
from lit_recon.methods.rowspace.images import Frame, PixelSpace
from lit_recon.methods.rowspace.levels import Array
from lit_recon.methods.rowspace.span import Added, Span, find_span

BIAS_MISSES = 0.01  # of a bias's change, which the coefficients of the weight's must explain


def span_of_inputs(
    after: DenseLayer,
    before: DenseLayer | None,
    frame: Frame,
    random: torch.Generator,
    max_rank: int = 512,
) -> Span:
    """The span of the inputs that changed a layer, or that remain in it after weight decay.

    Args:
        after: the layer at the later checkpoint.
        before: the same at the earlier one; None: its weights are forgotten.
        frame: how inputs lie in pixels. An offset that is an image is added to the inputs where the
            layer has a trained bias.
        random: source of the start of an iteration.
        max_rank: the largest rank that is looked for.
    """
    old, scale = None if before is None else before.weight, torch.tensor(frame.weights)
    added = _offset_of(after, before, frame)
    return find_span(after.weight, old, random, max_rank, scale, added)


def space_of_images(
    after: DenseLayer, before: DenseLayer | None, frame: Frame, span: Span
) -> PixelSpace:
    """The same in pixels, with what the bias tells about it."""
    added = _offset_of(after, before, frame)
    tags = _tags(after, before, frame, span, added)
    return PixelSpace.of(frame, span, tags, raised=added is not None)


def _offset_of(after: DenseLayer, before: DenseLayer | None, frame: Frame) -> Added | None:
    """The image that is the offset, where the layer's bias puts it back into the inputs."""
    old = None if before is None else before.bias
    if not frame.image or after.bias is None or (before is not None and old is None):
        return None
    if old is not None and torch.equal(after.bias, old):
        return None  # it is not trained
    return Added(torch.tensor(frame.offset) / frame.level, after.bias, old)


def _tags(
    after: DenseLayer,
    before: DenseLayer | None,
    frame: Frame,
    span: Span,
    added: Added | None,
) -> Array | None:
    """The further pixel of each row of a span (r,), by which the layer reads its bias.

    A bias changes as the weights of a pixel do that is 1 in every input, if it is trained in the
    same way. Then it tells how many images are in a vector of the row space. None: it does not.
    """
    layers = [layer for layer in (after, before) if layer is not None]
    biases = [layer.bias.cpu().double() for layer in layers if layer.bias is not None]
    if len(biases) < len(layers):
        return None
    weights = [layer.weight.cpu().double() * torch.tensor(frame.weights) for layer in layers]
    bias, change = less(biases, span.share), less(weights, span.share)
    coefficients = (change if added is None else added.to(change, bias)) @ span.basis.T
    tags = torch.linalg.lstsq(coefficients, bias[:, None]).solution[:, 0]
    miss = coefficients @ tags - bias
    if len(bias) <= span.rank or not miss.norm() < BIAS_MISSES * bias.norm():
        return None  # it was trained in another way, or not at all
    return np.asarray(tags.numpy())


def less(values: Sequence[Tensor], share: float) -> Tensor:
    """The later values, less a share of the earlier ones where there are any."""
    return values[0] - share * values[1] if len(values) > 1 else values[0]
