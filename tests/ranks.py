"""Several processes on this machine that share one attack."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing


def on_ranks(size: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``work(*arguments)``, a function of a module, returns on each of some gloo ranks."""
    with tempfile.TemporaryDirectory() as folder:
        everything = (size, Path(folder), work, arguments)
        multiprocessing.start_processes(_rank, everything, size, start_method="forkserver")
        return [torch.load(Path(folder, str(rank)), weights_only=False) for rank in range(size)]


def _rank(
    rank: int, size: int, folder: Path, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'store'}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=60),
    )
    torch.save(work(*arguments), folder / str(rank))
    dist.destroy_process_group()
