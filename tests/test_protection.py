"""What is done to weights before they are released."""

import pytest
import torch

from lit_recon.errors import InputError
from lit_recon.protection import noisy, privacy_warning, pruned, rounded
from lit_recon.randomness import generator

WEIGHTS = {
    "layer.weight": torch.randn(40, 30, generator=generator(0, "weights")),
    "layer.bias": torch.zeros(3),
    "norm.num_batches_tracked": torch.tensor(7),
    "empty": torch.zeros(0),
}
CHANGES = {
    "noise": lambda weights: noisy(weights, 0.1, generator(1, "noise")),
    "bf16": lambda weights: rounded(weights, "bf16"),
    "int8": lambda weights: rounded(weights, "int8"),
    "int4": lambda weights: rounded(weights, "int4"),
    "pruning": lambda weights: pruned(weights, 0.5),
}


@pytest.mark.parametrize("name", CHANGES)
def test_names_types_and_the_given_weights_stay(name):
    given = {key: value.clone() for key, value in WEIGHTS.items()}
    changed = CHANGES[name](given)
    assert list(changed) == list(WEIGHTS)
    for key, value in changed.items():
        assert value.shape == WEIGHTS[key].shape and value.dtype == WEIGHTS[key].dtype
        assert torch.equal(given[key], WEIGHTS[key])
        value.zero_()
        assert torch.equal(given[key], WEIGHTS[key])
    assert not torch.equal(CHANGES[name](given)["layer.weight"], WEIGHTS["layer.weight"])
    assert int(CHANGES[name](given)["norm.num_batches_tracked"]) == 7
    assert not CHANGES[name](given)["layer.bias"].any()


def test_noise_is_relative_and_depends_on_the_seed_alone():
    small, large = (
        noisy({"w": factor * WEIGHTS["layer.weight"].double()}, 0.01, generator(3, "noise"))["w"]
        for factor in (1.0, 1000.0)
    )
    assert torch.allclose(1000 * small, large, rtol=1e-12)
    move = small - WEIGHTS["layer.weight"]
    rms = WEIGHTS["layer.weight"].double().square().mean().sqrt()
    assert float(move.std() / rms) == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize(("grid", "levels"), [("int8", 255), ("int4", 15)])
def test_a_grid_has_so_many_levels_and_moves_by_half_a_level_at_most(grid, levels):
    weight = WEIGHTS["layer.weight"]
    changed = rounded(WEIGHTS, grid)["layer.weight"]
    unit = 2 * float(weight.abs().max()) / (levels - 1)
    assert len(changed.unique()) <= levels
    assert float((changed - weight).abs().max()) <= unit / 2 * (1 + 1e-5)
    assert torch.equal(rounded({"w": -weight}, grid)["w"], -changed)


def test_bf16_keeps_eight_bits():
    changed = rounded(WEIGHTS, "bf16")["layer.weight"]
    assert torch.equal(changed, changed.to(torch.bfloat16).float())
    assert float((changed / WEIGHTS["layer.weight"] - 1).abs().max()) <= 2**-8


@pytest.mark.parametrize(("share", "left"), [(0, 1200), (0.25, 900), (1, 0)])
def test_pruning_keeps_the_largest(share, left):
    weight, changed = WEIGHTS["layer.weight"], pruned(WEIGHTS, share)["layer.weight"]
    kept = changed != 0
    assert int(kept.sum()) == left
    assert torch.equal(changed[kept], weight[kept])
    if 0 < left < 1200:
        assert float(weight[kept].abs().min()) >= float(weight[~kept].abs().max())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: noisy(WEIGHTS, -1, generator(0, "noise")), "sigma"),
        (lambda: noisy(WEIGHTS, float("nan"), generator(0, "noise")), "sigma"),
        (lambda: rounded(WEIGHTS, "int3"), "int3"),  # type: ignore[arg-type]
        (lambda: pruned(WEIGHTS, 1.5), "share"),
    ],
)
def test_bad_input_is_named(call, said):
    with pytest.raises(InputError, match=said):
        call()


def test_a_small_number_of_samples_and_a_large_delta_are_warned_of():
    assert "only 8" in (privacy_warning(8, 1e-6) or "")
    assert "delta" in (privacy_warning(1000, 0.01) or "")
    assert privacy_warning(1000, 1e-5) is None
