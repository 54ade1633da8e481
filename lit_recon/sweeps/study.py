"""A sweep of constructed networks: thousands of draws in a process instead of a run for each.

A network is built in milliseconds, and a run with its checkpoint, report and record takes seconds.
So a sweep with `--model Interpolator` makes no runs. The flags that change the data or the kind of
network are resolved and checked as those of any sweep; widths, largest biases and seeds are loops
inside a worker. results.csv has a row for every network, capacity.csv one for every cell.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Any

import pandas as pd
from jsonargparse import Namespace
from safetensors.torch import save
from torch import Tensor

from lit_recon.capacity.study import BIAS, CELL, SEED, WIDTH, summary
from lit_recon.errors import InputError, RunError
from lit_recon.flags import build
from lit_recon.models.interpolator import check_size
from lit_recon.modules.construct import check_labels, labels_of
from lit_recon.records.directory import SWEEP_FILE, RunDirectory
from lit_recon.report.capacity import (
    CAPACITY_FILE,
    boundary_figure,
    capacity_figure,
    write_study_report,
)
from lit_recon.report.law import to_png, to_svg
from lit_recon.sweeps.cells import CELLS, samples_file
from lit_recon.sweeps.grid import Axis
from lit_recon.sweeps.plan import GridPoint
from lit_recon.sweeps.results import cell_value
from lit_recon.sweeps.workers import Outcome, Task

INNER = (*CELL, SEED)


def is_study(flags: Namespace) -> bool:
    """Whether a sweep is of constructed networks."""
    return flags.model.class_path.rpartition(".")[2] == "Interpolator"


def outer_axes(axes: Sequence[Axis]) -> list[Axis]:
    """The axes that the parser has to see: all but widths, biases and seeds."""
    return [axis for axis in axes if axis.flag not in INNER]


@dataclass(frozen=True)
class Job:
    """All networks of one width on one data set; a task of a worker.

    Attributes:
        point: what the networks share.
        width: units of the first layer.
        biases: largest biases.
        seeds: of the networks.
    """

    point: GridPoint
    width: int
    biases: Sequence[float]
    seeds: Sequence[int]

    @property
    def name(self) -> str:
        return f"{self.point.name}-width={self.width}"

    @property
    def source(self) -> str:
        """The flags of data and targets, as JSON."""
        values = self.point.values
        kept = {f: v for f, v in values.items() if f.partition(".")[0] in ("data", "task")}
        return json.dumps(kept)

    def task(self, directory: RunDirectory) -> Task:
        """The command of a worker."""
        activation = self.point.values["model.activation"]
        names, place = (self.name, self.point.name), str(directory.path)
        asked = (*names, self.width, self.biases, self.seeds, activation, place)
        log = directory.path / "logs" / f"{self.name}.log"
        return Task(self.name, [json.dumps(asked)], log)

    def rows(self, directory: RunDirectory) -> pd.DataFrame | None:
        """The rows that an earlier or the present start has left; None where some are missing."""
        try:
            frame = pd.read_csv(directory.path / CELLS / f"{self.name}.csv")
        except (OSError, ValueError):
            return None
        frame = frame[frame[BIAS].isin(self.biases) & frame[SEED].isin(self.seeds)]
        if len(frame) != len(self.biases) * len(self.seeds):
            return None
        values, cell = self.point.values, self.point.cell
        return frame.assign(
            **{f: cell_value(values.get(f, text), text) for f, text in cell.items()}
        )


def jobs_of(points: Sequence[GridPoint], axes: Sequence[Axis]) -> list[Job]:
    """The work of a study.

    Raises:
        InputError: a width, a bias or a seed that cannot be.
    """
    given = {axis.flag: axis.values for axis in axes}

    def values(flag: str, point: GridPoint, kind: type) -> list[Any]:
        texts = given.get(flag, (point.values[flag],))
        try:
            return [kind(text) for text in texts]
        except ValueError:
            remedy = "give whole numbers" if kind is int else "give numbers"
            raise InputError(f"--grid.{flag}", ",".join(map(str, texts)), remedy) from None

    jobs = []
    for point in points:
        widths, biases = values(WIDTH, point, int), values(BIAS, point, float)
        seeds = values(SEED, point, int)
        for width, max_bias in [(w, biases[0]) for w in widths] + [(widths[0], b) for b in biases]:
            check_size(width, max_bias)
        if min(seeds) < 0:
            raise InputError(f"--grid.{SEED}", min(seeds), "give 0 or more")
        jobs += [Job(point, width, biases, seeds) for width in widths]
    return jobs


@lru_cache(maxsize=2)
def _samples(source: str) -> tuple[Tensor, Tensor]:
    """Inputs (n, d) and classes (n,) from the flags of data and targets, as JSON."""
    values: dict[str, Any] = json.loads(source)
    data, task = (build(_spec(values, group)) for group in ("data", "task"))
    data.setup()
    data.retarget(task.targets)
    check_labels(data.x, data.y)
    return data.x.flatten(1), labels_of(data.y)


def _spec(values: Mapping[str, Any], group: str) -> Namespace:
    """Class path and constructor arguments of a group of flags."""
    given = {f.partition(".")[2]: v for f, v in values.items() if f.startswith(f"{group}.")}
    return Namespace(class_path=values[group], init_args=Namespace(**given))


class Study:
    """The tables and pictures of a study.

    Args:
        directory: of the sweep.
        points: what the networks share, one point for each data set.
        axes: what varies.
    """

    def __init__(
        self, directory: RunDirectory, points: Sequence[GridPoint], axes: Sequence[Axis]
    ) -> None:
        self.directory = directory
        self.axes = axes
        self.jobs = jobs_of(points, axes)
        self.failures: dict[str, str] = {}
        self._outer = [axis.flag for axis in outer_axes(axes)]

    def record(self, command: str) -> None:
        """Write sweep.json."""
        grid = {axis.flag: axis.values for axis in self.axes}
        runs = {job.name: {**job.point.cell, WIDTH: str(job.width)} for job in self.jobs}
        self.directory.write_json(SWEEP_FILE, {"command": command, "grid": grid, "runs": runs})

    def left(self) -> Iterator[Task]:
        """The tasks that are not done; the samples that they need are in a file.

        Raises:
            InputError: data that cannot be had, before any task fails for it.
        """
        kept = set()
        for job in self.jobs:
            if job.rows(self.directory) is None:
                if job.point.name not in kept:
                    x, labels = _samples(job.source)
                    content = save({"x": x.contiguous(), "labels": labels})
                    self.directory.write_bytes(samples_file(job.point.name), content)
                    kept.add(job.point.name)
                yield job.task(self.directory)

    def take(self, outcome: Outcome) -> None:
        """Note how a task ended."""
        if outcome.failure is not None:
            self.failures[outcome.name] = outcome.failure

    def write(self) -> pd.DataFrame:
        """Write results.csv, results.parquet and capacity.csv.

        Returns:
            The table of cells; empty if no job is done.
        """
        done = [rows for job in self.jobs if (rows := job.rows(self.directory)) is not None]
        if not done:
            return pd.DataFrame()
        axes = [*self._outer, *CELL]
        frame = pd.concat(done)[[*axes, SEED, "interpolates", "width", "parameters", "seconds"]]
        text = frame.to_csv(index=False, lineterminator="\n")
        self.directory.write_text("results.csv", text)
        content = BytesIO()
        frame.to_parquet(content, index=False)
        self.directory.write_bytes("results.parquet", content.getvalue())
        cells = summary(frame, axes)
        self.directory.write_text(CAPACITY_FILE, cells.to_csv(index=False, lineterminator="\n"))
        return cells

    def draw(self, cells: pd.DataFrame) -> Iterator[tuple[str, Any]]:
        """Draw the cells, and the boundaries where the data are plane; the name of each figure."""
        yield "capacity", capacity_figure(cells, self.directory.path.name)
        job = self.jobs[0]
        x, labels = _samples(job.source)
        if x.shape[1] == 2 and int(labels.max()) == 1:
            widths = [job.width for job in self.jobs if job.point is self.jobs[0].point]
            activation = job.point.values["model.activation"]
            yield "boundaries", boundary_figure(x, labels, widths, job.biases, activation)


def finish(study: Study) -> tuple[Mapping[str, Any], pd.DataFrame]:
    """Write the tables, the figures and the report.

    Returns:
        The figures by name, and the table of cells.

    Raises:
        RunError: no network was built.
    """
    cells = study.write()
    directory = study.directory
    if cells.empty:
        first = next(iter(study.failures.values()), "no cell was built")
        raise RunError(first)
    print(f"results  {directory.path / 'results.csv'}")
    print(f"cells    {directory.path / CAPACITY_FILE}")
    figures = dict(study.draw(cells))
    for name, figure in figures.items():
        directory.write_bytes(f"{name}.svg", to_svg(figure))
        print(f"figure   {directory.write_bytes(f'{name}.png', to_png(figure))}")
    print(f"report   {write_study_report(directory.path)}")
    return figures, cells
