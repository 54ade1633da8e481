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
from lit_recon.records import truth
from lit_recon.records.truth import Truth
from lit_recon.solvers import SolverStep

FLAG = "--run"
METRICS = "metrics.json"


@dataclass(frozen=True)
class Checkpoint:
    """The reconstruction at one training step.

    Attributes:
        folder: where its files are.
        step: the training step.
        numbers: what metrics.json holds under its public names, null as None.
        rows: one for each training sample, in training order.
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

    def number(self, name: str) -> float | None:
        """A number by its public name; None where it has no meaning or is not recorded."""
        return self.numbers.get(name)

    def tensors(self) -> dict[str, Tensor]:
        """candidates (m, d) and, for images, the decoded images (m, c, h, w) and certified (m,).

        Raises:
            InputError: the file cannot be read.
        """
        with checked(self.folder / "candidates.safetensors") as file:
            return load_file(file)


@dataclass(frozen=True)
class MethodResults:
    """The reconstructions of one attack, by step; at least one.

    Attributes:
        folder: ``recon`` for the attack that the run made, ``recon-VARIANT`` for later ones.
        checkpoints: by step.
    """

    folder: str
    checkpoints: tuple[Checkpoint, ...]

    @property
    def last(self) -> Checkpoint:
        return self.checkpoints[-1]


@dataclass(frozen=True)
class Run:
    """A run directory.

    Attributes:
        path: the directory.
        config: what config.yaml holds.
        provenance: what provenance.json holds; empty where the run ended before it was written.
        training: the rows of metrics.jsonl that are no reconstructions.
        attacks: the run's own first; none where nothing was reconstructed.
        truth: the training data; None for a run that has not kept them.
    """

    path: Path
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    training: Sequence[Mapping[str, Any]]
    attacks: tuple[MethodResults, ...]
    truth: Truth | None


def read_run(path: str | os.PathLike[str]) -> Run:
    """Reads everything but candidates, which are as large as the training data of every step.

    Raises:
        InputError: no such directory, no run, or a file in it that is not what it should be.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(FLAG, path, "no such directory; give that of a run, as runs/NAME")
    if not (path / "config.yaml").is_file():
        raise InputError(FLAG, path, "is no run, it holds no config.yaml; give runs/NAME")
    with checked(path / "config.yaml") as file:
        config = dict(yaml.safe_load(file.read_text(encoding="utf-8")))
    provenance = path / "provenance.json"
    return Run(
        path=path,
        config=config,
        provenance=read_json(provenance) if provenance.exists() else {},
        training=list(_training_rows(path / "metrics.jsonl")),
        attacks=tuple(_attacks(path)),
        truth=Truth.read(path) if (path / truth.FILE).exists() else None,
    )


@contextmanager
def checked(file: Path, flag: str = FLAG) -> Iterator[Path]:
    """Turns what any reader says about a broken file into one line that names it.

    Args:
        file: what is read in the block, which gets it again.
        flag: the flag that led to it.

    Raises:
        InputError: the block has found that the file cannot be read, or is not what it should be.
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


def _training_rows(file: Path) -> Iterator[dict[str, Any]]:
    """All whole lines: a crash can leave the last one half written."""
    if not file.exists():
        return
    with checked(file):
        for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
            row = dict(json.loads(line)) if line.endswith("\n") else {}
            if any(name.startswith(("train/", "val/")) for name in row):
                yield {**row, "step": int(row["step"])}


def _attacks(path: Path) -> Iterator[MethodResults]:
    own = path / "recon"
    for folder in [own, *sorted(path.glob("recon-*"))]:
        steps = sorted(folder.glob("step=*"))
        if steps:
            yield MethodResults(folder.name, tuple(map(_checkpoint, steps)))


def _checkpoint(folder: Path) -> Checkpoint:
    numbers = read_json(folder / METRICS)
    with checked(folder / METRICS):
        named = {name: numbers[name] for name in ("status", "reason", "recovered_fraction", "n")}
        rows = tuple(_fields(SampleScore, row) for row in numbers.pop("images"))
        if len(rows) != named["n"]:
            raise ValueError(f"{len(rows)} rows for n = {named['n']}")
        step = int(folder.name.removeprefix("step="))
    with checked(folder / "curve.csv") as file, file.open(newline="") as lines:
        curve = tuple(_inner_row(row) for row in csv.DictReader(lines))
    return Checkpoint(folder, step, numbers, rows, curve)


def _fields(cls: Any, values: Mapping[str, Any]) -> Any:
    """An object of a dataclass; what a later version has added to the file is left out."""
    return cls(**{field.name: values[field.name] for field in fields(cls)})


def _inner_row(row: Mapping[str, str]) -> SolverStep:
    return SolverStep(
        step=int(row["step"]),
        phase=row["phase"],
        loss=float(row["loss"]),
        candidates=int(row["candidates"]),
        applications=int(row["applications"]),
        seconds=float(row["seconds"]),
    )
