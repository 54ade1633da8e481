"""The outcomes of the attractor attack."""

from __future__ import annotations

from lit_recon.methods.base import Outcome

NONFINITE = Outcome("nonfinite", "weights of the network are not finite", empty=True)
NO_SIGNAL = Outcome(
    "no_signal", "the readout is zero, so every input has the same output", empty=True
)
DIVERGED = Outcome(
    "diverged", "iterates of the network overflow from every random start", empty=True
)
NO_LIMITS = Outcome(
    "no_limits",
    "no random start comes to a fixed point or a cycle, and no fixed point was found otherwise",
    empty=True,
)
IDENTITY = Outcome(
    "identity",
    "nearly every random start is a limit of its own, so the network is near the identity and"
    " prefers no inputs",
    empty=True,
)


def other_size(d: int) -> Outcome:
    """An output cannot be an input."""
    reason = f"the network takes no inputs of {d} values to outputs of as many"
    return Outcome("other_size", reason, empty=True)


def one_limit(starts: int) -> Outcome:
    """All starts end in one point that is no image."""
    reason = (
        f"all {starts} random starts end in one point, which is no image of whole pixels: the"
        " network contracts everything"
    )
    return Outcome("one_limit", reason)


def mirrored(images: int) -> Outcome:
    """Images come with their negatives, and nothing tells them apart."""
    reason = (
        f"{images} limits have whole pixels, but the network is odd and the mean is such that the"
        " negative of an image is an image as well, so each may be a negative"
    )
    return Outcome("mirrored", reason)


def ended(images: int, limits: int, *, complete: bool, late: bool) -> Outcome:
    """How a search ended.

    Args:
        images: certified images.
        limits: limits that are not certified.
        complete: the images span the whole range of the readout.
        late: the time was over before the search found no more.
    """
    others = f"{limits} other limit{'' if limits == 1 else 's'}"
    if complete:
        reason = f"{images} limits are images of whole pixels and span the readout's range"
        return Outcome("exact", reason, sure=True)
    end = "the time budget ran out" if late else "a search in other places found no more"
    if images:
        verb = "limit is an image" if images == 1 else "limits are images"
        return Outcome("recalled", f"{images} {verb} of whole pixels, beside {others}; {end}")
    return Outcome("limits", f"{others}, and none is an image of whole pixels; {end}")
