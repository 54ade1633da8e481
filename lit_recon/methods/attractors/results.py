"""What a search has found, as candidates in order and as numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lit_recon.knowledge import PixelScale
from lit_recon.methods.attractors.limits import Limits
from lit_recon.methods.attractors.pixels import whole_pixels
from lit_recon.methods.attractors.search import Search
from lit_recon.metrics.certificate import Certificates

MOST = 1000  # candidates


def in_order(
    limits: Limits, radii: Tensor, pixels: PixelScale | None, *, complete: bool
) -> tuple[Tensor, Certificates | None]:
    """Candidates (m, d), and their certificates where the pixel scale is known.

    Certified limits come first, then those that attract, then the others; among them those to which
    more random starts came. Once there are certified limits, others that do not attract are left
    out: Newton's method finds many of them. Once those are complete, all others are.

    Args:
        limits: the limits.
        radii: (limits,) their spectral radii.
        pixels: the pixel scale; None: not known.
        complete: the certified limits are all images that there are.
    """
    kind = torch.where(limits.certified, 0, torch.where(radii < 1, 1, 2)[limits.cycle])
    key = kind.double() - limits.hits.double()[limits.cycle] / (1 + limits.hits.sum())
    order = key.argsort(stable=True)[:MOST]
    if bool(limits.certified.any()):
        order = order[kind[order] < (1 if complete else 2)]
    map = limits.map
    x = map.image(map.lift(limits.points[order.to(limits.points.device)])).cpu()
    certificates = None if pixels is None else whole_pixels(x, pixels).certificates
    return x.float(), certificates


def numbers_of(search: Search, radii: Tensor) -> Mapping[str, Any]:
    """The attack's own numbers, less those that need the truth.

    Args:
        search: the search, at its end.
        radii: (limits,) the spectral radii of its limits.
    """
    limits, starts = search.limits, search.random_starts
    periods, certain = limits.periods, limits.certain
    basins = limits.hits[certain].double() / max(1, starts)
    judged = limits.judge is not None
    return {
        "fixed_points": int((periods == 1).sum()),
        "attractors": int((radii < 1).sum()),
        "spurious_limits": int((~certain).sum()) if judged else None,
        "cycles": int((periods > 1).sum()),
        "longest_cycle": int(periods.amax()) if len(limits) else 0,
        "settled_fraction": search.settled / starts if starts else None,
        "starts": starts,
        "basin_min": float(basins.min()) if len(basins) else None,
        "basin_median": float(basins.median()) if len(basins) else None,
        "false_chance": limits.false_chance if judged else None,
    }
