"""The processes that share one attack: each holds some rows of V, and sums over p are reduced."""

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
    """The rank of this process and the number of ranks; by default a single process.

    Every method but `share` is a collective: all ranks must call it at the same place. With one
    rank the collectives return their argument.

    Attributes:
        rank: the number of this process, from 0.
        size: the number of processes.
        device: the device on which `agreed` exchanges its flag; tensors stay on their own device.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    def share(self, p: int) -> range:
        """This rank's consecutive rows among p; the ranks' shares differ by one row at most."""
        return range(p * self.rank // self.size, p * (self.rank + 1) // self.size)

    def total(self, part: Tensor) -> Tensor:
        """The sum over ranks of tensors of one shape."""
        return self.totals(part)[0]

    def totals(self, *parts: Tensor) -> list[Tensor]:
        """Sums over ranks of several tensors of one dtype, in one all-reduce."""
        if self.size == 1:
            return list(parts)
        packed = torch.cat([part.flatten() for part in parts])
        with _together():
            dist.all_reduce(packed)
        sums = packed.split([part.numel() for part in parts])
        return [total.view(part.shape) for total, part in zip(sums, parts, strict=True)]

    def first(self, value: Tensor) -> Tensor:
        """Rank 0's tensor, on all ranks."""
        if self.size == 1:
            return value
        value = value.clone(memory_format=torch.contiguous_format)
        with _together():
            dist.broadcast(value, src=0)
        return value

    def agreed(self, word: bool) -> bool:
        """Rank 0's value, so that all ranks take the same branch."""
        if self.size == 1:
            return word
        return bool(self.first(torch.tensor(word, device=self.device)))


def ranks() -> Ranks:
    """The ranks of the process group; a single rank without a process group."""
    if not (dist.is_available() and dist.is_initialized()):
        return Ranks()
    # NCCL cannot exchange CPU tensors.
    device = "cuda" if "nccl" in dist.get_backend() else "cpu"
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise lost(error) from error


def is_lost(error: Exception) -> bool:
    """Whether a backend raised this error because it cannot reach a rank."""
    return isinstance(error, dist.DistError) or "/gloo/" in str(error)


def lost(error: Exception) -> RunError:
    """The error as one line."""
    reason = str(error).partition(". ")[0].rpartition("] ")[2]  # without gloo's source line
    return RunError(
        f"another process of this run has ended ({reason}); what is written so far is kept"
    )
