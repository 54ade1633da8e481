"""Scores a reconstruction against the training data, after the attack."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from lit_recon.methods import Reconstruction
from lit_recon.metrics.numbers import in_order
from lit_recon.metrics.scores import Scores, score
from lit_recon.records.truth import Truth


def score_reconstruction(found: Reconstruction, truth: Truth) -> Scores:
    """Match the candidates to the training data and score them."""
    certificates = found.certificates
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


def numbers_of(found: Reconstruction, scores: Scores, truth: Truth) -> dict[str, Any]:
    """All numbers of one reconstruction by public name, and its status."""
    numbers = {
        **asdict(scores.metrics),
        "candidates": len(found.candidates),
        "seconds": found.seconds,
        **found.numbers,
        **found.at_truth(truth.x),
    }
    return {**in_order(numbers), "status": found.status}
