"""The fast operators against the dense float64 reference."""

import pytest
import torch

from lit_recon.activations import ACTIVATIONS, HALF_ABS
from lit_recon.linear_map import BlockAverages, LinearMap
from lit_recon.objectives.projection import ProjectionObjective
from lit_recon.tall_matrix import TallMatrix, gaussian_rows
from tests import reference
from tests.problems import sphere

N, D, P = 3, 5, 60
CASES = [(a, k, linear) for a in (*ACTIVATIONS, "abs/2") for k, linear in ((1, False), (2, True))]


def case(name, k, linear, seed=0):
    s = HALF_ABS if name == "abs/2" else ACTIVATIONS[name]
    v = gaussian_rows(seed, P, D, torch.float64)
    x = sphere(N, D, seed).double()
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(k, P, generator=generator, dtype=torch.float64)
    w = torch.randn(k, D, generator=generator, dtype=torch.float64) if linear else None
    objective = ProjectionObjective(LinearMap(TallMatrix.of(v)), s, target, linear=linear)
    z = x if w is None else torch.cat([x, w])
    return s, v, x, w, target, objective, z


@pytest.mark.parametrize(("name", "k", "linear"), CASES)
def test_loss_and_residual(name, k, linear):
    s, v, x, w, target, objective, z = case(name, k, linear)
    at = objective.linearise(z)
    assert torch.allclose(at.residual, reference.residual(x, v, s.value, target, w), atol=1e-6)
    assert torch.allclose(at.loss, reference.loss(x, v, s.value, target, w), rtol=1e-6)


@pytest.mark.parametrize(("name", "k", "linear"), CASES)
def test_jacobian_and_its_adjoint(name, k, linear):
    s, v, x, w, target, objective, z = case(name, k, linear)
    at = objective.linearise(z)
    dense = reference.jacobian(x, v, s.value, s.slope, target, w)
    step, u = torch.randn_like(z), torch.randn_like(target)
    assert torch.allclose(at.jvp(step), torch.einsum("kpmd,md->kp", dense, step), atol=1e-6)
    back = at.vjp(at.project(u))
    assert torch.allclose(back, torch.einsum("kpmd,kp->md", dense, u), atol=1e-6)


@pytest.mark.parametrize(("name", "k", "linear"), CASES)
def test_gradient_is_that_of_the_loss(name, k, linear):
    s, v, _, _, target, objective, z = case(name, k, linear)
    leaf = z.clone().requires_grad_()
    value = reference.loss(leaf[:N], v, s.value, target, leaf[N:] if linear else None)
    (exact,) = torch.autograd.grad(value, leaf)
    assert torch.allclose(objective.linearise(z).gradient(), exact, atol=1e-6)


@pytest.mark.parametrize("name", [*ACTIVATIONS, "abs/2"])
def test_slopes_are_derivatives(name):
    s = HALF_ABS if name == "abs/2" else ACTIVATIONS[name]
    z = torch.linspace(-3, 3, 101, dtype=torch.float64) + 0.013
    for activation in filter(None, (s, s.even_part)):
        numeric = (activation.value(z + 1e-6) - activation.value(z - 1e-6)) / 2e-6
        assert torch.allclose(activation.slope(z), numeric, atol=1e-6)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_what_an_activation_says_of_itself(name):
    s = ACTIVATIONS[name]
    z = torch.randn(1000, dtype=torch.float64)
    assert s.homogeneous == torch.allclose(s.value(3 * z), 3 * s.value(z))
    assert s.odd == torch.allclose(s.value(-z), -s.value(z))
    if s.even_part is not None:
        assert torch.allclose(s.even_part.value(z), (s.value(z) + s.value(-z)) / 2)


def test_curvature_is_what_the_normal_operator_concentrates_to():
    v = gaussian_rows(0, 40_000, 6, torch.float64)
    x = sphere(3, 6, 1).double()
    target = torch.randn(2, 3, dtype=torch.float64) @ HALF_ABS.value(x @ v.T)
    objective = ProjectionObjective(LinearMap(TallMatrix.of(v)), HALF_ABS, target, linear=True)
    at = objective.linearise(torch.cat([x + 0.3 * torch.randn_like(x), torch.zeros(2, 6).double()]))
    step = torch.randn(5, 6, dtype=torch.float64)
    along = torch.cat([at.candidates, at.z[3:]])
    for i in range(3):  # off the radius, which the objective cannot see
        step[i] -= (step[i] @ along[i]) / along[i].square().sum() * along[i]
    measured = (step * at.vjp(at.jvp(step))).sum()
    predicted = (step * (at.curvature() @ step)).sum()
    assert 0.5 < float(measured / predicted) < 1.5


def test_importance_keep_and_gain_agree_with_refits():
    _, _, x, _, _, objective, z = case("relu", 2, False)
    at = objective.linearise(z)
    rises = [objective.linearise(torch.cat([x[:i], x[i + 1 :]])).loss - at.loss for i in range(N)]
    assert torch.allclose(at.importance(), torch.stack(rises), atol=1e-6)
    least = int(torch.stack(rises).argmin())
    assert at.keep(N - 1).tolist() == [i for i in range(N) if i != least]
    new = sphere(4, D, 9).double()
    falls = [at.loss - objective.linearise(torch.cat([x, row[None]])).loss for row in new]
    assert torch.allclose(at.gain(new), torch.stack(falls), atol=1e-6)


def test_keep_drops_only_one_of_two_twins():
    v = gaussian_rows(0, P, D, torch.float64)
    x = sphere(N, D, 0).double()
    target = torch.tensor([[1.0, 0.3, 0.6]]).double() @ (x @ v.T).relu()
    objective = ProjectionObjective(LinearMap(TallMatrix.of(v)), ACTIVATIONS["relu"], target)
    twin = x[:1] + 1e-4 * torch.randn(1, D, dtype=torch.float64)
    at = objective.linearise(torch.cat([x, twin]))
    kept = at.candidates[at.keep(N)]
    assert objective.linearise(kept).loss < 1e-6


def test_loss_is_zero_at_the_truth_and_invariant_to_order_and_scale():
    v, x = gaussian_rows(0, P, D, torch.float64), sphere(N, D, 0).double()
    target = torch.randn(2, N, dtype=torch.float64) @ (x @ v.T).relu()
    objective = ProjectionObjective(LinearMap(TallMatrix.of(v)), ACTIVATIONS["relu"], target)
    assert objective.linearise(x).loss < 1e-12
    other = sphere(N, D, 5).double()
    value = objective.linearise(other).loss
    assert torch.allclose(objective.linearise(other.flip(0)).loss, value)
    assert torch.allclose(objective.linearise(other * torch.tensor([[2.0], [3], [4]])).loss, value)


def test_an_odd_activation_cannot_tell_signs_and_a_mixed_one_can():
    v, x = gaussian_rows(0, P, D, torch.float64), sphere(N, D, 0).double()
    for name, blind in (("tanh", True), ("relu+tanh", False)):
        s = ACTIVATIONS[name]
        target = torch.randn(1, N, dtype=torch.float64) @ s.value(x @ v.T)
        loss = ProjectionObjective(LinearMap(TallMatrix.of(v)), s, target).linearise(-x).loss
        assert (loss < 1e-10) == blind


def test_retract_moves_candidates_only():
    *_, objective, z = case("relu", 2, True)
    objective.radius = 2.0
    back = objective.retract(3 * z)
    assert torch.allclose(back[:N].norm(dim=1), torch.full((N,), 2.0).double())
    assert torch.equal(back[N:], 3 * z[N:])


def test_block_averages_are_an_orthonormal_subspace():
    blocks = BlockAverages((3, 8, 8), 4)
    z = torch.randn(5, 12)
    assert torch.allclose(blocks.down(blocks.up(z)), z, atol=1e-6)
    assert torch.allclose(blocks.up(z).norm(dim=1), z.norm(dim=1))
    x = torch.randn(5, 192)
    assert torch.allclose((blocks.up(z) * x).sum(1), (z * blocks.down(x)).sum(1), atol=1e-5)
    assert blocks.dimension == 12


@pytest.mark.parametrize("apart", [1e-3, 3e-4, 1e-4, 1e-5, 1e-6, 0.0])
def test_candidates_that_have_merged_keep_their_loss_in_float32(apart):
    v, x = gaussian_rows(0, 300, 50), sphere(6, 50, 0)
    target = torch.tensor([[1.0, -0.5, 0.7, 2.0, -1.0, 0.4]]) @ (x @ v.T).relu()
    objective = ProjectionObjective(LinearMap(TallMatrix.of(v)), ACTIVATIONS["relu"], target)
    z = torch.cat([x[:5], x[:3] + apart * sphere(3, 50, 7)])
    at = objective.linearise(z)
    apart_from_them = reference.loss(z[:5].double(), v.double(), torch.relu, target.double())
    together = reference.loss(z.double(), v.double(), torch.relu, target.double())
    assert 0.98 * together < at.loss < 1.02 * apart_from_them
    assert at.floor() < 1e-3 * at.loss
    assert torch.isfinite(at.jvp(torch.ones_like(z))).all()


def test_a_fit_in_float64_is_at_its_floor_where_only_the_ridge_is_left():
    v, x = gaussian_rows(0, P, D, torch.float64), sphere(N, D, 0).double()
    target = torch.tensor([[1.0, -0.5, 2.0]]).double() @ (x @ v.T).relu()
    at = ProjectionObjective(LinearMap(TallMatrix.of(v)), ACTIVATIONS["relu"], target).linearise(x)
    assert 0 < at.loss < at.floor() < 1e-12


def test_features_that_all_vanish_give_no_number_and_no_exception():
    dead = LinearMap(TallMatrix.of(torch.zeros(P, D)))
    at = ProjectionObjective(dead, ACTIVATIONS["relu"], torch.ones(1, P)).linearise(sphere(N, D, 0))
    assert not torch.isfinite(at.loss)
    assert not torch.isfinite(at.importance()).any()
    assert at.keep(2).shape == (2,)
