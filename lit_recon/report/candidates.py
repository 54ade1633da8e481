"""The picture of candidates where the training data are not known: each one alone."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lit_recon.knowledge import PixelScale
from lit_recon.metrics.certificate import Certificates, images_from_inputs
from lit_recon.report.grid import COLUMNS, EXACT, FAINT, GAP, HEADER, MARGIN, TILE, Canvas, rgb

MOST = 96  # candidates in one picture
PANEL = 150  # pixels that a panel of coordinates is wide, and half as high


def candidates_figure(
    candidates: Tensor,
    title: str = "",
    *,
    certificates: Certificates | None = None,
    shape: Sequence[int] | None = None,
    pixels: PixelScale | None = None,
) -> Figure:
    """Candidates as images, certified ones first; as lines of coordinates where they are no images.

    Args:
        candidates: (m, d) as the attack returned them.
        title: the first line.
        certificates: of the candidates, with their decoded images; None: there are none.
        shape: of one input; images have 1 or 3 channels.
        pixels: the pixel scale; None: not known, and each image is stretched to its own range.
    """
    accepted = torch.zeros(len(candidates), dtype=torch.bool)
    if certificates is not None:
        accepted = certificates.accepted.cpu()
    order = accepted.logical_not().long().argsort(stable=True)[:MOST].tolist()
    images = _images(candidates, certificates, shape, pixels)
    if images is None:
        tile_h, tile_w = PANEL // 2, PANEL
    else:
        height, width = images.shape[2:]
        factor = max(1, round(TILE / max(height, width)))
        tile_h, tile_w = height * factor, width * factor
    columns = max(1, ceil(len(order) / max(1, ceil(len(order) / COLUMNS))))
    step_x, step_y = tile_w + GAP, tile_h + 40
    canvas = Canvas(
        width=2 * MARGIN + columns * step_x,
        height=HEADER + max(1, ceil(len(order) / columns)) * step_y,
        title=title,
        summary=_summary(len(candidates), len(order), certificates, images, pixels),
    )
    for place, index in enumerate(order):
        line, column = divmod(place, columns)
        x, y = MARGIN + column * step_x, HEADER + line * step_y
        if images is None:
            axes = canvas.axes(x, y, tile_w, tile_h)
            axes.plot(candidates[index].double().numpy(), linewidth=0.8, color=EXACT)
            axes.set(xticks=[], yticks=[])
        else:
            canvas.image(x, y, tile_w, tile_h, rgb(images[index]))
        word, colour = ("certified", EXACT) if accepted[index] else ("not certified", FAINT)
        word = "" if certificates is None else f"  {word}"
        canvas.text(
            x + tile_w / 2, y + tile_h + 4, f"#{index}{word}", color=colour, ha="center", va="top"
        )
    return canvas.figure


def _images(
    candidates: Tensor,
    certificates: Certificates | None,
    shape: Sequence[int] | None,
    pixels: PixelScale | None,
) -> Tensor | None:
    """(m, c, h, w) uint8 of candidates (m, d); None where they are no images that can be drawn."""
    if certificates is not None:
        images = certificates.images.cpu()
    elif pixels is not None:
        images = images_from_inputs(candidates, pixels)
    elif shape is not None and len(shape) == 3:
        x = torch.nan_to_num(candidates.double(), posinf=0.0, neginf=0.0)
        low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
        levels = 255 * (x - low) / (high - low).clamp_min(torch.finfo(x.dtype).tiny)
        images = levels.round().to(torch.uint8).reshape(-1, *shape)
    else:
        return None
    return images if images.shape[1] in (1, 3) else None


def _summary(
    m: int,
    shown: int,
    certificates: Certificates | None,
    images: Tensor | None,
    pixels: PixelScale | None,
) -> str:
    parts = [f"{m} candidates"]
    if certificates is not None:
        parts.append(f"{int(certificates.accepted.sum())} certified")
    parts.append("training data not known")
    if images is None:
        parts.append("coordinates of each candidate")
    elif certificates is None and pixels is None:
        parts.append("each image stretched to its own range")
    if shown < m:
        parts.append(f"{m - shown} not shown")
    return "  ·  ".join(parts)
