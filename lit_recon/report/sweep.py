"""report.html of a sweep: the law, and every run with what came back in it."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isfinite
from pathlib import Path
from typing import Any

from lit_recon.errors import InputError
from lit_recon.records.directory import RunDirectory
from lit_recon.report.page import write_run_report
from lit_recon.report.pictures import address
from lit_recon.report.render import REPORT, render
from lit_recon.report.run import checked, read_json
from lit_recon.report.words import number

FLAG = "--sweep"
FAILED = "failed"
# Columns of the table: what results.csv calls them, and what people do.
NUMBERS = {
    "p_over_dn": "p\N{NO-BREAK SPACE}/\N{NO-BREAK SPACE}(d\N{NO-BREAK SPACE}n)",
    "recovered_fraction": "recovered",
    "exact_fraction": "exact",
    "certified_fraction": "certified",
    "direction_error": "direction error",
    "train_loss": "training loss",
    "seconds": "seconds",
}


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep that has ended.

    Attributes:
        name: of the run and of its directory.
        row: its last row in results.csv.
        linked: whether it has a report of its own.
    """

    name: str
    row: Mapping[str, str]
    linked: bool

    def text(self, column: str) -> str:
        """What the table says, empty where it says nothing."""
        return self.row.get(column, "")

    def number(self, column: str) -> float | None:
        """The same as a number; None where it is none."""
        try:
            value = float(self.text(column))
        except ValueError:
            return None
        return value if isfinite(value) else None

    @property
    def failed(self) -> bool:
        return self.text("status") == FAILED

    @property
    def complete(self) -> bool:
        """Whether every training sample came back."""
        return self.number("recovered_fraction") == 1


@dataclass(frozen=True)
class Sweep:
    """A sweep directory.

    Attributes:
        path: the directory.
        command: what was typed.
        planned: how many runs it has.
        axes: the flags that vary.
        runs: those that have ended, in the order of the grid.
        figures: the drawings of the law, as ``data:`` addresses.
    """

    path: Path
    command: str
    planned: int
    axes: Sequence[str]
    runs: Sequence[SweepRun]
    figures: Sequence[str]

    @property
    def columns(self) -> list[str]:
        """The flags that vary, and what else differs between runs."""
        named = [name for name in ("model", "solver") if name not in self.axes]
        differ = [name for name in named if len({run.text(name) for run in self.runs} - {""}) > 1]
        return [*self.axes, *differ]

    @property
    def numbers(self) -> dict[str, str]:
        """The numbers that some run has, and that do not say again what varies."""
        said = {flag.rpartition(".")[2] for flag in self.axes}
        return {
            name: title
            for name, title in NUMBERS.items()
            if name not in said and any(run.number(name) is not None for run in self.runs)
        }

    def kind(self, column: str) -> str:
        """``number`` if every run has one there, else ``text``."""
        return "text" if any(run.number(column) is None for run in self.runs) else "number"


def write_sweep_report(path: str | os.PathLike[str]) -> tuple[Path, list[str]]:
    """Writes report.html into a sweep's directory, and into those of its runs that have none.

    Returns:
        Its path, and a line for every run whose own report cannot be written. Such a run stays in
        the sweep's.

    Raises:
        InputError: no sweep, or one whose own files are not what they should be.
        RunError: a report cannot be written.
    """
    sweep, skipped = read_sweep(Path(path))
    text = render("sweep.html", sweep=sweep, skipped=skipped, law=list(law(sweep.runs)))
    return RunDirectory(sweep.path).write_text(REPORT, text), skipped


def read_sweep(path: Path) -> tuple[Sweep, list[str]]:
    """What a sweep's directory holds, once every run has its report that can have one.

    Raises:
        InputError: no sweep, or one whose own files are not what they should be.
    """
    if not path.is_dir():
        raise InputError(FLAG, path, "no such directory; give that of a sweep, as runs/NAME")
    file = path / "sweep.json"
    if not file.is_file():
        raise InputError(FLAG, path, "is no sweep, it holds no sweep.json; give runs/NAME")
    told = read_json(file, FLAG)
    with checked(file, FLAG):
        command, planned, axes = told["command"], len(told["runs"]), list(told["grid"])
    skipped: list[str] = []
    runs = [
        SweepRun(row["run"], row, _linked(path / row["run"], skipped))
        for row in _last_rows(path / "results.csv")
    ]
    figures = [address(file.read_bytes(), "image/svg+xml") for file in sorted(path.glob("*.svg"))]
    return Sweep(path, command, planned, axes, runs, figures), skipped


def law(runs: Sequence[SweepRun]) -> Iterator[str]:
    """From which p / (d n) on everything came back, for every model and solver, in sentences."""

    def kind(run: SweepRun) -> tuple[str, str]:
        return run.text("model"), run.text("solver")

    attacked = [run for run in runs if run.number("p_over_dn") is not None and not run.failed]
    for (model, solver), group in groupby(sorted(attacked, key=kind), kind):
        shares: dict[float, list[float]] = {}
        for run in group:
            ratio, share = run.number("p_over_dn"), run.number("recovered_fraction")
            if ratio is not None and share is not None:
                shares.setdefault(round(ratio, 3), []).append(share)
        whole = _from_on(shares, lambda some: min(some) == 1)
        nothing = _from_on(shares, lambda some: max(some) == 0, down=True)
        yield f"{model}, {solver}: {_told(whole, nothing)}."


def _from_on(
    shares: Mapping[float, list[float]], holds: Any, *, down: bool = False
) -> float | None:
    """The last ratio, from the top down or from the bottom up, up to which something holds."""
    found = None
    for ratio in sorted(shares, reverse=not down):
        if not holds(shares[ratio]):
            break
        found = ratio
    return found


def _told(whole: float | None, nothing: float | None) -> str:
    parts = []
    if whole is not None:
        everything = "all training samples came back in every run"
        parts.append(f"{everything} from p / (d n) = {number(whole)} on")
    if nothing is not None:
        parts.append(f"none came back in any run up to p / (d n) = {number(nothing)}")
    if not parts:
        return "at no p / (d n) did every run give everything away, or nothing"
    return ", and ".join(parts)


def _last_rows(file: Path) -> Iterator[Mapping[str, str]]:
    """The last row of every run; none before the first has ended."""
    if not file.exists():
        return
    with checked(file, FLAG), file.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines, strict=True))
        for row in rows:
            if None in row or None in row.values() or {"run", "status", "reason"} - row.keys():
                raise ValueError("a row does not fit the header")
    yield from {row["run"]: row for row in rows}.values()


def _linked(directory: Path, skipped: list[str]) -> bool:
    """Whether a run has a report, once one has been written where there was none."""
    if not directory.is_dir():  # a run that was refused leaves nothing
        return False
    if not (directory / REPORT).exists():
        try:
            write_run_report(directory)
        except InputError as error:
            skipped.append(str(error))
            return False
    return True
