"""The networks: their shapes, how they start, and what of other people's networks is found."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_recon.errors import InputError
from lit_recon.models import (
    MLP,
    Autoencoder,
    ConvAutoencoder,
    DeepMLP,
    RandomFeatures,
    ReadoutModel,
    ResNet,
    SmallCNN,
)
from lit_recon.models.first_layer import first_dense_layer
from lit_recon.models.resnet import ResidualBlock
from lit_recon.models.wrapped import Wrapped

SHAPE = (3, 8, 8)


def spread(weight: Tensor) -> float:
    """The mean square of the entries."""
    return float(weight.detach().square().mean())


# --- the two-layer network


def test_mlp_is_two_linear_layers_without_biases_and_both_are_trained() -> None:
    model = MLP(d=12, k=3, n=5, width=7, activation="relu+tanh")
    first, readout = model.first_layer.weight, model.readout.weight
    x = torch.randn(4, 3, 2, 2)
    z = x.flatten(1) @ first.T
    assert torch.allclose(model(x), (z.relu() + z.tanh()) @ readout.T, atol=1e-6)
    assert [name for name, _ in model.named_parameters()] == [
        "first_layer.weight",
        "readout.weight",
    ]
    assert not model.frozen and RandomFeatures(d=2, k=1, n=1, p=3).frozen
    model(x).sum().backward()
    assert first.grad is not None and first.grad.abs().sum() > 0
    share = model.rows(range(2, 5))
    assert torch.equal(torch.cat(list(share)), first[2:5])


def test_mlp_starts_as_the_paper_has_it() -> None:
    model = MLP(d=50, k=4, n=5, width=2000)
    assert spread(model.first_layer.weight) == pytest.approx(1 / 50, rel=0.03)
    assert spread(model.readout.weight) == pytest.approx(1 / 2000, rel=0.06)


@pytest.mark.parametrize(("ratio", "width"), [(2.0, 24), (None, 36), (0.001, 1)])
def test_width_follows_from_equations_over_unknowns(ratio: float | None, width: int) -> None:
    assert MLP(d=12, k=5, n=5, p_over_dn=ratio).width == width


# --- several dense layers


@pytest.mark.parametrize(
    ("bias", "biased"),
    [("none", []), ("first", ["first_layer"]), ("all", ["first_layer", "layers.0", "readout"])],
)
def test_a_deep_network_is_dense_layers_and_activations(bias: Any, biased: list[str]) -> None:
    model = DeepMLP(d=12, k=3, widths=[7, 5], bias=bias, activation="gelu")
    x = torch.randn(4, 3, 2, 2)
    z = F.gelu(model.first_layer(x.flatten(1)))
    (second,) = model.layers
    assert torch.equal(model.features(x), F.gelu(second(z)))
    assert torch.equal(model(x), model.readout(F.gelu(second(z))))
    names = [name for name, _ in model.named_parameters()]
    assert names[0] == "first_layer.weight" and model.p == 5 and not model.frozen
    assert [name for name in names if name.endswith("bias")] == [f"{name}.bias" for name in biased]
    (shallow,) = [DeepMLP(d=12, k=3, widths=[7]).first_layer]
    assert shallow.weight.shape == (7, 12)


def test_a_deep_network_starts_as_pytorch_has_it_or_with_a_small_first_layer() -> None:
    model = DeepMLP(d=300, k=40, widths=[400, 500], bias="all")
    for layer in (model.first_layer, *model.layers, model.readout):
        assert isinstance(layer, nn.Linear)
        bound = layer.in_features**-0.5
        for values in layer.parameters():
            assert bound * 0.9 < float(values.detach().abs().max()) <= bound
            assert spread(values) == pytest.approx(bound**2 / 3, rel=0.2)
    small = DeepMLP(d=300, k=40, widths=[400, 500], bias="all", first_layer_std=1e-4)
    assert spread(small.first_layer.weight) == pytest.approx(1e-8, rel=0.05)
    assert not small.first_layer.bias.any()
    for name, values in model.named_parameters():  # the other layers are the same
        same = torch.equal(values, small.get_parameter(name))
        assert same == (not name.startswith("first_layer"))


def test_batch_normalisation_comes_before_the_activation_and_is_fixed_in_eval_mode() -> None:
    model = DeepMLP(d=6, k=2, widths=[5, 4], batch_norm=True, bias="all")
    x = torch.randn(8, 6)
    model(x)  # moves the running statistics
    first, second = model.norms
    assert isinstance(first, nn.BatchNorm1d) and first.running_mean is not None
    z = model.first_layer(x)
    assert torch.allclose(first.running_mean, 0.1 * z.mean(0), atol=1e-6)
    assert {"norms.0.running_mean", "norms.1.running_var"} <= model.state_dict().keys()
    model.eval()
    expected = second(model.layers[0](first(z).relu())).relu()
    assert torch.equal(model.features(x), expected)
    assert torch.allclose(model(x)[:1], model(x[:1]), atol=1e-6)  # without the batch


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"widths": []}, "--model.widths []"),
        ({"widths": [3, 0]}, "--model.widths [3, 0]"),
        ({"first_layer_std": 0.0}, "--model.first_layer_std 0.0"),
        ({"first_layer_std": float("nan")}, "--model.first_layer_std nan"),
        ({"seed": -1}, "--model.seed -1"),
    ],
)
def test_deep_networks_that_cannot_be(settings: dict[str, Any], flag: str) -> None:
    with pytest.raises(InputError, match=re.escape(flag)):
        DeepMLP(d=4, k=1, **settings)


# --- convolutions in front of a perceptron


@pytest.mark.parametrize(("convolutions", "stride"), [(1, 1), (1, 2), (2, 2)])
def test_a_small_cnn_is_convolutions_and_dense_layers(convolutions: int, stride: int) -> None:
    model = SmallCNN(
        SHAPE, k=2, convolutions=convolutions, channels=4, stride=stride, widths=[7, 5], seed=1
    )
    x = torch.randn(3, *SHAPE)
    z = F.conv2d(x, model.first_layer.weight, model.first_layer.bias, stride, 1).relu()
    for layer in model.convolutions:
        z = layer(z).relu()
    z = z.flatten(1)
    assert z.shape[1] == 4 * (8 // stride**convolutions) ** 2
    for layer in model.layers:
        z = layer(z).relu()
    assert model.p == 5 and torch.allclose(model(x), z @ model.readout.weight.T, atol=1e-6)
    biased = [name for name, _ in model.named_parameters() if name.endswith("bias")]
    assert biased == ["first_layer.bias"]


def test_a_small_cnn_is_homogeneous_in_its_parameters() -> None:
    model = SmallCNN(SHAPE, k=1, convolutions=2, channels=3, widths=[6], seed=2)
    x = torch.randn(3, *SHAPE)
    before = model(x)
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(2)
    assert torch.allclose(model(x), 2**4 * before, rtol=1e-5)


def test_a_small_cnn_starts_as_it_is_told() -> None:
    model = SmallCNN(SHAPE, k=1, channels=200, widths=[6], first_layer_std=1e-4, seed=3)
    assert spread(model.first_layer.weight) == pytest.approx(1e-8, rel=0.1)
    assert model.first_layer.bias is not None and not model.first_layer.bias.any()
    fan_in = 200 * 8 * 8
    assert spread(model.get_parameter("layers.0.weight")) == pytest.approx(
        1 / (3 * fan_in), rel=0.1
    )
    assert SmallCNN(SHAPE, k=1, bias="none").first_layer.bias is None


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"convolutions": 3}, "--model.convolutions 3"),
        ({"channels": 0}, "--model.channels 0"),
        ({"kernel": 2}, "--model.kernel 2"),
        ({"stride": 0}, "--model.stride 0"),
        ({"widths": []}, "--model.widths []"),
        ({"first_layer_std": 0.0}, "--model.first_layer_std 0.0"),
        ({"input_shape": (12,)}, "--model SmallCNN: needs images"),
    ],
)
def test_small_cnns_that_cannot_be(settings: dict[str, Any], flag: str) -> None:
    with pytest.raises(InputError, match=re.escape(flag)):
        SmallCNN(**{"input_shape": SHAPE, "k": 1, **settings})


# --- autoencoders


def test_an_autoencoder_is_dense_layers_with_biases_of_normal_weights_and_a_readout_at_zero() -> (
    None
):
    model = Autoencoder(d=1200, k=1200, widths=[300, 200], activation="cosid", gain=2.0, seed=1)
    assert spread(model.first_layer.weight) == pytest.approx(4 / 1200, rel=0.02)
    assert spread(model.get_parameter("layers.0.weight")) == pytest.approx(4 / 300, rel=0.03)
    rest = [v for name, v in model.named_parameters() if "bias" in name or "readout" in name]
    assert len(rest) == 4 and not any(bool(value.any()) for value in rest)
    x = torch.randn(2, 1200)
    z = model.first_layer(x)
    second = model.layers[0](z.cos() - z)
    assert torch.allclose(model.features(x), second.cos() - second)
    again = Autoencoder(d=1200, k=1200, widths=[300, 200], activation="cosid", gain=2.0, seed=1)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )
    other = Autoencoder(d=1200, k=1200, widths=[300, 200], seed=2)
    assert not torch.equal(other.first_layer.weight, model.first_layer.weight)


def test_other_starts_of_an_autoencoder() -> None:
    xavier = Autoencoder(d=600, k=600, widths=[200], init="xavier")
    for weight in (xavier.first_layer.weight, xavier.readout.weight):
        assert spread(weight) == pytest.approx(2 / 800, rel=0.03)
        assert float(weight.detach().abs().max()) <= (6 / 800) ** 0.5
    assert not xavier.readout.bias.any()
    pytorch = Autoencoder(d=600, k=600, widths=[200], init="pytorch", seed=3)
    plain = DeepMLP(d=600, k=600, widths=[200], bias="all", seed=3)
    assert all(torch.equal(w, plain.state_dict()[name]) for name, w in pytorch.state_dict().items())
    small = Autoencoder(d=600, k=600, widths=[200], init="pytorch", readout_std=0.1)
    assert spread(small.readout.weight) == pytest.approx(0.01, rel=0.02)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"k": 1}, "--task Labels: an autoencoder has 12 outputs, not 1; give Autoencode or Next"),
        ({"gain": 0.0}, "--model.gain 0.0: give a number above 0"),
        ({"gain": 2.0, "init": "pytorch"}, "--model.gain 2.0: pytorch has none"),
        ({"readout_std": -1.0}, "--model.readout_std -1.0: give 0 or more"),
        ({"widths": []}, "--model.widths []"),
    ],
)
def test_autoencoders_that_cannot_be(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=re.escape(line)):
        Autoencoder(**{"d": 12, "k": 12, **settings})


@pytest.mark.parametrize(("stride", "halvings"), [(1, 0), (2, 2)])
def test_a_convolutional_autoencoder_is_convolutions(stride: Any, halvings: int) -> None:
    shape = (3, 16, 16)
    model = ConvAutoencoder(shape, k=768, depth=5, stride=stride, channels=4, activation="tanh")
    x = torch.randn(2, *shape)
    z, sides = x, []
    for i, layer in enumerate(model.convolutions):
        if i >= 5 - halvings:
            z = z.repeat_interleave(2, 2).repeat_interleave(2, 3)
        z = layer(z)
        sides.append(z.shape[2])
        z = z.tanh() if i < 4 else z
    assert sides == ([8, 4, 4, 8, 16] if stride == 2 else [16] * 5)
    assert torch.allclose(model(x), z.flatten(1), atol=1e-6)
    assert torch.equal(model(x.flatten(1)), model(x))  # the map can be iterated
    again = ConvAutoencoder(shape, k=768, depth=5, stride=stride, channels=4)
    pairs = zip(again.parameters(), model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"depth": 1}, "--model.depth 1: give 2 to 20"),
        ({"depth": 21}, "--model.depth 21: give 2 to 20"),
        ({"channels": 0}, "--model.channels 0"),
        ({"kernel": 2}, "--model.kernel 2"),
        ({"stride": 3}, "--model.stride 3: give 1 or 2"),
        ({"stride": 2, "input_shape": (3, 5, 4), "k": 60}, "--model.stride 2: needs images of an"),
        ({"input_shape": (12,)}, "--model ConvAutoencoder: needs images"),
        ({"k": 1}, "--task Labels"),
    ],
)
def test_convolutional_autoencoders_that_cannot_be(settings: dict[str, Any], flag: str) -> None:
    with pytest.raises(InputError, match=re.escape(flag)):
        ConvAutoencoder(**{"input_shape": SHAPE, "k": 192, **settings})


# --- the residual network


def test_the_papers_resnet() -> None:
    model = ResNet((3, 32, 32), k=2, n=10, width=8)
    kernels = [tuple(w.shape) for w in model.parameters() if w.dim() == 4]
    assert kernels == [(8, 3, 28, 28)] + 8 * [(8, 8, 3, 3)]
    assert len(list(model.parameters())) == len(kernels) + 1  # the head, and no biases
    assert not any(
        isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()
    )
    assert model.blocks(model.stem(torch.randn(1, 3, 32, 32))).shape == (1, 8, 7, 7)
    assert model.p == 49 * 8 and not model.frozen


def test_resnet_starts_with_the_variances_that_it_states() -> None:
    model = ResNet((3, 16, 16), k=10, n=10, width=40)
    assert spread(model.stem.weight) == pytest.approx(1 / (3 * 16 * 16), rel=0.05)
    for name, weight in model.named_parameters():
        if name != "stem.weight":
            assert spread(weight) == pytest.approx(1 / weight[0].numel(), rel=0.06), name


@pytest.mark.parametrize("stem", ["whole", "3x3"])
def test_resnet_is_homogeneous_and_a_block_is_what_it_says(stem: Any) -> None:
    model = ResNet(SHAPE, k=2, n=4, width=3, blocks=4, stem=stem).double()
    x = torch.randn(3, *SHAPE, dtype=torch.float64)
    assert torch.allclose(model.features(3 * x), 3 * model.features(x))
    h = F.relu(F.conv2d(x, model.stem.weight, padding=1))
    for block in model.blocks:
        assert isinstance(block, ResidualBlock)
        stride = block.first.stride
        kept = h if block.shortcut is None else F.conv2d(h, block.shortcut.weight, stride=stride)
        inner = F.relu(F.conv2d(h, block.first.weight, stride=stride, padding=1))
        h = F.relu(kept + F.conv2d(inner, block.second.weight, padding=1))
    assert torch.allclose(model.features(x), h.flatten(1))
    assert torch.allclose(model(x), h.flatten(1) @ model.readout.weight.T)


def test_stages_halve_the_resolution_and_double_the_width() -> None:
    model = ResNet((3, 16, 16), k=2, n=4, width=5, blocks=4, stem="3x3")
    h, shapes = model.stem(torch.randn(1, 3, 16, 16)), []
    for block in model.blocks:
        h = block(h)
        shapes.append(tuple(h.shape[1:]))
    assert shapes == [(5, 16, 16), (5, 16, 16), (10, 8, 8), (20, 4, 4)]
    assert model.p == 20 * 16


@pytest.mark.parametrize(("stem", "positions"), [("whole", 49), ("3x3", 16)])
def test_mean_pooling_is_the_average_over_positions(stem: Any, positions: int) -> None:
    flat, mean = (
        ResNet((1, 16, 16), k=1, n=2, width=2, stem=stem, pool=pool) for pool in ("flatten", "mean")
    )
    state = {name: w for name, w in flat.state_dict().items() if name != "readout.weight"}
    mean.load_state_dict(state, strict=False)
    x = torch.randn(2, 1, 16, 16)
    averages = flat.features(x).view(2, -1, positions).mean(2)
    assert flat.p == positions * mean.p
    assert torch.allclose(mean.features(x), averages, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "p"),
    [
        ({"p_over_dn": 3.0}, 49 * 47),  # 3 * 4 * 192 / 49 = 47.02
        ({"p_over_dn": 3.0, "stem": "3x3"}, 16 * 144),
        ({"p_over_dn": 0.25, "stem": "3x3", "pool": "mean"}, 4 * 48),
        ({"width": 2}, 98),
        ({}, 49 * 47),
    ],
)
def test_the_width_of_a_resnet_is_the_nearest_to_the_ratio(
    settings: dict[str, Any], p: int
) -> None:
    model = ResNet(SHAPE, k=1, n=4, **settings)
    assert model.p == p == model.features(torch.randn(1, *SHAPE)).shape[1]


@pytest.mark.parametrize(
    ("shape", "settings", "flag"),
    [
        ((8,), {}, "--model"),
        ((3, 4, 4), {}, "--data.image_size"),
        ((3, 8, 9), {}, "--data.image_size"),
        ((3, 6, 6), {"stem": "3x3"}, "--data.image_size"),
        ((3, 8, 8), {"stem": "3x3", "blocks": 2}, "--model.blocks"),
        ((3, 8, 8), {"blocks": 0}, "--model.blocks"),
        ((3, 8, 8), {"width": 0}, "--model.width"),
        ((3, 8, 8), {"width": 2, "p_over_dn": 2.0}, "--model.p_over_dn"),
        ((3, 8, 8), {"p_over_dn": float("inf")}, "--model.p_over_dn"),
        ((3, 8, 8), {"seed": -1}, "--model.seed"),
    ],
)
def test_resnets_that_cannot_be(shape: Any, settings: dict[str, Any], flag: str) -> None:
    with pytest.raises(InputError) as refused:
        ResNet(shape, k=1, n=2, **settings)
    assert refused.value.flag == flag


def test_the_smallest_image_of_either_stem() -> None:
    assert ResNet((1, 5, 5), k=1, n=2, width=1).features(torch.randn(1, 1, 5, 5)).shape == (1, 49)
    small = ResNet((1, 4, 4), k=1, n=2, width=1, stem="3x3")
    assert small.features(torch.randn(1, 1, 4, 4)).shape == (1, 4)


# --- the first dense layer


class Scaled(nn.Module):
    """A network with a temperature, and layers in a container."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("model", "name", "found"),
    [
        (MLP(d=4, k=1, n=2, width=3), None, "first_layer"),
        (DeepMLP(d=4, k=1, widths=[3, 3], batch_norm=True), None, "first_layer"),
        (DeepMLP(d=4, k=1, widths=[3, 3]), "layers.0", "layers.0"),
        (Scaled(), None, "body.1"),
        (nn.Linear(3, 2), None, ""),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(3, 2)), "1", "1"),
    ],
)
def test_the_first_dense_layer(model: nn.Module, name: str | None, found: str) -> None:
    assert first_dense_layer(model, name) == (found, model.get_submodule(found))


def frozen(model: nn.Module) -> nn.Module:
    return model.requires_grad_(False)


@pytest.mark.parametrize(
    ("model", "name", "line"),
    [
        (ResNet(SHAPE, k=1, n=2, width=1), None, "null: stem of ResNet is a Conv2d, and a dense"),
        (nn.Conv2d(1, 2, 3), None, "null: Conv2d is a Conv2d, and a dense layer"),
        (
            nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1)),
            None,
            "null: 0 of Sequential is a Batch",
        ),
        (
            nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 1)),
            None,
            "null: 0 of Sequential is a Emb",
        ),
        (nn.Sequential(nn.LSTM(4, 3), nn.Linear(3, 1)), None, "null: 0 of Sequential is a LSTM"),
        (nn.MultiheadAttention(4, 1), None, "null: MultiheadAttention is a Multihead"),
        (
            RandomFeatures(d=2, k=1, n=1, p=3),
            None,
            "null: the first layer of RandomFeatures is fixed",
        ),
        (frozen(MLP(d=2, k=1, n=1, width=3)), None, "null: the first layer of MLP is fixed"),
        (frozen(nn.Sequential(nn.Linear(2, 1))), None, "null: 0 of Sequential is not trained"),
        (nn.ReLU(), None, "null: ReLU has no layer with weights"),
        (Scaled(), "head", "head: Scaled has no such layer; its dense ones are body.1, body.2"),
        (Scaled(), "body.0", "body.0: body.0 of Scaled is a Flatten, and a dense"),
        (nn.ReLU(), "head", "head: ReLU has no such layer; its dense ones are none"),
    ],
)
def test_first_layers_that_are_not_dense(model: nn.Module, name: str | None, line: str) -> None:
    with pytest.raises(InputError, match=rf"^--recon\.layer {line}") as refused:
        first_dense_layer(model, name)
    assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match=r"^--layer "):
        first_dense_layer(model, name, flag="--layer")


# --- seeds


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: MLP(d=6, k=2, n=3, width=5, seed=seed),
        lambda seed: DeepMLP(d=6, k=2, widths=[5, 4], bias="all", seed=seed),
        lambda seed: ResNet(SHAPE, k=2, n=3, width=2, seed=seed),
        lambda seed: SmallCNN(SHAPE, k=2, channels=2, widths=[5], seed=seed),
        lambda seed: RandomFeatures(d=6, k=2, n=3, p=5, seed=seed),
    ],
)
def test_the_seed_alone_decides_the_initial_weights(make: Any) -> None:
    state = torch.get_rng_state()
    models: list[ReadoutModel] = [make(0), make(0), make(1)]
    assert torch.equal(state, torch.get_rng_state())
    for a, b, c in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c) == isinstance(models[0], RandomFeatures)  # whose readout is 0


# --- other people's networks


class Other(nn.Module):
    """A network with layers in no telling order, one of which is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 2)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(inplace=True))
        self.unused = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x))

    def embed(self, x: Tensor) -> Tensor:
        return self.body(x)

    def first(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :5]

    def name(self) -> str:
        return "other"


EXAMPLE = torch.randn(1, 3, 2, 2)


def test_the_readout_of_another_network_is_found_or_named() -> None:
    module = Other()
    x = torch.randn(4, 3, 2, 2)
    for readout, features in ((None, None), ("head", None), (None, "embed"), ("head", "embed")):
        model = Wrapped(module, readout, features, EXAMPLE)
        assert model.readout is module.head and model.p == 6
        assert torch.equal(model.features(x), module.embed(x))
        assert torch.equal(model(x), module(x))
    assert Wrapped(module, "body.1", None, EXAMPLE).p == 12
    assert not Wrapped(module, None, None, EXAMPLE).frozen
    module.body.requires_grad_(False)
    module.unused.requires_grad_(False)
    assert Wrapped(module, None, None, EXAMPLE).frozen


class Softmax(Other):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


def test_the_first_layer_of_another_network_is_the_one_that_an_input_meets() -> None:
    module = Other()
    assert first_dense_layer(module)[1] is module.head  # by registration alone
    for features in (None, "embed"):
        model = Wrapped(module, "head", features, EXAMPLE)
        assert first_dense_layer(model) == ("first_layer", module.body[1])
        assert first_dense_layer(model, "module.head")[1] is module.head
    assert not any(layer._forward_pre_hooks for layer in module.modules())
    flat = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    assert first_dense_layer(Wrapped(flat, None, None, EXAMPLE))[1] is flat[1]


@pytest.mark.parametrize(
    ("module", "readout", "features", "shape", "flag", "words"),
    [
        (Other, "tail", None, None, "--readout tail", "head, body.1, unused"),
        (Other, "unused", None, None, "--readout unused", "no part in the output"),
        (Other, None, "emb", None, "--features emb", "no such method"),
        (Other, None, "head.weight", None, "--features head.weight", "no such method"),
        (Other, None, "first", None, "--features first", "(1, 5)"),
        (Other, None, "name", None, "--features name", "TypeError"),
        (Other, None, None, (1, 5), "--data gives inputs of shape (1, 5)", "RuntimeError"),
        (Softmax, None, None, None, "--readout missing", "gives the output"),
        (nn.Identity, None, None, None, "--readout missing", "there are none"),
    ],
)
def test_what_is_no_readout_or_no_feature_is_refused(
    module: Any, readout: Any, features: Any, shape: Any, flag: str, words: str
) -> None:
    example = EXAMPLE if shape is None else torch.zeros(shape)
    with pytest.raises(InputError) as refused:
        Wrapped(module(), readout, features, example)
    assert str(refused.value).startswith(flag)
    assert words in str(refused.value)


def test_a_named_readout_of_probabilities() -> None:
    module = Softmax()
    model = Wrapped(module, "head", None, EXAMPLE)
    assert torch.equal(model.features(EXAMPLE), module.embed(EXAMPLE))
