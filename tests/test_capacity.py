"""The constructed interpolating network: the algorithm, the model, and how it is built in a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import train
from lit_recon.capacity.codes import (
    Activation,
    Codes,
    RealCodes,
    codes_at,
    draw_first_layer,
    draw_order,
)
from lit_recon.capacity.construction import construct, parameter_count, second_layers
from lit_recon.capacity.greedy import second_layer
from lit_recon.capacity.literal import literal_second_layer
from lit_recon.errors import InputError
from lit_recon.models import DeepMLP, Interpolator, RandomFeatures
from lit_recon.models.interpolator import second_weights
from lit_recon.modules import SGD, Construct, LeastSquares
from lit_recon.modules.construct import check_labels

EVERY_ACTIVATION = pytest.mark.parametrize("activation", ["threshold", "relu"])


def points(n: int = 300, d: int = 2, classes: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points of the unit ball on spheres, one around the other, each of its own class."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    x = torch.randn(n, d, generator=random)
    radius = (labels + 1 - 0.2 * torch.rand(n, generator=random)) / classes
    return x * (radius / x.norm(dim=1))[:, None], labels


def outputs(codes: Codes) -> np.ndarray:
    """(n, n1) float64, as the literal algorithm takes them."""
    if isinstance(codes, RealCodes):
        return codes.values
    return (~codes.masks(np.arange(len(codes)))).astype(float)


@EVERY_ACTIVATION
@pytest.mark.parametrize("at_once", [0, 10**9])
@pytest.mark.parametrize(("units", "max_bias"), [(63, 1.0), (200, 1.0), (65, 0.0), (500, 0.5)])
def test_the_fast_layer_is_the_published_one_to_the_bit(
    activation: Activation, at_once: int, units: int, max_bias: float
) -> None:
    x, labels = points()
    for seed in range(3):
        codes = codes_at(x, *draw_first_layer(units, 2, max_bias, seed), activation)
        minus, plus = (np.flatnonzero(labels == c) for c in (1, 0))
        order, h = draw_order(len(minus), seed, 1), outputs(codes)
        expected = literal_second_layer(h[minus], h[plus], order)
        found = second_layer(codes.take(minus), codes.take(plus), order, at_once)
        for name in ("centres", "masks", "thresholds", "covered"):
            assert np.array_equal(getattr(found, name), getattr(expected, name)), name


def test_bits_are_those_of_a_product_in_float64() -> None:
    x, _ = points(n=130, d=7)
    weight, bias = draw_first_layer(70, 7, 1.0, 0)
    z = x.double().numpy() @ weight.double().numpy().T + bias.double().numpy()
    assert np.array_equal(outputs(codes_at(x, weight, bias, "threshold")), z > 0)
    grid = outputs(codes_at(x, weight, bias, "relu")) * 2**20
    assert np.array_equal(grid, np.round(np.maximum(z, 0) * 2**20)) and (grid > 0).any()


@EVERY_ACTIVATION
@pytest.mark.parametrize("classes", [2, 3])
def test_the_module_says_what_the_construction_promises(
    activation: Activation, classes: int
) -> None:
    """Covered samples fire, the others do not, and no unit fires for another class."""
    x, labels = points(classes=classes)
    seen = set()
    for width in (20, 600):
        made: dict[str, Any] = {"max_bias": 1.0, "activation": activation, "seed": 0}
        built = construct(x, labels, width=width, **made)
        model = Interpolator(d=2, k=1 if classes == 2 else classes, width=width, **made)
        weights = (model.masks, model.thresholds, model.third_layer)
        for weight, found in zip(weights, second_weights(built.layers), strict=True):
            weight.data = found.to(weight)
        fires = torch.zeros(len(x), len(built.layers))
        for c, (layer, samples) in enumerate(zip(built.layers, built.samples, strict=True)):
            fires[samples, c] = torch.from_numpy(layer.covered).float()
        expected = 2 * fires - 1 if classes == 2 else fires
        assert torch.equal(model(x), expected)
        assert torch.equal(model(x[7:8]), expected[7:8])  # in any batch
        assert model.second_width == built.width > 0
        assert model.size == built.parameters == parameter_count(2, width, built.width)
        seen.add(built.interpolates)
        assert built.interpolates == bool((model(x) == targets(labels, classes)).all())
    assert seen == {True, False}


def targets(labels: Tensor, classes: int) -> Tensor:
    if classes == 2:
        return 2.0 * labels[:, None] - 1
    return torch.nn.functional.one_hot(labels, classes).float()


def test_classes_have_orders_of_their_own() -> None:
    assert not np.array_equal(draw_order(50, 0, 0), draw_order(50, 0, 1))
    x, labels = points(n=60)
    codes = codes_at(x, *draw_first_layer(64, 2, 1.0, 0), "threshold")
    again = [second_layers(codes, labels.numpy(), seed)[0][0].centres for seed in (0, 0, 1)]
    assert np.array_equal(again[0], again[1]) and not np.array_equal(again[0], again[2])


def test_a_class_without_units_never_fires() -> None:
    """One unit whose side is wrong for most: nothing can be covered."""
    x, labels = torch.tensor([[0.5], [0.6]]), torch.tensor([1, 0])
    built = construct(x, labels, width=1, max_bias=0.0, activation="threshold", seed=0)
    assert built.width == 0 and not built.interpolates
    model = Interpolator(d=1, k=1, width=1, max_bias=0.0)
    assert model(x).tolist() == [[-1.0], [-1.0]]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"width": 0}, "--model.width 0: give at least 1"),
        ({"max_bias": -0.5}, "--model.max_bias -0.5: give a finite number, 0 or more"),
        ({"max_bias": float("nan")}, "--model.max_bias nan: give a finite number, 0 or more"),
        ({"activation": "tanh"}, "--model.activation tanh: give threshold or relu"),
    ],
)
def test_a_first_layer_that_cannot_be_is_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"^{message}$"):
        Interpolator(d=2, k=1, **flags)


def test_what_cannot_be_fitted_is_refused() -> None:
    x, y = torch.tensor([[0.0, 1.0], [1.0, 0.0], [-0.0, 1.0]]), torch.tensor([[-1.0], [1.0], [1.0]])
    check_labels(x[:2], y[:2])
    with pytest.raises(InputError, match=r"samples 0 and 2: are equal and of different classes"):
        check_labels(x, y)
    with pytest.raises(InputError, match=r"^--data of one class: .* give two$"):
        check_labels(x[:1], y[:1])
    with pytest.raises(InputError, match=r"fits classes, and these targets are none"):
        check_labels(x, y + 0.5)
    with pytest.raises(InputError, match=r"^--optim.seed -1: give 0 or more"):
        Construct(seed=-1)


def test_networks_and_optimisers_that_do_not_belong_together_are_refused() -> None:
    x, y = points(n=4)[0], torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    network = Interpolator(d=2, k=1, width=4)
    Construct().check_data(network, x, y)
    for optim in (SGD(), LeastSquares()):
        with pytest.raises(InputError, match=r"--optim \w+: .* Interpolator has none; give Const"):
            optim.check_data(network, x, y)
    with pytest.raises(InputError, match=r"--optim Construct: .* RandomFeatures is trained"):
        Construct().check_data(RandomFeatures(d=2, k=1, n=4, p=5), x, y)
    with pytest.raises(InputError, match=r"--optim LeastSquares: .* DeepMLP trains all"):
        LeastSquares().check_data(DeepMLP(d=2, k=1, widths=[4]), x, y)


# --- in a run


RUN = ["--data", "Digits", "--data.n", "40", "--model", "Interpolator", "--model.width", "150"]
RUN += ["--optim", "Construct", "--wandb.mode", "disabled", "--run.name", "r"]


@pytest.mark.slow
def test_a_run_builds_saves_loads_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_wandb: None
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train.main([*RUN, "--run.seed", "3"]) == 0
    rows = [json.loads(line) for line in Path("runs/r/metrics.jsonl").read_text().splitlines()]
    logged = {name: value for row in rows for name, value in row.items()}
    assert logged["train/loss"] == 0 and logged["train/interpolates"] == 1
    file = Path("runs/r/checkpoints/step=00000001.ckpt")
    saved = torch.load(file, weights_only=True)["state_dict"]
    weights = {name.removeprefix("model."): value for name, value in saved.items()}
    model = Interpolator(d=64, k=10, width=150, seed=9)
    model.load_state_dict(weights)
    assert model.second_width == logged["train/width"] > 10
    assert model.size == logged["train/parameters"]
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    before = file.read_bytes()
    assert train.main(["--run.name", "r", "--run.resume", "true", "--wandb.mode", "disabled"]) == 0
    assert file.read_bytes() == before
    # The attack that applies finds nothing and certifies nothing.
    told = json.loads(Path("runs/r/recon/rowspace/step=00000001/metrics.json").read_text())
    assert told["status"] == "no_signal" and told["candidates"] == 0
