"""The flags of a run that are arguments of no other class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass
class WandbFlags:
    """Weights & Biases.

    Args:
        mode: auto is online with a key and a server that answers, else offline.
        project: project name.
        entity: user or team; null for the key's own.
        group: what the dashboard groups by; null for the run's name.
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
        name: name of the run; null makes one from model, data and time.
        dir: folder of the run directories.
        seed: seed of training, and of --data, --model and --recon where they have none; 0 or more.
        resume: go on with the run of that name from its last checkpoint. Its own configuration
            holds where no flag or file says otherwise; data, model and optimiser stay.
        overwrite: replace the run of that name.
    """

    name: str | None = None
    dir: str = "runs"
    seed: int = 0
    resume: bool = False
    overwrite: bool = False
