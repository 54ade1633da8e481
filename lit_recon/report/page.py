"""report.html of a run: what came back from its weights, for readers who did not start it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import yaml
from markupsafe import Markup

from lit_recon.metrics import SampleScore
from lit_recon.metrics.numbers import COMMON, Number, described, shown_in
from lit_recon.records.directory import RunDirectory
from lit_recon.records.media import thin
from lit_recon.records.truth import Truth
from lit_recon.report import words
from lit_recon.report.charts import inner_chart, training_chart
from lit_recon.report.grid import AMPLIFY, best_and_worst, verdict
from lit_recon.report.pictures import Found, Pair, image_pairs, picture_file
from lit_recon.report.render import REPORT, render
from lit_recon.report.run import Checkpoint, MethodResults, Run, read_run
from lit_recon.solvers import SolverStep

MOST_STOPS = 25  # of the slider
MOST_PAIRS = 48  # of pictures; the table has a row for every sample
MOST_COMPARED = 6  # training images in the comparison of methods
PICTURE_BYTES = 8_000_000  # of pixels, which keeps the file in the range of a photograph or two


@dataclass(frozen=True)
class Phase:
    """What one phase of the solver took, over all times that it was entered."""

    name: str
    times: int
    steps: int
    applications: int
    seconds: float
    loss: float  # the lowest


@dataclass(frozen=True)
class SliderStop:
    """A checkpoint that the slider stops at."""

    point: Checkpoint
    numbers: list[tuple[str, str]]  # names and what they are
    phases: list[Phase]
    grid: str | None  # the picture of all samples, where there are no pairs
    pictures: list[tuple[str, str]]  # captions and addresses of the method's own pictures

    @property
    def step(self) -> int:
        return self.point.step


@dataclass(frozen=True)
class Sample:
    """One training sample in the table."""

    row: SampleScore  # at the last checkpoint
    name: str  # of its class
    recovered: int | None  # the first step at which it was
    exact: int | None


@dataclass(frozen=True)
class MethodSection:
    """One method as the page shows it."""

    results: MethodResults
    stops: list[SliderStop]
    pairs: list[Pair]
    samples: list[Sample]
    training_chart: Markup
    inner_chart: Markup | None

    @property
    def last(self) -> SliderStop:
        return self.stops[-1]


@dataclass(frozen=True)
class Comparison:
    """Several methods beside one another, each at the checkpoint at which most came back.

    Attributes:
        numbers: the columns.
        rows: one for each method.
        pictures: training images, each with what came back of it by every method; none where the
            samples are no images, or the run has not kept them.
    """

    numbers: list[Number]
    rows: list[MethodRow]
    pictures: list[PictureRow]


@dataclass(frozen=True)
class MethodRow:
    """One method in the comparison: its numbers as they are shown, None without a value."""

    results: MethodResults
    point: Checkpoint
    shown: list[str | None]


@dataclass(frozen=True)
class PictureRow:
    """A training image and what came back of it by every method, in the order of the rows."""

    index: int
    truth: str
    found: list[Found]


def write_run_report(path: str | os.PathLike[str]) -> Path:
    """Writes report.html into a run directory, and returns its path.

    Raises:
        InputError: no run, or a file in it that is broken.
        RunError: the report cannot be written.
    """
    run = read_run(path)
    text = render(
        "run.html",
        run=run,
        sections=[section_of(run, results) for results in run.methods],
        comparison=comparison_of(run) if len(run.methods) > 1 else None,
        config=yaml.safe_dump(dict(run.config), sort_keys=False),
        verdict=verdict,
        amplify=AMPLIFY,
        described=described,
    )
    return RunDirectory(run.path).write_text(REPORT, text)


def section_of(run: Run, results: MethodResults) -> MethodSection:
    """Chooses what of a method's results there is room for, and draws it.

    Raises:
        InputError: candidates or a picture that cannot be read.
    """
    truth = _with_images(run)
    indices = _best_and_worst(results.last, MOST_PAIRS)
    room = MOST_STOPS if truth is None else _room(truth, len(indices))
    shown = thin(results.checkpoints, room)
    inner = inner_chart(shown)
    return MethodSection(
        results=results,
        stops=[_stop(point, paired=truth is not None) for point in shown],
        pairs=[] if truth is None else image_pairs(truth, shown, indices),
        samples=list(_samples(run, results)),
        training_chart=Markup(training_chart(run, results, [point.step for point in shown])),
        inner_chart=None if inner is None else Markup(inner),
    )


def comparison_of(run: Run) -> Comparison:
    """All methods of a run beside one another.

    Raises:
        InputError: candidates that cannot be read.
    """
    numbers = [number for number in shown_in("sweep") if number in COMMON]
    rows = []
    for results in run.methods:
        point = words.strongest(results)
        shown = [words.at(point, number) for number in numbers]
        rows.append(MethodRow(results, point, shown))
    return Comparison(numbers, rows, _pictures(run, [row.point for row in rows]))


def _pictures(run: Run, points: Sequence[Checkpoint]) -> list[PictureRow]:
    truth = _with_images(run)
    if truth is None:
        return []
    indices = _best_and_worst(words.strongest(words.best(run)), MOST_COMPARED)
    columns = [image_pairs(truth, [point], indices) for point in points]
    return [
        PictureRow(pairs[0].index, pairs[0].truth, [pair.found[0] for pair in pairs])
        for pairs in zip(*columns, strict=True)
    ]


def _with_images(run: Run) -> Truth | None:
    """The training data, where they are images that the run has kept."""
    return run.truth if run.truth is not None and run.truth.images is not None else None


def _best_and_worst(point: Checkpoint, most: int) -> list[int]:
    return sorted(row.index for row in best_and_worst(point.rows, most))


def _room(truth: Truth, pairs: int) -> int:
    """How many checkpoints there are pictures of."""
    assert truth.images is not None
    bytes_each = 2 * pairs * truth.images[0].numel()  # what came back, and the difference
    return max(2, min(MOST_STOPS, PICTURE_BYTES // bytes_each))


def phases(curve: Sequence[SolverStep]) -> list[Phase]:
    """The phases of an inner curve, in the order in which they were first entered."""
    found: dict[str, Phase] = {}
    applications, seconds = 0, 0.0
    for name, part in groupby(curve, key=lambda row: row.phase):
        rows = list(part)
        so_far = found.get(name, Phase(name, 0, 0, 0, 0.0, rows[0].loss))
        found[name] = Phase(
            name=name,
            times=so_far.times + 1,
            steps=so_far.steps + len(rows),
            applications=so_far.applications + rows[-1].applications - applications,
            seconds=so_far.seconds + rows[-1].seconds - seconds,
            loss=min(so_far.loss, *(row.loss for row in rows)),
        )
        applications, seconds = rows[-1].applications, rows[-1].seconds
    return list(found.values())


def _stop(point: Checkpoint, *, paired: bool) -> SliderStop:
    return SliderStop(
        point=point,
        numbers=list(_numbers(point)),
        phases=phases(point.curve),
        grid=None if paired else picture_file(point.folder / "grid.png"),
        pictures=[
            (drawn["words"], picture_file(point.folder / drawn["file"]))
            for drawn in point.numbers.get("pictures", ())
        ],
    )


def _numbers(point: Checkpoint) -> Iterator[tuple[str, str]]:
    """What the registry shows on a page, and numbers that it does not have by their plain names."""
    numbers = shown_in("page")
    plain = [described(name) for name in point.undescribed]
    timed = [number for number in numbers if number.scale == "seconds"]
    for number in [*(number for number in numbers if number not in timed), *plain, *timed]:
        shown = words.at(point, number)
        if shown is not None:
            yield number.words, shown
    if point.number("started_from") is not None:
        yield "started from step", words.number(point.number("started_from"))


def _samples(run: Run, results: MethodResults) -> Iterator[Sample]:
    names = run.truth.names if run.truth is not None else []
    for row in results.last.rows:
        yield Sample(
            row=row,
            name=names[row.index] if names else "",
            recovered=words.first_step(results.checkpoints, row.index, "recovered"),
            exact=words.first_step(results.checkpoints, row.index, "exact"),
        )
