"""V is read in blocks: every operator, over many blocks and a ragged last one, is the dense one."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from lit_recon.activations import ACTIVATIONS, HALF_ABS, Activation
from lit_recon.linear_map import CACHE_ROWS, LinearMap
from lit_recon.models import RandomFeatures
from lit_recon.objectives.projection import Linearisation, ProjectionObjective
from lit_recon.tall_matrix import BLOCK_ROWS, TallMatrix, gaussian_rows
from tests import reference
from tests.problems import sphere

M, D, P, BLOCK = 4, 5, 67, 7  # nine blocks of 7 rows and one of 4
EVEN_ELU = ACTIVATIONS["elu"].even_part
assert EVEN_ELU is not None
ACTIVATION = {"relu": ACTIVATIONS["relu"], "|z|/2": HALF_ABS, "even elu": EVEN_ELU}
CASES = [
    (name, k, linear, slope)
    for name in ACTIVATION
    for k in (1, 3)
    for linear in (False, True)
    for slope in (0.0, 0.3)
]


def set_block(monkeypatch, rows: int) -> None:
    for module in ("linear_map", "objectives.projection"):
        monkeypatch.setattr(f"lit_recon.{module}.CACHE_ROWS", rows)


@dataclass
class Dense:
    """A problem as the reference sees it, in float64."""

    v: Tensor
    x: Tensor
    s: Activation
    target: Tensor
    w: Tensor | None

    def loss(self, x: Tensor) -> Tensor:
        return reference.loss(x, self.v, self.s.value, self.target, self.w)

    @property
    def jacobian(self) -> Tensor:
        return reference.jacobian(self.x, self.v, self.s.value, self.s.slope, self.target, self.w)

    @property
    def phi(self) -> Tensor:
        return self.s.value(self.x @ self.v.T)

    @property
    def coefficients(self) -> Tensor:
        fitted = self.target if self.w is None else self.target - self.w @ self.v.T
        return (fitted @ torch.linalg.pinv(self.phi)).T


def with_surrogate(s: Activation, slope: float) -> Activation:
    def replaced(z: Tensor) -> Tensor:
        exact = s.slope(z)
        return torch.where(exact == 0, torch.full_like(exact, slope), exact)

    return replace(s, slope=replaced) if slope else s


@pytest.fixture(params=CASES, ids=str)
def case(request, monkeypatch) -> tuple[Dense, Linearisation]:
    """The reference and the operators at one point; without a ridge the two agree closely."""
    name, k, linear, slope = request.param
    set_block(monkeypatch, BLOCK)
    monkeypatch.setattr("lit_recon.objectives.span.RIDGE", 0.0)
    s, v, x = ACTIVATION[name], gaussian_rows(0, P, D, torch.float64), sphere(M, D, 0).double()
    random = torch.Generator().manual_seed(1)
    target = torch.randn(k, P, generator=random, dtype=torch.float64)
    w = torch.randn(k, D, generator=random, dtype=torch.float64) if linear else None
    map = LinearMap(TallMatrix.of(v))
    assert [len(block) for _, block in map.blocks()] == [BLOCK] * 9 + [4]
    objective = ProjectionObjective(map, s, target, linear=linear, surrogate_slope=slope)
    at = objective.linearise(x if w is None else torch.cat([x, w]))
    return Dense(v, x, with_surrogate(s, slope), target, w), at


def close(found: Tensor, exact: Tensor) -> bool:
    return found.shape == exact.shape and torch.allclose(found, exact, rtol=1e-9, atol=1e-10)


def test_value_fit_and_gram(case):
    dense, at = case
    assert close(at.loss, dense.loss(dense.x))
    exact = reference.residual(dense.x, dense.v, dense.s.value, dense.target, dense.w)
    assert close(at.residual, exact)
    assert close(at.phi, dense.phi)
    assert close(at.slopes, dense.s.slope(dense.x @ dense.v.T))
    assert close(at.gram, dense.phi @ dense.phi.T)
    assert close(at.coefficients, dense.coefficients)


def test_derivatives(case):
    dense, at = case
    step, u = sphere(len(at.z), D, 2).double(), sphere(len(dense.target), P, 3).double()
    jacobian = dense.jacobian
    assert close(at.jvp(step), torch.einsum("kpmd,md->kp", jacobian, step))
    assert close(at.vjp(at.project(u)), torch.einsum("kpmd,kp->md", jacobian, u))
    energy = dense.target.square().sum()
    descent = torch.einsum("kpmd,kp->md", jacobian, at.residual)
    assert close(at.gradient(), -2 / energy * descent)


def test_curvature(case):
    dense, at = case
    coefficients, slopes = dense.coefficients, dense.s.slope(dense.x @ dense.v.T)
    if dense.w is not None:
        k = len(dense.target)
        coefficients = torch.cat([coefficients, torch.eye(k).double()])
        slopes = torch.cat([slopes, torch.ones(k, P).double()])
    exact = (coefficients @ coefficients.T) * (slopes @ slopes.T) * dense.v.square().mean()
    assert close(at.curvature(), exact)


def test_what_candidates_are_worth(case):
    dense, at = case
    x, loss = dense.x, dense.loss(dense.x)
    without = [torch.cat([x[:i], x[i + 1 :]]) for i in range(M)]
    assert close(at.importance(), torch.stack([dense.loss(rest) - loss for rest in without]))
    new = sphere(3, D, 4).double()
    exact = torch.stack([loss - dense.loss(torch.cat([x, row[None]])) for row in new])
    assert close(at.gain(new), exact)
    left = list(range(M))
    while len(left) > 1:
        left.remove(min(left, key=lambda i: float(dense.loss(x[[j for j in left if j != i]]))))
        assert at.keep(len(left)).tolist() == left


def test_float32_rows_are_read_in_float64_where_that_is_asked_for(monkeypatch):
    set_block(monkeypatch, BLOCK)
    v = gaussian_rows(0, P, D)
    plain, double = LinearMap(TallMatrix.of(v)), LinearMap(TallMatrix.of(v), dtype=torch.float64)
    assert all(block.dtype == torch.float32 for _, block in plain.blocks())
    assert torch.equal(torch.cat([block for _, block in double.blocks()]), v.double())


@pytest.mark.parametrize("stored", [None, 0, 100])
def test_blocks_tile_the_rows_stored_or_drawn(stored):
    p = BLOCK_ROWS + CACHE_ROWS + 3
    model = RandomFeatures(d=2, k=1, n=1, p=p, stored_rows=stored)
    rows = LinearMap(model.rows(range(5, p)))
    places, blocks = zip(*rows.blocks(), strict=True)
    assert torch.equal(torch.cat(blocks), gaussian_rows(0, p, 2)[5:])
    assert [i for place in places for i in range(p)[place]] == list(range(p - 5))
    assert max(map(len, blocks)) <= CACHE_ROWS


@pytest.mark.parametrize("linear", [False, True])
def test_blocks_of_the_real_size_agree_with_one_block(monkeypatch, linear):
    p = 2 * CACHE_ROWS + 37
    v, x = gaussian_rows(0, p, D, torch.float64), sphere(M, D, 0).double()
    target = torch.randn(1, p, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step = sphere(M + linear, D, 2).double()

    def operators() -> list[Tensor]:
        objective = ProjectionObjective(
            LinearMap(TallMatrix.of(v)), HALF_ABS, target, linear=linear, surrogate_slope=0.02
        )
        at = objective.linearise(torch.cat([x, 0.3 * step[:linear]]))
        u = at.jvp(step)
        found = [at.loss, at.residual, at.gram, at.moments, u, at.vjp(u), at.gradient()]
        return [*found, at.curvature(), at.importance(), at.gain(step)]

    many = operators()
    set_block(monkeypatch, 10 * p)
    assert all(close(a, b) for a, b in zip(many, operators(), strict=True))
