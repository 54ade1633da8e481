"""The attack on networks that are run and not looked into, against slow mathematics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_recon.activations import ACTIVATIONS
from lit_recon.errors import InputError
from lit_recon.knowledge import Knowledge
from lit_recon.linear_map import LinearMap
from lit_recon.methods import ProjectionReconstructor
from lit_recon.metrics.scores import score
from lit_recon.models import MLP, ReadoutModel, ResNet
from lit_recon.objectives.network import NetworkObjective
from lit_recon.objectives.projection import ProjectionObjective
from lit_recon.randomness import generator
from lit_recon.tall_matrix import TallMatrix
from tests import reference
from tests.problems import images, readout_of, sphere, taught, with_readout
from tests.rounding import OtherOrder

SHAPE, N, K = (2, 5, 5), 3, 2
D = 50


def resnet_case() -> tuple[NetworkObjective, Tensor, Tensor]:
    """An objective of a small residual network in float64, candidates (m, d) and a target."""
    model = ResNet(SHAPE, k=K, n=N, width=2, blocks=2).double()
    target = torch.randn(K, model.p, generator=torch.Generator().manual_seed(3)).double()
    model.requires_grad_(False)
    objective = NetworkObjective(lambda z: model.features(z.view(-1, *SHAPE)), target)
    return objective, sphere(N, D, 0).double(), target


def dense_jacobian(objective: NetworkObjective, z: Tensor, target: Tensor) -> Tensor:
    """(k, p, m, d) Kaufman's Jacobian: coefficients fixed, then projected."""
    phi = objective.features(z)
    inner = torch.func.jacrev(objective.features)(z)  # (m, p, m, d)
    fitted = torch.einsum("km,mpjd->kpjd", target @ torch.linalg.pinv(phi), inner)
    return torch.einsum("kpjd,pq->kqjd", fitted, reference.projector(phi))


def test_loss_and_residual_are_those_of_a_projection() -> None:
    objective, z, target = resnet_case()
    at = objective.linearise(z)
    left = target @ reference.projector(objective.features(z))
    assert torch.allclose(at.residual, left, atol=1e-6)
    assert torch.allclose(at.loss, left.square().sum() / target.square().sum(), rtol=1e-6)


def test_jacobian_and_its_adjoint_against_dense_ones() -> None:
    objective, z, target = resnet_case()
    at, dense = objective.linearise(z), dense_jacobian(objective, z, target)
    step, u = torch.randn_like(z), torch.randn_like(target)
    assert torch.allclose(at.jvp(step), torch.einsum("kpmd,md->kp", dense, step), atol=1e-6)
    back = at.vjp(at.project(u))
    assert torch.allclose(back, torch.einsum("kpmd,kp->md", dense, u), atol=1e-6)
    assert torch.allclose((at.jvp(step) * u).sum(), (step * back).sum())


def test_gradient_is_that_of_the_loss() -> None:
    objective, z, _ = resnet_case()
    gradient, step = objective.linearise(z).gradient(), 1e-6 * torch.randn_like(z)
    rise = objective.linearise(z + step).loss - objective.linearise(z - step).loss
    assert float(rise) == pytest.approx(2 * float((gradient * step).sum()), rel=1e-3)


def test_it_is_the_loss_of_one_hidden_layer_where_there_is_one() -> None:
    model = MLP(d=6, k=K, n=N, width=4000, activation="elu").double()
    v = model.first_layer.weight.detach()
    # Near its fit, where J^T J concentrates.
    phi = model.features(sphere(N, 6, 0).double()).detach()
    target = torch.randn(K, N, dtype=torch.float64) @ phi
    known = ProjectionObjective(LinearMap(TallMatrix.of(v)), ACTIVATIONS["elu"], target)
    z = sphere(N, 6, 0).double() + 0.3 * sphere(N, 6, 1).double()
    with torch.no_grad():
        at, slow = NetworkObjective(model.features, target).linearise(z), known.linearise(z)
        step, u = torch.randn_like(z), torch.randn_like(target)
        assert torch.allclose(at.loss, slow.loss)
        assert torch.allclose(at.jvp(step), slow.jvp(step))
        assert torch.allclose(at.vjp(at.project(u)), slow.vjp(slow.project(u)))
        assert torch.allclose(at.gradient(), slow.gradient())
        assert at.floor() == pytest.approx(slow.floor())
        predicted, concentrated = at.curvature(), slow.curvature()
    # Four probes stand for all directions; a preconditioner need not be nearer than a factor.
    ratio = predicted.diagonal() / concentrated.diagonal()
    assert 0.5 < float(ratio.min()) <= float(ratio.max()) < 2
    assert float(torch.linalg.eigvalsh(predicted).min()) > 0


@pytest.mark.rounding
def test_the_curvature_is_the_same_in_every_call_and_takes_no_random_numbers() -> None:
    objective, z, _ = resnet_case()
    state = torch.get_rng_state()
    once = objective.linearise(z).curvature()
    with OtherOrder(0):
        again = objective.linearise(z).curvature()
    assert torch.allclose(once, again, rtol=1e-9)  # float64
    assert torch.equal(state, torch.get_rng_state())


def test_retract_keeps_candidates_at_the_radius() -> None:
    objective, z, _ = resnet_case()
    assert objective.retract(z) is z
    objective.radius = 2.0
    back = objective.retract(3 * z)
    assert torch.allclose(back.norm(dim=1), torch.full((N,), 2.0).double())
    assert torch.allclose(back, z * (2 / z.norm(dim=1, keepdim=True)))


# --- the attack as a whole


def attack(known: Knowledge, **settings: Any) -> Any:
    settings = {"max_seconds": 300.0, "restarts": 4, "hops": 3, **settings}
    return ProjectionReconstructor(**settings).reconstruct(known, generator(3, "candidates"))


@pytest.fixture(scope="module")
def resnet() -> tuple[Tensor, Knowledge]:
    """Two images, and what the attacker knows of a network trained on them."""
    u, pixels = images(2, 6, 3)
    x = ((u.double() / 255 - pixels.mean) / pixels.std).float()
    model = ResNet(pixels.shape, k=1, n=2, p_over_dn=4.0, blocks=1, seed=3)
    return x.flatten(1), taught(model, x, pixels=pixels, steps=20, lr=1e-4)


@pytest.mark.slow
def test_images_come_back_from_a_residual_network(resnet: tuple[Tensor, Knowledge]) -> None:
    x, known = resnet
    before = {name: weight.clone() for name, weight in known.model.state_dict().items()}
    state = torch.get_rng_state()
    outcome = attack(known)
    error = score(x, outcome.candidates).metrics.direction_error
    assert error is not None and error < 0.1
    assert outcome.status == "agreed"  # the features have drifted: no floor is known
    assert outcome.numbers["restarts"] > 0
    assert outcome.at_truth(x)["p_over_dn"] == readout_of(known).numel() / x.numel()
    assert torch.equal(state, torch.get_rng_state())
    for name, weight in known.model.state_dict().items():
        assert torch.equal(weight, before[name]), name
    with torch.no_grad():
        features = known.model.features(x.view(-1, 3, 6, 6))  # type: ignore[operator]
    dense = reference.projector(features.double())
    assert known.initial_readout is not None
    target = (readout_of(known) - known.initial_readout).double()
    oracle = (target @ dense).square().sum() / target.square().sum()
    assert outcome.at_truth(x)["oracle_loss"] == pytest.approx(float(oracle), rel=0.05)


def test_what_of_a_network_cannot_be_attacked(resnet: tuple[Tensor, Knowledge]) -> None:
    x, known = resnet
    assert known.initial_readout is not None
    assert attack(with_readout(known, known.initial_readout)).status == "no_signal"
    broken = with_readout(known, readout_of(known) * float("nan"))
    assert attack(broken).status == "nonfinite"
    assert attack(known, candidates=2000).status == "not_identifiable"
    with pytest.raises(InputError, match=r"--recon\.candidates auto: needs one hidden layer"):
        attack(known, candidates="auto")
    with pytest.raises(InputError, match="needs the shape of an input"):
        attack(replace(known, pixels=None))
    vague = attack(known, max_seconds=1e-9)
    assert vague.status == "out_of_time" and vague.candidates.shape == x.shape


class Even(ReadoutModel):
    """Features of no sign and, as an offset is in them, not homogeneous."""

    def __init__(self) -> None:
        super().__init__()
        self.readout = torch.nn.Linear(30, 1, bias=False)
        self.weight = torch.nn.Parameter(torch.randn(30, 4))

    def features(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.weight.T).square() + 1


def test_what_features_do_not_see_is_found_by_trying() -> None:
    model = Even().eval()
    readout = model.readout.weight.detach()
    known = Knowledge(model, initial_readout=torch.zeros_like(readout), n=1, shape=(4,))
    outcome = attack(known, max_seconds=1e-9)
    assert outcome.sign_blind
    norms = outcome.candidates.norm(dim=1)
    assert not torch.allclose(norms, torch.full_like(norms, 2.0))  # the norm is left free
    plain = ResNet((1, 5, 5), k=1, n=1, width=1)
    seen = replace(known, model=plain, shape=(1, 5, 5), initial_readout=None)
    outcome = attack(seen, max_seconds=1e-9)
    assert not outcome.sign_blind
    assert float(outcome.candidates.norm()) == pytest.approx(5.0, rel=1e-4)
