"""Pictures of a reconstruction: training images beside what came back, worst last.

Figures are built without pyplot, so that nothing depends on or changes its global state and many
can be drawn in one process.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lit_recon.files import whole_file
from lit_recon.metrics import SampleScore

DPI = 100
TILE = 112  # pixels that an image's longer side comes close to, by a whole factor
GAP = 6  # pixels between tiles
LABELS = 96  # pixels left of the tiles, for the names of the rows
CAPTION = 38  # pixels below a block, for two lines
HEADER = 64  # pixels above the first block
MARGIN = 14
LETTER, LINE = 10, 20  # pixels of a letter and of a line of the title
LEAST_TITLE = 1000  # pixels that a title may take beside small images
COLUMNS = 11
MAX_SHOWN = 32
AMPLIFY = 4  # of differences, which are faint otherwise

FRAME, LAST_FRAME = 160, 1500  # milliseconds of an animation's frames

# Okabe & Ito (2008), distinct with any colour vision; the captions say the same in words.
EXACT, RECOVERED, FAILED = "#00795c", "#0072b2", "#c44e00"
INK, FAINT = "#222222", "#777777"
BLANK = 235  # grey level


def reconstruction_grid(
    images: Tensor,
    reconstructions: Tensor,
    rows: Sequence[SampleScore],
    title: str = "",
    *,
    amplify: int = AMPLIFY,
    max_shown: int = MAX_SHOWN,
) -> Figure:
    """Training image, reconstruction and their amplified difference, one column for each sample.

    Sorted by direction error, samples without a candidate last. Every image pixel becomes a square
    of whole picture pixels, none is interpolated. An image that is not exact may be right but for
    its brightness and contrast: many attacks find a direction and have to guess its norm.

    Args:
        images: (n, c, h, w) uint8 training images, c = 1 or 3.
        reconstructions: (n, c, h, w) uint8, in the same order.
        rows: what scoring found for each of them; ``rows[i].index`` says which image a row is of.
        title: the first line.
        amplify: factor of the absolute differences, which are clipped at 255.
        max_shown: with more samples than this the best and the worst are shown, half and half.

    Returns:
        The figure, at 100 dots per inch.

    Raises:
        ValueError: if the shapes differ, or the number of rows is not n.
    """
    if images.shape != reconstructions.shape or len(images) != len(rows) or not len(rows):
        raise ValueError(
            f"images {tuple(images.shape)}, reconstructions {tuple(reconstructions.shape)} and "
            f"{len(rows)} rows do not belong together"
        )
    shown = best_and_worst(rows, max_shown)
    height, width = images.shape[2:]
    factor = max(1, round(TILE / max(height, width)))
    tile_h, tile_w = height * factor, width * factor
    columns = ceil(len(shown) / ceil(len(shown) / COLUMNS))
    blocks = ceil(len(shown) / columns)
    block_h = 3 * (tile_h + GAP) + CAPTION + MARGIN
    canvas = Canvas(
        width=2 * MARGIN + LABELS + columns * (tile_w + GAP),
        height=HEADER + blocks * block_h,
        title=title,
        summary=_summary(rows, len(shown)),
    )

    for place, row in enumerate(shown):
        block, column = divmod(place, columns)
        x = MARGIN + LABELS + column * (tile_w + GAP)
        y = HEADER + block * block_h
        three = tiles(images[row.index], reconstructions[row.index], row, amplify)
        names = ("training", "reconstruction", f"|difference| ×{amplify}")
        for line, (name, tile) in enumerate(zip(names, three, strict=True)):
            top = y + line * (tile_h + GAP)
            canvas.image(x, top, tile_w, tile_h, tile)
            if not column:
                canvas.text(x - 8, top + tile_h / 2, name, ha="right", va="center")
        if len(shown) < len(rows) and place == _best(len(shown)) and column:
            canvas.bar(x - GAP // 2 - 1, y, 2, 3 * (tile_h + GAP), INK)
        below = y + 3 * (tile_h + GAP)
        canvas.bar(x, below - GAP + 1, tile_w, 3, _colour(row))
        canvas.caption(x + tile_w / 2, below, row)
    return canvas.figure


def overlay_figure(
    x: Tensor,
    candidates: Tensor,
    rows: Sequence[SampleScore],
    title: str = "",
    *,
    max_shown: int = 24,
) -> Figure:
    """For data that are no images: each sample's coordinates, true against reconstructed.

    One small panel for each sample, sorted by direction error. A right reconstruction lies on the
    diagonal, a negated one on the other, a right direction of wrong length on a line through 0.

    Args:
        x: (n, d) training samples.
        candidates: (m, d) as the attack returned them.
        rows: what scoring found for each sample, with the candidate and its sign.
        title: the first line.
        max_shown: with more samples than this the best and the worst are shown, half and half.

    Raises:
        ValueError: if the number of rows is not n.
    """
    if len(x) != len(rows) or not len(rows):
        raise ValueError(f"{len(x)} samples and {len(rows)} rows do not belong together")
    shown = best_and_worst(rows, max_shown)
    columns = ceil(len(shown) / ceil(len(shown) / 6))
    panel, step_x, step_y = 150, 162, 212
    canvas = Canvas(
        width=2 * MARGIN + 40 + columns * step_x,
        height=HEADER + ceil(len(shown) / columns) * step_y + 26,
        title=title,
        summary=_summary(rows, len(shown)),
    )
    truth, found = x.detach().cpu().double().numpy(), candidates.detach().cpu().double().numpy()
    used = [row for row in shown if row.candidate is not None]
    largest = max(np.abs(truth).max(), *(np.abs(found[row.candidate]).max() for row in used), 1e-12)
    limit = 1.08 * largest  # one range for all, so that panels compare

    for place, row in enumerate(shown):
        line, column = divmod(place, columns)
        left, top = MARGIN + 40 + column * step_x, HEADER + line * step_y
        axes = canvas.axes(left, top, panel, panel)
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit))
        axes.plot([-limit, limit], [-limit, limit], color="#bbbbbb", linewidth=1, zorder=1)
        if row.candidate is not None:
            values = row.sign * found[row.candidate]
            axes.scatter(truth[row.index], values, s=9, color=_colour(row), alpha=0.7, linewidth=0)
        axes.tick_params(labelsize=7, length=2, labelcolor=FAINT, color=FAINT)
        axes.locator_params(nbins=3)
        if column:  # ticks take most of the time of drawing, and inner ones say nothing new
            axes.set_yticks([])
        if place + columns < len(shown):
            axes.set_xticks([])
        for spine in axes.spines.values():
            spine.set_color("#cccccc")
        canvas.caption(left + panel / 2, top + panel + 20, row)
    canvas.text(
        MARGIN + 40,
        canvas.height - 8,
        "across: coordinate of the training sample, up: of its reconstruction",
        color=FAINT,
        va="bottom",
    )
    return canvas.figure


def figure_to_uint8(figure: Figure) -> NDArray[np.uint8]:
    """The figure as (H, W, 3) uint8, 0..255."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_png(pixels: NDArray[np.uint8], path: str | os.PathLike[str]) -> None:
    """Writes (H, W, 3) uint8, as of `figure_to_uint8`; the file appears whole or not at all."""
    with whole_file(Path(path)) as draft:
        Image.fromarray(pixels).save(draft, format="PNG")


def save_gif(frames: NDArray[np.uint8], path: str | os.PathLike[str]) -> None:
    """Writes (frames, H, W, 3) uint8 as an animation that is repeated without end."""
    first, *others = [Image.fromarray(frame) for frame in frames]
    with whole_file(Path(path)) as draft:
        first.save(
            draft,
            format="GIF",
            save_all=True,
            append_images=others,
            duration=[FRAME] * len(others) + [LAST_FRAME],
            loop=0,
        )


class Canvas:
    """A figure addressed in pixels from the top left, as tiles need to fall on whole pixels.

    A title that is too long for the figure has several lines; what is below moves down.
    """

    def __init__(self, width: int, height: int, title: str, summary: str) -> None:
        longest = max(width - 2 * MARGIN, LEAST_TITLE) // LETTER
        lines = wrap(title, longest) or [""]
        header = 2 * MARGIN + max(LETTER * max(map(len, lines)), round(6.3 * len(summary)))
        self.width, self.height, self._down = max(width, header), height, 0
        self._whole = height + LINE * (len(lines) - 1)
        size = self.width / DPI, self._whole / DPI
        self.figure = Figure(figsize=size, dpi=DPI, facecolor="white")
        FigureCanvasAgg(self.figure)
        for line in lines:
            self.text(MARGIN, 12, line, va="top", size=12, fontweight="bold")
            self._down += LINE
        self._down -= LINE
        self.text(MARGIN, 34, summary, va="top", size=9, color=FAINT)

    def axes(self, x: float, y: float, w: float, h: float) -> Axes:
        bottom = self._whole - self._down - y - h
        return self.figure.add_axes(
            (x / self.width, bottom / self._whole, w / self.width, h / self._whole)
        )

    def image(self, x: int, y: int, w: int, h: int, pixels: NDArray[np.uint8]) -> None:
        """Draw (H, W, 3) pixels as squares of whole pixels; w and h are multiples of W and H.

        Without axes of its own for each image, which take ten times as long.
        """
        squares = pixels.repeat(h // pixels.shape[0], 0).repeat(w // pixels.shape[1], 1)
        self.figure.figimage(squares, x, self._whole - self._down - y - h)

    def bar(self, x: int, y: int, w: int, h: int, colour: str) -> None:
        levels = np.rint(255 * np.array(to_rgb(colour))).astype(np.uint8)
        self.image(x, y, w, h, np.broadcast_to(levels, (h, w, 3)))

    def text(
        self, x: float, y: float, text: str, *, color: str = INK, size: float = 8, **kwargs: Any
    ) -> None:
        place = x / self.width, 1 - (self._down + y) / self._whole
        self.figure.text(*place, text, color=color, fontsize=size, **kwargs)

    def caption(self, x: float, y: float, row: SampleScore) -> None:
        """Two lines below a tile, centred at x."""
        self.text(x, y, f"#{row.index}  {_error(row)}", ha="center", va="top")
        self.text(x, y + 15, verdict(row), ha="center", va="top", color=_colour(row))


def best_and_worst(rows: Sequence[SampleScore], max_shown: int) -> list[SampleScore]:
    """Sorted by direction error, without the middle if there are too many."""

    def error(row: SampleScore) -> float:
        return float("inf") if row.direction_error is None else row.direction_error

    ordered = sorted(rows, key=error)
    if len(ordered) <= max_shown:
        return ordered
    best = _best(max_shown)
    return ordered[:best] + ordered[len(ordered) - (max_shown - best) :]


def _best(shown: int) -> int:
    """How many of the samples shown are the best ones, if there are too many."""
    return (shown + 1) // 2


def _summary(rows: Sequence[SampleScore], shown: int) -> str:
    exact = sum(bool(row.exact) for row in rows)
    recovered = sum(row.recovered for row in rows)
    parts = [f"{len(rows)} training samples", f"{recovered} recovered (direction error < 0.1)"]
    if rows[0].exact is not None:
        parts.append(f"{exact} exact in every pixel")
    if shown < len(rows):
        best = _best(shown)
        parts.append(f"best {best} and worst {shown - best}, {len(rows) - shown} not shown")
    else:
        parts.append("sorted by direction error")
    return "  ·  ".join(parts)


def tiles(
    image: Tensor, reconstruction: Tensor, row: SampleScore, amplify: int = AMPLIFY
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Training image, reconstruction and difference, the last two blank without a candidate.

    Args:
        image: (c, h, w) uint8, c = 1 or 3.
        reconstruction: (c, h, w) uint8.
        row: what scoring found for the image.
        amplify: factor of the absolute differences, which are clipped at 255.

    Returns:
        Three pictures of (h, w, 3) uint8.
    """
    truth, found = rgb(image), rgb(reconstruction)
    difference = np.abs(truth.astype(int) - found.astype(int)) * amplify
    if row.candidate is None:
        found, difference = np.full_like(truth, BLANK), np.full_like(truth, BLANK)
    return truth, found, difference.clip(0, 255).astype(np.uint8)


def rgb(image: Tensor) -> NDArray[np.uint8]:
    """(c, h, w) uint8 to (h, w, 3); grey is repeated, as a colour map would be stretched."""
    array = image.detach().cpu().numpy().transpose(1, 2, 0)
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array


def _error(row: SampleScore) -> str:
    """The direction error in short scientific form: 2.3e-4."""
    if row.direction_error is None:
        return "no candidate"
    mantissa, exponent = f"{row.direction_error:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}" if int(exponent) else mantissa


def verdict(row: SampleScore) -> str:
    """How much of a training sample came back, in a word or two."""
    if row.exact:
        return "exact, certified" if row.certified else "exact"
    return "recovered" if row.recovered else "not recovered"


def _colour(row: SampleScore) -> str:
    if row.exact:
        return EXACT
    return RECOVERED if row.recovered else FAILED
