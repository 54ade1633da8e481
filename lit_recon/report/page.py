"""report.html of a run: what came back from its weights, for people who did not make it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import yaml
from markupsafe import Markup

from lit_recon.metrics import SampleScore
from lit_recon.records.directory import RunDirectory
from lit_recon.records.media import thin
from lit_recon.records.truth import Truth
from lit_recon.report import words
from lit_recon.report.charts import inner_chart, training_chart
from lit_recon.report.grid import AMPLIFY, best_and_worst, verdict
from lit_recon.report.pictures import Pair, image_pairs, png_file
from lit_recon.report.render import REPORT, render
from lit_recon.report.run import Checkpoint, MethodResults, Run, read_run
from lit_recon.solvers import SolverStep

MOST_STOPS = 25  # of the slider
MOST_PAIRS = 48  # of pictures; the table has a row for every sample
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
class Curve:
    """One attack as the page shows it."""

    attack: MethodResults
    stops: list[SliderStop]
    pairs: list[Pair]
    samples: list[Sample]
    training_chart: Markup
    inner_chart: Markup | None

    @property
    def last(self) -> SliderStop:
        return self.stops[-1]


def write_run_report(path: str | os.PathLike[str]) -> Path:
    """Writes report.html into a run directory, and returns its path.

    Raises:
        InputError: no run, or a file in it that is not what it should be.
        RunError: the report cannot be written.
    """
    run = read_run(path)
    text = render(
        "run.html",
        run=run,
        curves=[curve_of(run, attack) for attack in run.attacks],
        config=yaml.safe_dump(dict(run.config), sort_keys=False),
        verdict=verdict,
        amplify=AMPLIFY,
    )
    return RunDirectory(run.path).write_text(REPORT, text)


def curve_of(run: Run, attack: MethodResults) -> Curve:
    """Chooses what of an attack there is room for, and draws it.

    Raises:
        InputError: candidates or a picture that cannot be read.
    """
    truth = run.truth if run.truth is not None and run.truth.images is not None else None
    indices = sorted(row.index for row in best_and_worst(attack.last.rows, MOST_PAIRS))
    room = MOST_STOPS if truth is None else _room(truth, len(indices))
    shown = thin(attack.checkpoints, room)
    inner = inner_chart(shown)
    return Curve(
        attack=attack,
        stops=[_stop(point, paired=truth is not None) for point in shown],
        pairs=[] if truth is None else image_pairs(truth, shown, indices),
        samples=list(_samples(run, attack)),
        training_chart=Markup(training_chart(run, attack, [point.step for point in shown])),
        inner_chart=None if inner is None else Markup(inner),
    )


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
        grid=None if paired else png_file(point.folder / "grid.png"),
    )


def _numbers(point: Checkpoint) -> Iterator[tuple[str, str]]:
    exact, accepted = words.exact(point), words.certified(point)
    yield "recovered", f"{words.recovered(point)} of {point.n}"
    if exact is not None:
        yield "exact in every pixel", f"{exact} of {point.n}"
    if accepted is not None:
        yield "certified candidates", f"{accepted[0]} of {accepted[1]}"
    for title, name in (
        ("direction error", "direction_error"),
        ("error against others", "null_direction_error"),
        ("projection loss", "projection_loss"),
        ("loss at the true data", "oracle_loss"),
        ("PSNR, dB", "psnr"),
        ("SSIM", "ssim"),
        ("started from step", "started_from"),
    ):
        if point.number(name) is not None:
            yield title, words.number(point.number(name))
    yield "time", words.duration(point.number("seconds"))


def _samples(run: Run, attack: MethodResults) -> Iterator[Sample]:
    names = run.truth.names if run.truth is not None else []
    for row in attack.last.rows:
        yield Sample(
            row=row,
            name=names[row.index] if names else "",
            recovered=words.first_step(attack.checkpoints, row.index, "recovered"),
            exact=words.first_step(attack.checkpoints, row.index, "exact"),
        )
