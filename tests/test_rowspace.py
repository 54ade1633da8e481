"""The row-space attack from a trained network to exact images, and where it cannot succeed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from math import exp, log
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datamodules.photos import Photos
from lit_recon.errors import InputError
from lit_recon.knowledge import ChannelScale, DenseLayer, Knowledge, PixelScale
from lit_recon.methods import Reconstruction, RowSpaceReconstructor
from lit_recon.metrics import inputs_from_images
from lit_recon.metrics.scores import score
from lit_recon.models import MLP, DeepMLP, RandomFeatures, ReadoutModel, ResNet
from lit_recon.protection import noisy, pruned, rounded
from lit_recon.randomness import generator
from tests.problems import sphere
from tests.rowspaces import changed, knowledge, matching, photographs


def attack(known: Knowledge, **settings: Any) -> Reconstruction:
    """The attack; whatever it ends with is told in one line."""
    found = RowSpaceReconstructor(**settings).reconstruct(known, generator(0, "candidates"))
    assert "\n" not in found.outcome.reason and len(found.outcome.reason) < 300
    assert found.numbers.keys() | found.at_truth(torch.zeros(1, 1)).keys() == {
        number.name for number in RowSpaceReconstructor.describes
    }
    return found


def accepted(found: Reconstruction) -> Tensor:
    """(m, c, h, w) uint8 images that are certain."""
    assert found.certificates is not None
    return found.certificates.images[found.certificates.accepted]


def exact(found: Reconstruction, u: Tensor) -> set[int]:
    """Which images are among the accepted ones, none of which may be wrong."""
    right = matching(accepted(found), u)
    assert len(right) == len(accepted(found))
    return right


def pictures(n: int = 6, size: int = 8, normalize: Any = "standardize") -> Photos:
    data = Photos(n=n, image_size=size, normalize=normalize)
    data.load()
    assert data.images is not None
    return data


def trained(
    model: ReadoutModel,
    data: Photos,
    *,
    steps: int = 12,
    batch: int | None = None,
    lr: float = 0.05,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
    **settings: Any,
) -> Knowledge:
    """What is known of a model after so many steps on batches of the data, in turn."""
    start = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    x, n = data.x.flatten(1), data.n
    y = torch.randn(n, model.readout.out_features, generator=torch.Generator().manual_seed(1))
    descent = optimizer(model.parameters(), lr=lr, **settings)
    batch = batch or n
    for step in range(steps):
        chosen = torch.arange(step * batch, (step + 1) * batch) % n
        descent.zero_grad()
        (model(x[chosen]) - y[chosen]).square().mean().backward()
        descent.step()
    layer = DenseLayer.of(start, "first_layer", step=0)
    return Knowledge(model.eval(), earlier_first_layer=layer, pixels=data.pixels)


def deep(data: Photos, **settings: Any) -> DeepMLP:
    settings = {"widths": [64, 16], "seed": 0, **settings}
    return DeepMLP(d=data.d, k=2, **settings)


# --- exact images


@pytest.mark.parametrize(
    ("model", "training"),
    [
        ({}, {"batch": 2}),
        ({"bias": "all"}, {"batch": 3}),
        ({"activation": "gelu"}, {"batch": 2}),
        ({"bias": "first"}, {"weight_decay": 0.1, "momentum": 0.9}),
        ({"first_layer_std": 1e-3}, {"batch": 2}),
    ],
    ids=str,
)
def test_every_training_image_comes_back_exactly(
    model: dict[str, Any], training: dict[str, Any]
) -> None:
    data = pictures()
    found = attack(trained(deep(data, **model), data, **training))
    assert found.status == "exact" and found.outcome.sure
    assert data.images is not None
    assert exact(found, data.images) == set(range(6))
    error = score(data.x.flatten(1), found.candidates).metrics.direction_error
    assert error is not None and error < 1e-5
    assert found.numbers["rank"] == found.numbers["lattice_rank"] == 6
    assert found.numbers["expected_false"] < 1e-12
    decay = 12 * 0.05 * training.get("weight_decay", 0) > 0
    assert (found.numbers["forgotten"] > 0.01) == decay
    assert not found.sign_blind


def test_an_mlp_and_16x16_images() -> None:
    data = pictures(8, 16)
    found = attack(trained(MLP(d=data.d, k=2, n=8, width=96, seed=0), data, batch=4, lr=1e-3))
    assert data.images is not None
    assert found.status == "exact" and exact(found, data.images) == set(range(8))


def test_the_images_of_one_step_alone_come_back() -> None:
    data = pictures(8)
    found = attack(trained(deep(data), data, steps=1, batch=4))
    assert data.images is not None
    assert found.status == "exact" and exact(found, data.images) == {0, 1, 2, 3}


def test_two_checkpoints_in_the_middle_of_training_are_enough() -> None:
    data = pictures()
    model = deep(data)
    trained(model, data, steps=3)
    found = attack(trained(model.train(), data, steps=5))
    assert data.images is not None
    assert found.status == "exact" and exact(found, data.images) == set(range(6))


def test_a_mean_image_is_one_more_direction() -> None:
    data = pictures(6, 16, "mean_image")
    found = attack(trained(deep(data), data, batch=2))
    assert data.images is not None
    # Inputs sum to 0, so that they span one direction less than there are images.
    assert found.numbers["rank"] == 5
    assert exact(found, data.images) == set(range(6))


@pytest.mark.parametrize("separation", ["auto", "lattice"])
def test_lattices_need_no_components(separation: Any) -> None:
    u, pixels = photographs(6, 8)
    known = knowledge(*changed(inputs_from_images(u, pixels), 64), pixels)
    found = attack(known, separation=separation)
    assert found.status == "exact" and exact(found, u) == set(range(6))


MEANS, STDS = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]  # of CIFAR-10, as people use them


def test_every_channel_may_have_its_own_mean_and_deviation() -> None:
    u, _ = photographs(8, 8)
    pixels = ChannelScale.of((3, 8, 8), MEANS, STDS)
    known = knowledge(*changed(inputs_from_images(u, pixels), 64), pixels)
    found = attack(known)
    assert found.status == "exact" and exact(found, u) == set(range(8))
    assert torch.allclose(found.candidates.double().norm(dim=1), found.certificates.scale)  # type: ignore[union-attr]
    error = score(inputs_from_images(u, pixels), found.candidates).metrics.matched_error
    assert error is not None and error < 1e-5
    other = ChannelScale.of((3, 8, 8), MEANS, [0.24, 0.24, 0.24])
    assert not exact(attack(replace(known, pixels=other)), u)
    shifted = ChannelScale.of((3, 8, 8), [mean + 0.3 / 255 for mean in MEANS], STDS)
    assert len(accepted(attack(replace(known, pixels=shifted)))) == 0


def test_zeros_and_rounding_read_channels_in_one_unit() -> None:
    data = pictures(12, 16)
    assert data.images is not None
    data.pixels = ChannelScale.of((3, 16, 16), MEANS, [0.20, 0.25, 0.30])
    data.x = inputs_from_images(data.images, data.pixels).reshape(data.x.shape).to(data.x.dtype)
    known = trained(deep(data, widths=[256, 64]), data, batch=4)
    assert exact(attack(known, separation="components"), data.images) == set(range(12))


@pytest.mark.parametrize("separation", ["auto", "components"])
def test_without_precision_images_come_back_as_pictures(separation: Any) -> None:
    u, pixels = photographs(8, 16)
    x = inputs_from_images(u, pixels)
    found = attack(knowledge(*changed(x, 64, size=1e-7), pixels), separation=separation)
    assert found.status == "pictures" and not found.outcome.sure and not found.outcome.empty
    assert len(accepted(found)) == 0 and found.candidates.shape == x.shape
    error = score(x, found.candidates).metrics.direction_error
    assert error is not None and error < 0.5
    assert found.numbers["lattice_rank"] == 0


def test_some_images_may_be_certain_and_others_not() -> None:
    """A second set of images is in the change, with too little weight for its precision."""
    u, pixels = photographs(8, 16)
    x = inputs_from_images(u, pixels)
    weak = torch.tensor([1.0] * 5 + [1e-6] * 3, dtype=torch.float64)[:, None]
    found = attack(knowledge(*changed(weak * x, 64, size=1e-1), pixels))
    assert found.status == "partial" and not found.outcome.sure
    assert set(range(5)) >= exact(found, u) and len(accepted(found)) > 0


# --- final weights alone


FORGETTING: dict[str, Any] = {
    "lr": 0.05,
    "weight_decay": 0.02,
    "momentum": 0.9,
}  # e^-12 of the start after 1,200


@pytest.mark.parametrize(
    ("model", "normalize"),
    [
        ({"bias": "all"}, "standardize"),
        ({"bias": "none"}, "standardize"),
        ({"bias": "all", "activation": "gelu"}, "standardize"),
        ({"bias": "all"}, "mean_image"),
        ({"bias": "all"}, "norm"),
    ],
    ids=str,
)
def test_final_weights_that_have_forgotten_their_start_give_every_image(
    model: dict[str, Any], normalize: Any
) -> None:
    data = pictures(6, 8, normalize)
    known = trained(deep(data, widths=[96, 16], **model), data, steps=1200, **FORGETTING)
    found = attack(replace(known, earlier_first_layer=None), evidence="final")
    assert data.images is not None
    assert found.status == "exact" and exact(found, data.images) == set(range(6))
    assert found.numbers["rank"] == 6  # the bias puts a mean image back
    assert [words.split(" with")[0] for words in found.knows] == [
        "final weights",
        "image shape and normalisation",
    ]


@pytest.mark.parametrize(
    ("protect", "least"),
    [
        (lambda secret: noisy(secret, 1e-6, torch.Generator().manual_seed(0)), 6),
        (lambda secret: pruned(secret, 0.1), 6),
        (lambda secret: rounded(secret, "bf16"), 5),
    ],
    ids=["noise", "pruning", "bf16"],
)
def test_what_was_done_to_final_weights_does_not_hide_their_rank(
    protect: Callable[[dict[str, Tensor]], dict[str, Tensor]], least: int
) -> None:
    """The noise of each is uneven, and the smallest values of its spectrum step down."""
    data = pictures(6, 8)
    known = trained(deep(data, widths=[256, 16], bias="all"), data, steps=1200, **FORGETTING)
    weights = known.model.state_dict()
    known.model.load_state_dict(protect(weights))
    found = attack(replace(known, earlier_first_layer=None), evidence="final")
    assert found.numbers["rank"] == 6
    assert data.images is not None
    certain = exact(found, data.images)
    assert len(certain) >= least, found.outcome.reason


def test_a_start_that_is_not_forgotten_is_told() -> None:
    data = pictures()
    known = trained(deep(data, widths=[96, 16]), data, steps=100, **FORGETTING)
    found = attack(known, evidence="final")
    assert found.status == "not_forgotten" and found.outcome.empty
    # exp(-100 steps lr decay / (1 - momentum)) is left; the later half of the spectrum is the start
    left = float(re.findall(r"as (\S+) of a start", found.outcome.reason)[0])
    rate = FORGETTING["lr"] * FORGETTING["weight_decay"] / (1 - FORGETTING["momentum"])
    assert left == pytest.approx(exp(-100 * rate), rel=0.15)
    more = float(re.findall(r"(\S+) times as many steps", found.outcome.reason)[0])
    assert more == pytest.approx(log(1e-5) / log(left), abs=0.2)


def test_weights_that_did_not_decay_tell_no_time() -> None:
    data = pictures()
    found = attack(trained(deep(data, widths=[96, 16]), data, steps=0), evidence="final")
    assert "as 1 of a start" in found.outcome.reason
    assert "times as many steps" not in found.outcome.reason


# --- what is not known, and what cannot be done


def test_the_shape_alone_gives_images_up_to_one_brightness_and_contrast() -> None:
    data = pictures()
    known = trained(deep(data), data, batch=2)
    found = attack(replace(known, pixels=None, shape=(3, 8, 8)))
    assert found.status == "shared_offset" and found.outcome.sure and len(accepted(found)) == 0
    assert "one sign that all share" in found.outcome.reason
    assert found.sign_blind and data.images is not None and found.certificates is not None
    shift = found.certificates.images[:, None].int() - data.images.int()  # (6, 6, c, h, w)
    flat = (shift == shift[..., :1, :1, :1]).flatten(2).all(2)
    negated = found.certificates.images[:, None].int() + data.images.int()
    flat |= (negated == negated[..., :1, :1, :1]).flatten(2).all(2)
    assert flat.any(0).all()


@pytest.mark.parametrize("h", [4, 6])
def test_fewer_neurons_than_samples_never_hold_all_images(h: int) -> None:
    """A neuron that is active on one image alone holds it; a sum of several tells nothing."""
    data = pictures(8)
    found = attack(trained(deep(data, widths=[h]), data))
    assert data.images is not None
    assert not found.outcome.sure and len(exact(found, data.images)) < h
    assert f"has {h} neurons" in found.outcome.reason


def test_batch_normalisation_leaves_differences() -> None:
    data = pictures()
    found = attack(trained(deep(data, batch_norm=True, activation="gelu"), data))
    assert found.status == "differences" and found.outcome.sure
    assert len(accepted(found)) == 0
    assert found.at_truth(data.x.flatten(1)) == {"exact_differences": 1.0}
    assert found.numbers["rank"] == 5


def test_adam_gives_nothing_certain() -> None:
    data = pictures()
    model = deep(data, widths=[300, 16])
    found = attack(trained(model, data, optimizer=torch.optim.Adam, lr=1e-3))
    assert found.status == "no_low_rank" and found.outcome.empty and "Adam" in found.outcome.reason


def test_what_has_no_answer_ends_at_once_with_its_reason() -> None:
    u, pixels = photographs(4, 8)
    before, after = changed(inputs_from_images(u, pixels), 32)
    broken = after.clone()
    broken[3, 5] = float("nan")
    known = knowledge(before, after, pixels)
    cases = {
        "no_start": replace(known, earlier_first_layer=None),
        "no_signal": knowledge(before, before, pixels),
        "nonfinite": knowledge(before, broken, pixels),
        "no_images": knowledge(before, after, None),
    }
    for status, held in cases.items():
        found = attack(held)
        assert found.status == status and found.outcome.empty and not found.outcome.sure
        assert found.candidates.shape == (0, 192) and found.certificates is None
        assert found.at_truth(sphere(4, 192, 0)) == {"exact_differences": None}
    other = attack(knowledge(before, after, PixelScale((3, 4, 4), 0.4, 0.25)))
    assert other.status == "no_images" and "192 numbers" in other.outcome.reason
    vectors = attack(replace(cases["no_images"], shape=(192,)))
    assert vectors.status == "no_images"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (RandomFeatures(d=12, k=1, n=2, p=30), "fixed"),
        (ResNet(input_shape=(3, 8, 8), k=1, n=2, width=4, blocks=1), "Conv2d"),
        (nn.Sequential(nn.Flatten()), "no layer with weights"),
    ],
    ids=["frozen", "convolution", "no weights"],
)
def test_networks_without_a_trained_dense_first_layer_are_refused(
    model: nn.Module, words: str
) -> None:
    method = RowSpaceReconstructor()
    for refused in (lambda: method.check(model), lambda: method.reconstruct(Knowledge(model))):
        with pytest.raises(InputError, match=words):
            refused()


def test_an_earlier_layer_of_another_size_is_refused() -> None:
    u, pixels = photographs(4, 8)
    before, after = changed(inputs_from_images(u, pixels), 32)
    with pytest.raises(InputError, match=r"\(16, 192\) and \(32, 192\)"):
        attack(knowledge(before[:16], after, pixels))


@pytest.mark.parametrize(
    ("flag", "value"), [("max_seconds", 0.0), ("max_rank", 0), ("seed", -1), ("max_seconds", -1.0)]
)
def test_settings_out_of_range_are_refused(flag: str, value: float) -> None:
    with pytest.raises(InputError, match=f"--recon.{flag}"):
        RowSpaceReconstructor(**{flag: value})  # type: ignore[arg-type]


# --- certificates


@pytest.mark.parametrize("mean", [0.5, 100 / 255])
def test_an_image_whose_negative_is_one_too_is_not_certain(mean: float) -> None:
    u, _ = photographs(8, 8)
    pixels = PixelScale((3, 8, 8), mean, 0.5)
    for seed in range(3):
        known = knowledge(*changed(inputs_from_images(u, pixels), 64, seed=seed), pixels)
        exact(attack(known), u)


@pytest.mark.parametrize("wrong", [0.3, 20.5, -7.7])
def test_under_a_wrong_mean_no_image_is_certain(wrong: float) -> None:
    u, pixels = photographs(6, 8)
    known = knowledge(*changed(inputs_from_images(u, pixels), 64), pixels)
    other = PixelScale(pixels.shape, pixels.mean + wrong / 255, pixels.std)
    found = attack(replace(known, pixels=other))
    assert len(accepted(found)) == 0 and not found.outcome.sure
    assert "mean and std of the pixels may not be those of training" in found.outcome.reason


def test_a_wrong_contrast_changes_no_pixel() -> None:
    u, pixels = photographs(6, 8)
    known = knowledge(*changed(inputs_from_images(u, pixels), 64), pixels)
    found = attack(replace(known, pixels=PixelScale(pixels.shape, pixels.mean, 1.5 * pixels.std)))
    assert exact(found, u) == set(range(6))
