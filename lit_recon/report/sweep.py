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
from lit_recon.metrics.numbers import Number, shown_in
from lit_recon.records.directory import RunDirectory
from lit_recon.report.capacity import CAPACITY_FILE, write_study_report
from lit_recon.report.law import ALONG
from lit_recon.report.page import write_run_report
from lit_recon.report.pictures import address
from lit_recon.report.render import REPORT, render
from lit_recon.report.run import checked, read_json
from lit_recon.report.words import number

FLAG = "--sweep"
FAILED = "failed"
NEEDED = ("run", "status", "reason", "method")  # columns of results.csv
NO_BREAK = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep that has ended, as one method has attacked it.

    Attributes:
        name: of the run and of its directory.
        row: the method's last row for it in results.csv.
        linked: whether the run has a report of its own.
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
        runs: those that have ended, in the order of the grid, once for each method.
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
        named = [name for name in ("model", "method", "solver") if name not in self.axes]
        differ = [name for name in named if len({run.text(name) for run in self.runs} - {""}) > 1]
        return [*self.axes, *differ]

    @property
    def numbers(self) -> list[Number]:
        """The numbers that some run has, and that are not in the columns of what varies."""
        varied = {flag.rpartition(".")[2] for flag in self.axes}
        return [
            number
            for number in shown_in("sweep")
            if number.name not in varied
            and any(run.number(number.name) is not None for run in self.runs)
        ]

    @property
    def ended(self) -> int:
        """How many runs have ended."""
        return len({run.name for run in self.runs})

    @property
    def complete(self) -> int:
        """In how many runs every training sample came back, by one method at least."""
        return len({run.name for run in self.runs if run.complete})

    def kind(self, column: str) -> str:
        """``number`` if every run has one there, else ``text``."""
        return "text" if any(run.number(column) is None for run in self.runs) else "number"


def write_sweep_report(path: str | os.PathLike[str]) -> tuple[Path, list[str]]:
    """Writes report.html into a sweep's directory, and into those of its runs that have none.

    Returns:
        Its path, and a line for every run whose own report cannot be written. Such a run stays in
        the sweep's.

    Raises:
        InputError: no sweep, or one whose own files are broken.
        RunError: a report cannot be written.
    """
    if (Path(path) / CAPACITY_FILE).exists():
        return write_study_report(Path(path)), []
    sweep, skipped = read_sweep(Path(path))
    sentences = list(law(sweep.runs)) if ALONG & set(sweep.axes) else []
    text = render("sweep.html", sweep=sweep, skipped=skipped, law=sentences, title=title)
    return RunDirectory(sweep.path).write_text(REPORT, text), skipped


def read_sweep(path: Path) -> tuple[Sweep, list[str]]:
    """What a sweep's directory holds, once every run has its report that can have one.

    Raises:
        InputError: no sweep, or one whose own files are broken.
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
    rows = list(_last_rows(path / "results.csv"))
    names = dict.fromkeys(row["run"] for row in rows)
    linked = {name: _linked(path / name, skipped) for name in names}
    runs = [SweepRun(row["run"], row, linked[row["run"]]) for row in rows]
    figures = [address(file.read_bytes(), "image/svg+xml") for file in sorted(path.glob("*.svg"))]
    return Sweep(path, command, planned, axes, runs, figures), skipped


def title(number: Number) -> str:
    """The heading of a column; a formula stays in one line."""
    return number.words.replace(" ", NO_BREAK) if "/" in number.words else number.words


def law(runs: Sequence[SweepRun]) -> Iterator[str]:
    """From which p / (d n) on everything came back, in a sentence for each kind of run.

    Kinds differ in model and solver, and in the method where there are several.
    """
    attacked = [run for run in runs if run.number("p_over_dn") is not None and not run.failed]
    several = len({run.text("method") for run in attacked}) > 1
    parts = ("model", "method", "solver") if several else ("model", "solver")

    def kind(run: SweepRun) -> tuple[str, ...]:
        return tuple(run.text(part) for part in parts)

    for words, group in groupby(sorted(attacked, key=kind), kind):
        shares: dict[float, list[float]] = {}
        for run in group:
            ratio, share = run.number("p_over_dn"), run.number("recovered_fraction")
            if ratio is not None and share is not None:
                shares.setdefault(round(ratio, 3), []).append(share)
        whole = _from_on(shares, lambda some: min(some) == 1)
        nothing = _from_on(shares, lambda some: max(some) == 0, down=True)
        yield f"{', '.join(filter(None, words))}: {_told(whole, nothing)}."


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
    """The last row of every run and method; none before the first run has ended."""
    if not file.exists():
        return
    with checked(file, FLAG), file.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines, strict=True))
        for row in rows:
            if None in row or None in row.values():
                raise ValueError("a row does not fit the header")
            missing = [name for name in NEEDED if name not in row]
            if missing:
                raise ValueError(f"it has no column {missing[0]}")
    yield from {(row["run"], row["method"]): row for row in rows}.values()


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
