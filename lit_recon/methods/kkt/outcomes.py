"""The outcomes of the KKT attack."""

from __future__ import annotations

from lit_recon.methods.base import Outcome

NO_SIGNAL = Outcome("no_signal", "all trained weights are zero", empty=True)
NONFINITE = Outcome("nonfinite", "the weights or the loss are not finite", empty=True)
NOT_HOMOGENEOUS = Outcome(
    "not_homogeneous",
    "the output is not homogeneous in the weights, so training on a margin does not end where they"
    " are a combination of gradients (ReLU, and biases in the first layer only, would make it so);"
    " with weight decay on all parameters give --recon.task general",
    empty=True,
)
NO_COMPONENTS = Outcome(
    "no_components",
    "the final first layer has no row space of independent images to begin at; give --recon.start"
    " noise",
    empty=True,
)


def not_stationary(imbalance: float, most: float) -> Outcome:
    """The weights are no combination of gradients, whatever the training inputs are."""
    reason = (
        f"the weights into and out of single neurons differ so much in norm that at least"
        f" {imbalance:.2g} of the weights' norm is no combination of gradients (at most {most:g} is"
        f" attacked; give --recon.evidence_against ignore to attack nevertheless)"
    )
    return Outcome("not_stationary", reason, empty=True)


def ended(reason: str, stationarity: float, agreed: float | None) -> Outcome:
    """How an attack ended.

    Args:
        reason: why the iteration ended.
        stationarity: of the candidates.
        agreed: share of the candidates that another start found too; None: there was none.
    """
    said = (
        f"the candidates leave {stationarity:.2g} of the weights' norm unexplained, which other"
        f" inputs than the training data can do as well; {reason}"
    )
    if agreed is None:
        return Outcome("pictures", said)
    if agreed == 1:
        return Outcome("agreed", f"two independent starts end in the same candidates; {said}", True)
    return Outcome("disagreed", f"two starts share {agreed:.0%} of their candidates; {said}")
