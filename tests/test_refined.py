"""The loss with residuals in float64 over rows that are stored in float32."""

import pytest
import torch

from lit_recon.activations import ACTIVATIONS, HALF_ABS
from lit_recon.linear_map import LinearMap
from lit_recon.objectives.projection import ProjectionObjective
from lit_recon.objectives.refined import RefinedObjective
from lit_recon.solvers import GaussNewton, Monitor, Status, Stop, minimise
from lit_recon.tall_matrix import TallMatrix, gaussian_rows
from tests import reference
from tests.problems import sphere

M, D, P = 4, 8, 300
CASES = [(s, k, linear) for s in ("relu", "|z|/2") for k in (1, 3) for linear in (False, True)]


@pytest.fixture(params=CASES, ids=str)
def case(request):
    """A plain objective, a refined one, the point and what the reference takes, in float64."""
    name, k, linear = request.param
    s = HALF_ABS if name == "|z|/2" else ACTIVATIONS[name]
    random = torch.Generator().manual_seed(3)
    v, x = gaussian_rows(0, P, D), sphere(M, D, 0).double()
    target = torch.randn(k, P, generator=random)
    w = torch.randn(k, D, generator=random, dtype=torch.float64) if linear else None
    plain = ProjectionObjective(LinearMap(TallMatrix.of(v)), s, target, linear=linear)
    z = x if w is None else torch.cat([x, w])
    return plain, RefinedObjective(plain), z, (x, v.double(), s.value, target.double(), w)


def relative(found, exact) -> float:
    assert found.dtype == torch.float64
    return float((found - exact).norm() / exact.norm())


def test_value_and_residual_are_exact_to_double_precision(case, monkeypatch):
    plain, refined, z, dense = case
    loss, residual = reference.loss(*dense), reference.residual(*dense)
    # The ridge moves the residual in first order and the loss in second.
    at = refined.linearise(z)
    assert relative(at.loss, loss) < 1e-12
    assert relative(at.residual, residual) < 1e-8
    monkeypatch.setattr("lit_recon.objectives.span.RIDGE", 0.0)
    at = refined.linearise(z)
    assert relative(at.loss, loss) < 1e-12
    assert relative(at.residual, residual) < 1e-12
    rough = plain.linearise(z.float()).residual.double()
    assert relative(rough, residual) > 1e-9


def test_the_derivatives_are_each_others_adjoint_and_those_of_the_plain_loss(case):
    plain, refined, z, _ = case
    at, rough = refined.linearise(z), plain.linearise(z.float())
    step, u = sphere(len(z), D, 5).double(), at.jvp(sphere(len(z), D, 6).double())
    forward, back = at.inner(at.jvp(step), u), (step * at.vjp(u)).sum()
    assert forward.dtype == back.dtype == torch.float64
    assert abs(forward - back) < 1e-5 * at.jvp(step).norm() * u.norm()
    assert relative(at.jvp(step), rough.jvp(step.float()).double()) < 1e-5
    assert relative(at.gradient(), rough.gradient().double()) < 1e-4
    assert torch.allclose(at.curvature(), rough.curvature())


def test_point_and_candidates_are_given_back_in_double_precision(case):
    _, refined, z, _ = case
    z = z + 1e-12 * sphere(len(z), D, 7).double()  # what float32 would round away
    at = refined.linearise(z)
    assert torch.equal(at.z, z) and torch.equal(at.candidates, z[:M])
    assert at.energy == refined.energy


@torch.no_grad()
@pytest.mark.parametrize("seed", range(3))
def test_gauss_newton_gets_below_the_floor_of_float32(seed):
    d = 16
    x = sphere(M, d, seed)
    v = gaussian_rows(seed, P, d)
    map = LinearMap(TallMatrix.of(v))
    target = (x.double() @ v.double().T).relu().sum(0)[None]
    plain = ProjectionObjective(map, ACTIVATIONS["relu"], target.float(), radius=d**0.5)
    refined = RefinedObjective(plain)
    near = x + 0.05 * sphere(M, d, seed + 100)
    stop = Stop(min_decrease=0.3)
    rough = minimise(plain, near, GaussNewton(), stop, Monitor(), "plain")
    polished = minimise(refined, rough.at.z, GaussNewton(), stop, Monitor(), "polish")
    assert rough.status is polished.status is Status.CONVERGED
    assert polished.at.loss < refined.linearise(rough.at.z).loss
    assert polished.at.loss < polished.at.floor() < rough.at.floor()
    # What is left is the rounding of the target: with an exact one, nothing is left.
    refined.value.target = target
    exact = minimise(refined, near, GaussNewton(), stop, Monitor(), "exact")
    assert exact.at.loss < 0.01 * rough.at.loss
    assert torch.allclose(exact.at.candidates, x.double(), atol=1e-6)
    radii = exact.at.candidates.norm(dim=1)
    assert torch.allclose(radii, torch.full_like(radii, d**0.5))
