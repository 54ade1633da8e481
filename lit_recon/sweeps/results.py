"""What a sweep has found: one tidy table, in the order of the grid, whoever ended first.

One row for every run and reconstructed step. The rows of a finished run are read from the run's own
files, so that they are the same however often the sweep is started.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from io import BytesIO
from math import inf
from typing import Any

import pandas as pd

from lit_recon.errors import RunError
from lit_recon.records.directory import RunDirectory
from lit_recon.records.provenance import is_finished
from lit_recon.sweeps.plan import GridPoint

SIZES = ("n", "d", "k", "p")
FAILED = "failed"
WRITE_SECONDS = 5.0  # between two writings of a table that grows


class Results:
    """The rows of all runs that have ended, and the files that hold them.

    Attributes:
        axes: the flags that vary.
        failures: why runs have failed, by name.

    Args:
        directory: of the sweep.
        runs: all of them, in their order.
        numbers: names of the numbers of a reconstruction.
    """

    def __init__(
        self, directory: RunDirectory, runs: Sequence[GridPoint], numbers: Sequence[str]
    ) -> None:
        self.axes = list(runs[0].cell)
        self.failures: dict[str, str] = {}
        self._directory = directory
        self._runs = {run.name: run for run in runs}
        self._numbers = numbers
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self._written = -inf

    def has_ended(self, run: GridPoint) -> bool:
        """Whether a run of an earlier start needs no other: it is finished, or its files damaged.

        If so, its rows are taken in.
        """
        directory = self._of(run)
        try:
            if not is_finished(directory):
                return False
            self._rows[run.name] = finished_rows(run, directory, self._numbers)
        except RunError as error:
            self._fail(run, f"{error}; move {directory.path} away, and it is run again")
        return True

    def take(self, name: str, failure: str | None) -> Mapping[str, Any]:
        """Take in a run that has just ended, and why it failed, if it did; returns its last row."""
        run = self._runs[name]
        if failure is not None:
            self._fail(run, failure)
        elif not self.has_ended(run):
            self._fail(run, "it ended without results")
        if time.monotonic() - self._written > WRITE_SECONDS:
            self.write()
        return self._rows[name][-1]

    def table(self) -> pd.DataFrame:
        """One row for every run that has ended and every reconstructed step of it.

        Columns: the run, how the solver ended in a word and a sentence (or ``failed`` and why),
        what was varied, model and solver, sizes and seed, the step and whether it is the last of a
        finished run, the training loss of that step's weights, and the numbers. Each column has one
        type, nullable.
        """
        told = ("run", "status", "reason", *self.axes, "model", "solver", *SIZES, "seed")
        columns = dict.fromkeys((*told, "step", "last", "train_loss", *self._numbers))
        rows = [row for name in self._runs for row in self._rows.get(name, [])]
        return pd.DataFrame({name: _column([row.get(name) for row in rows]) for name in columns})

    def write(self) -> None:
        """Write results.csv and results.parquet, each whole or not at all."""
        frame = self.table()
        self._directory.write_text("results.csv", frame.to_csv(index=False, lineterminator="\n"))
        content = BytesIO()
        frame.to_parquet(content, index=False)
        self._directory.write_bytes("results.parquet", content.getvalue())
        self._written = time.monotonic()

    def _of(self, run: GridPoint) -> RunDirectory:
        return RunDirectory(self._directory.path / run.name)

    def _fail(self, run: GridPoint, reason: str) -> None:
        """What the run had reached is in its directory; the table says that it failed, and why."""
        self.failures[run.name] = reason
        self._rows[run.name] = [{**_common(run), "status": FAILED, "reason": reason, "last": False}]


def finished_rows(
    run: GridPoint, directory: RunDirectory, numbers: Sequence[str]
) -> list[dict[str, Any]]:
    """The rows of a finished run, by step; a single one without a step if nothing was attacked.

    Raises:
        RunError: a file is damaged.
    """
    common, losses = _common(run), _training_losses(directory)
    files = sorted(directory.path.glob("recon/step=*/metrics.json"))
    if not files:
        told = {"status": "trained", "reason": "there was no reconstruction", "last": False}
        return [{**common, **told}]
    rows = []
    for file in files:
        found = directory.read_json(str(file.relative_to(directory.path)))
        told = {name: found.get(name) for name in ("status", "reason", *SIZES, *numbers)}
        step = int(file.parent.name.removeprefix("step="))
        place = {"step": step, "last": file is files[-1], "train_loss": losses.get(step)}
        rows.append({**common, **told, **place})
    return rows


def _common(run: GridPoint) -> dict[str, Any]:
    """What all rows of a run share."""
    values = run.values
    return {
        "run": run.name,
        **{flag: _cell(values.get(flag, text), text) for flag, text in run.cell.items()},
        "model": _name(values["model"]),
        "solver": _name(values.get("recon.solver")),
        "n": values["data.n"],
        "seed": values["run.seed"],
    }


def _cell(value: Any, text: str) -> Any:
    """What the grid gave: a number as such, anything else as it is typed."""
    return value if value is None or isinstance(value, int | float) else text


def _name(path: str | None) -> str | None:
    """Of a class's path the last word."""
    return None if path is None else path.rpartition(".")[2]


def _training_losses(directory: RunDirectory) -> dict[int, float]:
    """The training loss of the weights of each logged step."""
    path = directory.path / "metrics.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"{path} is damaged ({error})") from error


def _column(values: Sequence[Any]) -> Any:
    """The narrowest type that holds all values without a change, else text."""
    kinds = {type(value) for value in values} - {type(None)}
    for dtype, held in (("boolean", {bool}), ("Int64", {int}), ("Float64", {int, float})):
        if kinds and kinds <= held:
            return pd.array(values, dtype=dtype)
    texts = [None if value is None else str(value) for value in values]
    return pd.array(texts, dtype="Float64" if not kinds else "string")
