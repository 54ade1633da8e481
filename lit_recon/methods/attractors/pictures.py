"""What the iteration of a network looks like: from noise to images, basins, and eigenvalues."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_recon.knowledge import PixelScale
from lit_recon.methods.attractors.limits import DENSE, Limits
from lit_recon.methods.attractors.search import Search
from lit_recon.methods.base import Picture
from lit_recon.metrics import images_from_inputs
from lit_recon.solvers import Monitor
from lit_recon.solvers.rows import RUNNING, iterate

Pixels = NDArray[np.uint8]

ROWS = 4  # iterations shown
TRIED = 32  # noise inputs of which these are chosen
COLUMNS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24)  # steps in the strip
FRAMES = 25  # steps in the animation
SIDE = 64  # pixels that the longer side of an image comes close to, by a whole factor
SQUARES, SQUARE = 41, 10  # squares along a side of the plane of basins, and pixels of a square
PLANE_STEPS = 100
MARGIN = 0.6  # of the triangle's size, around it
# Okabe & Ito (2008), for the three limits of the plane and for two more; grey for all others.
COLOURS = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233))
GREY = (190, 190, 190)


@torch.no_grad()
def pictures(search: Search, pixels: PixelScale | None) -> list[Picture]:
    """All pictures of a search that found something to show."""
    if not len(search.limits):
        return []
    return [*_iterations(search, pixels), *_basins(search), *_spectrum(search)]


def _iterations(search: Search, pixels: PixelScale | None) -> list[Picture]:
    """A strip and an animation of the way from noise to limits, certified ones first."""
    if pixels is None or pixels.shape[0] not in (1, 3):
        return []
    map = search.map
    x = search.starts.noise_inputs(TRIED)
    way = [x]
    for _ in range(FRAMES - 1):
        way.append(map.image(way[-1]))
    chosen = _different(search.limits, map.lower(way[-1]))[:ROWS]
    steps = [_tiles(images_from_inputs(x[chosen], pixels)) for x in way]  # (rows, h, w, 3) each
    strip = np.concatenate([np.concatenate(list(steps[t]), 0) for t in COLUMNS], 1)
    animation = np.stack([np.concatenate(list(step), 1) for step in steps])
    shown = ", ".join(str(t) for t in COLUMNS)
    return [
        Picture("iterations", f"Noise, and what the network makes of it: steps {shown}", strip),
        Picture("iterating", f"The same step by step, up to step {FRAMES - 1}", animation),
    ]


def _different(limits: Limits, ends: Tensor) -> list[int]:
    """Numbers of ends (m, r) near different points, certified ones first."""
    nearest = torch.cdist(ends, limits.points).argmin(1).cpu()
    order = (~limits.certified[nearest]).long().argsort(stable=True).tolist()
    first = {int(nearest[i]): i for i in reversed(order)}
    return sorted(first.values(), key=order.index)


def _basins(search: Search) -> list[Picture]:
    """To which limits the points of a plane through three of them lead."""
    limits, quick = search.limits, search.quick
    single = (limits.periods == 1)[limits.cycle]
    rank = limits.hits[limits.cycle] + 1e9 * limits.certified
    corners = torch.where(single, rank, -1.0).argsort(descending=True, stable=True)[:3]
    if len(corners) < 3 or not bool(single[corners].all()):
        return []
    places = _plane(limits.points[corners.to(limits.points.device)].to(quick.offset))
    ends = iterate(
        quick,
        places.reshape(-1, quick.r),
        Monitor(),
        "plane",
        unit=limits.unit,
        tolerance=1e-3,
        max_steps=PLANE_STEPS,
    )
    nearest = torch.cdist(ends.z.double(), limits.points.double()).argmin(1).cpu()
    palette = np.full((len(limits.points), 3), GREY, dtype=np.float64)
    others = [i for i in nearest.bincount().argsort(descending=True).tolist() if i not in corners]
    known = [*corners.tolist(), *others][: len(COLOURS)]
    palette[known] = COLOURS[: len(known)]
    slow = (1 + ends.steps.cpu().double()).log() / np.log(1 + PLANE_STEPS)
    colours = palette[nearest.numpy()] * (1 - 0.6 * slow.numpy()[:, None])
    colours[(ends.period <= RUNNING).cpu().numpy()] = 0
    squares = np.rint(colours).astype(np.uint8).reshape(SQUARES, SQUARES, 3)
    words = (
        "The plane through three limits (blue, orange, green): to which limit each point leads. "
        "Darker: it takes more steps. Grey: other limits. Black: not at rest"
    )
    return [Picture("basins", words, squares.repeat(SQUARE, 0).repeat(SQUARE, 1))]


def _plane(corners: Tensor) -> Tensor:
    """(SQUARES, SQUARES, r) points of the plane through three points (3, r)."""
    centre = corners.mean(0)
    axes = torch.linalg.svd(corners - centre, full_matrices=False)[2][:2]  # (2, r)
    flat = (corners - centre) @ axes.T  # (3, 2)
    low, high = flat.amin(0), flat.amax(0)
    room = MARGIN * (high - low).amax()
    across, down = (
        torch.linspace(float(low[i] - room), float(high[i] + room), SQUARES) for i in (0, 1)
    )
    grid = torch.stack(torch.meshgrid(down, across, indexing="ij")[::-1], -1).to(corners)
    return centre + grid @ axes


def _spectrum(search: Search) -> list[Picture]:
    """Eigenvalues of the derivative at fixed points that are images, or else at all of them."""
    limits, map = search.limits, search.map
    single = (limits.periods == 1)[limits.cycle]
    chosen = single & limits.certified if bool((single & limits.certified).any()) else single
    if map.r > DENSE or not bool(chosen.any()):
        return []
    points = limits.points[chosen.to(limits.points.device)]
    values = torch.linalg.eigvals(map.jacobian(points)).cpu()  # (k, r)
    what = "images" if bool(limits.certified.any()) else "limits"
    words = (
        f"Eigenvalues of the network's derivative at the {what} found, {len(points)} in all. Those "
        "whose largest one is inside the circle attract"
    )
    return [Picture("spectrum", words, _drawn(values))]


def _drawn(values: Tensor) -> Any:
    """A figure of eigenvalues (k, r) in the complex plane, beside the unit circle."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    angle = np.linspace(0, 2 * np.pi, 200)
    axes.plot(np.cos(angle), np.sin(angle), color="#777777", linewidth=1)
    attracts = values.abs().amax(1) < 1
    for kind, colour, word in ((attracts, "#0072b2", "attract"), (~attracts, "#c44e00", "repel")):
        some = values[kind].flatten().numpy()
        label = f"{int(kind.sum())} {word}"
        axes.plot(some.real, some.imag, ".", color=colour, markersize=3, label=label)
    axes.set(xlabel="real part", ylabel="imaginary part", aspect="equal")
    axes.legend(loc="upper left", frameon=False)
    return figure


def _tiles(images: Tensor) -> Pixels:
    """(m, c, h, w) uint8 as (m, H, W, 3), every pixel a square of whole pixels."""
    factor = max(1, round(SIDE / max(images.shape[2:])))
    tiles = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    return np.asarray(tiles.repeat(factor, 1).repeat(factor, 2))
