"""The same grid as a sweep of W&B, for those whose machines ask its server for work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from lit_recon.flags import Source
from lit_recon.sweeps.grid import CONFIG, Axis


def wandb_sweep(
    name: str,
    project: str,
    entity: str | None,
    flags: Sequence[str],
    sources: Sequence[Source],
    axes: Sequence[Axis],
) -> str:
    """The YAML that ``wandb sweep`` takes; its agents then call ``train.py fit``.

    Args:
        name: of the sweep, and of the group of its runs.
        project: of W&B.
        entity: user or team; None: the key's own.
        flags: what every command line needs besides its configuration.
        sources: files and flags of every run, the weakest first.
        axes: what varies.
    """
    files = [f"--{CONFIG}={source.file}" for source in sources if source.file is not None]
    typed = [f"--{flag}={value}" for s in sources if s.file is None for flag, value in s.values]
    content: dict[str, Any] = {"name": name, "project": project}
    if entity is not None:
        content["entity"] = entity
    content |= {
        "program": "train.py",
        "method": "grid",
        "parameters": {axis.flag: {"values": [_typed(v) for v in axis.values]} for axis in axes},
        "command": [
            *("${env}", "${interpreter}", "${program}", "fit"),
            *(*flags, *files, *typed, f"--wandb.group={name}", "${args}"),
        ],
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _typed(text: str) -> int | float | str:
    """Numbers as such, for the axes of W&B's charts; it would type true and null as Python does."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
