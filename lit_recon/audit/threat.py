"""The attacker's knowledge of a checkpoint: weights and constants, and no sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Protocol

from torch import Tensor, nn

from lit_recon.knowledge import DenseLayer, Knowledge, PixelScale
from lit_recon.models import OneHiddenLayer
from lit_recon.models.first_layer import whole_input_layer


@dataclass(frozen=True)
class TrainingFacts:
    """What the optimiser's settings say about the weights of a checkpoint.

    Attributes:
        initial_share: the factor by which weight decay has scaled the initial weights, as in
            `Optim.initial_share`; None: not known.
        keeps_span: whether updates are combinations of gradients; None: not known.
    """

    initial_share: float | None = None
    keeps_span: bool | None = None


class Inputs(Protocol):
    """What an attacker may know of the inputs; no sample is among it. `Truth` has it."""

    @property
    def n(self) -> int | None:
        """The number of training samples; None: not known."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""

    @property
    def pixels(self) -> PixelScale | None:
        """The map from pixels to inputs; None: not known, or the inputs are no images."""

    @property
    def radius(self) -> float | None:
        """The norm of every input; None: not known, or norms differ."""


@dataclass(frozen=True)
class InputFacts:
    """The same where the training data are not known.

    >>> InputFacts((3, 8, 8)).n is None
    True
    """

    shape: tuple[int, ...]
    pixels: PixelScale | None = None
    n: int | None = None
    radius: float | None = None


def knowledge_of(
    model: nn.Module,
    initial: Mapping[str, Tensor],
    training: TrainingFacts,
    inputs: Inputs,
    step: int = 0,
) -> Knowledge:
    """Collect every fact that a method may ask for.

    Args:
        model: the network with the checkpoint's weights, not shared with training.
        initial: its weights at an earlier step, by name; empty: not known.
        training: facts about the optimiser.
        inputs: n and the input pipeline's constants.
        step: the earlier step; only at 0 are its weights the initial ones.
    """
    seen = inputs.pixels is not None or isinstance(model, OneHiddenLayer)
    readout = initial.get("readout.weight") if step == 0 else None
    earlier = _first_layer(model, initial, prod(inputs.shape), step)
    starts = [readout] if earlier is None else [readout, earlier.weight]
    # The factor is no extra knowledge if it is 1, or if what it scales starts at 0.
    moot = training.initial_share == 1 or not any(start is None or start.any() for start in starts)
    return Knowledge(
        model=model,
        initial_readout=readout,
        earlier_first_layer=earlier,
        initial_share=None if moot else training.initial_share,
        optimiser_keeps_span=training.keeps_span,
        n=inputs.n,
        pixels=inputs.pixels,
        radius=inputs.radius,
        shape=None if seen else inputs.shape,
    )


def _first_layer(
    model: nn.Module, initial: Mapping[str, Tensor], d: int, step: int
) -> DenseLayer | None:
    """The first dense layer at an earlier step; None if there is none that takes inputs (n, d)."""
    found = whole_input_layer(model, d) if initial else None
    return None if found is None else DenseLayer.of(initial, found[0], step=step)
