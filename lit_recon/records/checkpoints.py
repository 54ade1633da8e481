"""Lightning checkpoints as files: where a run keeps them, and how to read them."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_recon.errors import RunError
from lit_recon.records.directory import RunDirectory

PREFIX = "model."  # of the network's weights in our LightningModule


def saved_checkpoints(directory: str | os.PathLike[str]) -> list[Path]:
    """The checkpoints in a run directory, by step."""
    return sorted(RunDirectory(directory).checkpoints.glob("step=*.ckpt"), key=step_of)


def checkpoint_path(directory: RunDirectory, step: int) -> Path:
    """Where the checkpoint of a step is, if it has been saved."""
    return directory.checkpoints / f"step={step:08d}.ckpt"


def step_of(checkpoint: str | os.PathLike[str]) -> int:
    """The step that a checkpoint's name tells."""
    return int(Path(checkpoint).stem.removeprefix("step="))


def load_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The network's weights in a checkpoint of ours, by name, on the CPU.

    Raises:
        RunError: as in `load_checkpoint`.
    """
    return weights_of(load_checkpoint(path))


def weights_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The network's weights in a checkpoint of ours, by name."""
    state = checkpoint["state_dict"]
    return {name.removeprefix(PREFIX): state[name] for name in state if name.startswith(PREFIX)}


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A Lightning checkpoint on the CPU, of which nothing but numbers and containers is believed.

    Raises:
        RunError: the file is missing, damaged, or something else.
    """
    try:
        with Path(path).open("rb") as file:
            # Anything else than an archive is of torch before 1.6, or no checkpoint at all.
            archive = file.read(2) == b"PK"
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing") from error
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror or error})") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle's protocol
            saved = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except Exception as error:  # of any kind: the bytes may be any
        raise RunError(f"{path} {_unreadable(error)}") from error
    if not (isinstance(saved, dict) and isinstance(saved.get("state_dict"), dict)):
        raise RunError(f"{path} is no Lightning checkpoint: it has no state_dict")
    return saved


def _unreadable(error: Exception) -> str:
    """What torch has to say about a file that it does not load."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    if found:
        return f"holds {found[1]}, and nothing but numbers and plain containers is loaded"
    reason = re.split(r"\n|\. ", str(error))[0] if isinstance(error, RuntimeError) else ""
    return f"is no whole checkpoint ({reason or type(error).__name__})"
