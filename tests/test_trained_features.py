"""Networks whose features are trained: evidence, agreement, warm starts, weight decay."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_recon.audit.threat import TrainingFacts, knowledge_of
from lit_recon.errors import InputError
from lit_recon.knowledge import Knowledge
from lit_recon.linalg import EXPLICIT_DIMENSIONS, widest_directions
from lit_recon.linear_map import LinearMap
from lit_recon.methods import Earlier, ProjectionReconstructor, Reconstruction
from lit_recon.methods.projection.layer import row_space
from lit_recon.methods.projection.problem import target_of
from lit_recon.metrics import inputs_from_images
from lit_recon.metrics.scores import score
from lit_recon.models import MLP, DeepMLP, ResNet
from lit_recon.modules import SGD, Adam, Current, LeastSquares
from lit_recon.objectives.network import NetworkObjective
from lit_recon.randomness import generator
from lit_recon.records.truth import Truth
from lit_recon.tall_matrix import TallMatrix, gaussian_rows
from tests.problems import images, knowledge, readout_of, sphere, taught, trained, with_readout
from tests.ranks import on_ranks
from tests.rounding import TOLERANCE, OtherOrder, apart

N, D, WIDTH = 3, 16, 240


def nothing() -> Any:
    raise AssertionError("these optimisers ask for nothing but gradients")


NOTHING = Current(nothing, nothing, nothing)


def attack(
    known: Knowledge, seed: int = 0, earlier: Earlier | None = None, **settings: Any
) -> Reconstruction:
    settings = {"max_seconds": 300.0, **settings}
    reconstructor = ProjectionReconstructor(**settings)
    return reconstructor.reconstruct(known, generator(seed, "candidates"), None, earlier)


def direction_error(x: Tensor, outcome: Reconstruction) -> float:
    error = score(x, outcome.candidates).metrics.direction_error
    assert error is not None
    return error


def mlp(*, first_layer: bool = False, lr: float = 1e-4, steps: int = 50) -> Knowledge:
    """A trained MLP, of which the attacker may know where its first layer started."""
    model = MLP(d=D, k=1, n=N, width=WIDTH)
    x = sphere(N, D, 0)
    return taught(model, x, steps=steps, lr=lr, radius=D**0.5, first_layer=first_layer)


# --- the first layer as evidence


def spans(basis: Tensor, x: Tensor) -> float:
    """The largest relative distance of an input to the span of orthonormal rows."""
    rest = x - x @ basis.T @ basis
    return float((rest.norm(dim=1) / x.norm(dim=1)).max())


@pytest.mark.parametrize("d", [D, EXPLICIT_DIMENSIONS + 6])
def test_the_change_of_the_first_layer_spans_the_training_inputs(d: int) -> None:
    x = sphere(N, d, 0)
    held = taught(MLP(d=d, k=2, n=N, width=60), x, steps=20, lr=1e-2, first_layer=True)
    final = held.model.first_layer.weight.detach()  # type: ignore[union-attr, operator]
    assert held.earlier_first_layer is not None
    change = LinearMap(TallMatrix.of(final - held.earlier_first_layer.weight))
    for m in (N, None):  # told, and found
        basis = row_space(change, m, torch.Generator().manual_seed(0)).basis
        assert basis.shape == (N, d)
        assert torch.allclose(basis @ basis.T, torch.eye(N), atol=1e-5)
        assert spans(basis, x) < 1e-3


def test_widest_directions_are_singular_vectors() -> None:
    for d in (20, EXPLICIT_DIMENSIONS + 6):
        v = gaussian_rows(0, 40, d) + 3 * sphere(1, 40, 1).T @ sphere(1, d, 2) / d**0.5
        found, values = widest_directions(LinearMap(TallMatrix.of(v)), 1, torch.Generator())
        _, exact, right = torch.linalg.svd(v, full_matrices=False)
        assert torch.allclose(values, exact[:1].double(), rtol=1e-3)
        assert abs(float(found[0] @ right[0])) > 0.999


@pytest.mark.parametrize(("width", "n"), [(40, 3), (200, 1)])
def test_rounding_is_no_jump_in_the_singular_values(width: int, n: int) -> None:
    # Fewer units than dimensions: all further singular values are exactly 0 but for rounding.
    change = torch.randn(width, n) @ torch.randn(n, 64) + 1e-6 * torch.randn(width, 64)
    assert len(row_space(LinearMap(TallMatrix.of(change)), None, torch.Generator()).basis) == n


def test_evidence_brings_the_error_down_and_tells_the_number_of_samples() -> None:
    x, both = sphere(N, D, 0), mlp(first_layer=True)
    without = attack(replace(both, earlier_first_layer=None))
    told = attack(both, evidence="first_layer")
    counted = attack(replace(both, n=7), evidence="first_layer", candidates="auto")
    assert direction_error(x, without) < 0.1
    assert direction_error(x, told) < 0.7 * direction_error(x, without)
    assert len(counted.candidates) == N
    assert direction_error(x, counted) == pytest.approx(direction_error(x, told), rel=0.5)
    assert told.candidates.shape == x.shape
    assert told.at_truth(x)["p_over_dn"] == without.at_truth(x)["p_over_dn"] == WIDTH / (N * D)
    assert told.at_truth(x)["oracle_loss"] == pytest.approx(
        without.at_truth(x)["oracle_loss"], rel=1e-3
    )
    # The candidates are in the span: nothing of them is outside of it.
    basis = torch.linalg.qr(x.T).Q.T
    assert spans(basis, told.candidates) < 1e-3 < spans(basis, without.candidates)


def test_evidence_of_a_first_layer_that_is_not_there_is_refused() -> None:
    frozen = knowledge(trained(sphere(N, D, 0), 50), N)
    resnet = replace(frozen, model=ResNet((1, 6, 6), k=1, n=N, width=1))
    for held, name in ((frozen, "RandomFeatures"), (resnet, "ResNet")):
        with pytest.raises(InputError, match=rf"--recon\.evidence first_layer: .* {name} has none"):
            attack(held, evidence="first_layer")


def test_the_threat_model_says_what_was_known() -> None:
    assert "first layer at an earlier checkpoint" in mlp(first_layer=True).facts
    assert "first layer at an earlier checkpoint" not in mlp().facts
    names = [ProjectionReconstructor(evidence=e).name for e in ("readout", "first_layer")]
    assert names == ["projection", "projection_first_layer"]


def test_the_first_layer_is_known_at_step_0_with_its_bias() -> None:
    x = sphere(N, D, 0)
    truth = Truth(x, x, None, None, None, [], [], [])
    for model, known in (
        (DeepMLP(d=D, k=1, widths=[5], bias="first"), True),
        (nn.Sequential(nn.Linear(D, 3), nn.Linear(3, 1)), True),
        (nn.Sequential(nn.Linear(D // 2, 3), nn.Linear(3, 1)), False),  # takes parts of inputs
        (ResNet((1, 6, 6), k=1, n=N, width=1), False),
        (trained(x, 50), False),
    ):
        start = {name: weight.clone() for name, weight in model.state_dict().items()}
        layer = knowledge_of(model, start, TrainingFacts(), truth).earlier_first_layer
        assert (layer is not None) == known
        if layer is not None:
            assert layer.weight is start[f"{layer.name}.weight"]
            assert layer.bias is start.get(f"{layer.name}.bias") is not None
            assert (layer.d, layer.step) == (D, 0)


# --- agreement


def test_attempts_agree_only_where_features_were_trained() -> None:
    x = sphere(N, D, 0)
    outcome = attack(mlp())
    assert outcome.status == "agreed"
    assert outcome.numbers["restarts"] > 0  # more than one attempt
    assert direction_error(x, outcome) < 0.1
    # The same drift in the target, of features that are known never to have changed.
    frozen = trained(x, WIDTH)
    noise = 0.02 * torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(0))
    held = knowledge(frozen, N, radius=D**0.5)
    outcome = attack(with_readout(held, readout_of(held) * (1 + noise)), restarts=2)
    assert direction_error(x, outcome) < 0.3
    assert outcome.status == "stalled"


def test_different_ends_are_not_called_agreed() -> None:
    held = mlp()
    noise = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(7))
    assert held.initial_readout is not None
    lost = with_readout(held, held.initial_readout + noise)
    outcome = attack(lost, restarts=1, rounds=1, hops=1)
    assert outcome.status == "stalled"


# --- warm starts


@pytest.fixture(scope="module")
def two_checkpoints() -> tuple[Tensor, Reconstruction, Knowledge, Reconstruction]:
    """The inputs, the attack on an earlier checkpoint, and on a later one without its help."""
    later = mlp(steps=60)
    return sphere(N, D, 0), attack(mlp(steps=40)), later, attack(later)


Checkpoints = tuple[Tensor, Reconstruction, Knowledge, Reconstruction]


def test_a_warm_start_at_a_success_ends_there_and_is_cheaper(two_checkpoints: Checkpoints) -> None:
    x, first, later, cold = two_checkpoints
    warm = attack(later, earlier=Earlier(first.candidates, sure=True))
    assert first.status == cold.status == warm.status == "agreed"
    assert warm.numbers["applications"] < 0.5 * cold.numbers["applications"]
    assert warm.warm and not cold.warm
    assert direction_error(x, warm) < 0.1
    assert warm.numbers["projection_loss"] == pytest.approx(
        cold.numbers["projection_loss"], rel=0.05
    )


def test_a_warm_start_at_no_success_needs_another_attempt(two_checkpoints: Checkpoints) -> None:
    x, first, later, _ = two_checkpoints
    warm = attack(later, earlier=Earlier(first.candidates, sure=False))
    assert warm.status == "agreed" and warm.numbers["restarts"] > 0 and warm.warm
    assert direction_error(x, warm) < 0.1
    alone = attack(later, earlier=Earlier(first.candidates, sure=False), restarts=0)
    assert alone.status == "stalled"


def test_a_sure_start_from_which_the_fit_moves_away_is_not_believed(
    two_checkpoints: Checkpoints,
) -> None:
    _, _, later, _ = two_checkpoints
    wrong = Earlier(sphere(N, D, 99), sure=True)
    assert attack(later, earlier=wrong, restarts=0).status == "stalled"


def as_cold(outcome: Reconstruction, cold: Reconstruction) -> None:
    """The attack is the one without an earlier checkpoint, up to rounding."""
    assert not outcome.warm
    assert outcome.outcome == cold.outcome
    assert outcome.curve[0].phase == cold.curve[0].phase
    # Its first step starts from the same noise; a warm start's loss is far below.
    assert outcome.curve[0].loss == pytest.approx(cold.curve[0].loss, rel=1e-3)
    assert apart(outcome.candidates, cold.candidates) < TOLERANCE


@pytest.mark.rounding
@pytest.mark.parametrize("count", [N - 1, N + 2])
def test_other_numbers_of_candidates_are_no_start(two_checkpoints: Checkpoints, count: int) -> None:
    _, _, later, cold = two_checkpoints
    with OtherOrder(count):
        outcome = attack(later, earlier=Earlier(sphere(count, D, 0), sure=True))
    as_cold(outcome, cold)


@pytest.mark.rounding
def test_a_warm_start_can_be_switched_off(two_checkpoints: Checkpoints) -> None:
    _, first, later, cold = two_checkpoints
    with OtherOrder(0):
        outcome = attack(later, earlier=Earlier(first.candidates, sure=True), warm_start=False)
    as_cold(outcome, cold)


def test_a_warm_start_tells_the_number_of_samples() -> None:
    x = sphere(N, D, 0)
    held = knowledge(trained(x, WIDTH), 9, radius=D**0.5)
    sure = attack(held, earlier=Earlier(x, sure=True), candidates="auto")
    unsure = attack(held, earlier=Earlier(sphere(2, D, 3), sure=False), candidates="auto")
    for outcome in (sure, unsure):
        assert len(outcome.candidates) == N
        assert outcome.status == "converged"
    assert sure.warm and not unsure.warm
    assert sure.numbers["applications"] < unsure.numbers["applications"]


# --- several ranks


def on_each_rank() -> list[tuple[Tensor, str, int]]:
    """Attacks with the first layer's change, and on a network that is run on every rank."""
    u, pixels = images(2, 6, 3)
    pictures = inputs_from_images(u, pixels).view(u.shape).float()
    resnet = ResNet(pixels.shape, k=1, n=2, width=6, blocks=1, seed=3)
    held = taught(resnet, pictures, pixels=pixels, steps=20, lr=1e-4)
    outcomes = [
        attack(mlp(first_layer=True), evidence="first_layer", candidates="auto"),
        attack(held, restarts=1, hops=1, max_steps=5),
    ]
    return [(o.candidates, o.status, o.numbers["applications"]) for o in outcomes]


@pytest.mark.long
@pytest.mark.slow
def test_ranks_end_alike() -> None:
    alone = on_each_rank()
    first, second = on_ranks(2, on_each_rank)
    for one, a, b in zip(alone, first, second, strict=True):
        assert torch.equal(a[0], b[0]) and a[1:] == b[1:]
        assert one[0].shape == a[0].shape and one[1] == a[1]
    assert len(alone[0][0]) == N
    assert apart(alone[0][0], first[0][0]) < 0.02


# --- what training leaves in the weights


def oracle(model: MLP, start: Tensor, x: Tensor) -> float:
    with torch.no_grad():
        target = (model.readout.weight - start).double()
        return float(NetworkObjective(model.features, target.float()).linearise(x).loss)


def test_mini_batches_with_momentum_keep_the_span_and_adam_does_not() -> None:
    x = sphere(8, D, 0)
    y = x @ sphere(1, D, 5).T / D**0.5
    left = {}
    for optim in (SGD(lr=1e-5, momentum=0.9), Adam(lr=1e-4)):
        model = MLP(d=D, k=1, n=8, width=2000)
        start = model.readout.weight.detach().clone()
        optimizer = optim.build(model.parameters(), NOTHING)
        random = torch.Generator().manual_seed(0)
        losses, floors = [], []
        for _ in range(400):
            batch = torch.randperm(8, generator=random)[:3]
            optimizer.zero_grad()
            (model(x[batch]) - y[batch]).square().sum().backward()
            optimizer.step()
            losses.append(float((model(x) - y).detach().square().mean()))
            floors.append(oracle(model, start, x))
            if losses[-1] < 0.05:
                break
        left[type(optim)] = losses[-1], floors[0], floors[-1]
    assert max(loss for loss, _, _ in left.values()) < 0.05  # both have learnt the same
    for moment in (1, 2):  # at once, and in the end
        assert left[SGD][moment] < 1e-3 * left[Adam][moment]


def test_weight_decay_is_taken_off_both_layers_and_a_frozen_models_start() -> None:
    x = sphere(N, D, 0)
    optim = SGD(lr=1e-3, weight_decay=2.0, momentum=0.5)
    truth = Truth(x, x, None, None, D**0.5, [], [], [])
    model = MLP(d=D, k=1, n=N, width=WIDTH)
    initial = {name: weight.clone() for name, weight in model.state_dict().items()}
    optimizer = optim.build(model.parameters(), NOTHING)
    for _ in range(30):
        optimizer.zero_grad()
        (model(x) - 1).square().sum().backward()
        optimizer.step()
    share = optim.initial_share(30)
    assert 0.85 < share < 0.95
    held = knowledge_of(model, initial, TrainingFacts(share, keeps_span=True), truth)
    assert held.earlier_first_layer is not None and held.initial_share == share
    change = model.first_layer.weight.detach() - share * held.earlier_first_layer.weight
    basis = row_space(LinearMap(TallMatrix.of(change)), None, torch.Generator()).basis
    assert len(basis) == N and spans(basis, x) < 1e-3
    naive = replace(held, initial_share=None)
    losses = [attack(k, max_seconds=1e-9).at_truth(x)["oracle_loss"] for k in (held, naive)]
    assert losses[0] < 0.2 * losses[1]

    frozen = trained(x, WIDTH)  # whose readout has another start
    start = {"readout.weight": torch.randn_like(frozen.readout.weight)}
    fitted = frozen.readout.weight.detach().clone()
    with torch.no_grad():
        frozen.readout.weight += share * start["readout.weight"]
    held = knowledge_of(frozen, start, TrainingFacts(share), truth)
    assert torch.allclose(target_of(held), fitted.double() / fitted.norm(), atol=1e-5)
    unknown = knowledge_of(frozen, start, TrainingFacts(None), truth)
    assert unknown.initial_share is None
    assert unknown.initial_readout is start["readout.weight"]
    assert LeastSquares().initial_share(1) == 0 and Adam(weight_decay=1.0).initial_share(1) is None
