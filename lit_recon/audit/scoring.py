"""Scores a reconstruction against the training data, after the attack."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from torch import nn

from lit_recon.methods import Reconstruction
from lit_recon.metrics.numbers import Number, in_order
from lit_recon.metrics.scores import Scores, score, unscored
from lit_recon.models.first_layer import whole_input_layer
from lit_recon.records.truth import Truth


def score_reconstruction(
    found: Reconstruction, truth: Truth | None, model: nn.Module | None = None
) -> Scores:
    """Match the candidates to the training data and score them.

    Args:
        found: the reconstruction.
        truth: the training data; None: not known.
        model: the attacked network, whose first layer is one of the nulls; None: without that null.
    """
    certificates = found.certificates
    if truth is None:
        return unscored(None if certificates is None else certificates.accepted)
    layer = None if model is None else whole_input_layer(model, truth.x.shape[1])
    return score(
        truth.x,
        found.candidates,
        held_out=truth.held_out,
        pixels=truth.pixels,
        images=truth.images,
        decoded=None if certificates is None else certificates.images,
        certified=None if certificates is None else certificates.accepted,
        sign_blind=found.sign_blind,
        first_layer=None if layer is None else layer[1].weight,
    )


def numbers_of(
    found: Reconstruction, scores: Scores, truth: Truth | None, own: Iterable[Number]
) -> dict[str, Any]:
    """All numbers of one reconstruction by public name, and its status.

    Args:
        found: the reconstruction.
        scores: its scores.
        truth: the training data; None: not known, and the numbers that need them are None.
        own: the method's own numbers.
    """
    numbers = {
        **asdict(scores.metrics),
        "candidates": len(found.candidates),
        "seconds": found.seconds,
        **{number.name: None for number in own},
        **found.numbers,
        **({} if truth is None else found.at_truth(truth.x)),
    }
    return {**in_order(numbers), "status": found.status}
