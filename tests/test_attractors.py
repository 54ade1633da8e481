"""The attractor attack: its map, its certificate, what it finds, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.sparse.linalg import LinearOperator, eigs
from torch import Tensor, nn
from torch.optim import Optimizer

from datamodules import ReconDataModule
from lit_recon.errors import InputError
from lit_recon.knowledge import ChannelScale, Knowledge, MeanImageScale, PixelScale
from lit_recon.methods import AttractorReconstructor, Earlier, Reconstruction
from lit_recon.methods.attractors import limits as limits_module
from lit_recon.methods.attractors.limits import Limits, clusters, turn_radii
from lit_recon.methods.attractors.maps import ReducedMap
from lit_recon.methods.attractors.pictures import COLUMNS
from lit_recon.methods.attractors.pixels import whole_pixels
from lit_recon.metrics import inputs_from_images
from lit_recon.models import MLP, Autoencoder, DeepMLP, Model, ReadoutModel, ResNet, SmallCNN
from lit_recon.models.autoencoder import Init
from lit_recon.models.wrapped import Wrapped
from lit_recon.modules import SGD, Autoencode
from lit_recon.modules.tensor_adam import PerTensorAdam
from tests.problems import autoencoder, images
from tests.small_runs import data_of, fit

N = 3
U, PIXELS = images(N, 8, 0)
X = inputs_from_images(U, PIXELS)
NEXT = X.roll(-1, 0)


@cache
def remembering() -> DeepMLP:
    """An autoencoder of which every training image attracts."""
    return autoencoder(X)


def attacked(model: nn.Module, x: Tensor = X, **settings: Any) -> Reconstruction:
    attack = AttractorReconstructor(**{"starts": 50, "max_seconds": 30.0, **settings})
    return attack.reconstruct(Knowledge(model, pixels=PIXELS, shape=PIXELS.shape))


def exact(found: Reconstruction, u: Tensor = U) -> int:
    """How many images of u are among the certified ones; no others may be."""
    assert found.certificates is not None
    certified = found.certificates.images[found.certificates.accepted]
    right = {image.numpy().tobytes() for image in u} & {i.numpy().tobytes() for i in certified}
    assert len(right) == len(certified)
    return len(right)


# --- the map


class Reshaped(ReadoutModel):
    """The same network on inputs that must have the shape of images."""

    def __init__(self, inner: DeepMLP) -> None:
        super().__init__()
        self.inner, self.readout = inner, inner.readout

    def features(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return self.inner.features(x.reshape(n, c * h * w))


class WithoutReadout(nn.Module):
    """The same network, of which nothing but its output is known."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).reshape(x.shape)


KINDS = {
    "reads coordinates": lambda: remembering(),
    "reshapes": lambda: Reshaped(remembering()),
    "wrapped": lambda: Wrapped(remembering(), None, None, X[:1].float()),
    "no readout": lambda: WithoutReadout(remembering()),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
def test_the_reduced_map_is_the_map_of_the_network(kind: str) -> None:
    model = KINDS[kind]()
    map = ReducedMap.of(model, PIXELS.shape)
    assert map.r == (PIXELS.d if kind == "no readout" else N)
    assert (map.reading is not None) == (kind in ("reads coordinates", "wrapped"))
    assert map.deficient == (kind != "no readout")
    y = torch.randn(5, map.r, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = map.lift(y)
    with torch.no_grad():
        expected = model(x.float().reshape(-1, *PIXELS.shape)).flatten(1).double()
        assert torch.allclose(map.lift(map(y)), expected, atol=1e-4)
        assert torch.allclose(map.image(x), map.lift(map(y)), atol=1e-5)
        assert torch.allclose(map.lower(x), y, atol=1e-10)
        assert torch.allclose(map.single()(y.float()).double(), map(y), atol=1e-4)


@every_kind
def test_spectral_radii_are_those_of_the_whole_network(kind: str, monkeypatch: Any) -> None:
    model = KINDS[kind]()
    map = ReducedMap.of(model, PIXELS.shape)
    if kind == "no readout":  # as for a network that is too large for whole derivatives
        monkeypatch.setattr(limits_module, "DENSE", 10)
    found = turn_radii(map, map.lower(X), [torch.tensor([i]) for i in range(N)])

    def push(x: Tensor, v: np.ndarray) -> np.ndarray:
        vector = torch.as_tensor(v).reshape(1, -1)
        return torch.func.jvp(map.image, (x[None],), (vector,))[1].numpy()[0]

    for x, radius in zip(X, found.tolist(), strict=True):
        operator = LinearOperator((PIXELS.d,) * 2, matvec=lambda v, x=x: push(x, v), dtype=float)
        assert abs(abs(eigs(operator, k=1)[0][0]) - radius) < 1e-5 * radius


def test_the_radius_of_a_cycle_is_that_of_a_whole_turn(monkeypatch: Any) -> None:
    map = ReducedMap.of(autoencoder(X, NEXT), PIXELS.shape)
    points = map.lower(X)
    product = torch.eye(N, dtype=torch.float64)
    for jacobian in map.jacobian(points):
        product = jacobian @ product
    expected = torch.linalg.eigvals(product).abs().max()
    turn = [torch.arange(N)]
    assert torch.allclose(turn_radii(map, points, turn)[0], expected, rtol=1e-6)
    monkeypatch.setattr(limits_module, "DENSE", 1)
    wide = ReducedMap.of(WithoutReadout(autoencoder(X, NEXT)), PIXELS.shape)
    assert torch.allclose(turn_radii(wide, X, turn)[0], expected, rtol=1e-4)


# --- limits, each once


def test_points_near_one_another_are_one_limit() -> None:
    near = torch.tensor([[0.0, 0.0], [5.0, 0.0], [1e-6, 0.0], [5.0, 1e-6], [0.0, 9.0]])
    assert clusters(near, 1e-3).tolist() == [0, 1, 0, 1, 4]


def test_a_cycle_is_entered_once_from_any_of_its_points() -> None:
    map = ReducedMap.of(autoencoder(X, NEXT), PIXELS.shape)
    found = Limits.none(map, 1.0, lambda x: whole_pixels(x, PIXELS))
    y = map.lower(X)
    with torch.no_grad():
        assert found.add(y[1:3], torch.tensor([N, N]), torch.tensor([3, 4])) == 1
    assert found.hits.tolist() == [7] and found.periods.tolist() == [N]
    assert found.certified.all() and found.certain.all()
    assert torch.allclose(found.points, y.roll(-1, 0), atol=1e-3)


class AroundImage(nn.Module):
    """Leaves everything in place, or turns it around an image."""

    def __init__(self, centre: Tensor, sign: int) -> None:
        super().__init__()
        self.centre, self.sign = centre, sign

    def forward(self, x: Tensor) -> Tensor:
        centre = self.centre.reshape(x.shape[1:])
        return centre + self.sign * (x - centre)


@pytest.mark.parametrize("sign", [1, -1])
def test_limits_that_are_one_image_are_one_limit(sign: int) -> None:
    """In place, every point is a limit; turned around, every point is one of a turn of two."""
    image = X[0].double()
    found = Limits.none(
        ReducedMap.of(AroundImage(image, sign), PIXELS.shape),
        1.0,
        lambda x: whole_pixels(x, PIXELS),
    )
    shifts = 0.02 / (255 * torch.as_tensor(PIXELS.std)) * torch.tensor([0.0, 1.0, 15.0])
    period = torch.tensor([1, 1, 1] if sign == 1 else [1, 2, 2])
    assert found.add(image + shifts[:, None], period, torch.tensor([3, 4, 5])) == 2
    assert found.hits.tolist() == [7, 5]
    assert found.certain.tolist() == [True, False]
    assert found.periods.tolist() == [1, 1 if sign == 1 else 2]


# --- the certificate


@pytest.mark.parametrize("pixels", [PIXELS, ChannelScale.of((3, 8, 8), [0.4, 0.5, 0.6], [0.2] * 3)])
def test_whole_pixels_are_certified_and_others_are_not(pixels: PixelScale) -> None:
    x = inputs_from_images(U, pixels)
    assert whole_pixels(x, pixels).accepted.all()
    level = torch.as_tensor(1 / (255 * pixels.std)).expand(3, 1, 1)
    for shift, accepted in ((0.05, True), (0.15, False), (0.5, False)):
        moved = (x.reshape(-1, 3, 8, 8) + shift * level).flatten(1)
        assert whole_pixels(moved, pixels).accepted.tolist() == [accepted] * N
    one = x.clone()
    one[:, 7] += 0.3 * float(level[0])  # a single pixel
    found = whole_pixels(one, pixels)
    assert not found.accepted.any() and torch.allclose(found.worst, torch.tensor(0.3).double())


def test_images_that_prove_nothing_are_not_certified() -> None:
    scale = PixelScale((1, 8, 8), mean=0.0, std=1 / 255)
    grey = torch.full((64,), 77.0)
    black_and_white = 255.0 * (torch.arange(64) % 2)
    outside = torch.arange(64.0) + 200
    four_levels = 10.0 * (1 + torch.arange(64) % 4) + 0.01
    ramp = torch.arange(64.0)
    x = torch.stack([grey, black_and_white, outside, four_levels, torch.zeros(64), ramp])
    assert whole_pixels(x, scale).accepted.tolist() == [False] * 5 + [True]


def test_the_zero_input_is_no_image_although_the_mean_is_one() -> None:
    scale = MeanImageScale((3, 8, 8), U[0].double() / 255)
    zero = torch.zeros(1, PIXELS.d)
    found = whole_pixels(zero, scale)
    assert float(found.worst) < 1e-9 and not found.accepted.any()


def test_points_that_are_no_numbers_are_not_certified() -> None:
    x = torch.full((2, PIXELS.d), torch.nan)
    x[1] = torch.inf
    assert not whole_pixels(x, PIXELS).accepted.any()


# --- what it finds


@every_kind
def test_all_images_come_back_exactly(kind: str) -> None:
    found = attacked(KINDS[kind]())
    assert exact(found) == N
    truth = found.at_truth(X)
    assert truth["fixed_fraction"] == truth["attractor_fraction"] == truth["recall"] == 1
    assert 0 < truth["spectral_radius_median"] <= truth["spectral_radius_max"] < 1
    assert 0 < truth["precision"] <= 1 and truth["noise_tolerance"] > 0
    numbers = found.numbers
    assert numbers["attractors"] >= N and numbers["false_chance"] < 1e-30
    assert 0 < numbers["basin_min"] <= numbers["basin_median"] < 1
    assert bool(found.certificates and found.certificates.accepted[:N].all())
    if kind == "no readout":
        assert found.status == "recalled" and not found.outcome.sure
    else:
        assert found.status == "exact" and found.outcome.sure and len(found.candidates) == N


def test_a_sequence_is_a_cycle_and_all_its_images_are_candidates() -> None:
    found = attacked(autoencoder(X, NEXT))
    assert exact(found) == N and found.status == "exact"
    assert found.numbers["cycles"] >= 1 and found.numbers["longest_cycle"] >= N
    truth = found.at_truth(X)
    assert truth["fixed_fraction"] == 0 and truth["attractor_fraction"] == 1
    assert truth["noise_tolerance"] is None


@pytest.mark.parametrize("optimiser", [torch.optim.SGD, PerTensorAdam, torch.optim.Adam])
@pytest.mark.parametrize("init", ["normal", "pytorch"])
def test_noise_is_mapped_into_the_span_of_the_data_by_equivariant_training(
    optimiser: Callable[..., Optimizer], init: Init
) -> None:
    """From a readout of zeros, by an optimiser that scales no weight on its own."""
    d = X.shape[1]
    model = Autoencoder(d, d, widths=[32], activation="relu", init=init, seed=0).double()
    trained = optimiser(model.parameters(), lr=1e-3)
    for _ in range(20):
        trained.zero_grad()
        nn.functional.mse_loss(model(X), X).backward()
        trained.step()
    found = attacked(model, starts=2, newton=False, max_seconds=0.2)
    outside = found.at_truth(X)["outside_span"]
    if init == "normal" and optimiser is not torch.optim.Adam:
        assert outside < 1e-20
    else:
        assert 0.01 < outside <= 1


@pytest.mark.slow
def test_fixed_points_that_repel_are_found_by_newton_alone() -> None:
    model = autoencoder(X, widths=(128, 128), gain=2.0)
    found, without = attacked(model), attacked(model, newton=False)
    truth = found.at_truth(X)
    assert truth["fixed_fraction"] == 1 and truth["attractor_fraction"] < 1
    assert truth["spectral_radius_max"] > 1
    assert exact(found) == N
    assert exact(without) <= round(truth["attractor_fraction"] * N)


@pytest.mark.slow
def test_networks_that_were_trained_on_other_data_show_no_image() -> None:
    """Limits that are training inputs, but no images of whole pixels."""
    random = torch.Generator().manual_seed(0)
    for seed in range(3):
        other = X.std() * torch.randn(N, PIXELS.d, generator=random, dtype=torch.float64)
        found = attacked(autoencoder(other), seed=seed)
        assert exact(found) == 0 and found.status == "limits" and not found.outcome.sure
        assert found.at_truth(other)["recall"] > 0
        assert found.numbers["spurious_limits"] >= 1


def test_spurious_limits_are_never_certified() -> None:
    """Networks with few images have limits besides them; `exact` counts wrong certificates."""
    spurious = 0
    for seed in range(4):
        u, pixels = images(3, 8, seed)
        x = inputs_from_images(u, pixels)
        attack = AttractorReconstructor(starts=20, max_seconds=20.0)
        found = attack.reconstruct(Knowledge(autoencoder(x), pixels=pixels))
        assert exact(found, u) >= 1
        spurious += found.numbers["spurious_limits"]
    assert spurious >= 4


def test_limits_near_images_are_candidates_without_a_certificate() -> None:
    blurred = X + 0.02 * torch.randn(X.shape, generator=torch.Generator().manual_seed(0)).double()
    found = attacked(autoencoder(blurred))
    assert exact(found) == 0 and not found.outcome.empty
    distance = torch.cdist(X, found.candidates.double()).amin(1) / X.norm(dim=1)
    assert int((distance < 0.1).sum()) >= N - 1


def test_without_a_pixel_scale_nothing_is_certified() -> None:
    attack = AttractorReconstructor(starts=20, max_seconds=20.0)
    found = attack.reconstruct(Knowledge(remembering()))
    assert found.certificates is None and found.status == "limits"
    assert found.numbers["spurious_limits"] is None and found.numbers["false_chance"] is None
    assert found.at_truth(X)["recall"] == 1


def test_an_image_and_its_negative_are_not_told_apart_where_both_can_be_images() -> None:
    scale = PixelScale(PIXELS.shape, 0.5, PIXELS.std)
    x = inputs_from_images(U, scale)
    attack = AttractorReconstructor(starts=20, max_seconds=20.0)
    model = autoencoder(x)  # without biases it is odd
    found = attack.reconstruct(Knowledge(model, pixels=scale))
    assert found.certificates is not None and not found.certificates.accepted.any()
    assert found.status == "mirrored" and found.sign_blind and not found.outcome.sure
    nn.init.constant_(model.get_parameter("first_layer.bias"), 0.01)
    again = attack.reconstruct(Knowledge(model, pixels=scale))
    assert not again.sign_blind and again.status != "mirrored"


def test_it_begins_at_earlier_limits() -> None:
    earlier = Earlier(X.float(), sure=True)
    held = Knowledge(autoencoder(X, gain=1.5), pixels=PIXELS)
    attack = AttractorReconstructor(starts=2, newton=False, max_seconds=1e-9)
    nothing = attack.reconstruct(held)
    assert not len(nothing.candidates) and not nothing.warm
    attack.max_seconds = 30.0
    attack.newton = True
    found = attack.reconstruct(held, earlier=earlier)
    assert found.warm and exact(found) == N
    attack.warm_start = False
    assert not attack.reconstruct(held, earlier=earlier).warm


# --- pictures


def test_pictures_show_the_way_to_images() -> None:
    found = attacked(remembering())
    drawn = {picture.file: picture for picture in found.pictures()}
    assert list(drawn) == ["iterations.png", "iterating.gif", "basins.png", "spectrum.png"]
    strip, frames = drawn["iterations.png"].content, drawn["iterating.gif"].content
    rows, side = strip.shape[0] // 64, 64
    assert 1 <= rows <= 4 and strip.shape == (rows * side, len(COLUMNS) * side, 3)
    assert frames.shape[1:] == (side, rows * side, 3)
    # The strip's last tile, an image that was found, is the animation's frame of that step.
    assert np.array_equal(strip[:side, -side:], frames[COLUMNS[-1]][:, :side])
    end = torch.tensor(strip[: side : side // 8, -side :: side // 8]).permute(2, 0, 1)
    assert float((U.double() - end.double()).abs().mean((1, 2, 3)).amin()) < 5  # levels
    colours = {tuple(colour) for colour in drawn["basins.png"].content.reshape(-1, 3)}
    assert len(colours) > 3
    assert "images found, 3 in all" in drawn["spectrum.png"].words


def test_there_are_no_pictures_of_what_was_not_found() -> None:
    assert not attacked(Convolutional(10.0)).pictures()
    names = [picture.name for picture in attacked(Convolutional(1e-3)).pictures()]
    assert names == ["iterations", "iterating", "spectrum"]
    without_scale = AttractorReconstructor(starts=20).reconstruct(Knowledge(remembering()))
    assert [picture.name for picture in without_scale.pictures()] == ["basins", "spectrum"]


def test_pictures_are_in_the_folder_of_the_step(tmp_path: Path) -> None:
    def network(data: ReconDataModule) -> DeepMLP:
        return DeepMLP(d=data.d, k=data.k, widths=[32], activation="tanh", bias="all")

    attack = AttractorReconstructor(starts=10, max_seconds=5.0)
    settings: dict[str, Any] = {"model": network, "task": Autoencode(), "optim": SGD(lr=1e-3)}
    fit(tmp_path, data=data_of("photos"), attack=attack, **settings)
    folder = tmp_path / "recon" / "attractors" / "step=00000001"
    told = json.loads((folder / "metrics.json").read_text())["pictures"]
    assert {entry["file"] for entry in told} >= {"iterations.png", "iterating.gif", "spectrum.png"}
    with Image.open(folder / "iterating.gif") as animation:
        assert animation.n_frames > 1  # type: ignore[attr-defined]
    assert {file.suffix for file in folder.iterdir()} == {
        *(".json", ".safetensors", ".png", ".csv", ".gif")
    }


# --- what it refuses, and what ends at once


@pytest.mark.parametrize(
    "model",
    [
        DeepMLP(d=12, k=3, widths=[8]),
        MLP(d=12, k=1, n=2, width=8),
        SmallCNN((3, 8, 8), k=10),
        ResNet((3, 8, 8), k=10, n=2, width=4),
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)),
        nn.Sequential(nn.Flatten()),
    ],
    ids=lambda model: type(model).__name__,
)
def test_networks_of_other_sizes_are_refused(model: nn.Module) -> None:
    with pytest.raises(
        InputError, match=r"--recon AttractorReconstructor: .*as large as its input"
    ):
        AttractorReconstructor().check(model)


class Convolutional(Model):
    """A convolutional network with images as outputs, (n, d)."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)
        nn.init.constant_(self.first.weight, scale)
        nn.init.constant_(self.last.weight, 1.0)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.last(self.first(x))).flatten(1)


def test_a_convolutional_network_is_iterated_as_it_is() -> None:
    model = Convolutional(1e-3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    AttractorReconstructor().check(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    found = attacked(model)
    assert found.status == "one_limit" and len(found.candidates) == 1
    assert attacked(Convolutional(10.0)).status == "diverged"


def test_a_network_near_the_identity_prefers_no_inputs() -> None:
    layer = nn.Linear(PIXELS.d, PIXELS.d, bias=False)
    nn.init.eye_(layer.weight)
    model = nn.Sequential(nn.Flatten(), layer)
    found = AttractorReconstructor(starts=20).reconstruct(Knowledge(model, pixels=PIXELS))
    assert found.status == "identity" and found.outcome.empty


def test_weights_that_are_no_numbers_have_a_status() -> None:
    model = autoencoder(X)
    nn.init.constant_(model.get_parameter("layers.0.bias"), torch.nan)
    found = attacked(model)
    assert found.status == "nonfinite" and found.outcome.empty
    assert found.candidates.shape == (0, PIXELS.d)
    assert set(found.at_truth(X).values()) <= {None}


def test_a_readout_of_zeros_has_a_status() -> None:
    model = autoencoder(X)
    nn.init.zeros_(model.readout.weight)
    assert attacked(model).status == "no_signal"


def test_images_of_another_size_have_a_status() -> None:
    held = Knowledge(remembering(), shape=(3, 4, 4))
    assert AttractorReconstructor().reconstruct(held).status == "other_size"


@pytest.mark.parametrize(("flag", "value"), [("starts", 1), ("max_seconds", 0.0), ("seed", -1)])
def test_numbers_out_of_their_range_are_refused(flag: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"--recon\.{flag} "):
        AttractorReconstructor(**{flag: value})  # type: ignore[arg-type]
