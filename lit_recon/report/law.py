"""The law of reconstruction: what comes back against p / (d n), over the seeds of a sweep.

A sweep that does not vary the number of features has another number on the x axis, such as its
weight decay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import cycle
from math import ceil
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator
from pandas.api.types import is_numeric_dtype

from lit_recon.metrics.numbers import Number, shown_in
from lit_recon.report.grid import DPI, FAINT, INK

RATIO = "p_over_dn"
PANEL = 2.5  # inches that a panel is high
COLUMNS = 2  # of names of lines
NAME_WIDTH = 0.06  # share of an axis that a tick's name takes
ALONG = {"model.p", "model.p_over_dn"}  # flags that move a run along a line
Style = tuple[str, str, str]  # colour, marker, dashes


# Okabe & Ito (2008), in an order in which neighbours differ in lightness too.
STYLES: tuple[Style, ...] = (
    ("#0072b2", "o", "-"),
    ("#d55e00", "s", "--"),
    ("#009e73", "^", "-."),
    ("#cc79a7", "D", ":"),
    ("#e69f00", "v", "-"),
    ("#56b4e9", "P", "--"),
    ("#000000", "X", "-."),
)


def law_axis(results: pd.DataFrame, axes: Sequence[str]) -> str:
    """The column of the x axis: p / (d n), or the first other number that was varied.

    >>> frame = pd.DataFrame({"optim.weight_decay": [0.0, 0.01], "run.seed": [0, 0]})
    >>> law_axis(frame, ["optim.weight_decay", "run.seed"])
    'optim.weight_decay'
    >>> law_axis(frame, ["run.seed"])
    'p_over_dn'

    Args:
        results: one row for each run and step, with the columns of a sweep's results.csv.
        axes: the columns that were varied.
    """
    if ALONG & set(axes):
        return RATIO
    others = (axis for axis in axes if not _is_seed(axis) and axis in results)
    varied = (a for a in others if is_numeric_dtype(results[a]) and results[a].nunique() > 1)
    return next(varied, RATIO)


def law_table(results: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    """Median and range of every number of the figure, over the runs that differ in seeds only.

    Args:
        results: one row for each run and step, with the columns of a sweep's results.csv.
        axes: the columns that were varied. Every combination of model, method, solver and axes
            other than the x axis, the number of features and seeds is a line of its own.

    Returns:
        One row for each line, place on the x axis and number: ``line`` (its label), the column of
        `law_axis`, ``number``, ``runs`` (how many have it), ``median``, ``least`` and ``most`` of
        their values. Only the last steps of finished runs count; there may be none.
    """
    x = law_axis(results, axes)
    if x not in results:  # no run has ended
        results = results.assign(**{x: pd.Series(pd.NA, results.index, "Float64")})
    ended = results[results["last"].fillna(False) & results[x].notna()]
    ended = ended.assign(line=_labels(ended, [axis for axis in axes if axis != x]))
    numbers = [number.name for number in shown_in("law") if number.name in ended]
    long = ended.melt(["line", x], numbers, "number", "value").dropna(subset="value")
    groups = long.groupby(["line", "number", x])["value"]
    told = groups.agg(runs="count", median="median", least="min", most="max").reset_index()
    place = {name: i for i, name in enumerate([*ended["line"].unique(), *numbers])}
    names = told[["line", "number"]].replace(place)
    order = names.assign(x=told[x]).sort_values(["line", "x", "number"]).index
    return told.loc[order, ["line", x, "number", "runs", "median", "least", "most"]]


def law_figure(table: pd.DataFrame, title: str, p_equals_n: float | None) -> Figure:
    """The numbers of `law_table` as lines over its x axis, with bands from the least to the most.

    Args:
        table: what `law_table` gives; at least one row.
        title: the first line.
        p_equals_n: where p = n lies on an axis of p / (d n), k / d; None: the runs of the sweep
            disagree.

    Returns:
        The figure, 800 pixels wide at 100 dots per inch.
    """
    shown = [number for number in shown_in("law") if number.name in set(table["number"])]
    letters = ascii_uppercase[: len(shown)]
    rows = [(letters[i : i + 2] * 2)[:2] for i in range(0, len(letters), 2)]  # an odd one is wide
    head = 0.5 + 0.2 * ceil(table["line"].nunique() / COLUMNS)  # inches for the names of lines
    heights = [head, *[PANEL] * len(rows)]
    figure = Figure(figsize=(8, sum(heights)), dpi=DPI, facecolor="white", layout="constrained")
    places = figure.subplot_mosaic(";".join(["00", *rows]), height_ratios=heights)
    drawn = [(number, places[letter]) for number, letter in zip(shown, letters, strict=True)]
    styles = dict(zip(table["line"].unique(), cycle(STYLES), strict=False))
    x = table.columns[1]
    places_of_x = sorted(table[x].unique())
    marks: dict[str, float] = {}
    if x == RATIO:
        marks = {"p = d n": 1.0} | ({} if p_equals_n is None else {"p = n": p_equals_n})
    handles: dict[str, Line2D] = {}
    for number, axes in drawn:
        _mark(axes, marks)
        for line, part in table[table["number"] == number.name].groupby("line", sort=False):
            handles[str(line)] = _draw(axes, part, number, str(line), styles[line])
        _dress(axes, number, places_of_x)
    ends = [axes.get_xlim() for _, axes in drawn]  # some numbers are missing at some places
    for _, axes in drawn:
        axes.set_xlim(min(left for left, _ in ends), max(right for _, right in ends))
        _ticks(axes, places_of_x, "p / (d n)" if x == RATIO else _spoken(x))
    named = {str(line): handles[str(line)] for line in styles}
    _head(places["0"], named, title, int(table["runs"].max()))
    return figure


def to_png(figure: Figure) -> bytes:
    """The figure at its own resolution."""
    return _saved(figure, "png")


def to_svg(figure: Figure) -> bytes:
    """The figure as SVG, the same bytes for the same figure."""
    with rc_context({"svg.hashsalt": "lit_recon"}):
        return _saved(figure, "svg", Date=None)


def _saved(figure: Figure, format: str, **metadata: Any) -> bytes:
    content = BytesIO()
    figure.savefig(content, format=format, dpi=DPI, metadata=metadata)
    return content.getvalue()


def _labels(ended: pd.DataFrame, axes: Sequence[str]) -> pd.Series:
    """The name of each row's line: the parts of model, method, solver and axes that differ."""
    own = [axis for axis in axes if axis not in ALONG and not _is_seed(axis)]
    parts: list[str] = []
    for part in ("model", "method", "solver", *own):
        if _groups(ended, [*parts, part]) > _groups(ended, parts):
            parts.append(part)
    if not parts:
        # Where no run has a solver, its column is one of numbers.
        last = ended["solver"].astype("string").fillna(ended["method"])
        return ended["model"].str.cat(last, ", ")
    words = [ended[part].map(lambda value, part=part: _word(part, value)) for part in parts]
    return words[0].str.cat(words[1:], ", ") if len(words) > 1 else words[0]


def _is_seed(axis: str) -> bool:
    return axis.rpartition(".")[2] == "seed"


def _spoken(axis: str) -> str:
    """The last word of a flag, as words."""
    return axis.rpartition(".")[2].replace("_", " ")


def _groups(ended: pd.DataFrame, columns: list[str]) -> int:
    return len(ended[columns].drop_duplicates()) if columns else min(len(ended), 1)


def _word(part: str, value: Any) -> str:
    """A value as a part of a label; of a file its stem."""
    if part in ("model", "method", "solver", "data"):
        return "-" if pd.isna(value) else str(value)
    name = part.rpartition(".")[2]
    return Path(str(value)).stem if part == "config" else f"{name} {value}"


def _mark(axes: Axes, marks: Mapping[str, float]) -> None:
    """The thresholds, each with its name above the panel."""
    for name, x in marks.items():
        axes.axvline(x, color=FAINT, linewidth=1, linestyle=(0, (1, 2)), zorder=0)
        above = axes.get_xaxis_transform()
        axes.text(x, 1.01, name, color=FAINT, fontsize=8, ha="center", va="bottom", transform=above)


def _draw(axes: Axes, part: pd.DataFrame, number: Number, label: str, style: Style) -> Line2D:
    colour, marker, dashes = style
    columns = (part.columns[1], "median", "least", "most")
    x, *values = (part[name].to_numpy(float) for name in columns)
    floor = number.floor if number.scale == "log" else None
    median, least, most = (v if floor is None else np.maximum(v, floor) for v in values)
    axes.fill_between(x, least, most, color=colour, alpha=0.18, linewidth=0)
    (line,) = axes.plot(x, median, color=colour, marker=marker, linestyle=dashes, label=label)
    line.set(markersize=4.5, linewidth=1.6)
    return line


def _dress(axes: Axes, number: Number, xs: Sequence[float]) -> None:
    share = number.scale == "share"
    title = f"share {number.words}" if share else number.words
    axes.set_title(title, loc="left", fontsize=10, color=INK, pad=16)
    if xs[0] > 0:
        axes.set_xscale("log")
    else:  # zero has a place of its own, a decade below the least number above it
        axes.set_xscale("symlog", linthresh=next((x for x in xs if x > 0), 1.0), linscale=0.5)
    if share:
        axes.set_ylim(-0.04, 1.04)
    elif number.scale == "log":
        axes.set_yscale("log")
        axes.set_ylim(top=max(1.5, axes.get_ylim()[1]))  # rounding errors alone fill no panel
        axes.yaxis.set_minor_locator(NullLocator())
    axes.tick_params(labelsize=8, color=FAINT, labelcolor=INK)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#aaaaaa")


def _ticks(axes: Axes, xs: Sequence[float], label: str) -> None:
    """A tick at every x that was run, named from the right as far as the names have room."""
    place = axes.transScale.transform_point

    def at(x: float) -> float:
        return float(place((x, 1.0))[0])

    left, right = map(at, axes.get_xlim())
    named: list[float] = []
    for x in reversed(xs):
        if not named or at(named[-1]) - at(x) > NAME_WIDTH * (right - left):
            named.append(x)
    axes.xaxis.set_major_locator(FixedLocator(named))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_locator(FixedLocator(xs))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(label, fontsize=9, color=INK)


def _head(axes: Axes, lines: Mapping[str, Line2D], title: str, runs: int) -> None:
    """Title, what is drawn, and the names of the lines, above the panels."""
    axes.axis("off")
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK)
    legend = axes.legend(
        list(lines.values()),
        list(lines),
        title=f"median over seeds, band from the least to the most ({runs} runs a point)",
        loc="upper left",
        bbox_to_anchor=(0, 1),
        borderpad=0,
        borderaxespad=0,
        ncols=COLUMNS,
        frameon=False,
        fontsize=9,
        title_fontsize=9,
        alignment="left",
        handlelength=3,
    )
    legend.set_in_layout(False)  # long names must not make the panels narrow
