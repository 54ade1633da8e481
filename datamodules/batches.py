"""Batches of samples in memory: their order, each rank's part, and the position to resume from.

Shapes: ``n`` training samples, ``k`` outputs, ``b`` samples of one rank in one batch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lit_recon.distributed import Ranks
from lit_recon.randomness import generator


class Batches:
    """An iterable of batches ``(x, y, samples)``, one epoch for each iteration.

    ``samples``, a slice or a tensor (b,), has the indices of ``x (b, *input_shape)`` and
    ``y (b, k)`` among the n samples. Every rank gets an equal part of every batch, so that the mean
    of the ranks' gradients is the gradient of the batch; the number of ranks must divide the size
    of every batch.

    The order of an epoch depends only on the seed and the epoch. The state is the epoch and the
    number of batches served, so training resumes at the next batch. Batches must not be prefetched:
    Lightning does not prefetch from a loader that has a length.

    Args:
        x: (n, *input_shape) inputs.
        y: (n, k) targets, on the same device.
        size: samples in a batch over all ranks, at least 1; the last batch of an epoch may have
            fewer.
        seed: seed of the order, at least 0; None: the order of the samples in every epoch.
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
        """The number of batches in an epoch."""
        return -(-len(self._x) // self._size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, slice | Tensor]]:
        """Serve the rest of this epoch, or the next epoch if this one has ended."""
        if self._served == len(self):
            self._epoch, self._served = self._epoch + 1, 0
        order = self._order()
        while self._served < len(self):
            start = self._served * self._size
            part = self._ranks.share(min(self._size, len(self._x) - start))
            samples = slice(start + part.start, start + part.stop)
            which = samples if order is None else order[samples]
            self._served += 1  # before yielding: the consumer may not resume us after the last
            yield self._x[which], self._y[which], which

    def _order(self) -> Tensor | None:
        if self._seed is None:
            return None
        random = generator(self._seed, "mini-batches", self._epoch)
        return torch.randperm(len(self._x), generator=random).to(self._x.device)

    def state_dict(self) -> dict[str, int]:
        """The position in the order; the same on all ranks."""
        return {"epoch": self._epoch, "served": self._served}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a position."""
        self._epoch, self._served = state["epoch"], state["served"]
