"""Curves as SVG that is part of the page.

matplotlib draws them when the report is written: some ten kilobytes of paths, where a chart library
for browsers would take hundreds of them, or megabytes, in every file. A drawing inside the page
takes its colours from the page's style sheet, light or dark, and its letters from the page's font;
it grows and shrinks with the page and prints as it looks. What belongs to one checkpoint carries
``data-step``, by which the page's slider finds it, and that is all that a reader can change.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import groupby
from math import ceil, inf, isfinite, nan
from statistics import median
from typing import Any
from xml.etree import ElementTree

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter

from lit_recon.metrics.numbers import TRAIN_LOSS, TRAINING, Number, panels, registered
from lit_recon.records.media import thin
from lit_recon.report import words
from lit_recon.report.run import Checkpoint, MethodResults, Run
from lit_recon.solvers import SolverStep

SVG = "http://www.w3.org/2000/svg"
XLINK = "{http://www.w3.org/1999/xlink}href"
# What is drawn in the first colour takes the second from templates/report.css.
COLOURS = {
    "#101010": "var(--ink)",
    "#202020": "var(--faint)",
    "#303030": "var(--line)",
    "#404040": "var(--blue)",
    "#505050": "var(--green)",
    "#606060": "var(--orange)",
    "#707070": "var(--purple)",
    "#808080": "var(--red)",
}
INK, FAINT, LINE, BLUE, GREEN, ORANGE, PURPLE, RED = COLOURS
LINES = (BLUE, ORANGE, GREEN, PURPLE, RED)
PHASES = (BLUE, GREEN, ORANGE, PURPLE, RED)
WIDTH = 430  # points, about what a phone is wide: letters are never scaled to be unreadable
LEFT, RIGHT, BELOW = 46, 8, 38  # points beside and below the panels, for names of ticks
PANEL = 92  # points that a panel of the training chart is high
LEGEND = 15  # points of one line of names above a panel
GAP = 10  # points between a panel and the names of the next one
KEY, LETTER = 42, 5.6  # points that a line's sample in the legend takes, and a letter
MARKED = 40  # points at most that get a dot each
ASTRAY = 1e4  # times the median loss
POINTS = 300  # of one line; there are no more pixels for them
STEP = "step="  # how an element says which checkpoint it belongs to
Line = tuple[Number, list[float]]  # a number and its values
STYLE: dict[Any, Any] = {
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",  # letters stay letters, in the font of the page
    "font.size": 11,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.labelcolor": FAINT,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "text.color": INK,
    "xtick.color": LINE,
    "xtick.labelcolor": FAINT,
    "ytick.color": LINE,
    "ytick.labelcolor": FAINT,
    "legend.frameon": False,
}


def training_chart(run: Run, results: MethodResults, stops: Sequence[int]) -> str:
    """Training loss and the numbers of one method, over the training step; an ``<svg>`` element.

    Below the training loss there are the panels of the training, and one for each in the registry,
    of which there is a value. Every one of the steps in `stops` has a vertical line with
    ``data-step``.
    """
    steps = [checkpoint.step for checkpoint in results.checkpoints]
    loss = [(row["step"], row["train/loss"]) for row in run.training if "train/loss" in row]
    loss = thin(loss, POINTS)
    trained = [step for step, _ in loss]
    losses = [_finite(y) for _, y in loss]
    drawn: list[tuple[list[int], list[Line]]] = [(trained, [(TRAIN_LOSS, losses)])]
    drawn += list(_of_training(run))
    drawn += [(steps, lines) for lines in _panels(results.checkpoints)]
    with rc_context(STYLE):
        figure, places = _figure([_legend_rows([n for n, _ in lines]) for _, lines in drawn], PANEL)
        for axes, (x, lines) in zip(places, drawn, strict=True):
            _lines(axes, x, lines)
        _step_axis(places[-1], [*steps, *trained])
        for axes in places:
            for step in stops:
                axes.axvline(step, color=INK, linewidth=1, gid=f"{STEP}{step}")
        names = ", ".join(_label(number) for _, lines in drawn for number, _ in lines)
        return to_svg(figure, f"By training step: {names}", key=results.key, last=stops[-1])


def _of_training(run: Run) -> Iterator[tuple[list[int], list[Line]]]:
    """The steps and lines of each panel of the training besides its loss."""
    for numbers in panels(TRAINING).values():
        names = [f"train/{number.name}" for number in numbers]
        rows = [row for row in run.training if any(row.get(name) is not None for name in names)]
        if rows:
            lines = [(n, [_finite(row.get(f"train/{n.name}")) for row in rows]) for n in numbers]
            yield [row["step"] for row in rows], lines


def _panels(checkpoints: Sequence[Checkpoint]) -> Iterator[list[Line]]:
    """The lines of each panel; numbers without any value are left out."""
    for numbers in panels(registered()).values():
        lines = [
            (number, [_finite(point.number(number.name)) for point in checkpoints])
            for number in numbers
        ]
        lines = [(number, values) for number, values in lines if any(map(isfinite, values))]
        if lines:
            yield lines


def inner_chart(checkpoints: Sequence[Checkpoint]) -> str | None:
    """The solver's loss over operator applications, one curve per checkpoint; an ``<svg>`` element.

    Every curve has the ``data-step`` of its checkpoint. None where nothing was solved.
    """
    curves = {point.step: point.curve for point in checkpoints if point.curve}
    if not curves:
        return None
    phases = list(dict.fromkeys(row.phase for rows in curves.values() for row in rows))
    colours = {phase: PHASES[i % len(PHASES)] for i, phase in enumerate(phases)}
    with rc_context(STYLE):
        figure, (axes,) = _figure([1], 212)
        for step, rows in curves.items():
            for phase, part in stretches(rows):
                x = [row.applications for row in part]
                y = [_positive(row.loss) for row in part]
                (line,) = axes.plot(x, y, color=colours[phase], lw=1.4, gid=f"{STEP}{step}")
                if len(part) == 1:
                    line.set(marker="o", markersize=4)
        for phase, colour in colours.items():
            axes.plot([], [], color=colour, label=phase)
        _legend(axes, list(colours))
        losses = [row.loss for rows in curves.values() for row in rows if isfinite(row.loss)]
        # A step that went astray may leave the panel, so that the others can be seen.
        most = ASTRAY * median(losses or [1.0])
        _log_axis(axes, [loss for loss in losses if loss <= most])
        axes.grid(axis="y")
        axes.set_xlabel("operator applications")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        description = "Loss of the solver by operator applications, for every checkpoint"
        key = "-".join(checkpoints[0].folder.parts[-3:-1])
        return to_svg(figure, description, key=key, last=checkpoints[-1].step)


def stretches(rows: Sequence[SolverStep]) -> list[tuple[str, list[SolverStep]]]:
    """An inner curve cut where the phase changes; each piece starts where the last one ended."""
    pieces: list[tuple[str, list[SolverStep]]] = []
    for phase, part in groupby(rows, key=lambda row: row.phase):
        joint = pieces[-1][1][-1:] if pieces else []
        pieces.append((phase, joint + thin(list(part), POINTS)))
    return pieces


def to_svg(figure: Figure, description: str, *, key: str, last: int) -> str:
    """The figure as an ``<svg>`` element for a page, in the page's colours and font.

    Args:
        figure: drawn under `STYLE`.
        description: what a screen reader says.
        key: differs between drawings of the same description; no id comes twice in a page.
        last: the step that the slider stands at when the page opens; its elements are ``on``.
    """
    with io.BytesIO() as file, rc_context({"svg.hashsalt": f"{description} {key}"}):
        FigureCanvasSVG(figure).print_svg(file, metadata=dict.fromkeys(("Creator", "Date")))
        root = ElementTree.fromstring(file.getvalue())
    for metadata in root.findall(f"{{{SVG}}}metadata"):
        root.remove(metadata)
    used = {element.get(XLINK, "").lstrip("#") for element in root.iter()}
    for element in root.iter():
        name = element.get("id", "")
        if name.startswith(STEP):
            element.set("data-step", name.removeprefix(STEP))
            element.set("class", "on" if name == f"{STEP}{last}" else "")
        if name and name not in used and not element.tag.endswith("clipPath"):
            del element.attrib["id"]
    for size in ("width", "height"):
        del root.attrib[size]
    root.set("role", "img")
    root.set("aria-label", description)
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK[1:-5])
    text = ElementTree.tostring(root, encoding="unicode")
    for drawn, shown in COLOURS.items():
        text = text.replace(drawn, shown)
    return text


def _figure(legends: Sequence[int], height: float) -> tuple[Figure, list[Axes]]:
    """A figure with panels below one another, over one axis.

    Margins are fixed: matplotlib's own layouts draw everything several times to find them.

    Args:
        legends: how many lines of names there are above each panel.
        height: of each panel, in points.
    """
    above = [LEGEND * rows + 4 for rows in legends]
    whole = sum(above) + len(legends) * height + (len(legends) - 1) * GAP + BELOW
    figure = Figure(figsize=(WIDTH / 72, whole / 72), dpi=72)
    places: list[Axes] = []
    left, width, top = LEFT / WIDTH, 1 - (LEFT + RIGHT) / WIDTH, whole
    for space in above:
        bottom = top - space - height
        place = (left, bottom / whole, width, height / whole)
        places.append(figure.add_axes(place, sharex=places[0] if places else None))
        top = bottom - GAP
    for axes in places[:-1]:
        axes.tick_params(labelbottom=False)
    return figure, places


def _lines(axes: Axes, x: Sequence[float], lines: Sequence[Line]) -> None:
    """One panel: a line for each number, on the axis that the first one asks for.

    Lines that lie on one another are all seen, as each is thinner than the one below.
    """
    scale = lines[0][0].scale
    drawn: list[tuple[Number, list[float]]] = []
    for i, (number, values) in enumerate(lines):
        y = [_on_axis(number, value) for value in values] if scale == "log" else list(values)
        if not any(map(isfinite, y)):
            continue
        drawn.append((number, y))
        layered = scale == "share" and len(lines) > 1 and not number.null
        size = max(1, 5 - 2 * i) if layered else 1.6
        style = ":" if number.null else "-"
        (line,) = axes.plot(x, y, color=LINES[i % len(LINES)], lw=size, ls=style)
        line.set(label=_label(number), markersize=size + 2)
        line.set_marker("" if number.null or len(y) > MARKED else "o")
    if not drawn:
        none = f"no {lines[0][0].words} here"
        axes.text(0.5, 0.5, none, transform=axes.transAxes, ha="center")
        axes.yaxis.set_major_locator(NullLocator())
        return
    _legend(axes, [_label(number) for number, _ in drawn])
    axes.grid(axis="y")
    if scale == "share":
        axes.set_ylim(-0.05, 1.05)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    elif scale == "log":
        _log_axis(axes, [value for _, y in drawn for value in y])
    else:
        _linear_axis(axes, from_zero=scale in ("count", "seconds"))


def _label(number: Number) -> str:
    return f"{number.words}, s" if number.scale == "seconds" else number.words


def _legend_rows(numbers: Sequence[Number]) -> int:
    names = [_label(number) for number in numbers]
    return ceil(len(names) / _columns(names))


def _columns(names: Sequence[str]) -> int:
    """How many names of a legend stand beside one another; each column is as wide as the widest."""
    widest = max(map(len, names), default=1)
    return max(1, min(len(names), int((WIDTH - LEFT) / (KEY + LETTER * widest))))


def _legend(axes: Axes, names: Sequence[str]) -> None:
    """Above the panel, where no line is."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1),
        ncols=_columns(names),
        borderpad=0,
        borderaxespad=0.2,
        columnspacing=1,
        labelspacing=0.2,
        handlelength=1.6,
    )


def _linear_axis(axes: Axes, *, from_zero: bool) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.yaxis.set_major_formatter(lambda value, _: words.number(value))
    if from_zero:
        axes.set_ylim(0, max(axes.dataLim.y1, 0) * 1.1 or 1)


def _log_axis(axes: Axes, values: Sequence[float]) -> None:
    """Powers of ten, two of them at least, five at most."""
    found = [value for value in values if value > 0 and isfinite(value)]
    axes.set_yscale("log")
    if found:
        low, high = np.log10(min(found)), np.log10(max(found))
        middle, half = (low + high) / 2, max(0.55 * (high - low), 1.1)
        axes.set_ylim(10 ** (middle - half), 10 ** (middle + half))
    axes.yaxis.set_major_locator(LogLocator(numticks=5))
    # As the page writes numbers; matplotlib's own are formulas, whose layout takes half the time.
    axes.yaxis.set_major_formatter(lambda value, _: words.number(value))
    axes.yaxis.set_minor_locator(NullLocator())


def _step_axis(axes: Axes, steps: Sequence[int]) -> None:
    """From step 0 on, by powers of ten where there are many: most happens at the start."""
    axes.set_xlabel("training step")
    last = max(1, *steps)
    if last > 20:
        axes.set_xscale("symlog", linthresh=1, linscale=0.4)
        axes.set_xlim(-0.15, last * 1.3)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: words.number(value))
    else:
        axes.set_xlim(-0.05 * last, 1.05 * last)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _finite(value: float | None) -> float:
    return nan if value is None else value


def _on_axis(number: Number, value: float) -> float:
    """A value on a log axis: on the number's floor if it is below, NaN where there is none."""
    return _positive(value if number.floor is None or not value >= 0 else max(value, number.floor))


def _positive(value: float) -> float:
    """NaN, which a line leaves out, for what a log axis does not have."""
    return value if 0 < value < inf else nan
