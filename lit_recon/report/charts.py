"""Curves as SVG that is part of the page.

matplotlib draws them when the report is written: some ten kilobytes of paths, where a chart library
for browsers would take hundreds of them, or megabytes, in every file. A drawing inside the page
takes its colours from the page's style sheet, light or dark, and its letters from the page's font;
it grows and shrinks with the page and prints as it looks. What belongs to one checkpoint carries
``data-step``, by which the page's slider finds it, and that is all that a reader can change.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import groupby
from math import inf, isfinite, nan
from statistics import median
from typing import Any
from xml.etree import ElementTree

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter

from lit_recon.records.media import thin
from lit_recon.report.run import Checkpoint, MethodResults, Run
from lit_recon.report.words import number
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
LINES = (BLUE, ORANGE, GREEN)
PHASES = (BLUE, GREEN, ORANGE, PURPLE, RED)
WIDTH = 430  # points, about what a phone is wide: letters are never scaled to be unreadable
MARKED = 40  # points at most that get a dot each
ASTRAY = 1e4  # times the median loss
POINTS = 300  # of one line; there are no more pixels for them
STEP = "step="  # how an element says which checkpoint it belongs to
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


def training_chart(run: Run, attack: MethodResults, stops: Sequence[int]) -> str:
    """Training loss and what can be had back, over the training step; an ``<svg>`` element.

    Every one of the steps in `stops` has a vertical line with ``data-step``.
    """
    steps = [checkpoint.step for checkpoint in attack.checkpoints]
    loss = [(row["step"], row["train/loss"]) for row in run.training if "train/loss" in row]
    loss = thin(loss, POINTS)

    def over_steps(*names: str) -> dict[str, list[float]]:
        return {
            name: [_finite(point.number(name)) for point in attack.checkpoints] for name in names
        }

    with rc_context(STYLE):
        figure, panels = _figure(4, 620)
        _lines(
            panels[0], [step for step, _ in loss], {"training loss": [_finite(y) for _, y in loss]}
        )
        errors = over_steps("direction_error", "null_direction_error")
        names = ("direction error", "against data not trained on")
        _lines(panels[1], steps, dict(zip(names, errors.values(), strict=True)))
        shares = over_steps("recovered_fraction", "exact_fraction", "certified_fraction")
        shown = {name.partition("_")[0]: ys for name, ys in shares.items()}
        _lines(panels[2], steps, shown, share=True)
        losses = over_steps("projection_loss", "oracle_loss")
        names = ("projection loss", "at the true data: the floor")
        _lines(panels[3], steps, dict(zip(names, losses.values(), strict=True)))
        _step_axis(panels[-1], [*steps, *(step for step, _ in loss)])
        for axes in panels:
            for step in stops:
                axes.axvline(step, color=INK, linewidth=1, gid=f"{STEP}{step}")
        description = "Training loss, direction error, shares and projection loss by training step"
        return to_svg(figure, description, key=attack.folder, last=stops[-1])


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
        figure, (axes,) = _figure(1, 270)
        for step, rows in curves.items():
            for phase, part in stretches(rows):
                x = [row.applications for row in part]
                y = [_positive(row.loss) for row in part]
                (line,) = axes.plot(x, y, color=colours[phase], lw=1.4, gid=f"{STEP}{step}")
                if len(part) == 1:
                    line.set(marker="o", markersize=4)
        for phase, colour in colours.items():
            axes.plot([], [], color=colour, label=phase)
        _legend(axes)
        losses = [row.loss for rows in curves.values() for row in rows if isfinite(row.loss)]
        # A step that went astray may leave the panel, so that the others can be seen.
        most = ASTRAY * median(losses or [1.0])
        _log_axis(axes, [loss for loss in losses if loss <= most])
        axes.grid(axis="y")
        axes.set_xlabel("operator applications")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        description = "Loss of the solver by operator applications, for every checkpoint"
        key = checkpoints[0].folder.parent.name
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
        key: tells it from other drawings of the same description; no id comes twice in a page.
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


def _figure(panels: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of `height` points with panels below one another, over one axis.

    Margins are fixed: matplotlib's own layouts draw everything several times to find them.
    """
    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
    figure.subplots_adjust(
        left=46 / WIDTH, right=1 - 8 / WIDTH, bottom=38 / height, top=1 - 20 / height, hspace=0.28
    )
    return figure, list(figure.subplots(panels, squeeze=False, sharex=True)[:, 0])


def _lines(
    axes: Axes, x: Sequence[float], lines: Mapping[str, Sequence[float]], *, share: bool = False
) -> None:
    """One panel: a line for each name, on a log axis, or for shares from 0 to 1.

    Lines that lie on one another are all seen, as each is thinner than the one below.
    """
    for (name, y), colour, width in zip(lines.items(), LINES, (5, 3, 1), strict=False):
        shown = list(y) if share else [_positive(value) for value in y]
        if any(map(isfinite, shown)):
            marker = "o" if len(shown) <= MARKED else ""
            size = width if share and len(lines) > 1 else 1.6
            axes.plot(
                x, shown, color=colour, lw=size, label=name, marker=marker, markersize=size + 2
            )
    if not axes.lines:
        axes.text(0.5, 0.5, f"no {next(iter(lines))} here", transform=axes.transAxes, ha="center")
        axes.yaxis.set_major_locator(NullLocator())
        return
    _legend(axes)
    axes.grid(axis="y")
    if share:
        axes.set_ylim(-0.05, 1.05)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    else:
        _log_axis(axes, [value for y in lines.values() for value in y])


def _legend(axes: Axes) -> None:
    """Above the panel, where no line is."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 0.98),
        ncols=6,
        borderpad=0,
        columnspacing=1,
        handlelength=1.6,
    )


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
    axes.yaxis.set_major_formatter(lambda value, _: number(value))
    axes.yaxis.set_minor_locator(NullLocator())


def _step_axis(axes: Axes, steps: Sequence[int]) -> None:
    """From step 0 on, by powers of ten where there are many: most happens at the start."""
    axes.set_xlabel("training step")
    last = max(steps, default=1)
    if last > 20:
        axes.set_xscale("symlog", linthresh=1, linscale=0.4)
        axes.set_xlim(-0.15, last * 1.3)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: number(value))
    else:
        axes.set_xlim(-0.05 * last, 1.05 * last)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _finite(value: float | None) -> float:
    return nan if value is None else value


def _positive(value: float) -> float:
    """NaN, which a line leaves out, for what a log axis does not have."""
    return value if 0 < value < inf else nan
