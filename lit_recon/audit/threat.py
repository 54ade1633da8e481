"""The attacker's knowledge of a checkpoint: weights and constants, and no sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from lit_recon.knowledge import DenseLayer, Knowledge
from lit_recon.models import OneHiddenLayer
from lit_recon.models.first_layer import whole_input_layer
from lit_recon.records.truth import Truth


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


def knowledge_of(
    model: nn.Module, initial: Mapping[str, Tensor], training: TrainingFacts, truth: Truth
) -> Knowledge:
    """Collect every fact that a method may ask for.

    Args:
        model: the network with the checkpoint's weights, not shared with training.
        initial: its weights at step 0, by name.
        training: facts about the optimiser.
        truth: the source of n and of the input pipeline's constants; no sample is taken from it.
    """
    seen = truth.pixels is not None or isinstance(model, OneHiddenLayer)
    readout = initial.get("readout.weight")
    earlier = _first_layer_at_start(model, initial, truth.x.shape[1])
    starts = [readout] if earlier is None else [readout, earlier.weight]
    # The factor is no extra knowledge if it is 1, or if what it scales starts at 0.
    moot = training.initial_share == 1 or not any(start is None or start.any() for start in starts)
    return Knowledge(
        model=model,
        initial_readout=readout,
        earlier_first_layer=earlier,
        initial_share=None if moot else training.initial_share,
        optimiser_keeps_span=training.keeps_span,
        n=truth.n,
        pixels=truth.pixels,
        radius=truth.radius,
        shape=None if seen else truth.shape,
    )


def _first_layer_at_start(
    model: nn.Module, initial: Mapping[str, Tensor], d: int
) -> DenseLayer | None:
    """The first dense layer at step 0; None if there is none that takes whole inputs (n, d)."""
    found = whole_input_layer(model, d)
    return None if found is None else DenseLayer.of(initial, found[0], step=0)
