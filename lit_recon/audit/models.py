"""One loader for every network: fresh or from a checkpoint, ours or somebody else's."""

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
    """The network of a configuration, with its initial weights.

    Args:
        spec: class path and constructor arguments.
        facts: what the data decide: d, k, n, input_shape; a network gets those that it takes.

    Raises:
        InputError: a network that cannot be, by the flag that says so.
    """
    model: Model = build_fitting(spec, **facts)
    return model


def fill(model: nn.Module, weights: Mapping[str, Tensor], flag: str, file: str | Path) -> None:
    """Load weights that must be those of this very network.

    Raises:
        InputError: they are another network's; `flag` and `file` say where they are from.
    """
    try:
        model.load_state_dict(dict(weights))
    except RuntimeError as error:
        reason = " ".join(str(error).partition(":")[2].split()[:40])
        remedy = f"does not fit {type(model).__name__}: {reason}"
        raise InputError(flag, file, remedy) from error


def checkpoint_at(flag: str, given: str, file: Path) -> dict[str, Any]:
    """A checkpoint; what is wrong with it is said of the flag that led to it.

    Raises:
        InputError: it is missing, damaged, or something else.
    """
    try:
        return load_checkpoint(file)
    except RunError as error:
        raise InputError(flag, given, str(error)) from error


def module_class(plugins: Sequence[ModuleType], name: str | None) -> type[LightningModule]:
    """The LightningModule of that name in a plugin, or the only one.

    Raises:
        InputError: there is none of that name, or several.
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
    """The module with the weights of a checkpoint, and the checkpoint.

    Raises:
        InputError: the checkpoint is not one of this module.
    """
    saved = checkpoint_at(flag, file, Path(file))
    try:
        module = cls(**saved.get("hyper_parameters", {}))
    except Exception as error:  # of any kind: it is somebody else's code that runs here
        reason = f"({type(error).__name__}: {error})"
        remedy = f"its hyper_parameters do not make a {cls.__name__} {reason}"
        raise InputError(flag, file, remedy) from error
    fill(module, saved["state_dict"], flag, file)
    return module.eval(), saved
