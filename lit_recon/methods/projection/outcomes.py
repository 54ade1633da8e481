"""How the projection attack can end."""

from __future__ import annotations

from lit_recon.methods.base import Outcome
from lit_recon.solvers import Status

CERTIFIED = Outcome("certified", "every candidate is an image of integer pixels", sure=True)
CONVERGED = Outcome("converged", "the loss reached its numerical floor", sure=True)
AGREED = Outcome("agreed", "independent attempts end in the same candidates", sure=True)
UNDERDETERMINED = Outcome(
    "underdetermined", "the loss reached its floor, but wrong inputs do so too below d n"
)
NO_SIGNAL = Outcome(
    "no_signal", "the readout has not moved from its start, so the weights tell nothing", empty=True
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
    " training samples' features; --recon.evidence_against ignore tries all the same",
    empty=True,
)
NO_LOW_RANK = Outcome(
    "no_low_rank",
    "the first layer's change has no low rank, so its row space is not that of the training inputs;"
    " --recon.evidence_against ignore tries all the same",
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
"""What the end of the iteration means for the attack, where nothing else is known."""
