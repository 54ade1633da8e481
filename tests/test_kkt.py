"""The KKT attack: its objective against dense gradients, and what it finds and refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
