"""Scores a reconstruction against the training data, after the attack."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from lit_recon.methods import Reconstruction
from lit_recon.metrics.numbers import Number, in_order
from lit_recon.metrics.scores import Scores, score, unscored
from lit_recon.records.truth import Truth


def score_reconstruction(found: Reconstruction, truth: Truth | None) -> Scores:
    """Match the candidates to the training data and score them; None: the data are not known."""
    certificates = found.certificates
    if truth is None:
        return unscored(None if certificates is None else certificates.accepted)
    return score(
        truth.x,
        found.candidates,
        held_out=truth.held_out,
        pixels=truth.pixels,
        images=truth.images,
        decoded=None if certificates is None else certificates.images,
        certified=None if certificates is None else certificates.accepted,
        sign_blind=found.sign_blind,
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
