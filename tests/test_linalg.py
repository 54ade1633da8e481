import pytest
import torch

from lit_recon.linalg import (
    EXPLICIT_DIMENSIONS,
    conjugate_gradients,
    least_squares_rows,
    minimum_norm,
    spectral_directions,
)
from lit_recon.linear_map import LinearMap
from lit_recon.tall_matrix import BLOCK_ROWS, TallMatrix, gaussian_rows
from tests.problems import sphere


def test_gaussian_rows_are_a_prefix_of_longer_ones_with_the_right_scale():
    long = gaussian_rows(3, BLOCK_ROWS + 700, 8)
    assert torch.equal(long[: BLOCK_ROWS + 5], gaussian_rows(3, BLOCK_ROWS + 5, 8))
    assert not torch.equal(long[:100], gaussian_rows(4, 100, 8))
    assert not torch.equal(long[:700], long[BLOCK_ROWS:])
    assert abs(float(long.var()) * 8 - 1) < 0.05


def test_gaussian_rows_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    gaussian_rows(0, 10, 4)
    assert torch.equal(before, torch.get_rng_state())


def test_conjugate_gradients_solve_a_linear_system():
    random = torch.Generator().manual_seed(0)
    a = torch.randn(12, 12, dtype=torch.float64, generator=random)
    a = a @ a.T + torch.eye(12)
    right = torch.randn(3, 4, dtype=torch.float64, generator=random)
    solve = conjugate_gradients(
        lambda x: (a @ x.flatten()).view(3, 4),
        right,
        lambda x: (x.flatten() / a.diagonal()).view(3, 4),
        steps=50,
        tolerance=1e-12,
    )
    assert torch.allclose(solve.flatten(), torch.linalg.solve(a, right.flatten()), atol=1e-8)


def test_conjugate_gradients_stop_when_interrupted():
    calls = []

    def apply(x):
        calls.append(1)
        return 2 * x

    conjugate_gradients(
        apply, torch.ones(2), lambda x: x, steps=9, tolerance=0, finished=lambda enough: True
    )
    assert len(calls) == 1


@pytest.mark.parametrize("every", [2, 4, 7])
def test_conjugate_gradients_asked_seldom_return_the_same(every):
    a = torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a = a @ a.T + torch.eye(12)
    right = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    asked: list[bool] = []

    def finished(enough):
        asked.append(enough)
        return enough

    def solve(every):
        return conjugate_gradients(
            lambda x: a @ x,
            right,
            lambda x: x / a.diagonal(),
            steps=50,
            tolerance=1e-3,
            every=every,
            finished=finished,
        )

    often = solve(1)
    steps = len(asked)
    asked.clear()
    # Further steps would change the result by about the tolerance.
    assert torch.allclose(solve(every), often, rtol=1e-9)
    assert len(asked) == -(-steps // every) and asked[-1]


@pytest.mark.parametrize("independent_rows", [False, True])
def test_conjugate_gradients_of_nothing_are_nothing(independent_rows):
    found = conjugate_gradients(
        lambda x: 2 * x,
        torch.zeros(3, 4),
        steps=5,
        tolerance=1e-3,
        independent_rows=independent_rows,
        finished=lambda solved: False,
    )
    assert torch.equal(found, torch.zeros(3, 4))


def test_independent_rows_are_solved_as_if_each_were_alone():
    random = torch.Generator().manual_seed(0)
    a = torch.randn(6, 6, dtype=torch.float64, generator=random)
    a = a @ a.T + torch.eye(6)
    right = torch.randn(3, 6, dtype=torch.float64, generator=random)
    right[1] = 0
    right[2] *= 1e6

    def solve(right, steps):
        return conjugate_gradients(
            lambda x: x @ a, right, steps=steps, tolerance=0, independent_rows=True
        )

    for steps in (1, 2, 3):
        alone = torch.cat([solve(row[None], steps) for row in right])
        assert torch.allclose(solve(right, steps), alone, rtol=1e-12)
        assert not solve(right, steps)[1].any()
    joint = conjugate_gradients(lambda x: x @ a, right, steps=2, tolerance=0)
    assert not torch.allclose(joint[0], solve(right, 2)[0], rtol=1e-3)


def test_rows_are_solved_when_the_last_one_is():
    asked: list[bool] = []
    scales = torch.tensor([[1.0, 1.0], [1.0, 3.0]])  # the first row takes one step, the other two

    def finished(solved):
        asked.append(solved)
        return solved

    right = torch.ones(2, 2)
    found = conjugate_gradients(
        lambda x: scales * x,
        right,
        steps=9,
        tolerance=1e-3,
        independent_rows=True,
        finished=finished,
    )
    assert asked == [False, True]
    assert torch.allclose(found, right / scales)


def test_least_squares_rows_agrees_with_lstsq():
    v = gaussian_rows(0, 300, 20, torch.float64)
    random = torch.Generator().manual_seed(1)
    target = torch.randn(3, 300, dtype=torch.float64, generator=random)
    target[1] = 0  # its row is 0, whatever the others are
    exact = torch.linalg.lstsq(v, target.T).solution.T
    assert torch.allclose(
        least_squares_rows(LinearMap(TallMatrix.of(v)), target, 1e-12), exact, atol=1e-9
    )


def test_minimum_norm_is_the_pseudo_inverse_for_wide_tall_and_repeated_features():
    for n, p in ((4, 9), (9, 4)):
        phi, y = torch.randn(n, p, dtype=torch.float64), torch.randn(n, 2, dtype=torch.float64)
        phi[1] = phi[0]
        assert torch.allclose(minimum_norm(phi, y), (torch.linalg.pinv(phi) @ y).T, atol=1e-9)


def test_spectral_directions_find_the_span_of_the_inputs():
    for d in (30, EXPLICIT_DIMENSIONS + 6):  # the explicit and the iterated eigenvectors
        x = sphere(3, d, 0)
        v = gaussian_rows(1, 60 * d, d)
        weights = torch.tensor([[1.0, -2.0, 1.5], [0.5, 1.0, 1.0]]) @ (v @ x.T).abs().T
        found = spectral_directions(
            LinearMap(TallMatrix.of(v)), weights, 3, torch.Generator().manual_seed(7)
        )
        assert torch.allclose(found @ found.T, torch.eye(3), atol=1e-4)
        assert ((x @ found.T).norm(dim=1) / x.norm(dim=1)).min() > 0.9


def test_spectral_directions_in_a_subspace_are_those_of_the_restricted_matrix(monkeypatch):
    v, weights = gaussian_rows(0, 500, 8), torch.randn(2, 500)

    def found(v, **subspace):
        random = torch.Generator().manual_seed(0)
        return spectral_directions(LinearMap(TallMatrix.of(v)), weights, 2, random, **subspace)

    def up(rows):
        return torch.cat([rows, torch.zeros(len(rows), 3)], dim=1)

    inside = found(v, down=lambda rows: rows[:, :5], up=up)
    alone = found(v[:, :5].contiguous())
    assert torch.allclose(inside.T @ inside, alone.T @ alone, atol=1e-4)
    monkeypatch.setattr("lit_recon.linalg.EXPLICIT_DIMENSIONS", 0)
    iterated = found(v, down=lambda rows: rows[:, :5], up=up)
    assert torch.allclose(iterated.T @ iterated, alone.T @ alone, atol=1e-2)
