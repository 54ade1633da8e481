"""Objects from what a command line was parsed into."""

from __future__ import annotations

from importlib import import_module
from inspect import signature
from typing import Any

from jsonargparse import Namespace


def build(spec: Namespace, **derived: Any) -> Any:
    """An object from its class path and constructor arguments, nested ones included.

    Args:
        spec: ``class_path`` and ``init_args``, as `CommandLine.parse` gives them.
        derived: further constructor arguments.
    """
    arguments = vars(spec.init_args) if "init_args" in spec else {}
    built = {k: build(v) if hasattr(v, "class_path") else v for k, v in arguments.items()}
    return named_class(spec.class_path)(**built, **derived)


def build_fitting(spec: Namespace, **facts: Any) -> Any:
    """An object that gets those of the facts that its constructor takes."""
    takes = signature(named_class(spec.class_path)).parameters
    return build(spec, **{name: value for name, value in facts.items() if name in takes})


def named_class(path: str) -> Any:
    """The class of a path that the parser has let through."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)
