"""The KKT attack: its objective against dense gradients, and what it finds and refuses."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

import train
from datamodules.photos import Photos
from lit_recon.errors import InputError
from lit_recon.knowledge import Knowledge
from lit_recon.methods import KKTReconstructor
from lit_recon.methods.kkt.problem import Problem
from lit_recon.methods.kkt.start import from_components
from lit_recon.models import MLP, DeepMLP, ResNet, SmallCNN
from lit_recon.objectives.balance import imbalance, relu_chain
from lit_recon.objectives.kkt import (
    Bounds,
    KKTObjective,
    KKTPoint,
    Task,
    TrainedMultipliers,
    block_targets,
    own_targets,
)
from lit_recon.objectives.stationarity import trained_parameters
from lit_recon.objectives.surrogate import SurrogateReLU
from lit_recon.solvers import MomentumDescent, Monitor, Stop, minimise
from lit_recon.solvers.adam import AdaptiveDescent

IMAGES = (2, 6, 6)
D = 72
M = 4


def plain() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(D, 7), nn.ReLU(), nn.Linear(7, 1, bias=False))


MODELS: dict[str, Callable[[int], nn.Module]] = {
    "dense": lambda k: DeepMLP(d=D, k=k, widths=[9, 8], bias="first", seed=1),
    "two layers": lambda k: MLP(d=D, k=k, n=M, width=9, seed=2),
    "convolutional": lambda k: SmallCNN(
        IMAGES, k=k, convolutions=2, channels=3, widths=[6], seed=3
    ),
    "residual": lambda k: ResNet(IMAGES, k=k, n=M, width=3, seed=4),
}


def inputs(m: int = M, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(m, D, generator=random, dtype=torch.float64)


def shaped(x: Tensor) -> Tensor:
    return x.view(-1, *IMAGES)


def stationary(n: int = M) -> tuple[MLP, Tensor, Tensor]:
    """A network of which every neuron sees one input: theta = sum_i y_i grad f(x_i).

    With unit x_i at obtuse angles, W = diag(s) X and a = y s, the gradients are a_i x_i and s_i.
    """
    x = torch.linalg.qr(inputs(n).T).Q.T
    x = F.normalize(x - 0.1 * x.sum(0))
    y = torch.tensor([1.0, -1.0] * (n // 2), dtype=torch.float64)
    size = torch.linspace(0.5, 2, n, dtype=torch.float64)
    model = MLP(d=D, k=1, n=n, width=n).double()
    with torch.no_grad():
        model.first_layer.weight.copy_(size[:, None] * x)
        model.readout.weight.copy_((y * size)[None])
    return model, x, y


# --- ReLU with a smooth slope


def test_the_surrogate_has_relus_values_and_a_smooth_slope_in_any_network() -> None:
    z = torch.linspace(-2, 2, 9, dtype=torch.float64, requires_grad=True)
    for relu in (F.relu, torch.relu, Tensor.relu, nn.ReLU()):
        with SurrogateReLU(3.0):
            value = relu(z)
            (slope,) = torch.autograd.grad(value.sum(), z, create_graph=True)
            (curvature,) = torch.autograd.grad(slope.sum(), z)
        s = torch.sigmoid(3 * z)
        assert torch.equal(value, z.clamp_min(0))
        assert torch.allclose(slope, s) and torch.allclose(curvature, 3 * s * (1 - s))
    (slope,) = torch.autograd.grad(F.relu(z).sum(), z)  # afterwards all is as before
    assert set(slope.tolist()) == {0.0, 1.0}


def test_a_relative_slope_does_not_see_the_scale() -> None:
    z = torch.randn(5, requires_grad=True)
    found = []
    for scale in (1.0, 100.0):
        with SurrogateReLU(3.0, relative=True):
            found.append(torch.autograd.grad((scale * z).relu().sum() / scale, z)[0])
    assert torch.allclose(found[0], found[1])


# --- the objective


def scalars(task: Task, output: Tensor, targets: Tensor) -> Tensor:
    """(m, q), written out."""
    if task == "general":
        return output
    if task == "binary":
        return targets * output
    true, rest = output[targets > 0], output[targets == 0].view(len(output), -1)
    return (true - rest.amax(1))[:, None]


@pytest.mark.parametrize(("task", "k"), [("binary", 1), ("multiclass", 3), ("general", 2)])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("trained", [True, False])
def test_the_objective_is_that_of_dense_gradients(
    name: str, task: Task, k: int, trained: bool
) -> None:
    model, x = MODELS[name](k).double().eval(), 0.7 * inputs()
    q = k if task == "general" else 1
    weights = TrainedMultipliers(M, q, D, min_dual=0.3, rate=2.0) if trained else None
    bounds = Bounds(-1.0, 1.0)
    targets = block_targets(M, k)
    objective = KKTObjective(
        model, task, shaped, targets=targets, multipliers=weights, bounds=bounds
    )
    multipliers = inputs(1)[0, : M * q].view(M, q)
    at = objective.linearise(x if weights is None else weights.joined(x, multipliers))
    theta = trained_parameters(model)
    s = scalars(task, model(shaped(x)), targets)
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(value, theta, retain_graph=True)])
        for value in s.flatten()
    ]
    dense, flat = torch.stack(rows), torch.cat([p.detach().flatten() for p in theta])
    left = (flat - dense.T @ at.multipliers.flatten() / (M if trained else 1)).square().sum()
    prior = (x.abs() - 1).relu().square().sum()
    if trained:
        assert torch.equal(at.multipliers, multipliers)
        below = 0.0 if task == "general" else 5 * (0.3 - multipliers).relu().square().sum()
        expected = left + prior + below
    else:
        expected = left / flat.square().sum() + prior / x.numel()
        slopes = dense @ (flat - dense.T @ at.multipliers.flatten())  # of the least squares
        if task == "general":
            assert slopes.abs().max() < 1e-8 * flat.norm() * dense.norm()
        else:
            assert at.multipliers.min() >= 0 and slopes.max() < 1e-8 * flat.norm() * dense.norm()
        assert objective.eliminated(x).residual == pytest.approx(
            float(left.sqrt() / flat.norm()), rel=1e-6, abs=1e-7
        )
    assert float(at.loss) == pytest.approx(float(expected))
    assert torch.equal(at.candidates, x)


@pytest.mark.parametrize("trained", [True, False])
def test_the_gradient_is_that_of_finite_differences(trained: bool) -> None:
    """With a smooth activation, where no slope jumps; eliminated multipliers follow x."""
    model = DeepMLP(d=D, k=2, widths=[9, 8], bias="all", activation="gelu").double()
    weights = TrainedMultipliers(M, 2, D, min_dual=0.0, rate=1.0) if trained else None
    objective = KKTObjective(model, "general", multipliers=weights, bounds=Bounds(-1.0, 1.0))
    z = inputs(M + trained)
    if trained:
        z[M:, 2 * M :] = 0
    direction, h = inputs(len(z), seed=1), 1e-5
    ends = [float(objective.linearise(z + s * h * direction).loss) for s in (1, -1)]
    slope = float((objective.linearise(z).gradient() * direction).sum())
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-5)


@pytest.mark.parametrize("task", ["binary", "general"])
def test_a_stationary_network_has_no_loss_at_its_inputs(task: Task) -> None:
    model, x, y = stationary()
    at = KKTObjective(model, task).linearise(x)
    assert at.loss < 1e-20
    expected = y if task == "general" else torch.ones_like(y)
    assert torch.allclose(at.multipliers[:, 0], expected)
    weights = TrainedMultipliers(M, 1, D, min_dual=0.5, rate=1.0)
    trained = KKTObjective(model, task, targets=y[:, None], multipliers=weights)
    assert trained.linearise(weights.joined(x, M * at.multipliers)).loss < 1e-20
    moved = KKTObjective(model, task).linearise(x + 0.1 * inputs(seed=1))
    assert moved.loss > 1e-3


def test_outputs_and_blocks_give_targets() -> None:
    assert own_targets(torch.tensor([[0.0, 2.0, 1.0]])).tolist() == [[0, 1, 0]]
    assert block_targets(6, 3).argmax(1).tolist() == [0, 0, 1, 1, 2, 2]
    assert block_targets(5, 1).flatten().tolist() == [-1, -1, -1, 1, 1]


def test_momentum_descent_takes_the_steps_of_the_authors_two_optimisers() -> None:
    model, x = DeepMLP(d=D, k=1, widths=[9, 8], bias="first").double(), 0.1 * inputs()
    start = torch.rand(M, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    weights = TrainedMultipliers(M, 1, D, min_dual=0.5, rate=0.2 / 0.05)
    y = block_targets(M, 1)
    objective = KKTObjective(
        model, "binary", targets=y, multipliers=weights, slope=20.0, bounds=Bounds(-1.0, 1.0)
    )
    monitor = Monitor()
    found = minimise(
        objective,
        weights.joined(x, start),
        MomentumDescent(lr=0.05),
        Stop(max_steps=5),
        monitor,
        "",
    )
    theirs, lam = x.clone().requires_grad_(True), start.clone().requires_grad_(True)
    optimisers = [torch.optim.SGD([v], lr, momentum=0.9) for v, lr in ((theirs, 0.05), (lam, 0.2))]
    theta = list(model.parameters())
    for _ in range(5):
        with SurrogateReLU(20.0):
            parts = torch.autograd.grad(
                (lam * y * model(theirs)).sum() / M, theta, create_graph=True
            )
        loss = sum((p.detach() - g).square().sum() for p, g in zip(theta, parts, strict=True))
        loss = loss + (theirs.abs() - 1).relu().square().sum()
        loss = loss + 5 * (0.5 - lam).relu().square().sum()
        theirs.grad, lam.grad = torch.autograd.grad(loss, [theirs, lam])
        for optimiser in optimisers:
            optimiser.step()
    assert torch.allclose(found.at.candidates, theirs.detach())
    assert torch.allclose(found.at.multipliers, lam.detach())


def test_adaptive_descent_takes_adams_steps() -> None:
    model, z = DeepMLP(d=D, k=1, widths=[9, 8]).double(), inputs()
    objective = KKTObjective(model, "general", slope=5.0)
    solver: AdaptiveDescent[KKTPoint] = AdaptiveDescent(lr=0.01)
    found = solver.start(objective, z)
    theirs = z.clone().requires_grad_(True)
    adam = torch.optim.Adam([theirs], 0.01, betas=(0.9, 0.99), eps=1e-12)
    for _ in range(4):
        found = solver.step(objective, found, Monitor())
        theirs.grad = objective.linearise(theirs.detach()).gradient()
        adam.step()
    assert torch.allclose(found.at.z, theirs.detach(), atol=1e-10)


# --- the bound that needs no data


@pytest.mark.parametrize("name", ["dense", "two layers", "convolutional"])
@pytest.mark.parametrize("k", [1, 2])
def test_the_imbalance_is_a_lower_bound_of_the_stationarity(name: str, k: int) -> None:
    model = MODELS[name](k).double().eval()
    layers = relu_chain(model, shaped(inputs()))
    assert layers is not None
    for scale in (0.3, 1.0, 3.0):
        with torch.no_grad():
            layers[0].weight.mul_(scale)
        least = imbalance(layers)
        best = KKTObjective(model, "general", shaped).eliminated(inputs(30)).residual
        assert 0.05 < least <= best


def test_a_stationary_network_is_balanced_and_an_error_may_reach_the_bound() -> None:
    model, x, _ = stationary()
    chain = relu_chain(model, x)
    assert chain is not None and imbalance(chain) < 1e-8
    with torch.no_grad():
        model.readout.weight.mul_(1.5)
    best = KKTObjective(model, "general").eliminated(x).residual
    assert best > 0.1 and imbalance(chain) == pytest.approx(best)


def test_chains_of_relu_layers_are_told_by_running_the_network() -> None:
    def chain(model: Any) -> list[Any] | None:
        return relu_chain(model.double().eval(), shaped(inputs()))

    sequential = plain()
    assert chain(sequential) == [sequential[1], sequential[3]]  # type: ignore[index]
    assert chain(MODELS["residual"](1)) is None
    assert chain(DeepMLP(d=D, k=1, widths=[5], activation="gelu")) is None
    assert chain(nn.Sequential(plain(), nn.Tanh())) is None
    assert chain(nn.Sequential(nn.Flatten(), nn.Linear(D, 1))) is None


# --- the method


@cache
def image_network(*, bias: bool = True) -> tuple[Knowledge, Tensor]:
    """A network trained on photographs with weight decay, and the photographs (8, d)."""
    data = Photos(n=8, image_size=16)
    data.load()
    assert data.pixels is not None
    x, y = data.x.flatten(1), torch.tensor([1.0, -1.0] * 4)[:, None]
    model = DeepMLP(
        d=x.shape[1], k=1, widths=[64], bias="first" if bias else "none", first_layer_std=1e-3
    )
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=0.02)
    for _ in range(1500):
        optimiser.zero_grad()
        (model(x) - y).square().mean().backward()
        optimiser.step()
    return Knowledge(model, n=8, pixels=data.pixels), x.double()


def errors(x: Tensor, found: Tensor) -> Tensor:
    """(n,) direction errors of the nearest candidates."""
    cosines = F.normalize(x) @ F.normalize(found.double()).T
    return (2 - 2 * cosines.amax(1)).clamp_min(0).sqrt()


def test_a_start_at_components_reads_coordinates_of_the_row_space() -> None:
    held, x = image_network()
    problem = Problem.of(held, KKTReconstructor().settings)
    start = from_components(problem, torch.Generator().manual_seed(0))
    assert start is not None and start.z.shape == (8, 8)
    assert errors(x, start.as_pixels(start.z)).median() < 0.2
    z = 0.3 * torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    assert start.network is not problem.model and start.as_inputs(z).shape == (8, 8)
    whole = problem.model(start.as_pixels(z).view(-1, *problem.shape))
    assert torch.allclose(start.network(start.as_inputs(z)), whole, rtol=1e-3, atol=1e-5)


def test_components_without_a_bias_get_their_signs_from_the_gradients() -> None:
    held, x = image_network(bias=False)
    problem = Problem.of(held, KKTReconstructor().settings)
    start = from_components(problem, torch.Generator().manual_seed(0))
    assert start is not None
    assert errors(x, start.as_pixels(start.z)).max() < 0.5  # a wrong sign is an error above 1


def test_the_attack_from_components_lowers_the_loss_and_stays_near_them() -> None:
    held, x = image_network()
    found = KKTReconstructor(steps=30).reconstruct(held)
    assert found.status == "pictures" and not found.outcome.sure
    losses = [step.loss for step in found.curve]
    assert min(losses) < 0.8 * losses[0]
    assert errors(x, found.candidates).max() < 0.2
    assert {step.phase for step in found.curve} == {"components"}
    truth = found.at_truth(x)["oracle_stationarity"]
    assert 0 < found.numbers["imbalance"] <= min(truth, found.numbers["stationarity"])
    assert "other inputs" in found.outcome.reason
    none = KKTReconstructor(start="rowspace").reconstruct(replace(held, pixels=None, shape=(768,)))
    assert (none.status, len(none.candidates)) == ("no_components", 0)


def test_two_starts_from_noise_say_whether_they_agree() -> None:
    model, _, _ = stationary()
    held = Knowledge(model, n=M, shape=(D,))
    found = KKTReconstructor(start="noise", steps=60).reconstruct(held)
    assert len(found.candidates) == 2 * M
    assert found.status in {"agreed", "disagreed"}
    assert found.outcome.sure == (found.status == "agreed")
    assert found.curve[-1].loss < 0.5 * found.curve[0].loss
    one = KKTReconstructor(start="noise", candidates=3, starts=1, steps=2)
    assert len(one.reconstruct(held.only(one.asks)).candidates) == 3
    with pytest.raises(InputError, match=r"^--recon\.candidates null: needs the number"):
        KKTReconstructor(start="noise").reconstruct(Knowledge(model, shape=(D,)))


def test_weights_that_are_no_combination_of_gradients_are_refused_with_the_figure() -> None:
    model = DeepMLP(d=D, k=1, widths=[9], bias="first", first_layer_std=1e-4)
    held = Knowledge(model, n=M)
    found = KKTReconstructor().reconstruct(held)
    assert found.status == "not_stationary" and found.outcome.empty
    assert len(found.candidates) == 0 and not found.curve
    assert found.numbers["imbalance"] > 0.98 and f"{found.numbers['imbalance']:.2g}" in (
        found.outcome.reason
    )
    assert found.at_truth(inputs().float()) == {"oracle_stationarity": None}
    assert KKTReconstructor(evidence_against="ignore", steps=1).reconstruct(held).curve


@pytest.mark.parametrize(
    ("model", "status"),
    [
        (DeepMLP(d=D, k=1, widths=[9, 8], bias="all"), "not_homogeneous"),
        (DeepMLP(d=D, k=1, widths=[9, 8]), "disagreed"),
    ],
)
def test_a_margin_needs_a_homogeneous_network(model: nn.Module, status: str) -> None:
    settings: dict[str, Any] = {"start": "noise", "steps": 1}
    assert KKTReconstructor(**settings).reconstruct(Knowledge(model, n=M)).status == status
    settings |= {"task": "general", "starts": 1}
    assert KKTReconstructor(**settings).reconstruct(Knowledge(model, n=M)).status == "pictures"
    with torch.no_grad():
        for value in model.parameters():
            value.zero_()
    assert KKTReconstructor().reconstruct(Knowledge(model, n=M)).status == "no_signal"


@pytest.mark.parametrize("preset", ["haim2022_cifar", "haim2022_mnist"])
def test_presets_are_the_authors_attack(preset: str) -> None:
    file = Path(__file__).parents[1] / "configs" / "presets" / f"{preset}.yaml"
    settings = yaml.safe_load(file.read_text())["recon"]["init_args"]
    model = SmallCNN(IMAGES, k=1, channels=3, widths=[6], seed=3)
    method = KKTReconstructor(**{**settings, "steps": 3})
    found = method.reconstruct(Knowledge(model, n=M, shape=IMAGES))
    assert len(found.candidates) == 2 * M and len(found.curve) == 3
    assert found.candidates.abs().max() < 1  # they begin at small noise


@pytest.mark.parametrize("preset", ["buzaglo2023_multiclass", "buzaglo2023_regression"])
def test_presets_of_other_losses(preset: str) -> None:
    file = Path(__file__).parents[1] / "configs" / "presets" / f"{preset}.yaml"
    settings = yaml.safe_load(file.read_text())["recon"]["init_args"]
    model = DeepMLP(d=D, k=3, widths=[9, 8], bias="first")
    method = KKTReconstructor(**{**settings, "steps": 3})
    found = method.reconstruct(Knowledge(model, n=M))
    assert len(found.candidates) == 2 * M and len(found.curve) == 3


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"lr": 0.0}, "--recon.lr 0.0"),
        ({"surrogate_slope": float("nan")}, "--recon.surrogate_slope nan"),
        ({"min_dual": -1.0}, "--recon.min_dual -1.0"),
        ({"max_seconds": 0}, "--recon.max_seconds 0"),
        ({"candidates": 0}, "--recon.candidates 0"),
        ({"starts": 0}, "--recon.starts 0"),
        ({"duals": "trained", "start": "rowspace"}, "--recon.start rowspace: needs"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], flag: str) -> None:
    with pytest.raises(InputError, match=re.escape(flag)):
        KKTReconstructor(**settings)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (DeepMLP(d=4, k=1, widths=[3], activation="gelu"), "has gelu"),
        (DeepMLP(d=4, k=1, widths=[3], batch_norm=True), "has a BatchNorm1d"),
        (nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)), "has a Tanh"),
        (nn.Sequential(nn.Linear(4, 3), nn.ReLU()), "needs two trained layers"),
    ],
)
def test_networks_that_are_refused(model: nn.Module, why: str) -> None:
    with pytest.raises(InputError, match=rf"^--recon KKTReconstructor: .*{why}"):
        KKTReconstructor().check(model)


def test_a_task_must_fit_the_outputs() -> None:
    held = Knowledge(DeepMLP(d=D, k=3, widths=[9, 8]), n=M)
    with pytest.raises(InputError, match=r"^--recon\.task binary: the network has 3 outputs"):
        KKTReconstructor(task="binary").reconstruct(held)
    assert Problem.of(held, KKTReconstructor().settings).task == "general"
    assert Problem.of(held, KKTReconstructor(duals="trained").settings).task == "multiclass"


def test_auto_leaves_it_out() -> None:
    assert not KKTReconstructor.automatic
    (recon,) = [group for group in train.groups() if group.name == "recon"]
    assert KKTReconstructor in recon.classes and KKTReconstructor not in recon.automatic
