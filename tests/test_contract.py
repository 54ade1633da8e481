"""What every method promises, whatever it does: the contract of `Reconstructor`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from datamodules import ReconDataModule
from lit_recon import methods
from lit_recon.audit.recorder import of_method
from lit_recon.errors import InputError
from lit_recon.flags import choices
from lit_recon.knowledge import FACTS, Knowledge
from lit_recon.methods import (
    AttractorReconstructor,
    KKTReconstructor,
    ProjectionReconstructor,
    Reconstruction,
    Reconstructor,
    RowSpaceReconstructor,
)
from lit_recon.metrics import inputs_from_images
from lit_recon.metrics.numbers import in_order, registered
from lit_recon.models import MLP, DeepMLP, Model, ReadoutModel
from lit_recon.models.wrapped import as_attacked
from lit_recon.modules import SGD, Autoencode, Labels, LeastSquares, Optim, Task
from lit_recon.randomness import generator
from lit_recon.records.directory import RunDirectory
from tests import kills, toy
from tests.problems import autoencoder, images, sphere, taught, trained
from tests.small_runs import data_of, erased, features, fit


@dataclass(frozen=True)
class Case:
    """A method with settings that end soon, and a model that it can attack.

    Attributes:
        make: makes the method.
        held: what can be known of a model that it attacks: every fact that there is.
        x: (n, d) the model's training inputs.
    """

    make: Callable[[], Reconstructor]
    held: Callable[[], Knowledge]
    x: Tensor


N, D = 3, 16
X = sphere(N, D, 0)


def of_features() -> Knowledge:
    """Random features, and all facts but those that such a model does not have."""
    model = trained(X, 300)
    start = torch.zeros_like(model.readout.weight)
    return Knowledge(model, start, None, 0.0, True, N, None, D**0.5, (D,))


def of_mlp() -> Knowledge:
    """A two-layer network with its first layer's start."""
    held = taught(MLP(d=D, k=1, n=N, width=240), X, steps=50, lr=1e-4, first_layer=True)
    return replace(held, optimiser_keeps_span=True, radius=D**0.5, shape=(D,))


U, PIXELS = images(N, 8, 0)


def of_images() -> Knowledge:
    """A deep network trained on images, with its first layer's start."""
    model = DeepMLP(d=PIXELS.d, k=1, widths=[64], activation="gelu", seed=0)
    x = inputs_from_images(U, PIXELS).float()
    held = taught(model, x, steps=5, lr=1e-3, pixels=PIXELS, first_layer=True)
    return replace(held, optimiser_keeps_span=True, shape=PIXELS.shape)


def of_margin() -> Knowledge:
    """A deep network on images, all facts known; its first layer starts small."""
    model = DeepMLP(d=PIXELS.d, k=1, widths=[24, 8], bias="first", first_layer_std=1e-3, seed=0)
    x = inputs_from_images(U, PIXELS).float()
    held = taught(model, x, steps=200, lr=1e-2, pixels=PIXELS, first_layer=True)
    return replace(held, optimiser_keeps_span=True, shape=PIXELS.shape)


def of_autoencoder() -> Knowledge:
    """An autoencoder with closed-form readout, and all facts but an earlier first layer."""
    x = inputs_from_images(U, PIXELS)
    model = autoencoder(x)
    start = torch.zeros_like(model.readout.weight)
    return Knowledge(model, start, None, 0.0, True, N, PIXELS, None, PIXELS.shape)


CASES = {
    "attractors": Case(
        lambda: AttractorReconstructor(starts=20), of_autoencoder, inputs_from_images(U, PIXELS)
    ),
    "projection": Case(lambda: ProjectionReconstructor(max_steps=30), of_features, X),
    "projection auto": Case(
        lambda: ProjectionReconstructor(max_steps=30, candidates="auto"), of_features, X
    ),
    "projection_first_layer": Case(
        lambda: ProjectionReconstructor(max_steps=30, evidence="first_layer"), of_mlp, X
    ),
    "rowspace": Case(RowSpaceReconstructor, of_images, inputs_from_images(U, PIXELS)),
    "rowspace_final": Case(
        lambda: RowSpaceReconstructor(evidence="final"), of_images, inputs_from_images(U, PIXELS)
    ),
    "kkt": Case(lambda: KKTReconstructor(steps=5), of_margin, inputs_from_images(U, PIXELS)),
    "kkt trained": Case(
        lambda: KKTReconstructor(steps=5, duals="trained"), of_margin, inputs_from_images(U, PIXELS)
    ),
    "toy": Case(toy.PullBackReconstructor, of_features, X),
}
every_method = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


class NoReadout(Model):
    """A network that no method can attack."""

    def __init__(self) -> None:
        super().__init__()
        self.only = nn.Conv1d(1, 1, D)

    def forward(self, x: Tensor) -> Tensor:
        return self.only(x.reshape(-1, 1, D)).flatten(1).cos()


def test_every_exported_method_has_a_case() -> None:
    exported = choices([methods], Reconstructor, ProjectionReconstructor)
    assert set(exported) <= {type(case.make()) for case in CASES.values()}


@every_method
def test_names_are_short_words_and_numbers_are_described(case: Case) -> None:
    method = case.make()
    assert re.fullmatch(r"[a-z][a-z0-9_]*", method.name)
    assert type(method).citation and method.asks <= FACTS.keys()
    assert {number.name for number in method.describes} <= {n.name for n in registered()}
    found = method.reconstruct(case.held())
    told = {**found.numbers, **found.at_truth(case.x)}
    assert {number.name for number in method.describes} == told.keys()
    assert in_order(told).keys() == told.keys()
    assert found.candidates.device.type == "cpu" and found.candidates.shape[1] == case.x.shape[1]
    assert found.outcome.status and found.outcome.reason and found.seconds > 0


@every_method
def test_the_same_seed_gives_the_same_and_the_model_is_left_alone(case: Case) -> None:
    held, state = case.held(), torch.get_rng_state()
    before = {name: weight.clone() for name, weight in held.model.state_dict().items()}
    first = case.make().reconstruct(held)
    second = case.make().reconstruct(held, generator(0, "candidates"))
    assert first.outcome == second.outcome
    assert torch.allclose(first.candidates, second.candidates, atol=1e-4)
    assert all(torch.equal(before[n], w) for n, w in held.model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


@every_method
def test_a_fact_that_is_not_asked_for_is_blank(case: Case, monkeypatch: Any) -> None:
    method, held = case.make(), case.held()
    attack, seen = type(method).attack, []

    def watched(self: Any, knowledge: Knowledge, *args: Any) -> Reconstruction:
        seen.append(knowledge)
        return attack(self, knowledge, *args)

    monkeypatch.setattr(type(method), "attack", watched)
    found = method.reconstruct(held)
    asked_for_alone = method.reconstruct(held.only(method.asks))
    assert torch.allclose(found.candidates, asked_for_alone.candidates, atol=1e-4)
    for knowledge in seen:
        given = {fact for fact in FACTS if getattr(knowledge, fact) is not None}
        assert given == {fact for fact in method.asks if getattr(held, fact) is not None}
        assert list(found.knows) == knowledge.facts
    assert {"number of training samples"}.isdisjoint(found.knows) == ("n" not in method.asks)


@every_method
def test_what_it_cannot_attack_is_refused_in_one_line(case: Case) -> None:
    method = case.make()
    method.check(case.held().model)  # raises nothing
    model = NoReadout()
    for refused in (lambda: method.check(model), lambda: method.reconstruct(Knowledge(model))):
        with pytest.raises(InputError, match=r"^--recon\S* .*: .*NoReadout") as error:
            refused()
        assert "\n" not in str(error.value)


# --- in a run


@dataclass(frozen=True)
class Run:
    """A method, and a run in which it applies.

    Attributes:
        make: makes the method.
        model: makes a network for the data.
        optim: trains it for one step.
        task: the targets.
    """

    make: Callable[[], Reconstructor]
    model: Callable[[ReconDataModule], ReadoutModel] = features
    optim: Optim = field(default_factory=LeastSquares)
    task: Task = field(default_factory=Labels)


def deep(data: ReconDataModule) -> ReadoutModel:
    return DeepMLP(d=data.d, k=data.k, widths=[32], activation="gelu")


def with_relu(data: ReconDataModule) -> ReadoutModel:
    return DeepMLP(d=data.d, k=data.k, widths=[32], bias="first")


def with_tanh(data: ReconDataModule) -> ReadoutModel:
    return DeepMLP(d=data.d, k=data.k, widths=[32], activation="tanh", bias="all")


RUNS = {
    "attractors": Run(
        lambda: AttractorReconstructor(starts=10), with_tanh, SGD(lr=1e-3), Autoencode()
    ),
    "projection": Run(lambda: ProjectionReconstructor(max_steps=30)),
    "projection auto": Run(lambda: ProjectionReconstructor(max_steps=30, candidates="auto")),
    "rowspace": Run(RowSpaceReconstructor, deep, SGD(lr=1e-3)),
    "kkt": Run(lambda: KKTReconstructor(steps=3, starts=1), with_relu, SGD(lr=1e-3)),
    "toy": Run(toy.PullBackReconstructor),
}
in_a_run = pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)


@in_a_run
@pytest.mark.parametrize("kind", ["photos", pytest.param("sphere", marks=pytest.mark.long)])
def test_an_attack_without_the_data_finds_the_same(
    run: Run, kind: str, tmp_path: Path, monkeypatch: Any
) -> None:
    """All data are overwritten while the attack runs, the copies for scoring included."""
    settings: dict[str, Any] = {"model": run.model, "optim": run.optim, "task": run.task}
    fit(tmp_path / "seeing", data=data_of(kind), attack=run.make(), **settings)
    method, data, copies = run.make(), data_of(kind), []
    attack = type(method).attack

    def blind(self: Any, *args: Any) -> Reconstruction:
        secrets = [data.x, data.val_x]
        if data.images is not None and data.val_images is not None:
            secrets += [data.images, data.val_images]
        with erased(secrets) as count:
            copies.append(count)
            assert not torch.isfinite(data.x).any()
            return attack(self, *args)

    monkeypatch.setattr(type(method), "attack", blind)
    fit(tmp_path / "blind", data=data, attack=method, **settings)
    assert min(copies) >= 5  # training and held-out data, their copies for scoring, the batch
    place = f"recon/{method.name}/step=00000001"
    parts = [tmp_path / name / place for name in ("blind", "seeing")]
    blinded, seeing = (load_file(part / "candidates.safetensors") for part in parts)
    assert blinded.keys() == seeing.keys()
    for name in blinded:
        assert torch.equal(blinded[name], seeing[name])
    scores = [json.loads((part / "metrics.json").read_text()) for part in parts]
    assert [score.pop("seconds") > 0 for score in scores] == [True, True]
    assert scores[0] == scores[1]
    assert "\n" not in scores[0]["reason"]


@in_a_run
def test_training_is_the_same_to_the_bit_without_it(run: Run, tmp_path: Path) -> None:
    ends = []
    for name, method in (("with", run.make()), ("without", None)):
        module, _ = fit(
            tmp_path / name,
            model=run.model,
            optim=SGD(lr=1e-3),
            task=run.task,
            steps=5,
            attack=method,
        )
        weight = module.model.get_parameter("readout.weight")
        ends.append((weight.detach().clone(), torch.get_rng_state()))
    assert ends[0][0].abs().sum() > 0
    assert torch.equal(ends[0][0], ends[1][0]) and torch.equal(ends[0][1], ends[1][1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ProjectionReconstructor", "PullBackReconstructor"])
def test_files_are_whole_after_a_kill(name: str, tmp_path: Path) -> None:
    """Killed when the results of step 1 are written, but have no place yet."""
    points = ["--data", "Sphere", "--data.n", "3", "--data.d", "8", "--model.p_over_dn", "4"]
    argv = ["--plugin", "tests.toy", *points, "--recon", name, "--wandb.mode", "disabled"]
    kills.killed(kills.in_the_results, 1, [*argv, "--run.name", "r"], tmp_path)
    directory = RunDirectory(tmp_path / "runs" / "r")
    (folder,) = (directory.path / "recon").iterdir()
    assert of_method(directory, folder.name).steps() == [0]
    files = {"metrics.json", "candidates.safetensors", "grid.png", "curve.csv"}
    assert {file.name for file in (folder / "step=00000000").iterdir()} == files
    json.loads((folder / "step=00000000" / "metrics.json").read_text())


class ModuleOfAUser(nn.Module):
    """A convolution, a layer that is not trained, and outputs that no linear layer gives."""

    def __init__(self, readout: bool) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 2, 2), nn.Linear(18, 3)
        self.conv.requires_grad_(False)
        self.readout = readout

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.conv(x).flatten(1))
        return y if self.readout else y.softmax(1)


@pytest.mark.parametrize("readout", [True, False])
@pytest.mark.parametrize(
    "method",
    [
        RowSpaceReconstructor(),
        ProjectionReconstructor(evidence="first_layer"),
        AttractorReconstructor(),
        KKTReconstructor(),
    ],
    ids=lambda method: type(method).__name__,
)
def test_a_refusal_names_the_class_of_a_user(method: Reconstructor, readout: bool) -> None:
    network = as_attacked(ModuleOfAUser(readout), torch.zeros(1, 1, 4, 4))
    with pytest.raises(InputError) as raised:
        method.check(network)
    said = str(raised.value)
    assert "ModuleOfAUser" in said and type(network).__name__ not in said
