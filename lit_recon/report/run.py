"""What a run directory holds, read and checked for the pages that show it."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lit_recon.errors import InputError
from lit_recon.metrics import SampleScore
from lit_recon.metrics.numbers import is_described
from lit_recon.records import truth
from lit_recon.records.directory import RESULTS, refuse_older_layout
from lit_recon.records.truth import Truth
from lit_recon.report.verdict import WrittenVerdict, verdict_file
from lit_recon.solvers import SolverStep

FLAG = "--run"
METRICS = "metrics.json"
TRAINING = ("train/", "val/")  # how the names of numbers of the training begin
NEEDED = ("status", "reason", "knows", "recovered_fraction", "n")  # what a page cannot do without
# Numbers in metrics.json that describe the problem or the start, and not the reconstruction.
CIRCUMSTANCES = {"n", "d", "k", "p", "started_from"}


@dataclass(frozen=True)
class Checkpoint:
    """The reconstruction at one training step.

    Attributes:
        folder: where its files are.
        step: the training step.
        numbers: what metrics.json holds under its public names, null as None.
        rows: one for each training sample, in training order; none where these are not known.
        curve: the inner curve; empty where there was nothing to solve.
    """

    folder: Path
    step: int
    numbers: Mapping[str, Any]
    rows: tuple[SampleScore, ...]
    curve: tuple[SolverStep, ...]

    @property
    def n(self) -> int:
        return len(self.rows)

    @property
    def scored(self) -> bool:
        """Whether the training data were known, so that the candidates have scores."""
        return self.numbers["n"] is not None

    def number(self, name: str) -> float | None:
        """A number by its public name; None where it has no meaning or is not recorded."""
        return self.numbers.get(name)

    @property
    def undescribed(self) -> list[str]:
        """Names of the numbers that the registry does not have, as their method is not loaded."""
        return [
            name
            for name, value in self.numbers.items()
            if isinstance(value, int | float)
            and not isinstance(value, bool)
            and name not in CIRCUMSTANCES
            and not is_described(name)
        ]

    def tensors(self) -> dict[str, Tensor]:
        """candidates (m, d) and, for images, the decoded images (m, c, h, w) and certified (m,).

        Raises:
            InputError: the file cannot be read.
        """
        with checked(self.folder / "candidates.safetensors") as file:
            return load_file(file)


@dataclass(frozen=True)
class MethodResults:
    """The reconstructions of one method with one set of settings, by step; at least one.

    Attributes:
        folder: ``recon`` for the settings of the run, ``recon-VARIANT`` for others.
        method: the method's short name.
        checkpoints: by step.
    """

    folder: str
    method: str
    checkpoints: tuple[Checkpoint, ...]

    @property
    def last(self) -> Checkpoint:
        return self.checkpoints[-1]

    @property
    def label(self) -> str:
        """The method, and the variant where it says more: ``projection (spare_0)``."""
        variant = self.folder.removeprefix(RESULTS).removeprefix("-")
        return self.method if variant in ("", self.method) else f"{self.method} ({variant})"

    @property
    def key(self) -> str:
        """A name that no other results of the run have, for the ids in a page."""
        return f"{self.folder}-{self.method}"


@dataclass(frozen=True)
class Run:
    """A run directory.

    Attributes:
        path: the directory.
        config: what config.yaml holds.
        provenance: what provenance.json holds; empty where the run ended before it was written.
        training: the rows of metrics.jsonl that have numbers of the training.
        methods: results of every method, those of the run's own settings first; none where nothing
            was reconstructed.
        truth: the training data; None for a run that has not kept them.
        verdict: of an audit; None for other directories.
    """

    path: Path
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    training: Sequence[Mapping[str, Any]]
    methods: tuple[MethodResults, ...]
    truth: Truth | None
    verdict: WrittenVerdict | None = None


def read_run(path: str | os.PathLike[str]) -> Run:
    """Reads everything but candidates, which are as large as the training data of every step.

    Raises:
        InputError: no such directory, no run, one of an older version, or a file in it that is
            broken.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(FLAG, path, "no such directory; give that of a run, as runs/NAME")
    if not (path / "config.yaml").is_file():
        raise InputError(FLAG, path, "is no run, it holds no config.yaml; give runs/NAME")
    refuse_older_layout(FLAG, path)
    with checked(path / "config.yaml") as file:
        config = dict(yaml.safe_load(file.read_text(encoding="utf-8")))
    provenance = path / "provenance.json"
    rows = list(_logged_rows(path / "metrics.jsonl"))
    written = verdict_file(path)
    verdict = None
    if written is not None:
        with checked(written):
            verdict = WrittenVerdict.of(read_json(written))
    return Run(
        path=path,
        config=config,
        provenance=read_json(provenance) if provenance.exists() else {},
        training=[row for row in rows if any(name.startswith(TRAINING) for name in row)],
        methods=tuple(_methods(path, _methods_in_order(rows))),
        truth=Truth.read(path) if (path / truth.FILE).exists() else None,
        verdict=verdict,
    )


@contextmanager
def checked(file: Path, flag: str = FLAG) -> Iterator[Path]:
    """Turns any reader's error about a broken file into one line that names the file.

    Args:
        file: what is read in the block, which gets it again.
        flag: the flag that led to it.

    Raises:
        InputError: the file cannot be read, or does not hold what it must.
    """
    try:
        yield file
    except OSError as error:
        raise InputError(flag, file, f"cannot be read: {error.strerror or error}") from error
    except (
        ValueError,
        TypeError,
        LookupError,
        RuntimeError,
        yaml.YAMLError,
        SafetensorError,
    ) as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        remedy = f"is corrupt ({cause}); restore it, or move it away"
        raise InputError(flag, file, remedy) from error


def read_json(file: Path, flag: str = FLAG) -> dict[str, Any]:
    """The object that a file holds.

    Raises:
        InputError: it holds none.
    """
    with checked(file, flag):
        return dict(json.loads(file.read_text(encoding="utf-8")))


def _logged_rows(file: Path) -> Iterator[dict[str, Any]]:
    """All whole lines: a crash can leave the last one half written."""
    if not file.exists():
        return
    with checked(file):
        for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                row = dict(json.loads(line))
                yield {**row, "step": int(row["step"])}


def _methods_in_order(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The run's own methods in the order in which they ran, which is that of its configuration."""
    parts = (name.split("/") for row in rows for name in row)
    found = [part[1] for part in parts if part[0] == RESULTS and len(part) == 3]
    return list(dict.fromkeys(found))


def _methods(path: Path, order: Sequence[str]) -> Iterator[MethodResults]:
    """All results in a run directory.

    Args:
        path: the run directory.
        order: names of methods; others come after them by the alphabet.
    """

    def turn(folder: Path) -> tuple[int, str]:
        return (order.index(folder.name) if folder.name in order else len(order), folder.name)

    for settings in [path / RESULTS, *sorted(path.glob(f"{RESULTS}-*"))]:
        for folder in sorted(settings.glob("*"), key=turn):
            steps = sorted(folder.glob("step=*"))
            if steps:
                yield MethodResults(settings.name, folder.name, tuple(map(_checkpoint, steps)))


def _checkpoint(folder: Path) -> Checkpoint:
    numbers = read_json(folder / METRICS)
    with checked(folder / METRICS):
        named = {name: numbers[name] for name in NEEDED}
        rows = tuple(_fields(SampleScore, row) for row in numbers.pop("images"))
        if len(rows) != (named["n"] or 0):
            raise ValueError(f"{len(rows)} rows for n = {named['n']}")
        step = int(folder.name.removeprefix("step="))
    with checked(folder / "curve.csv") as file, file.open(newline="") as lines:
        curve = tuple(_inner_row(row) for row in csv.DictReader(lines))
    return Checkpoint(folder, step, numbers, rows, curve)


def _fields(cls: Any, values: Mapping[str, Any]) -> Any:
    """An object of a dataclass.

    Values that a later version has added to the file are left out, and fields that an earlier one
    did not write have their defaults.
    """
    return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})


def _inner_row(row: Mapping[str, str]) -> SolverStep:
    return SolverStep(
        step=int(row["step"]),
        phase=row["phase"],
        loss=float(row["loss"]),
        candidates=int(row["candidates"]),
        applications=int(row["applications"]),
        seconds=float(row["seconds"]),
    )
