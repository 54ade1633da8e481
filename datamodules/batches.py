"""Batches of samples that are all in memory: their order, each rank's part, where to go on.

Shapes: ``n`` training samples, ``k`` outputs, ``b`` samples of one rank in one batch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lit_recon.distributed import Ranks
from lit_recon.randomness import generator


class Batches:
    """Batches ``(x, y, samples)`` of one epoch after another, cut from tensors where they are.

    ``samples``, a slice or a tensor (b,), holds the indices of ``x (b, *input_shape)`` and
    ``y (b, k)`` among the n samples. Every rank gets an equal part of every batch, so that the mean
    of the ranks' gradients is the gradient of the batch; the number of ranks must divide all
    batches.

    The order of an epoch depends on seed and epoch only. A state holds the epoch and the number of
    batches served, so that training resumes at the next batch. Batches must not be prefetched:
    Lightning does not prefetch from a loader that has a length.

    Args:
        x: (n, *input_shape) inputs.
        y: (n, k) targets, on the same device.
        size: samples of all ranks in a batch, at least 1; the last batch of an epoch may have less.
        seed: of the order, at least 0; None: the samples' own order in every epoch.
        ranks: the processes that share every batch.
    """

    def __init__(self, x: Tensor, y: Tensor, size: int, seed: int | None, ranks: Ranks) -> None:
        self._x, self._y = x, y
        self._size = size
        self._seed = seed
        self._ranks = ranks
        self._epoch = 0
        self._served = 0

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self._x) // self._size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, slice | Tensor]]:
        """The rest of this epoch, or the next epoch if this one has ended."""
        if self._served == len(self):
            self._epoch, self._served = self._epoch + 1, 0
        order = self._order()
        while self._served < len(self):
            start = self._served * self._size
            part = self._ranks.share(min(self._size, len(self._x) - start))
            samples = slice(start + part.start, start + part.stop)
            which = samples if order is None else order[samples]
            self._served += 1  # before yielding: the consumer may not resume this after the last
            yield self._x[which], self._y[which], which

    def _order(self) -> Tensor | None:
        if self._seed is None:
            return None
        random = generator(self._seed, "mini-batches", self._epoch)
        return torch.randperm(len(self._x), generator=random).to(self._x.device)

    def state_dict(self) -> dict[str, int]:
        """The place in the order; the same on all ranks."""
        return {"epoch": self._epoch, "served": self._served}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a place."""
        self._epoch, self._served = state["epoch"], state["served"]
