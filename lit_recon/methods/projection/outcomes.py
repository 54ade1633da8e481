"""The outcomes of the projection attack."""

from __future__ import annotations

from lit_recon.methods.base import Outcome
from lit_recon.solvers import Status

CERTIFIED = Outcome("certified", "every candidate is an image of integer pixels", sure=True)
CONVERGED = Outcome("converged", "the loss reached its numerical floor", sure=True)
AGREED = Outcome("agreed", "independent attempts end in the same candidates", sure=True)
UNDERDETERMINED = Outcome(
    "underdetermined", "the loss reached its floor, but below p = d n wrong inputs reach it too"
)
TOO_FEW = Outcome(
    "underdetermined",
    "there are fewer equations than unknown values (p below d n), so wrong inputs fit as well",
    empty=True,
)
NO_SIGNAL = Outcome(
    "no_signal",
    "the readout still has its initial value, so the weights hold no information",
    empty=True,
)
NOT_IDENTIFIABLE = Outcome(
    "not_identifiable",
    "there are fewer features than candidates: any inputs fit the readout",
    empty=True,
)
NONFINITE = Outcome("nonfinite", "the weights or the loss are not finite", empty=True)
SPAN_BROKEN = Outcome(
    "span_broken",
    "the optimiser scales every weight on its own, so the readout is not in the span of the"
    " training samples' features; give --recon.evidence_against ignore to attack nevertheless",
    empty=True,
)
NO_LOW_RANK = Outcome(
    "no_low_rank",
    "the first layer's change has no low rank, so its row space is not that of the training inputs;"
    " give --recon.evidence_against ignore to attack nevertheless",
    empty=True,
)

OF_STATUS = {
    Status.CONVERGED: CONVERGED,
    Status.SATISFIED: CERTIFIED,
    Status.STALLED: Outcome("stalled", "restarts no longer lower the loss"),
    Status.MAX_STEPS: Outcome("max_steps", "the step limit was reached"),
    Status.OUT_OF_TIME: Outcome(
        "out_of_time", "the time budget ran out; these are the best candidates so far"
    ),
    Status.NONFINITE: NONFINITE,
}
"""The outcome for each status of the solver, if there is no other evidence."""
