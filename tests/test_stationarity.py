"""Inner products of gradients, and stationarity, against dense gradients in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch import Tensor, nn
from torch.nn import functional as F

from lit_recon.models import MLP, DeepMLP, RandomFeatures, ResNet
from lit_recon.objectives import stationarity
from lit_recon.objectives.stationarity import (
    GradientProducts,
    decay_stationarity,
    gradient_products,
    margin_products,
    margin_stationarity,
    margins,
    normalised_margin,
    trained_parameters,
)

N = 5
IMAGES = (3, 6, 6)


class Tied(nn.Module):
    """An autoencoder whose decoder is the encoder's transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(108, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.encoder(x.flatten(1)).relu(), self.encoder.weight.T)[:, :1]


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 2, 2, dilation=2, bias=False),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(2, 1),
    )


def shared() -> nn.Module:
    """One layer that is used twice."""
    layer = nn.Linear(108, 108)
    return nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(108, 1))


def partly_frozen() -> Any:
    model = DeepMLP(d=108, k=1, widths=[7, 6, 5], bias="all")
    model.first_layer.weight.requires_grad_(False)
    model.layers[0].bias.requires_grad_(False)
    for parameter in model.layers[1].parameters():
        parameter.requires_grad_(False)
    return model


def token_wise() -> nn.Module:
    """A dense layer on each of several positions."""
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Flatten(), nn.Linear(72, 1))


def normalised() -> DeepMLP:
    model = DeepMLP(d=108, k=1, widths=[7, 6], batch_norm=True).double()
    model(torch.randn(20, 108, dtype=torch.float64))
    return model


MODELS: dict[str, Callable[[], Any]] = {
    "dense": lambda: DeepMLP(d=108, k=1, widths=[7, 6]),
    "first bias": lambda: DeepMLP(d=108, k=1, widths=[7, 6], bias="first"),
    "biases": lambda: DeepMLP(d=108, k=1, widths=[7, 6], bias="all", activation="gelu"),
    "outputs": lambda: DeepMLP(d=108, k=3, widths=[7, 6]),
    "random features": lambda: RandomFeatures(d=108, k=1, n=N, p=20),
    "two layers": lambda: MLP(d=108, k=1, n=N, width=9),
    "residual": lambda: ResNet(k=1, n=N, input_shape=IMAGES, width=4),
    "convolutional": convolutional,
    "shared": shared,
    "tied": Tied,
    "partly frozen": partly_frozen,
    "token-wise": token_wise,
    "batch norm": normalised,
}


def inputs() -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randn(N, *IMAGES, generator=random, dtype=torch.float64)


def first_output(output: Tensor) -> Tensor:
    return output[:, 0] * torch.linspace(-1, 2, len(output), dtype=output.dtype)


def dense_gradients(model: nn.Module, o: Tensor) -> tuple[Tensor, Tensor]:
    """(n, P) gradients and (P,) weights, sample by sample."""
    trained = trained_parameters(model)
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(value, trained, retain_graph=True)])
        for value in o
    ]
    return torch.stack(rows), torch.cat([p.detach().flatten() for p in trained])


def weighted(make: Callable[[], Any]) -> Any:
    """The model in float64 and in eval mode, with a trained layer of some size."""
    torch.manual_seed(1)
    model = make().double().eval()
    if isinstance(model, RandomFeatures):
        nn.init.normal_(model.readout.weight)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_products_are_those_of_dense_gradients(name: str) -> None:
    model, x = weighted(MODELS[name]), inputs()
    products = gradient_products(model, x, first_output)
    o = first_output(model(x))
    gradients, weights = dense_gradients(model, o)
    assert torch.allclose(products.values, o)
    assert torch.allclose(products.gram, gradients @ gradients.T, rtol=1e-10, atol=1e-12)
    assert torch.allclose(products.with_weights, gradients @ weights, rtol=1e-10, atol=1e-12)
    assert products.energy == pytest.approx(float(weights.square().sum()))


@pytest.mark.parametrize(
    ("name", "in_one_pass"), [("dense", True), ("convolutional", True), ("tied", False)]
)
def test_samples_take_a_pass_each_only_where_layers_do_not_explain_them(
    name: str, in_one_pass: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Tensor] = []
    slow = stationarity._by_samples

    def counted(o: Tensor, trained: list[nn.Parameter]) -> tuple[Tensor, Tensor]:
        made.append(o)
        return slow(o, trained)

    monkeypatch.setattr(stationarity, "_by_samples", counted)
    gradient_products(weighted(MODELS[name]), inputs(), first_output)
    assert len(made) == (not in_one_pass)


def test_blocks_of_samples_give_the_same_products(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = weighted(Tied), inputs()
    whole = gradient_products(model, x, first_output)
    monkeypatch.setattr(
        stationarity, "BLOCK_NUMBERS", 2 * sum(p.numel() for p in model.parameters())
    )
    parts = gradient_products(model, x, first_output)
    assert torch.allclose(parts.gram, whole.gram)
    assert torch.allclose(parts.with_weights, whole.with_weights)


def test_modes_gradients_and_statistics_stay() -> None:
    model = normalised()
    model.train()
    model.readout.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gradient_products(model, inputs(), first_output)
    assert model.training and model.norms[0].training and not model.readout.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not model.first_layer._forward_hooks


def test_float32_weights_have_nearly_the_same_products() -> None:
    model = weighted(MODELS["first bias"])
    exact = gradient_products(model, inputs(), first_output)
    rounded = gradient_products(model.float(), inputs().float(), first_output)
    assert rounded.gram.dtype == torch.float64
    assert torch.allclose(rounded.gram, exact.gram, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "degree"),
    [
        ("dense", 3),
        ("first bias", 3),
        ("biases", None),
        ("random features", 1),
        ("two layers", 2),
        ("residual", None),
        ("convolutional", None),
        ("batch norm", None),
    ],
)
def test_the_degree_is_found_where_there_is_one(name: str, degree: int | None) -> None:
    products = gradient_products(weighted(MODELS[name]), inputs(), first_output)
    assert products.degree == degree


def test_the_normalised_margin_does_not_depend_on_the_scale_of_the_weights() -> None:
    y = torch.tensor([[1.0], [-1], [1], [-1], [1]], dtype=torch.float64)
    model, x = weighted(MODELS["first bias"]), inputs()
    first = normalised_margin(margin_products(model, x, y))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 3
    assert first is not None
    assert normalised_margin(margin_products(model, x, y)) == pytest.approx(first)
    assert normalised_margin(margin_products(weighted(MODELS["biases"]), x, y)) is None


def test_zero_outputs_have_no_degree() -> None:
    zero = torch.zeros(2, dtype=torch.float64)
    assert GradientProducts(zero, torch.zeros(2, 2), zero, 1.0).degree is None


def test_margins_are_above_zero_in_the_right_class() -> None:
    output = torch.tensor([[2.0], [0.5]])
    assert margins(output, torch.tensor([[1.0], [-1.0]])).tolist() == [2, -0.5]
    output = torch.tensor([[3.0, 1, 2], [3.0, 1, 2]])
    assert margins(output, torch.eye(3)[[0, 1]]).tolist() == [1, -2]


# --- stationarity


@pytest.mark.parametrize("name", ["dense", "outputs", "residual", "two layers"])
def test_the_residual_is_that_of_dense_gradients(name: str) -> None:
    model, x = weighted(MODELS[name]), inputs()
    k = model(x).shape[1]
    signs = torch.tensor([[1.0], [-1], [1], [-1], [1]], dtype=torch.float64)
    y = signs if k == 1 else torch.eye(k, dtype=torch.float64)[[0, 1, 2, 0, 1]]
    found = margin_stationarity(margin_products(model, x, y))
    gradients, weights = dense_gradients(model, margins(model(x), y))
    multipliers, distance = nnls(gradients.T.numpy(), weights.numpy())
    assert found.residual == pytest.approx(distance / float(weights.norm()), rel=1e-8)
    assert np.allclose(found.multipliers.numpy(), multipliers, atol=1e-8)


@pytest.mark.parametrize("copies", [1, 2])
def test_a_combination_of_margins_is_stationary(copies: int) -> None:
    x = inputs().flatten(1)[:3].repeat(copies, 1)  # equal samples make the Gram matrix singular
    y = torch.tensor([[1.0], [-1.0], [1.0]], dtype=torch.float64).repeat(copies, 1)
    model = nn.Linear(x.shape[1], 1, bias=False).double()
    multipliers = torch.tensor([2.0, 0.0, 0.5], dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_((multipliers * y[:3, 0]) @ x[:3])
    found = margin_stationarity(margin_products(model, x, y))
    assert found.residual < 1e-7
    assert torch.allclose(found.multipliers.view(copies, 3).sum(0), multipliers, atol=1e-8)
    with torch.no_grad():
        model.weight.neg_()  # multipliers below 0 are none
    assert margin_stationarity(margin_products(model, x, y)).residual > 0.5


def test_ridge_regression_is_stationary() -> None:
    x, decay = inputs().flatten(1), 0.3
    y = torch.linspace(-1, 1, N, dtype=torch.float64)[:, None]
    model = nn.Linear(x.shape[1], 1, bias=False).double()
    # loss = mean of (f - y)^2, and decay / 2 ||w||^2: w = x^T a with (2 / n) (y - x w) / decay = a
    solved = torch.linalg.solve(x @ x.T + N * decay / 2 * torch.eye(N, dtype=x.dtype), y)
    with torch.no_grad():
        model.weight.copy_((x.T @ solved).T)
    found = decay_stationarity(model, x, y, F.mse_loss, decay)
    assert found.residual < 1e-12
    assert torch.allclose(found.multipliers, solved)
    assert decay_stationarity(model, x, y, F.mse_loss, 2 * decay).residual > 0.1


def test_dead_networks_have_a_residual_too() -> None:
    y = torch.ones(N, 1, dtype=torch.float64)
    model = weighted(MODELS["dense"])
    with torch.no_grad():
        model.readout.weight.zero_()
        model.layers[0].weight.zero_()
    assert margin_stationarity(margin_products(model, inputs(), y)).residual == 1
    with torch.no_grad():
        model.first_layer.weight.zero_()
    assert margin_stationarity(margin_products(model, inputs(), y)).residual == 0
