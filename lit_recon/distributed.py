"""The processes that share one attack: each holds some rows of V, and sums over p are totals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from lit_recon.errors import RunError


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run; one alone by default, for which all is the identity.

    Every method but `share` is a collective: all ranks call it at the same place.

    Attributes:
        rank: the number of this process, from 0.
        size: how many there are.
        device: where single words are exchanged; tensors are exchanged where they are.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    def share(self, p: int) -> range:
        """This rank's rows among p: consecutive, and as many as another rank's or one more."""
        return range(p * self.rank // self.size, p * (self.rank + 1) // self.size)

    def total(self, part: Tensor) -> Tensor:
        """The sum of all ranks' tensors of this shape."""
        return self.totals(part)[0]

    def totals(self, *parts: Tensor) -> list[Tensor]:
        """Sums over ranks of tensors of one dtype, in one exchange."""
        if self.size == 1:
            return list(parts)
        packed = torch.cat([part.flatten() for part in parts])
        with _together():
            dist.all_reduce(packed)
        sums = packed.split([part.numel() for part in parts])
        return [total.view(part.shape) for total, part in zip(sums, parts, strict=True)]

    def first(self, value: Tensor) -> Tensor:
        """Rank 0's tensor, for all."""
        if self.size == 1:
            return value
        value = value.clone(memory_format=torch.contiguous_format)
        with _together():
            dist.broadcast(value, src=0)
        return value

    def agreed(self, word: bool) -> bool:
        """Rank 0's word, so that all ranks take the same turn."""
        if self.size == 1:
            return word
        return bool(self.first(torch.tensor(word, device=self.device)))


def ranks() -> Ranks:
    """The ranks of the process group, one where there is none."""
    if not (dist.is_available() and dist.is_initialized()):
        return Ranks()
    # NCCL exchanges nothing that is on the CPU.
    device = "cuda" if "nccl" in dist.get_backend() else "cpu"
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise lost(error) from error


def is_lost(error: Exception) -> bool:
    """Whether this is what a backend raises when it cannot reach a rank."""
    return isinstance(error, dist.DistError) or "/gloo/" in str(error)


def lost(error: Exception) -> RunError:
    """The same in one line."""
    reason = str(error).partition(". ")[0].rpartition("] ")[2]  # without the line in its source
    return RunError(
        f"another process of this run has ended ({reason}); what is written so far is kept"
    )
