"""Pictures and the page of a study of constructed networks.

What the repository of Genzel, Finke and Dirksen (2023, arXiv 2310.00327) plots: heatmaps of the
probability that a network fits and of its second width, with a contour where it is .99, slices of
both, and decision boundaries in the plane with the units that make them.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray
from pandas.api.types import is_numeric_dtype
from torch import Tensor

from lit_recon.capacity.codes import Activation, codes_at
from lit_recon.capacity.construction import Construction, construct
from lit_recon.capacity.study import BIAS, WIDTH
from lit_recon.records.directory import RunDirectory
from lit_recon.report.grid import DPI, FAILED, FAINT, INK, RECOVERED
from lit_recon.report.law import STYLES
from lit_recon.report.pictures import address
from lit_recon.report.render import REPORT, render
from lit_recon.report.run import checked, read_json

CAPACITY_FILE = "capacity.csv"
FITS = 0.99  # the probability that the contour and the marks stand for
SHARES = (0.1, 0.4, 1.0)  # of the largest width, at which slices are drawn
SHARES_ACROSS = (0.0, 0.3, 1.0)  # of the largest value of the other axis
PANELS = (0.2, 0.5, 1.0), (0.0, 0.2, 0.4)  # of widths and biases, in the grid of boundaries
MESH = 160  # points of a side of a decision boundary
SHOWN = 1000  # samples in a picture of a boundary
HEADS = ("probability of a fit", "width of second layer")
TICKS = 6  # named places of a heatmap's side
DASHES = ("-", "--", ":")  # of thresholds of one colour
NAME_GAP = 0.045  # share of an axis between the names of two lines
WIDTH_WORDS = "width of first layer $n_1$"


def capacity_figure(cells: pd.DataFrame, title: str) -> Figure:
    """Heatmaps over the first width and another number that varies, and slices through them.

    Args:
        cells: the rows of capacity.csv; columns before ``runs`` are what varies.
        title: the first line.

    Returns:
        Three rows of panels for every combination of what else varies: heatmaps, slices at some
        values of the other number, slices at some widths. One row where only widths vary.
    """
    varied = list(cells.columns[: cells.columns.get_loc("runs")])
    across = across_axis(cells, varied)
    others = [axis for axis in varied if axis not in (WIDTH, across) and cells[axis].nunique() > 1]
    groups = [("", cells)]
    if others:
        groups = [(_words(others, key), part) for key, part in cells.groupby(others, sort=False)]
    rows = 3 if across else 1
    figure = Figure(
        figsize=(9, 0.6 + 2.7 * rows * len(groups)),
        dpi=DPI,
        facecolor="white",
        layout="constrained",
    )
    figure.suptitle(f"{title}: constructed networks", x=0.01, ha="left", fontweight="bold")
    panels = figure.subplots(rows * len(groups), 2, squeeze=False)
    for i, (name, part) in enumerate(groups):
        own = panels[rows * i : rows * (i + 1)]
        if across is None:
            _curves(own[0], part, WIDTH, None, ())
        else:
            _heatmaps(figure, own[0], part, across)
            _curves(own[1], part, WIDTH, across, near(part[across], SHARES_ACROSS))
            _curves(own[2], part, across, WIDTH, near(part[WIDTH], SHARES))
        for axes, what in zip(
            own[0], ("probability of a fit", "width of second layer"), strict=True
        ):
            head = f"{what}, {name}" if name else what
            axes.set_title(head, loc="left", fontsize=10, color=INK)
    return figure


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")


def across_axis(cells: pd.DataFrame, varied: Sequence[str]) -> str | None:
    """The number besides the width that a heatmap is drawn over; None: none varies.

    >>> cells = pd.DataFrame({WIDTH: [1, 2], BIAS: [0.0, 0.0], "data.n": [10, 20]})
    >>> across_axis(cells, [WIDTH, BIAS, "data.n"])
    'data.n'
    """
    candidates = [BIAS, *(axis for axis in varied if axis not in (WIDTH, BIAS))]
    numeric = (a for a in candidates if is_numeric_dtype(cells[a]) and cells[a].nunique() > 1)
    return next(numeric, None)


def near(values: Any, shares: Sequence[float]) -> list[float]:
    """The values nearest to shares of the largest, each once.

    >>> near([50, 200, 350, 500], (0.1, 0.4, 1.0))
    [50, 200, 500]
    """
    there = np.unique(np.asarray(values))
    places = [int(np.abs(there - share * there[-1]).argmin()) for share in shares]
    return [there[i].item() for i in dict.fromkeys(places)]


def _words(axes: Sequence[str], key: tuple[Any, ...]) -> str:
    return ", ".join(f"{a.rpartition('.')[2]} {v}" for a, v in zip(axes, key, strict=True))


def _name(axis: str | None) -> str:
    names = {WIDTH: WIDTH_WORDS, BIAS: r"largest bias $\lambda$", "data.n": "samples $N$"}
    return names.get(str(axis), str(axis).rpartition(".")[2].replace("_", " "))


def _heatmaps(figure: Figure, panels: Sequence[Axes], part: pd.DataFrame, across: str) -> None:
    share = part.pivot(index=WIDTH, columns=across, values="interpolates").sort_index(axis=1)
    for axes, column in zip(panels, ("interpolates", "width"), strict=True):
        table = part.pivot(index=WIDTH, columns=across, values=column).sort_index(axis=1)
        most = 1 if column == "interpolates" else table.max().max()
        picture = axes.imshow(
            table, origin="lower", aspect="auto", cmap="viridis", vmin=0, vmax=most
        )
        figure.colorbar(picture, ax=axes)
        if min(share.shape) > 1 and share.min().min() < FITS <= share.max().max():
            axes.contour(share, levels=[FITS], colors="white", linestyles="dashed", linewidths=1.2)
        for side, values in ((axes.xaxis, table.columns), (axes.yaxis, table.index)):
            step = -(-len(values) // TICKS)
            side.set_major_locator(FixedLocator(range(0, len(values), step)))
            side.set_ticklabels([f"{value:g}" for value in values[::step]])
        axes.set_xlabel(_name(across))
        axes.set_ylabel(WIDTH_WORDS)


def _curves(
    panels: Sequence[Axes], part: pd.DataFrame, x: str, of: str | None, values: Sequence[float]
) -> None:
    """Probability and second width over `x`, one line for each of the `values` of `of`."""
    lines = [(f"{value:g}", part[part[of] == value]) for value in values] if of else [("", part)]
    fits, width = panels
    for (name, line), (colour, _, dashes) in zip(lines, STYLES, strict=False):
        line = line.sort_values(x)
        places = line[x].to_numpy(float)
        fits.fill_between(places, line["least"], line["most"], color=colour, alpha=0.18, lw=0)
        fits.plot(places, line["interpolates"], color=colour, linestyle=dashes, label=name)
        width.plot(places, line["width"], color=colour, linestyle=dashes, label=name)
        sure = (line["interpolates"] >= FITS).to_numpy()
        width.plot(places[sure], line["width"][sure], "o", color=colour, markersize=3)
    fits.set_ylim(-0.04, 1.04)
    width.set_ylim(bottom=0)
    width.text(
        1,
        1.01,
        f"dots: probability {FITS:g} or more",
        fontsize=7,
        color=FAINT,
        ha="right",
        va="bottom",
        transform=width.transAxes,
    )
    for axes in panels:
        axes.set_xlabel(_name(x))
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.grid(color="#e6e6e6", linewidth=0.8)
    if of:  # once for both panels, and above them: inside it can lie over a line
        fits.legend(
            title=_name(of),
            ncols=len(lines),
            fontsize=8,
            title_fontsize=8,
            frameon=False,
            alignment="left",
            loc="lower left",
            bbox_to_anchor=(0, 1),
            borderaxespad=0.1,
        )


def boundary_figure(
    x: Tensor,
    labels: Tensor,
    widths: Sequence[int],
    biases: Sequence[float],
    activation: Activation,
) -> Figure:
    """Decision boundaries in the plane, over first widths and largest biases, seed 0.

    Every unit of the second layer fills the region in which it fires, and a star marks the sample
    that it was made from. A red frame: the network does not fit.

    Args:
        x: (n, 2) the samples.
        labels: (n,) 0 or 1.
        widths: of the study; three of them are drawn.
        biases: of the study; three of them are drawn.
        activation: of the units.
    """
    rows, columns = (near(v, shares) for v, shares in zip((widths, biases), PANELS, strict=True))
    figure = _figure(2 + 2.6 * len(columns), 0.6 + 1.9 * len(rows))
    figure.suptitle("regions of second-layer units (stars: their samples)", x=0.01, ha="left")
    panels = figure.subplots(len(rows), len(columns), squeeze=False)
    for row, width in zip(panels, rows, strict=True):
        for axes, max_bias in zip(row, columns, strict=True):
            made = construct(
                x, labels, width=int(width), max_bias=max_bias, activation=activation, seed=0
            )
            _boundary(axes, x, labels, made, activation)
            told = f"$n_1$ = {width:g}, $\\lambda$ = {max_bias:g}: {made.width} units"
            axes.set_title(told, fontsize=9, color=INK if made.interpolates else FAILED)
    return figure


def _boundary(
    axes: Axes, x: Tensor, labels: Tensor, made: Construction, activation: Activation
) -> None:
    low, high = x.min(0).values - 0.1, x.max(0).values + 0.1
    sides = [torch.linspace(float(low[i]), float(high[i]), MESH) for i in (0, 1)]
    mesh = torch.cartesian_prod(*sides)
    (layer,), (samples,) = made.layers, made.samples
    fires = _fires(mesh, made, activation)  # (mesh, n2)
    ends = (float(low[0]), float(high[0]), float(low[1]), float(high[1]))
    for unit, region in enumerate(fires.T):
        colour = f"C{unit % 10}"
        inside = region.reshape(MESH, MESH).T.astype(float)
        axes.contourf(inside, levels=[0.5, 1.5], colors=[colour], alpha=0.25, extent=ends)
        star = x[samples[layer.centres[unit]]]
        axes.plot(*star.tolist(), "*", color=colour, markersize=11, markeredgecolor=INK, zorder=4)
    if fires.any():
        any_fires = fires.any(1).reshape(MESH, MESH).T.astype(float)
        axes.contour(any_fires, levels=[0.5], colors=[INK], linewidths=0.9, extent=ends)
    for label, colour in ((0, RECOVERED), (1, "#e69f00")):
        own = x[:SHOWN][labels[:SHOWN] == label]
        axes.plot(own[:, 0], own[:, 1], ".", color=colour, markersize=2, zorder=3)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(FAINT if made.interpolates else FAILED)
        spine.set_linewidth(1.0 if made.interpolates else 2.0)


def _fires(x: Tensor, made: Construction, activation: Activation) -> NDArray[np.bool_]:
    """(n, n2): which units of the only second layer are active."""
    layer = made.layers[0]
    codes = codes_at(x, made.weight, made.bias, activation)
    scores = codes.outputs().astype(np.float64) @ layer.masks.T.astype(np.float64)
    return scores < layer.thresholds


def thresholds_figure(means: pd.DataFrame, d: int) -> Figure:
    """Numbers that training sets, over the number of images, at the first width that succeeds.

    Args:
        means: one row for every threshold and number of images `n`, with the threshold's `words`,
            the part of these that has a colour of its own (`what`), and the median (`learned`),
            least and most (`learned_min`, `learned_max`) over seeds; None where no width succeeded.
        d: values of an image, for the lines of the theory.
    """
    figure = _figure(9, 6)
    axes = figure.add_subplot()
    found = means.dropna(subset="learned")
    places = np.array(sorted(means["n"].unique()), dtype=float)
    ends: dict[str, tuple[float, float, str]] = {}
    for factor, words in ((1, "p = n"), (d, "p = d n, and h = n units of d weights")):
        axes.plot(places, factor * places, color=FAINT, linewidth=1, linestyle=":")
        ends[words] = (places[-1], factor * places[-1], FAINT)
    colours = dict(zip(found["what"].unique(), STYLES, strict=False))
    for words, line in found.groupby("words", sort=False):
        what = line["what"].iloc[0]
        colour, marker, _ = colours[what]
        kin = found["words"][found["what"] == what].unique().tolist()
        dashes = DASHES[kin.index(words)]
        n, middle = line["n"].to_numpy(float), line["learned"].to_numpy(float)
        low, high = (line[f"learned_{end}"].to_numpy(float) for end in ("min", "max"))
        axes.fill_between(n, low, high, color=colour, alpha=0.18, lw=0)
        axes.plot(n, middle, color=colour, marker=marker, linestyle=dashes, markersize=5)
        ends[str(words)] = (n[-1], middle[-1], colour)
    axes.set(xscale="log", yscale="log", xlabel="training images n")
    axes.set_ylabel("weights that training sets (constructed: bits of masks, and thresholds)")
    axes.xaxis.set_major_locator(FixedLocator(list(places)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(color="#e6e6e6", linewidth=0.8)
    _name_ends(axes, ends)
    title = f"What it takes to memorise labels, and to hold the images ({d} values each)"
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    return figure


def _name_ends(axes: Axes, ends: Mapping[str, tuple[float, float, str]]) -> None:
    """Names at the right side, far enough apart to be read, linked to the ends (x, y) of lines."""
    low, high = np.log10(axes.get_ylim())
    least = NAME_GAP * (high - low)
    at = -np.inf
    for words, (x, y, colour) in sorted(ends.items(), key=lambda item: item[1][1]):
        at = max(np.log10(y), at + least)
        axes.annotate(
            words,
            (x, y),
            xytext=(1.03, float((at - low) / (high - low))),
            textcoords="axes fraction",
            color=INK if colour == FAINT else colour,
            fontsize=9,
            va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.7},
            annotation_clip=False,
        )


def write_study_report(path: Path) -> Path:
    """Write report.html of a study: its figures, and a table of its cells.

    Raises:
        InputError: its own files are broken.
        RunError: the report cannot be written.
    """
    file = path / CAPACITY_FILE
    with checked(file, "--sweep"), file.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines, strict=True))
        runs = sum(int(row["runs"]) for row in rows)
        fit = sum(round(float(row["interpolates"]) * int(row["runs"])) for row in rows)
    command = read_json(path / "sweep.json", "--sweep")["command"]
    files = sorted(path.glob("*.svg"))
    figures = [(file.stem, address(file.read_bytes(), "image/svg+xml")) for file in files]
    text = render(
        "study.html",
        name=path.name,
        rows=rows,
        runs=runs,
        fit=fit,
        command=command,
        figures=figures,
    )
    return RunDirectory(path).write_text(REPORT, text)
