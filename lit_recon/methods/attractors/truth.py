"""How a map treats the training inputs: fixed, attracting, recalled, and from how far."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from math import nan
from typing import Any

import torch
from torch import Tensor

from lit_recon.methods.attractors.limits import Limits, turn_radii
from lit_recon.methods.attractors.maps import ReducedMap
from lit_recon.methods.attractors.search import QUICK
from lit_recon.randomness import generator
from lit_recon.solvers import Monitor
from lit_recon.solvers.rows import iterate

FIXED = 0.01  # of an input's norm, by which the network may move it
NEAR = 0.1  # of an input's norm, up to which a limit shows it
LEVELS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)  # of noise, relative to the norm
RETURNED = 0.9  # share of starts
NOISY_INPUTS, NOISY_STARTS = 20, 5  # training inputs that get noise, and starts of each
NOISY_STEPS = 100
RANK = 1e-6  # of the largest singular value of the training inputs: smaller ones are rounding
NOISE_INPUTS = 100  # of noise alone, for the share of their outputs outside the training inputs


@torch.no_grad()
def at_truth(map: ReducedMap, limits: Limits | None, starts: int, x: Tensor) -> Mapping[str, Any]:
    """The numbers that need the training inputs.

    Args:
        map: the map in float64.
        limits: what the attack found; None: it ended at once.
        starts: how many random starts it iterated.
        x: (n, d) training inputs.
    """
    x = x.flatten(1).to(map.offset)
    turns = _turns(map, x)
    radii = turn_radii(map, map.lower(x), turns)
    kept = torch.tensor([len(turn) for turn in turns])
    fixed = int((kept == 1).sum())
    attracting = int(kept[radii < 1].sum())
    recall, precision = _recalled(map, limits, starts, x)
    single = [turn for turn in turns if len(turn) == 1]
    return {
        "fixed_fraction": fixed / len(x),
        "attractor_fraction": attracting / len(x),
        "spectral_radius_max": float(radii.max()) if len(radii) else nan,
        "spectral_radius_median": float(radii.median()) if len(radii) else nan,
        "noise_tolerance": _noise_tolerance(map, x, single),
        "recall": recall,
        "precision": precision,
        "outside_span": _outside_span(map, x),
    }


def _turns(map: ReducedMap, x: Tensor) -> list[Tensor]:
    """The cycles of training inputs (n, d) that the map leads into one another, by their numbers.

    A fixed input is a cycle of one.
    """
    image = map.image(x)
    distance = torch.cdist(image, x, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distance.argmin(1)
    close = distance.amin(1) <= FIXED * x[nearest].norm(dim=1)
    following = torch.where(close, nearest, -1).tolist()
    turns, seen = [], set()
    for i in range(len(x)):
        way: list[int] = []
        while i >= 0 and i not in seen:
            seen.add(i)
            way.append(i)
            i = following[i]
        if i in way:
            turns.append(torch.tensor(way[way.index(i) :]))
    return turns


def _recalled(
    map: ReducedMap, limits: Limits | None, starts: int, x: Tensor
) -> tuple[float | None, float | None]:
    """The shares of training inputs that random starts lead to, and of starts that end in one."""
    if limits is None or not starts:
        return None, None
    met = limits.hits[limits.cycle] > 0
    points = map.lift(limits.points[met.to(x.device)])
    shown = torch.cdist(points, x) <= NEAR * x.norm(dim=1)  # (k, n)
    right = limits.cycle[met][shown.any(1).cpu()].unique()
    return float(shown.any(0).double().mean()), float(limits.hits[right].sum() / starts)


def _noise_tolerance(map: ReducedMap, x: Tensor, fixed: Sequence[Tensor]) -> float | None:
    """The largest level of noise from which nearly all starts return; None: nothing is fixed."""
    if not fixed:
        return None
    some = torch.cat(list(fixed))[:: -(-len(fixed) // NOISY_INPUTS)]
    x = x[some.to(x.device)].repeat_interleave(NOISY_STARTS, 0)
    noise = torch.randn(*x.shape, generator=generator(0, "noise tolerance")).to(x)
    noise *= (x.norm(dim=1) / noise.norm(dim=1))[:, None]
    unit, quick = float(x.norm(dim=1).median()), map.single()

    def returns(level: float) -> bool:
        ends = iterate(
            quick,
            map.lower(map.image(x + level * noise)).to(quick.offset),
            Monitor(),
            "noise",
            unit=unit,
            tolerance=QUICK,
            max_steps=NOISY_STEPS,
        )
        back = (map.lift(ends.z.to(x)) - x).norm(dim=1) <= FIXED * x.norm(dim=1)
        return float(back.double().mean()) >= RETURNED

    # By bisection: what returns from a level returns from lower ones.
    first_lost = bisect_left(LEVELS, True, key=lambda level: not returns(level))
    return LEVELS[first_lost - 1] if first_lost else 0.0


def _outside_span(map: ReducedMap, x: Tensor) -> float:
    """The mean share of an output's energy outside the span of x (n, d), over inputs of noise."""
    noise = torch.randn(
        NOISE_INPUTS, x.shape[1], generator=generator(0, "outputs of noise"), dtype=x.dtype
    ).to(x)
    noise *= (x.norm(dim=1).median() / noise.norm(dim=1))[:, None]
    output = map.image(noise)
    _, values, directions = torch.linalg.svd(x, full_matrices=False)
    span = directions[values > values[0] * RANK]
    outside = output - output @ span.T @ span
    return float((outside.norm(dim=1) / output.norm(dim=1)).square().mean())
