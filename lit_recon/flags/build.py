"""Builds objects from a parsed command line."""

from __future__ import annotations

from importlib import import_module
from inspect import signature
from typing import Any

from jsonargparse import Namespace


def build(spec: Namespace, **derived: Any) -> Any:
    """Build an object from its class path and constructor arguments, nested objects included.

    Args:
        spec: ``class_path`` and ``init_args``, as `CommandLine.parse` returns them.
        derived: more constructor arguments, which are not flags.
    """
    arguments = vars(spec.init_args) if "init_args" in spec else {}
    built = {k: build(v) if hasattr(v, "class_path") else v for k, v in arguments.items()}
    return named_class(spec.class_path)(**built, **derived)


def build_fitting(spec: Namespace, **facts: Any) -> Any:
    """Build an object; each fact whose name is a constructor argument is passed to it."""
    takes = signature(named_class(spec.class_path)).parameters
    return build(spec, **{name: value for name, value in facts.items() if name in takes})


def named_class(path: str) -> Any:
    """Import the class at a dotted path; only for paths that the parser has accepted."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)
