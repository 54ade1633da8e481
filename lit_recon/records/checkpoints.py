"""Lightning checkpoint files: their paths in a run directory, and safe loading."""

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

PREFIX = "model."  # of the names of the network's weights in `Training`


def saved_checkpoints(directory: str | os.PathLike[str]) -> list[Path]:
    """The checkpoints in a run directory, sorted by step."""
    return sorted(RunDirectory(directory).checkpoints.glob("step=*.ckpt"), key=step_of)


def checkpoint_path(directory: RunDirectory, step: int) -> Path:
    """The path of the checkpoint of a step; the file may not exist."""
    return directory.checkpoints / f"step={step:08d}.ckpt"


def step_of(checkpoint: str | os.PathLike[str]) -> int:
    """The training step in a checkpoint's file name."""
    return int(Path(checkpoint).stem.removeprefix("step="))


def load_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The network's weights in a checkpoint of `Training`, by name, on the CPU.

    Raises:
        RunError: as in `load_checkpoint`.
    """
    return weights_of(load_checkpoint(path))


def weights_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The network's weights in a loaded checkpoint of `Training`, by name."""
    state = checkpoint["state_dict"]
    return {name.removeprefix(PREFIX): state[name] for name in state if name.startswith(PREFIX)}


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Load a Lightning checkpoint on the CPU; only tensors, numbers and plain containers.

    Raises:
        RunError: the file is missing, damaged, or not a Lightning checkpoint.
    """
    try:
        with Path(path).open("rb") as file:
            # A file that is not a zip archive is from torch before 1.6, or not a checkpoint.
            archive = file.read(2) == b"PK"
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing") from error
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror or error})") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol of old files
            saved = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except Exception as error:  # torch raises many types for damaged files
        raise RunError(f"{path} {_unreadable(error)}") from error
    if not (isinstance(saved, dict) and isinstance(saved.get("state_dict"), dict)):
        raise RunError(f"{path} is no Lightning checkpoint: it has no state_dict")
    return saved


def _unreadable(error: Exception) -> str:
    """One phrase about why torch does not load a file."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    if found:
        return f"holds {found[1]}, and nothing but numbers and plain containers is loaded"
    reason = re.split(r"\n|\. ", str(error))[0] if isinstance(error, RuntimeError) else ""
    return f"is no whole checkpoint ({reason or type(error).__name__})"
