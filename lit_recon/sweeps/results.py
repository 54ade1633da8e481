"""What a sweep has found: one tidy table, in the order of the grid.

One row for every run, method and reconstructed step. The rows of a finished run are read from the
run's own files, so that they are the same however often the sweep is started.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from math import inf
from pathlib import Path
from typing import Any

import pandas as pd
from jsonargparse import Namespace

from lit_recon.errors import InputError, RunError
from lit_recon.flags import build
from lit_recon.flags.command import read_yaml
from lit_recon.metrics.numbers import COMMON, TRAIN_LOSS, registered
from lit_recon.records.directory import RESULTS, RunDirectory, older_layout
from lit_recon.records.provenance import is_finished
from lit_recon.sweeps.plan import GridPoint

SIZES = ("n", "d", "k", "p")
RATIO = "p_over_dn"
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
    """

    def __init__(self, directory: RunDirectory, runs: Sequence[GridPoint]) -> None:
        self.axes = list(runs[0].cell)
        self.failures: dict[str, str] = {}
        self._directory = directory
        self._runs = {run.name: run for run in runs}
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
            self._rows[run.name] = finished_rows(run, directory)
        except RunError as error:
            self._fail(run, f"{error}; move {directory.path} away, and it is run again")
        return True

    def take(self, name: str, failure: str | None) -> Sequence[Mapping[str, Any]]:
        """Take in a run that has just ended.

        Args:
            name: of the run.
            failure: why it failed; None if it did not.

        Returns:
            The row of each method's last step; a single row where there is no reconstruction.
        """
        run = self._runs[name]
        if failure is not None:
            self._fail(run, failure)
        elif not self.has_ended(run):
            self._fail(run, "it ended without results")
        if time.monotonic() - self._written > WRITE_SECONDS:
            self.write()
        rows = self._rows[name]
        return [row for row in rows if row["last"]] or rows[-1:]

    def table(self) -> pd.DataFrame:
        """One row for every run that has ended, every method and every step that it attacked.

        Columns: the run, how the attack ended in a word and a sentence (or ``failed`` and why), the
        method, the values of the grid, model and solver, sizes and seed, the step and whether it
        is the method's last one in a finished run, the training loss of that step's weights, the
        numbers of every method, and further numbers of the registry that some row has. Each column
        has one type, nullable.
        """
        rows = [row for name in self._runs for row in self._rows.get(name, [])]
        held = set().union(*rows)
        own = [number.name for number in registered() if number in COMMON or number.name in held]
        told = ("run", "status", "reason", "method", *self.axes, "model", "solver", *SIZES, "seed")
        columns = dict.fromkeys((*told, "step", "last", TRAIN_LOSS.name, *own))
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
        """The table says that the run failed, and why; its results stay in its directory."""
        self.failures[run.name] = reason
        self._rows[run.name] = [{**_common(run), "status": FAILED, "reason": reason, "last": False}]


def finished_rows(run: GridPoint, directory: RunDirectory) -> list[dict[str, Any]]:
    """The rows of a finished run, by method and step; one without a step if it has no results.

    Raises:
        RunError: a file is damaged, or an earlier version has left the results.
    """
    older = older_layout(directory.path)
    if older is not None:
        raise RunError(f"{directory.path} {older}")
    common, losses = _common(run), _training_losses(directory)
    folders = [folder for folder in directory.path.glob(f"{RESULTS}/*") if folder.is_dir()]
    if not folders:
        told = {"status": "trained", "reason": "there was no reconstruction", "last": False}
        return [{**common, **told}]
    solvers = _solvers(directory)
    order = list(solvers)

    def turn(folder: Path) -> tuple[int, str]:
        return (order.index(folder.name) if folder.name in order else len(order), folder.name)

    rows = []
    for folder in sorted(folders, key=turn):
        method = {"method": folder.name, "solver": solvers.get(folder.name)}
        rows += [{**common, **method, **row} for row in _method_rows(folder, directory, losses)]
    return rows


def _method_rows(
    folder: Path, directory: RunDirectory, losses: Mapping[int, float]
) -> Iterator[dict[str, Any]]:
    """What the steps of one method have in their files."""
    files = sorted(folder.glob("step=*/metrics.json"))
    for file in files:
        found = directory.read_json(str(file.relative_to(directory.path)))
        named = {number.name: found[number.name] for number in registered() if number.name in found}
        told = {name: found.get(name) for name in ("status", "reason", *SIZES)}
        step = int(file.parent.name.removeprefix("step="))
        place = {"step": step, "last": file is files[-1], TRAIN_LOSS.name: losses.get(step)}
        yield {**told, RATIO: _ratio(found), **named, **place}


def _ratio(found: Mapping[str, Any]) -> float | None:
    """Equations over unknowns, k p / (n d), for methods that do not record it; None without a p."""
    n, d, k, p = (found.get(name) for name in SIZES)
    return k * p / (n * d) if n and d and k and p else None


def _solvers(directory: RunDirectory) -> dict[str, str | None]:
    """The solver of each method of a run, None where it takes none, in the run's own order.

    Raises:
        RunError: the configuration is damaged.
    """
    path = directory.path / "config.yaml"
    try:
        chosen = read_yaml(str(path))["recon"]
        entries = chosen if isinstance(chosen, list) else [chosen]
        specs = [_namespace(entry) for entry in entries]
        return {build(spec).name: _solver(spec) for spec in specs}
    except (InputError, KeyError, TypeError, ValueError, AttributeError, ImportError) as error:
        raise RunError(f"{path} is damaged ({error})") from error


def _namespace(value: Any) -> Any:
    """A mapping and those in it as namespaces; anything else as it is."""
    if not isinstance(value, Mapping):
        return value
    return Namespace(**{name: _namespace(item) for name, item in value.items()})


def _solver(spec: Namespace) -> str | None:
    solver = (spec.get("init_args") or {}).get("solver")
    return None if solver is None else _name(solver.class_path)


def _common(run: GridPoint) -> dict[str, Any]:
    """What all rows of a run share."""
    values = run.values
    return {
        "run": run.name,
        **{flag: cell_value(values.get(flag, text), text) for flag, text in run.cell.items()},
        "model": _name(values["model"]),
        "solver": _name(values.get("recon.solver")),
        "n": values["data.n"],
        "seed": values["run.seed"],
    }


def cell_value(value: Any, text: str) -> Any:
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
