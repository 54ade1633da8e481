"""A grid over flags: which values each takes, read from the command line and from files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from lit_recon.errors import InputError
from lit_recon.flags import Source

CONFIG = "config"
"""The flag whose values are files, each a bundle of flags under one name."""

_RANGE = re.compile(r"(-?\d+):(-?\d+)")
_EXAMPLE = "give values, as 0.5,1,2 or 0:5 or '[[1, 10], [100]]'"
_TAKEN = {"run.name", "run.dir", "run.resume", "run.overwrite"}  # every run gets its own


@dataclass(frozen=True)
class Axis:
    """One flag and its values.

    Attributes:
        flag: without dashes, for example ``model.p_over_dn``.
        values: as they are typed in a shell.
    """

    flag: str
    values: tuple[str, ...]


def read_axes(sources: Sequence[Source]) -> list[Axis]:
    """The axes, in the order in which they were first given.

    A later source wins. A plain flag on the command line takes the place of an axis from a file.

    Args:
        sources: all that was given, the weakest first; the flags of the grid begin with ``grid.``.

    Raises:
        InputError: there is no axis, one is empty or cannot be one, or the command line gives a
            flag both with one value and with several.
    """
    found: dict[str, Axis] = {}
    for source in sources:
        given = dict(_grid(source))
        if source.file is None:
            plain = {flag for flag, _ in source.values} - {CONFIG}
            for flag in plain & {name.removeprefix("grid.") for name in given}:
                raise InputError(f"--grid.{flag}", "", f"give either this or --{flag}, not both")
            found = {flag: axis for flag, axis in found.items() if flag not in plain}
        for name, value in given.items():
            axis = _axis(name, value, source)
            found[axis.flag] = axis
    if not found:
        raise InputError("--grid.*", "missing", "say what to vary, as --grid.run.seed 0:5")
    return list(found.values())


def combinations(axes: Sequence[Axis]) -> Iterator[dict[str, str]]:
    """Every choice of one value for each axis; the last axis changes first."""
    for values in product(*(axis.values for axis in axes)):
        yield {axis.flag: value for axis, value in zip(axes, values, strict=True)}


def short(flag: str, value: str) -> str:
    """A short name of a value: of a configuration file its stem."""
    return Path(value).stem if flag == CONFIG else value


def _grid(source: Source) -> Iterator[tuple[str, Any]]:
    """The flags of the grid in one source; scalars are text, as they are written."""
    if source.file is None:
        yield from source.only("grid").values
        return
    # As text, because a reader of YAML would take an unquoted 1:5 for 65, in base 60.
    tree = yaml.load(Path(source.file).read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    if isinstance(tree, Mapping) and "grid" in tree:
        yield from _leaves(tree["grid"], "grid")


def _leaves(tree: Any, flag: str) -> Iterator[tuple[str, Any]]:
    """Flags and values below a flag, whose keys are parts of names or whole ones."""
    if not isinstance(tree, Mapping):
        yield flag, tree
        return
    for key, value in tree.items():
        yield from _leaves(value, f"{flag}.{key}")


def _axis(name: str, value: Any, source: Source) -> Axis:
    flag = name.removeprefix("grid.")
    if flag == "grid":
        raise InputError(f"--{name}", source.given(value), "write flags and their values below it")
    if flag in _TAKEN:
        raise InputError(f"--{name}", source.given(value), "every run of a sweep gets its own")
    words = [_text(item) for item in _items(value)]
    values = [text for word in words for text in _expanded(word)]
    if not values or "" in values:
        raise InputError(f"--{name}", source.given(value) or "''", _EXAMPLE)
    if flag == CONFIG and source.file is not None:  # so that a file says the same from anywhere
        values = [str(Path(source.file).parent / text) for text in values]
    return Axis(flag, tuple(values))


def _items(value: Any) -> list[Any]:
    """The values of a list, or of text that holds one."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = yaml.load(value, Loader=yaml.BaseLoader)
        except yaml.YAMLError:
            return []
    return value if isinstance(value, list) else value.split(",")


def _text(item: Any) -> str:
    """A value as it is typed; one that is itself a list keeps its brackets."""
    return f"[{', '.join(map(_text, item))}]" if isinstance(item, list) else str(item).strip()


def _expanded(word: str) -> list[str]:
    """The whole numbers of a half-open range; anything else itself."""
    ends = _RANGE.fullmatch(word)
    return [str(i) for i in range(int(ends[1]), int(ends[2]))] if ends else [word]
