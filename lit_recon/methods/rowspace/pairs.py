"""Which of several earlier checkpoints the attack should begin from, by singular values alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_recon.methods.rowspace.images import Frame, PixelSpace
from lit_recon.methods.rowspace.lattice import plan
from lit_recon.methods.rowspace.outcomes import at_once, of_span
from lit_recon.methods.rowspace.span import find_span


def best_pair(
    after: Tensor,
    befores: Sequence[Tensor],
    frame: Frame,
    generator: torch.Generator,
    seconds: float = 60.0,
) -> int:
    """The earlier checkpoint from which most images can be exact.

    More images entered the weights since an early checkpoint than since a late one, and a lattice
    of more dimensions needs more precision and time. The singular values of a change say how many
    directions it has and how precise they are, and so in advance what lattice reduction can do.

    Args:
        after: (h, d) the first layer's weight at the later checkpoint.
        befores: the same at earlier checkpoints, at least one.
        frame: how inputs lie in pixels.
        generator: source of the random starts.
        seconds: duration of a reduction that is too long.

    Returns:
        The index of the checkpoint with most directions among those whose lattice can be reduced;
        where there is none, that which lacks the fewest bits.
    """

    def promise(before: Tensor) -> tuple[int, float]:
        if at_once(after, before, frame) is not None:
            return 0, float("-inf")
        span = find_span(after, before, generator, scale=torch.tensor(frame.weights))
        if of_span(span, frame) is not None:
            return 0, float("-inf")
        space = PixelSpace.of(frame, span).space
        search = plan(space, space.size, space.error())
        possible = search.margin >= 0 and search.seconds < seconds
        return (space.rank if possible else 0), search.margin

    promises = [promise(before) for before in befores]
    return max(range(len(befores)), key=promises.__getitem__)
