"""Checkpoint files: their paths in a run directory, and safe loading of any state dict."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lit_recon.errors import RunError
from lit_recon.records.directory import RunDirectory

PREFIX = "model."  # of the names of the network's weights in `Training`
STATES = ("state_dict", "model_state_dict", "model")  # names of a state dict inside a checkpoint


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
    saved = _load(path)
    if not (isinstance(saved, dict) and isinstance(saved.get("state_dict"), dict)):
        raise RunError(f"{path} is no Lightning checkpoint: it has no state_dict")
    return saved


@dataclass(frozen=True)
class SavedWeights:
    """The weights in a file of any network.

    Attributes:
        weights: tensors by name.
        in_order: whether names are in the order in which the network registered them.
        step: the training step; None: not recorded.
        epoch: the epoch; None: not recorded.
    """

    weights: Mapping[str, Tensor]
    in_order: bool = True
    step: int | None = None
    epoch: int | None = None


def load_any_weights(path: str | os.PathLike[str]) -> SavedWeights:
    """Load a Lightning checkpoint, a state dict of torch, or a .safetensors file, on the CPU.

    Only tensors, numbers and plain containers are loaded, never code.

    Raises:
        RunError: the file is missing, damaged, or holds no state dict.
    """
    if Path(path).suffix == ".safetensors":
        _first_bytes(path)
        try:
            return SavedWeights(load_file(path), in_order=False)  # sorted by type and name
        except SafetensorError as error:
            raise RunError(f"{path} is no whole checkpoint ({error})") from error
    saved = _load(path)
    facts = saved if isinstance(saved, dict) else {}
    state = next((facts[name] for name in STATES if isinstance(facts.get(name), dict)), saved)
    weights = state.items() if isinstance(state, dict) else ()
    tensors = {str(name): value for name, value in weights if isinstance(value, Tensor)}
    if not tensors:
        raise RunError(f"{path} holds no state dict, which is tensors by name")
    step, epoch = (facts.get(name) for name in ("global_step", "epoch"))
    return SavedWeights(
        tensors,
        step=step if isinstance(step, int) else None,
        epoch=epoch if isinstance(epoch, int) else None,
    )


def _load(path: str | os.PathLike[str]) -> Any:
    """What `torch.save` has written, without code; RunError for what cannot be read."""
    archive = _first_bytes(path) == b"PK"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol of old files
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except Exception as error:  # torch raises many types for damaged files
        raise RunError(f"{path} {_unreadable(error)}") from error


def _first_bytes(path: str | os.PathLike[str]) -> bytes:
    """The first two bytes of a file: PK for a zip archive, as torch writes since 1.6."""
    try:
        with Path(path).open("rb") as file:
            return file.read(2)
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing") from error
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror or error})") from error


def _unreadable(error: Exception) -> str:
    """One phrase about why torch does not load a file."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    if found:
        return f"holds {found[1]}, and nothing but numbers and plain containers is loaded"
    reason = re.split(r"\n|\. ", str(error))[0] if isinstance(error, RuntimeError) else ""
    cause = reason or f"{type(error).__name__}; it is cut off, or not a file of torch.save"
    return f"is no whole checkpoint ({cause})"
