import torch

from lit_recon.linalg import (
    EXPLICIT_DIMENSIONS,
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


def test_least_squares_rows_agrees_with_lstsq():
    v = gaussian_rows(0, 300, 20, torch.float64)
    target = torch.randn(3, 300, dtype=torch.float64)
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
