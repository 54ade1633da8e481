"""The runs of a sweep: one complete configuration for every point of the grid, all checked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Any

from lit_recon.errors import InputError
from lit_recon.flags import CommandLine, Source
from lit_recon.sweeps.grid import CONFIG, Axis, combinations, short

LONGEST_STEM = 110  # a name has at most 128 characters


@dataclass(frozen=True)
class Fit:
    """The command that a sweep repeats.

    Attributes:
        command: its flags.
        resolve: the complete configuration, flag by flag, that sources come to; raises InputError.
        main: runs a command line, ``fit`` and its flags, and returns the exit status.
        flags: what every command line needs besides its configuration.
    """

    command: CommandLine
    resolve: Callable[[CommandLine, Sequence[Source]], dict[str, Any]]
    main: Callable[[list[str]], int]
    flags: Sequence[str] = ()


@dataclass(frozen=True)
class GridPoint:
    """One point of the grid.

    Attributes:
        name: what was varied, readable, and a hash of the configuration: a run that would compute
            anything else has another name.
        cell: the values of the grid at this point, as they are typed.
        values: the complete configuration, flag by flag.
    """

    name: str
    cell: Mapping[str, str]
    values: Mapping[str, Any]


def plan(fit: Fit, sources: Sequence[Source], axes: Sequence[Axis]) -> list[GridPoint]:
    """All runs, each checked by the parser that will read it.

    Args:
        fit: the command.
        sources: files and flags of every run, the weakest first, the command line last.
        axes: what varies. A value is stronger than a flag, a file of the grid stronger than the
            other files and weaker than a flag: as if all were typed into one command.

    Raises:
        InputError: a combination that cannot run, or two that are the same run.
    """

    @cache
    def bundle(file: str) -> Source:
        return fit.command.read([f"--{CONFIG}={file}"])[0].without("grid")

    *files, typed = sources
    runs: dict[str, GridPoint] = {}
    for cell in combinations(axes):
        bundles = [bundle(file) for flag, file in cell.items() if flag == CONFIG]
        point = Source(None, [pair for pair in cell.items() if pair[0] != CONFIG])
        try:
            values = fit.resolve(fit.command, [*files, *bundles, typed, point])
        except InputError as error:
            raise _of_the_grid(error, cell) from error
        identity = identify(values)
        run = GridPoint(f"{_stem(cell)}-{identity}", cell, values)
        if identity in runs:
            remedy = "would be the same run; leave one of them out"
            raise InputError("--grid.*", f"{runs[identity].name} and {run.name}", remedy)
        runs[identity] = run
    return list(runs.values())


def identify(values: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits for all that a run computes from: not its place, and not W&B."""
    apart = {"run.name", "run.dir", "run.resume", "run.overwrite"}
    kept = {f: v for f, v in values.items() if f not in apart and not f.startswith("wandb.")}
    return sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:8]


def _of_the_grid(error: InputError, cell: Mapping[str, str]) -> InputError:
    """The same refusal with the flag as it was typed."""
    flag = error.flag.removeprefix("--")
    return InputError(f"--grid.{flag}", error.given, error.remedy) if flag in cell else error


def _stem(cell: Mapping[str, str]) -> str:
    """``p_over_dn=0.5-seed=3``: the last words of flags, whole flags where they would be alike."""
    last = [flag.rpartition(".")[2] for flag in cell]
    words = []
    for flag, word in zip(cell, last, strict=True):
        name = word if last.count(word) == 1 else flag
        words.append(f"{name}={re.sub(r'[^A-Za-z0-9_.+-]+', '_', short(flag, cell[flag]))}")
    return "-".join(words)[:LONGEST_STEM]
