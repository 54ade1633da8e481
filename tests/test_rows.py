"""Iterations whose rows end for themselves, on maps with known fixed points and cycles."""

from __future__ import annotations

from math import cos, pi, sin
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_recon.solvers import Monitor
from lit_recon.solvers.rows import DIVERGED, RUNNING, Map, Orbits, fixed_points, iterate, orbit


def iterated(map: Map, z: Tensor, **settings: Any) -> Orbits:
    settings = {"unit": 1.0, "tolerance": 1e-9, "max_steps": 1024, **settings}
    return iterate(map, z, Monitor(), "test", **settings)


def solved(map: Map, z: Tensor, **settings: Any) -> Orbits:
    settings = {"unit": 1.0, "tolerance": 1e-12, "max_steps": 100, **settings}

    def jacobian(y: Tensor) -> Tensor:
        return torch.stack(
            [torch.autograd.functional.jacobian(lambda v: map(v[None])[0], row) for row in y]
        )

    return fixed_points(map, jacobian, z, Monitor(), "test", **settings)


def turning(length: int) -> Map:
    """A map of the plane with a cycle of that length on the unit circle, which attracts."""
    angle = 2 * pi / length
    turn = torch.tensor([[cos(angle), sin(angle)], [-sin(angle), cos(angle)]], dtype=torch.float64)

    def map(z: Tensor) -> Tensor:
        norm = z.norm(dim=1, keepdim=True)
        direction = z / norm
        corner = torch.atan2(direction[:, 1], direction[:, 0]) / angle
        off = (corner - corner.round()) * angle  # turned back to the nearest corner by a half
        back = torch.stack(
            [off.div(2).cos(), -off.div(2).sin(), off.div(2).sin(), off.div(2).cos()], 1
        )
        snapped = (back.view(-1, 2, 2).mT @ direction[..., None])[..., 0]
        return (0.5 + norm / 2) * (snapped @ turn)

    return map


def points(m: int, r: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(m, r, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("length", [2, 3, 7, 100, 256])
def test_cycles_of_any_length_are_found(length: int) -> None:
    map = turning(length)
    found = iterated(map, points(10))
    assert found.period.tolist() == [length] * 10
    members = orbit(map, found.z, length)
    assert members.shape == (length, 10, 2)
    assert torch.allclose(map(members[-1]), found.z, atol=1e-8)
    assert bool((members[1:] - members[0]).norm(dim=2).gt(1e-3).all())


def test_a_cycle_longer_than_the_steps_allow_is_still_running() -> None:
    assert iterated(turning(256), points(3), max_steps=200).period.tolist() == [RUNNING] * 3


def square(z: Tensor) -> Tensor:
    return z**2


def test_a_row_that_overflows_does_not_end_the_others() -> None:
    z = torch.tensor([[0.5], [3.0], [float("nan")], [-0.9]], dtype=torch.float64)
    found = iterated(square, z)
    assert found.period.tolist() == [1, DIVERGED, DIVERGED, 1]
    assert found.z[[0, 3]].abs().max() < 1e-4 and bool(found.z[1].isfinite())
    alone = iterated(square, z[:1])
    assert torch.equal(alone.z[0], found.z[0]) and alone.steps[0] == found.steps[0]


def test_rows_end_at_fixed_points_that_attract_and_newton_at_those_that_repel() -> None:
    fixed = points(4, 3, seed=1)
    turn = torch.linalg.qr(points(3, 3, seed=2)).Q

    def near(z: Tensor) -> tuple[Tensor, Tensor]:
        distance = torch.cdist(z, fixed)
        return fixed[distance.argmin(1)], distance.amin(1, keepdim=True)

    def repelling(z: Tensor) -> Tensor:
        centre, _ = near(z)
        return centre + 1.7 * (z - centre) @ turn

    z = fixed + 0.05 * points(4, 3, seed=3)
    missed = iterated(repelling, z, max_steps=300)
    assert not bool((missed.period == 1).any())
    found = solved(repelling, z)
    assert found.period.tolist() == [1] * 4
    assert torch.allclose(found.z, fixed, atol=1e-10)


def test_newton_ends_a_row_without_a_fixed_point_and_one_that_is_not_finite() -> None:
    def away(z: Tensor) -> Tensor:
        return z + 1 + z**2

    z = torch.tensor([[0.3], [float("inf")]], dtype=torch.float64)
    found = solved(away, z)
    assert found.period.tolist() == [RUNNING, RUNNING]
    assert abs(float(found.z[0])) < 0.1  # the minimum of ||f(z) - z||
    assert int(found.steps[0]) < 100


def test_newton_is_fast_near_the_end() -> None:
    found = solved(lambda z: z.cos(), torch.full((1, 1), 3.0, dtype=torch.float64))
    assert abs(float(found.z) - 0.7390851332151607) < 1e-12 and int(found.steps) < 15


def test_after_good_steps_the_derivative_is_updated_and_not_computed() -> None:
    mixing = points(5, 5, seed=4)
    computed = 0

    def map(z: Tensor) -> Tensor:
        return 2 * torch.tanh(z @ mixing)

    def jacobian(z: Tensor) -> Tensor:
        nonlocal computed
        computed += len(z)
        return (2 * (1 - torch.tanh(z @ mixing) ** 2))[:, :, None] * mixing.T

    near = solved(map, 3 * points(6, 5, seed=5))
    start = near.z[near.period == 1] + 1e-3
    again = fixed_points(
        map, jacobian, start, Monitor(), "", unit=1.0, tolerance=1e-12, max_steps=100
    )
    assert len(start) and bool((again.period == 1).all())
    assert torch.allclose(map(again.z), again.z, atol=1e-10)
    assert computed < int(again.steps.sum()) / 2


def test_no_time_leaves_rows_where_they_are() -> None:
    z = points(3)
    for found in (
        iterate(square, z, Monitor(0.0), "", unit=1.0, tolerance=1e-9, max_steps=9),
        fixed_points(
            square,
            lambda y: torch.diag_embed(2 * y),
            z,
            Monitor(0.0),
            "",
            unit=1.0,
            tolerance=1e-9,
            max_steps=9,
        ),
    ):
        assert torch.equal(found.z, z) and not bool(found.period.any())


def test_the_inner_curve_has_rows_at_powers_of_two() -> None:
    monitor = Monitor()
    iterate(lambda z: z * 0.5, torch.ones(2, 2), monitor, "p", unit=1.0, tolerance=0, max_steps=20)
    assert [row.applications for row in monitor.rows] == [1, 2, 4, 8, 16]
    losses = [row.loss for row in monitor.rows]
    assert losses == sorted(losses, reverse=True) and monitor.applications == 20
