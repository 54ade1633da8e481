"""The flags of a run that are arguments of no other class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass
class WandbFlags:
    """Weights & Biases.

    Args:
        mode: auto is online if there is an API key and the server answers, else offline.
        project: project name.
        entity: user or team; null: the API key's default.
        group: group of the run in the dashboard; null: the run's name.
        tags: labels.
    """

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "lit_recon"
    entity: str | None = None
    group: str | None = None
    tags: Sequence[str] = ()


@dataclass
class RunFlags:
    """The run and its directory.

    Args:
        name: name of the run; null: made from model, data and time.
        dir: folder of the run directories.
        seed: seed of training, 0 or more, and default of the seeds of --data, --model and --recon.
        resume: continue the run of that name from its last checkpoint, with its configuration;
            flags and files can change it, but not data, task, model and optimiser.
        overwrite: replace the run of that name.
    """

    name: str | None = None
    dir: str = "runs"
    seed: int = 0
    resume: bool = False
    overwrite: bool = False
