"""Loads networks: new ones, and those of checkpoints of lit_recon or of a user's module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from jsonargparse import Namespace
from lightning import LightningModule
from torch import Tensor, nn

from lit_recon.errors import InputError, RunError
from lit_recon.flags import build_fitting
from lit_recon.models import Model
from lit_recon.records.checkpoints import load_checkpoint


def make_model(spec: Namespace, facts: Mapping[str, Any]) -> Model:
    """Make the network of a configuration, with its initial weights.

    Args:
        spec: class path and constructor arguments.
        facts: d, k, n and input_shape of the data; the network gets those that it has as arguments.

    Raises:
        InputError: an argument is out of its range.
    """
    model: Model = build_fitting(spec, **facts)
    return model


def fill(model: nn.Module, weights: Mapping[str, Tensor], flag: str, file: str | Path) -> None:
    """Load weights into a network.

    Args:
        model: the network, changed in place.
        weights: all its weights, by name.
        flag: the flag that names the file, for messages.
        file: where the weights are from, for messages.

    Raises:
        InputError: names or shapes differ from the network's.
    """
    try:
        model.load_state_dict(dict(weights))
    except RuntimeError as error:
        reason = " ".join(str(error).partition(":")[2].split()[:40])
        remedy = f"does not fit {type(model).__name__}: {reason}"
        raise InputError(flag, file, remedy) from error


def checkpoint_at(flag: str, given: str, file: Path) -> dict[str, Any]:
    """Load a checkpoint; errors name the flag that the user gave.

    Raises:
        InputError: the file is missing, damaged, or not a Lightning checkpoint.
    """
    try:
        return load_checkpoint(file)
    except RunError as error:
        raise InputError(flag, given, str(error)) from error


def module_class(plugins: Sequence[ModuleType], name: str | None) -> type[LightningModule]:
    """Find a LightningModule in the plugins by its class name; None: the only one.

    Raises:
        InputError: there is none of that name or, without a name, not exactly one.
    """
    found = {
        value.__name__: value
        for plugin in plugins
        for value in vars(plugin).values()
        if isinstance(value, type) and issubclass(value, LightningModule)
    }
    found.pop("LightningModule", None)
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if name not in found:
        there = ", ".join(found) or "none; give the package with --plugin"
        raise InputError("--module", name or "missing", f"the LightningModules are: {there}")
    return found[name]


def own_module(
    cls: type[LightningModule], flag: str, file: str
) -> tuple[LightningModule, dict[str, Any]]:
    """Load a user's module from a checkpoint; returns the module in eval mode and the checkpoint.

    Raises:
        InputError: the checkpoint is not of this class.
    """
    saved = checkpoint_at(flag, file, Path(file))
    try:
        module = cls(**saved.get("hyper_parameters", {}))
    except Exception as error:  # the user's constructor can raise anything
        reason = f"({type(error).__name__}: {error})"
        remedy = f"its hyper_parameters do not make a {cls.__name__} {reason}"
        raise InputError(flag, file, remedy) from error
    fill(module, saved["state_dict"], flag, file)
    return module.eval(), saved
