"""First layers that read patches of an image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lit_recon.audit.patches import PatchView
from lit_recon.knowledge import ChannelScale, Knowledge, MeanImageScale, PixelScale
from lit_recon.models.patches import Patches
from lit_recon.records.truth import Truth

SHAPE = (3, 4, 8)


class ChannelsLast(nn.Module):
    """A dense layer on patches of 2x4, each value after those of its place in other channels."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 5))
        self.embedding = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, 3, 2, 2, 2, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, 24)
        return torch.cat([self.token.expand(len(x), 1, 5), self.embedding(rows)], 1).mean(1)


class Scaled(nn.Module):
    """It changes the values of an image before any layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 5, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(2 * x + 0.5)
        return y


@pytest.mark.parametrize(
    "network", [nn.Conv2d(3, 5, (2, 4), stride=(2, 4)), ChannelsLast()], ids=["conv", "dense"]
)
def test_the_layer_on_patches_is_the_dense_layer_of_the_view(network: nn.Module) -> None:
    known = Knowledge(network, pixels=ChannelScale.of(SHAPE, [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]))
    start = {name: value + 1 for name, value in network.state_dict().items()}
    view = PatchView.of(known, start, SHAPE)
    assert view is not None and view.patches.shape == (3, 2, 4) and view.patches.count == 4
    assert view.known.pixels == ChannelScale.of((3, 2, 4), [0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    earlier = view.known.earlier_first_layer
    assert earlier is not None and torch.allclose(earlier.weight, view.layer.weight + 1)
    x = torch.randn(1, *SHAPE)
    patches = [x[:, :, i : i + 2, j : j + 4].flatten() for i in (0, 2) for j in (0, 4)]
    weight, bias = view.layer.weight, view.layer.bias
    assert bias is not None
    dense = torch.stack(patches) @ weight.T + bias
    if isinstance(network, ChannelsLast):
        dense = torch.cat([dense, network.token]).mean(0, keepdim=True)
    else:
        dense = dense.T.reshape(1, 5, 2, 2)
    assert torch.allclose(network(x), dense, atol=1e-6)


@pytest.mark.parametrize(
    "network",
    [
        nn.Conv2d(3, 5, 2, stride=1),
        nn.Conv2d(3, 5, 2, stride=2, padding=1),
        nn.Conv2d(3, 3, 2, stride=2, groups=3),
        nn.Conv2d(3, 5, 1),
        nn.Sequential(nn.Flatten(), nn.Linear(96, 5)),
        nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()),
        nn.Sequential(nn.Flatten(2), nn.Linear(32, 5)),  # the channels one by one
        Scaled(),
    ],
)
def test_other_first_layers_read_no_patches(network: nn.Module) -> None:
    assert Patches.of(network.eval(), SHAPE) is None
    assert Patches.of(network, (96,)) is None


def test_the_truth_has_each_patch_once() -> None:
    network = nn.Conv2d(1, 9, 2, stride=2)
    images = torch.arange(32, dtype=torch.uint8).reshape(2, 1, 4, 4)
    images[1, :, :2] = images[0, :, :2]
    scale = PixelScale((1, 4, 4), 0.0, 1 / 255)
    x = images.flatten(1).float()
    held_out = torch.cat([x[:1], x[1:] + 100])  # one image of these is trained on
    truth = Truth(x, held_out, images, scale, None, [0, 1], ["a", "b"], [0, 1])
    view = PatchView.of(Knowledge(network, pixels=scale), {}, (1, 4, 4))
    assert view is not None and view.known.earlier_first_layer is None
    parts = view.truth(truth)
    assert (parts.n, parts.labels, parts.shape) == (6, [0, 0, 0, 0, 1, 1], (1, 2, 2))
    assert parts.images is not None
    assert torch.equal(parts.images.flatten(1).float(), parts.x)
    assert parts.x[0].tolist() == [0, 1, 4, 5]
    assert len(parts.held_out) == 4 and parts.held_out.min() >= 100


def test_a_mean_image_leaves_the_shape_alone() -> None:
    scale = MeanImageScale((1, 4, 4), torch.full((1, 4, 4), 0.5, dtype=torch.float64))
    view = PatchView.of(Knowledge(nn.Conv2d(1, 9, 2, 2), pixels=scale), {}, (1, 4, 4))
    assert view is not None
    assert (view.known.pixels, view.known.shape) == (None, (1, 2, 2))
    assert view.words.endswith("it can give back at most 2 different ones")
