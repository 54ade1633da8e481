"""Iterations in which every row is a problem of its own: one may end or overflow, others go on.

A map f from (m, r) to (m, r) is applied to all rows at once. `iterate` applies it again and again
and ends a row at a fixed point or in a cycle; it reaches those that attract. `fixed_points` solves
f(z) = z, and reaches those that repel as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_recon.solvers.loop import Monitor

Map = Callable[[Tensor], Tensor]

RUNNING, DIVERGED = 0, -1  # in the place of a period
OVERFLOW = 1e6  # units from which on a row has diverged
# Levenberg-Marquardt, in units of the mean diagonal of J^T J.
DAMPING, LEAST_DAMPING, MOST_DAMPING = 1e-2, 1e-14, 1e6
UP, DOWN = 5.0, 0.1
TRUSTED = 0.25  # share of the loss that a step leaves, up to which the derivative is updated
PATIENCE, PROGRESS = 10, 0.5  # a row ends whose loss falls by less than this share in 10 steps


@dataclass(frozen=True)
class Orbits:
    """Where the rows of an iteration ended.

    Attributes:
        z: (m, r) the last point of each row, always finite.
        period: (m,) 1 at a fixed point, the length of a cycle, `RUNNING`, or `DIVERGED`.
        steps: (m,) how often the map was applied.
    """

    z: Tensor
    period: Tensor
    steps: Tensor


def iterate(
    map: Map,
    z: Tensor,
    monitor: Monitor,
    phase: str,
    *,
    unit: float,
    tolerance: float,
    max_steps: int,
) -> Orbits:
    """Apply a map to every row until the row is at rest, in a cycle, too large, or out of steps.

    Cycles are found as Brent (1980) does: a row is compared with where it was at the last power of
    two. So a cycle of length k is found by step 4 k if the row is in it by step k.

    >>> ends = iterate(lambda z: z.cos(), torch.ones(1, 1), Monitor(), "cosine", unit=1.0,
    ...                tolerance=1e-5, max_steps=100)
    >>> round(float(ends.z), 4), int(ends.period)
    (0.7391, 1)

    Args:
        map: f, (m, r) to (m, r), each row for itself.
        z: (m, r) where to begin.
        monitor: the clock and the inner curve, of which a row is written at powers of two.
        phase: the name of the phase there.
        unit: the norm of a typical point; distances are relative to it or to a point's own norm.
        tolerance: relative distance up to which two points are the same.
        max_steps: the most applications of the map.
    """
    ends, period = z.clone(), torch.zeros(len(z), dtype=torch.long, device=z.device)
    steps = torch.zeros_like(period)
    active = torch.arange(len(z), device=z.device)
    y, anchor, anchored = z, z, 0
    for t in range(1, max_steps + 1):
        if not len(active) or monitor.out_of_time:
            break
        image = map(y)
        monitor.applications += 1
        size = image.norm(dim=1).clamp_min(unit)
        step = (image - y).norm(dim=1)
        rest, back = step <= tolerance * size, (image - anchor).norm(dim=1) <= tolerance * size
        found = torch.where(back, t - anchored, RUNNING).where(~rest, 1)
        found = found.where(size <= OVERFLOW * unit, DIVERGED)  # also where it is NaN
        y = image.where((found != DIVERGED)[:, None], y)
        ends[active], period[active], steps[active] = y, found, t
        going = found == RUNNING
        if not bool(going.all()):
            active, y, anchor, step = active[going], y[going], anchor[going], step[going]
        if t & (t - 1) == 0:
            anchor, anchored = y, t
            loss = float((step / unit).square().sum() / len(z))
            monitor.record(phase, loss, y)
    return Orbits(ends, period, steps)


def orbit(map: Map, z: Tensor, period: int) -> Tensor:
    """(period, m, r) the rows z (m, r) and their next images."""
    points = [z]
    for _ in range(period - 1):
        points.append(map(points[-1]))
    return torch.stack(points)


def fixed_points(
    map: Map,
    jacobian: Map,
    z: Tensor,
    monitor: Monitor,
    phase: str,
    *,
    unit: float,
    tolerance: float,
    max_steps: int,
) -> Orbits:
    """Solve f(z) = z for every row by Levenberg-Marquardt steps on ||f(z) - z||^2.

    Unlike the iteration it also ends at fixed points that repel. Rows that come to a minimum which
    is no fixed point end as `RUNNING`. After a step that leaves at most a quarter of the loss, the
    derivative is not computed again but updated by what the step has shown (Broyden 1965).

    >>> start, slope = torch.full((1, 1), 2.0), lambda z: 2 * z[:, :, None]
    >>> ends = fixed_points(lambda z: z**2 + 0.1, slope, start, Monitor(), "newton",
    ...                     unit=1.0, tolerance=1e-5, max_steps=20)
    >>> round(float(ends.z), 4), int(ends.period)  # the slope is 1.77 there
    (0.8873, 1)

    Args:
        map: f, (m, r) to (m, r), each row for itself.
        jacobian: (m, r) to (m, r, r), the derivative of each row.
        z: (m, r) where to begin.
        monitor: the clock and the inner curve.
        phase: the name of the phase there.
        unit: the norm of a typical point.
        tolerance: of ||f(z) - z||, relative to the larger of the unit and ||z||.
        max_steps: the most steps of a row.
    """
    ends, period = z.clone(), torch.zeros(len(z), dtype=torch.long, device=z.device)
    steps = torch.zeros_like(period)
    eye = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    row = torch.arange(len(z), device=z.device)
    residual = map(z) - z
    monitor.applications += 1
    loss = residual.square().sum(1)
    row, z, residual, loss = (part[loss.isfinite()] for part in (row, z, residual, loss))
    slope = jacobian(z) - eye
    damping, earlier, exact = torch.full_like(loss, DAMPING), loss, torch.ones_like(loss).bool()
    for t in range(max_steps + 1):
        solved = loss.sqrt() <= tolerance * z.norm(dim=1).clamp_min(unit)
        hopeless = damping > MOST_DAMPING
        if t % PATIENCE == 0 and t:
            hopeless |= loss > PROGRESS * earlier
            earlier = loss
        ends[row], period[row], steps[row] = z, solved.long(), t
        keep = ~(solved | hopeless)
        row, z, residual, loss, slope, damping, earlier, exact = (
            part[keep] for part in (row, z, residual, loss, slope, damping, earlier, exact)
        )
        if not len(row) or t == max_steps or monitor.out_of_time:
            break
        normal = slope.mT @ slope
        shift = damping * normal.diagonal(dim1=1, dim2=2).mean(1)
        gradient = slope.mT @ residual[..., None]
        move, _ = torch.linalg.solve_ex(normal + shift[:, None, None] * eye, gradient)
        moved = z - move[..., 0]
        there = map(moved) - moved
        monitor.applications += 1
        new = there.square().sum(1)
        better = new < loss  # not where it is NaN
        trusted = new <= TRUSTED * loss
        # Broyden (1965): the smallest change of the derivative that explains the step.
        error = there - residual + (slope @ move)[..., 0]
        along = move / move.square().sum(1, keepdim=True)
        slope = slope.where(~trusted[:, None, None], slope - error[..., None] @ along.mT)
        damping = damping * torch.where(better, DOWN, torch.where(exact, UP, 1.0))
        damping = damping.clamp_min(LEAST_DAMPING)
        z, residual = (a.where(better[:, None], b) for a, b in ((moved, z), (there, residual)))
        loss = new.where(better, loss)
        renewed = (better & ~trusted) | (~better & ~exact)
        if bool(renewed.any()):
            slope[renewed] = jacobian(z[renewed]) - eye
        exact = renewed | (exact & ~better)
        monitor.record(phase, float(loss.mean() / unit**2), z)
    return Orbits(ends, period, steps)
