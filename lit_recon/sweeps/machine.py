"""How the cores and GPUs of this machine are shared among processes."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from lit_recon.records.provenance import cores


def shares(jobs: int) -> list[dict[str, str]]:
    """The environment of each of so many processes: its threads, and its GPUs if there are any."""
    return [_threads(jobs, cores() or 1) | _visible(job, jobs, gpus()) for job in range(jobs)]


def gpus() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES has for them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip()]
    return [str(index) for index in range(torch.cuda.device_count())]


def _threads(jobs: int, cores: int) -> dict[str, str]:
    """As many threads as leave a core for each; what the environment says already holds."""
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", f"{cores // jobs or 1}")}


def _visible(job: int, jobs: int, gpus: Sequence[str]) -> dict[str, str]:
    """Every jobs-th GPU, or, with fewer GPUs than jobs, one that is shared."""
    own = gpus[job::jobs] or gpus[job % max(len(gpus), 1) :][:1]
    return {"CUDA_VISIBLE_DEVICES": ",".join(own)} if own else {}
