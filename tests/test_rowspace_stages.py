"""The stages of the row-space attack, each by itself: span, differences, lattice, images."""

from __future__ import annotations

from dataclasses import replace
from math import inf, sqrt

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_recon.knowledge import PixelScale
from lit_recon.methods.rowspace import span as stage_1
from lit_recon.methods.rowspace.differences import Differences, planes
from lit_recon.methods.rowspace.images import Frame, PixelSpace
from lit_recon.methods.rowspace.lattice import (
    FEWEST_CHECKS,
    NEAREST,
    SHORT,
    SPARE_BITS,
    Lattice,
    Space,
    false_bits,
    integer_vectors,
    lll,
    lll_transform,
    nearest_vectors,
    plan,
    reduced,
    sharpened,
)
from lit_recon.methods.rowspace.pairs import best_pair
from lit_recon.methods.rowspace.pixels import (
    ambiguous,
    decoded,
    decoded_images,
    decoded_with_image,
    with_common_constant,
)
from lit_recon.methods.rowspace.separation import (
    basis_of,
    cost_of,
    descend,
    rounded,
    shortened,
    sparsest,
    unlikeliness,
)
from lit_recon.methods.rowspace.span import Added, Span, find_span
from lit_recon.metrics import inputs_from_images
from tests.rowspaces import changed, photographs

Array = NDArray[np.float64]
Integers = NDArray[np.int64]


def span_of(before: Tensor | None, after: Tensor) -> Span:
    return find_span(after, before, torch.Generator().manual_seed(0))


def inputs(n: int, size: int = 8) -> Tensor:
    return inputs_from_images(*photographs(n, size))


def errors(span: Span, x: Tensor) -> tuple[float, float]:
    """The rms distance of the inputs (n, d) to the span, and what the span predicts."""
    inside = x @ span.basis.T
    predicted = ((inside @ span.noise) * inside).sum(1).mean().sqrt()
    return float((x - inside @ span.basis).square().mean().sqrt()), float(predicted)


# --- span


@pytest.mark.parametrize("size", [1.0, 1e-2])
@pytest.mark.parametrize(("n", "side", "h"), [(4, 8, 64), (8, 8, 128), (8, 16, 64), (40, 8, 128)])
def test_the_span_is_as_precise_as_it_says(n: int, side: int, h: int, size: float) -> None:
    x = inputs(n, side)
    span = span_of(*changed(x, h, size=size))
    assert (span.rank, span.neurons, span.share) == (n, h, 1.0)
    error, predicted = errors(span, x)
    assert 0.5 < predicted / error < 2
    assert error < 1e-5
    assert torch.allclose(span.basis @ span.basis.T, torch.eye(n, dtype=torch.float64))


def test_the_span_is_nearer_to_the_inputs_than_singular_vectors_are() -> None:
    x = inputs(8, 16)
    before, after = changed(x, 128)
    leading = torch.linalg.svd((after - before).double(), full_matrices=False)[2][:8]
    plain = (x - x @ leading.T @ leading).square().mean().sqrt()
    assert errors(span_of(before, after), x)[0] < 0.6 * plain


def test_a_double_network_gives_a_double_span() -> None:
    x = inputs(8)
    before, after = changed(x, 64, dtype=torch.float64)
    span = span_of(before, after)
    assert span.rank == 8 and errors(span, x)[0] < 1e-13
    assert span.values[8] < 1e-12 * span.values[0]


@pytest.mark.parametrize("h", [64, 128])
@pytest.mark.parametrize("share", [0.9, 0.999])
def test_what_weight_decay_takes_is_found(share: float, h: int) -> None:
    x = inputs(8)
    span = span_of(*changed(x, h, share=share))
    assert span.rank == 8 and abs(span.share - share) < 1e-8
    error, predicted = errors(span, x)
    assert 0.5 < predicted / error < 2


def test_no_start_is_a_start_at_zero() -> None:
    x = inputs(8)
    before, after = changed(x, 64)
    span = span_of(None, (after - before).double())
    assert span.rank == 8 and errors(span, x)[0] < 1e-5


def test_a_bias_puts_back_what_was_subtracted_from_the_inputs() -> None:
    """Inputs without their mean span one direction less; with the bias the mean is in it too."""
    u = inputs(6)
    mean = u.mean(0)
    coefficients = torch.randn(80, 6, generator=torch.Generator().manual_seed(1)).double()
    weight, bias = coefficients @ (u - mean), coefficients.sum(1)
    assert span_of(None, weight).rank == 5
    added = Added(mean, bias)
    span = find_span(weight, None, torch.Generator().manual_seed(0), added=added)
    assert span.rank == 6 and errors(span, u)[0] < 1e-9


def test_directions_just_above_white_noise_are_seen() -> None:
    """Up to what the largest singular value of the noise may be by chance."""
    random = torch.Generator().manual_seed(2)
    noise = torch.randn(200, 600, generator=random, dtype=torch.float64)
    edge = 200**0.5 + 600**0.5
    left = torch.linalg.qr(torch.randn(200, 12, generator=random, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(600, 12, generator=random, dtype=torch.float64)).Q
    sizes = torch.tensor([1e4] * 10 + [1.5 * edge] * 2, dtype=torch.float64)
    assert find_span(noise + (left * sizes) @ right.T, None, random).rank == 12
    assert find_span(noise + (left[:, :10] * 1e4) @ right[:, :10].T, None, random).rank == 10


def test_the_rows_of_a_span_are_in_the_order_of_their_share() -> None:
    change = torch.diag(torch.tensor([1.0, 9.0, 4.0, 2.0]).double()).repeat(9, 1) @ inputs(4)
    share = (change @ span_of(None, change).basis.T).norm(dim=0)
    assert share.tolist() == sorted(share.tolist(), reverse=True)


def test_as_many_neurons_as_samples_are_enough() -> None:
    x = inputs(8)
    span = span_of(*changed(x, 8))
    error, predicted = errors(span, x)
    assert span.rank == 8 and error < predicted < 1e-3


def test_fewer_neurons_than_samples_span_no_sample() -> None:
    x = inputs(8)
    span = span_of(*changed(x, 4))
    assert span.rank <= 4 and errors(span, x)[0] > 0.5


def test_a_square_layer_has_the_rank_of_its_samples() -> None:
    u, pixels = photographs(8, 8, grey=True)
    assert span_of(*changed(inputs_from_images(u, pixels), 64)).rank == 8


@pytest.mark.xfail(strict=True, reason="the whole spectrum is taken for signal by its last step")
def test_as_many_neurons_as_samples_are_enough_without_a_last_step() -> None:
    x = inputs(24)
    assert [span_of(*changed(x, 24, seed=seed)).rank for seed in range(3)] == [24] * 3


def test_a_change_without_low_rank_has_no_span() -> None:
    before, after = changed(inputs(8), 128)
    change = (after - before).double()
    noise = torch.randn(change.shape, generator=torch.Generator().manual_seed(1))
    for scaled in (change.sign(), change / (change.abs() + change.abs().mean()), noise):
        span = span_of(before, (before + 1e-3 * scaled).float())
        assert span.rank == 0 and span.outside == 1


@pytest.mark.parametrize("wrong", [0.0, float("nan"), float("inf")])
def test_no_change_and_one_that_is_not_finite_have_no_span(wrong: float) -> None:
    before, _ = changed(inputs(4), 16)
    assert span_of(before, before + wrong).rank == 0


def test_neurons_that_have_not_moved_do_not_count() -> None:
    x = inputs(8)
    before, after = changed(x, 64)
    after[::2] = before[::2]
    span = span_of(before, after)
    assert (span.rank, span.neurons) == (8, 32)


@pytest.mark.parametrize("limit", ["MOST_ENTRIES", "MOST_PRODUCTS"])
def test_of_a_wide_layer_the_neurons_that_moved_most_are_read(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = inputs(8)
    before, after = changed(x, 128)
    after[64:] = before[64:] + (after - before)[64:] / 100
    half = {"MOST_ENTRIES": 64 * x.shape[1], "MOST_PRODUCTS": 64 * 8 * 8 * x.shape[1]}
    monkeypatch.setattr(stage_1, limit, half[limit])
    span = span_of(before, after)
    assert span.rank == 8 and span.neurons == 128
    error, predicted = errors(span, x)
    assert 0.5 < predicted / error < 2


# --- differences

SHAPES = [(1, 4, 4), (3, 4, 4), (3, 2, 5), (2, 3, 1)]


def random_pixels(n: int, shape: tuple[int, int, int]) -> Integers:
    return np.random.default_rng(0).integers(0, 256, (n, int(np.prod(shape))))


@pytest.mark.parametrize("shape", SHAPES)
def test_differences_are_independent_and_as_many_as_there_can_be(
    shape: tuple[int, int, int],
) -> None:
    d = int(np.prod(shape))
    differences = Differences(random_pixels(3, shape).astype(float), shape)
    map = differences(np.eye(d))
    assert map.shape == (d, d - shape[0])
    assert np.linalg.matrix_rank(map) == d - shape[0]
    assert (map**2).sum(0).tolist() == differences.pixels.tolist()


@pytest.mark.parametrize("shape", SHAPES)
def test_an_image_comes_back_from_its_differences_up_to_constants(
    shape: tuple[int, int, int],
) -> None:
    u = random_pixels(3, shape)
    differences = Differences(u.astype(float), shape)
    lifted = differences.lifted(np.rint(differences(u.astype(float))).astype(np.int64))
    constant = (u - lifted).reshape(3, shape[0], -1)
    assert (constant == constant[:, :, :1]).all()
    assert not planes(lifted.astype(float), shape)[:, :, 0].any()
    assert np.array_equal(differences(lifted.astype(float)), differences(u.astype(float)))


def test_a_constant_in_each_channel_changes_no_difference() -> None:
    u = random_pixels(2, (3, 4, 4)).astype(float)
    brighter = u + np.repeat([7.5, -3.25, 100.0], 16)
    differences = Differences(u, (3, 4, 4))
    assert np.allclose(differences(u), differences(brighter))


def test_an_edge_in_the_image_is_crossed_once() -> None:
    u = np.zeros((1, 8, 8))
    u[:, :, 4:] = 200
    differences = Differences(u.reshape(1, -1), (1, 8, 8))
    assert np.count_nonzero(differences(u.reshape(1, -1))) == 1


# --- lattice


def space_of(
    n: int, size: int, change: float = 1e-2, *, grey: bool = False
) -> tuple[Space, Differences, Tensor, PixelScale, Span]:
    u, pixels = photographs(n, size, grey=grey)
    span = span_of(*changed(inputs_from_images(u, pixels), 96, size=change))
    found = PixelSpace.of(Frame.of(pixels.shape, pixels), span)
    return found.space, found.differences, u, pixels, span


def differences_of(u: Tensor, differences: Differences) -> Integers:
    return np.rint(differences(u.flatten(1).double().numpy())).astype(np.int64)


def combinations_of(found: Lattice, differences: Differences, u: Tensor) -> Integers:
    """The vectors found (k, m) as combinations of the images, (k, n); they must be exact."""
    true = differences_of(u, differences)
    real = np.linalg.lstsq(true.T.astype(float), found.integers.T.astype(float), rcond=None)[0].T
    whole = np.rint(real).astype(np.int64)
    assert np.array_equal(whole @ true, found.integers)
    return whole


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize(("n", "size", "change"), [(4, 8, 1.0), (8, 8, 1e-3), (8, 16, 1e-4)])
def test_a_basis_of_all_integer_combinations_is_found(
    n: int, size: int, change: float, grey: bool
) -> None:
    space, differences, u, _, _ = space_of(n, size, change, grey=grey)
    found = integer_vectors(space, Lattice.empty(space), 10)
    assert basis_of(combinations_of(found, differences, u))
    assert found.seconds == found.short_of == 0 and found.dimension > n
    assert false_bits(space, found.residual).max() < -40
    off = np.abs(found.coordinates @ space.values - found.integers).max()
    assert off < 20 * space.error() + 1e-9


def test_what_was_found_before_is_kept_and_makes_the_rest_more_precise() -> None:
    space, differences, u, pixels, span = space_of(8, 8, 1e-3)
    x = inputs_from_images(u, pixels).numpy() * 255 * pixels.std
    first = Lattice.empty(space).with_more(space, x[:3] @ span.basis.numpy().T)
    assert np.array_equal(first.integers, differences_of(u[:3], differences))
    sharp, turn = sharpened(space, first)
    assert np.allclose(turn @ space.values, sharp.values, atol=1e-4)
    assert sharp.error() < 0.9 * space.error()
    found = integer_vectors(space, first, 10)
    assert np.array_equal(found.integers[:3], first.integers) and len(found) == 8
    assert basis_of(combinations_of(found, differences, u))


def test_multiples_sums_and_what_is_not_an_integer_are_not_taken() -> None:
    space, differences, u, pixels, span = space_of(4, 8)
    x = inputs_from_images(u, pixels).numpy() * 255 * pixels.std @ span.basis.numpy().T
    offered = np.stack([x[0] / 7, -3 * x[0], x[0], x[1] + x[0], x[1], 0 * x[0]])
    found = Lattice.empty(space).with_more(space, offered)
    own = differences_of(u, differences)
    assert np.array_equal(found.integers, np.stack([-own[0], own[0] + own[1]]))


def test_a_short_vector_of_noise_is_no_integer_vector() -> None:
    """It is near zero in all differences but a few, by its length and not by chance."""
    space = space_of(4, 16, 1e-9)[0]
    short = np.zeros((1, space.rank))
    short[0, 0] = 0.6 / np.abs(space.values[0]).max()
    assert np.rint(short @ space.values).any()
    unmeasured = replace(space, measured=False)
    assert not len(Lattice.empty(space).with_more(unmeasured, short))


def test_too_little_precision_or_time_is_said() -> None:
    space, *_ = space_of(8, 8, 1e-6)
    found = integer_vectors(space, Lattice.empty(space), 10)
    assert len(found) == found.dimension == found.seconds == 0
    assert found.short_of > 0.3
    space, *_ = space_of(8, 8, 1e-3)
    found = integer_vectors(space, Lattice.empty(space), 1e-9)
    assert len(found) == found.dimension == found.short_of == 0
    assert found.seconds > 1e-9


def test_approximate_images_need_less_precision() -> None:
    space, differences, u, pixels, span = space_of(8, 16, 1e-5)
    assert not len(integer_vectors(space, Lattice.empty(space), 10))
    true = inputs_from_images(u, pixels).numpy() @ span.basis.numpy().T
    random = np.random.default_rng(0)
    noise = random.normal(size=true.shape) * np.linalg.norm(true) / true.size**0.5
    guesses = random.uniform(-2, 2, (8, 1)) * (true + 0.03 * noise)
    found = nearest_vectors(space, guesses, Lattice.empty(space), 10)
    assert basis_of(combinations_of(found, differences, u))
    again = nearest_vectors(space, guesses[:2], replace(found, short_of=3.0), 10)
    assert np.array_equal(again.integers, found.integers) and again.short_of == 0


def test_nothing_is_found_where_there_are_no_integers() -> None:
    x = torch.randn(8, 192, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pixels = PixelScale((3, 8, 8), 0.44, 0.25)
    span = span_of(*changed(x, 64))
    space = PixelSpace.of(Frame.of(pixels.shape, pixels), span).space
    assert not len(integer_vectors(space, Lattice.empty(space), 2))
    guesses = np.random.default_rng(0).normal(size=(8, 8))
    assert not len(nearest_vectors(space, guesses, Lattice.empty(space), 2))


def test_a_plan_has_as_many_checks_as_the_reduction_needs() -> None:
    space, *_ = space_of(8, 8)
    search = plan(space, space.size, 5e-3)
    assert search.margin > SPARE_BITS and len(search.pivots) == 8
    assert len(search.checks) > FEWEST_CHECKS
    assert not set(search.pivots) & set(search.checks)
    fewer = replace(search, checks=search.checks[:-1], error=search.error[:-1])
    assert fewer.margin < SPARE_BITS
    assert np.allclose(search.inverse @ space.values, search.map)
    assert np.allclose(search.map[:, search.pivots], np.eye(8))
    assert len(plan(space, space.size, 1e-9).checks) == FEWEST_CHECKS
    dimensions, margins = [], []
    for error in (1e-6, 1e-4, 1e-2, 1.0):
        one = plan(space, space.size, error)
        dimensions.append(one.dimension)
        margins.append(one.margin)
    assert dimensions[:3] == sorted(dimensions[:3]) and margins[3] < 0 < margins[2]
    assert plan(space, space.size, 1e-3, NEAREST).demand != SHORT


def test_the_bits_of_a_plan_are_the_volume_of_its_lattice() -> None:
    space, *_ = space_of(4, 8)
    search = plan(space, space.size, 1e-3)
    volume = np.linalg.slogdet(reduced(search))[1] / np.log(2)
    needed = SHORT[0] + SHORT[1] * search.dimension
    there = volume / search.dimension - 6  # UNIT is 2^6
    assert search.margin == pytest.approx(there - needed, abs=0.05)


def test_lll_keeps_the_lattice_and_makes_it_short() -> None:
    random = np.random.default_rng(0)
    short = random.integers(-9, 10, (6, 6)).astype(float)
    scramble = np.tril(random.integers(-5, 6, (6, 6)), -1) + np.eye(6)
    rows = lll(scramble @ scramble.T @ short)
    assert abs(np.linalg.det(rows)) == pytest.approx(abs(np.linalg.det(short)))
    assert np.linalg.norm(rows, axis=1).max() <= 2 * np.linalg.norm(short, axis=1).max()
    turn = lll_transform(scramble @ scramble.T @ short)
    assert basis_of(turn)
    assert np.abs(turn @ scramble @ scramble.T @ short).max() <= 20


def test_wrong_vectors_are_at_most_as_many_as_predicted() -> None:
    """All integer pivots of random spaces of one dimension, with three further differences."""
    random, pivots, most = np.random.default_rng(0), np.arange(-80, 81), 0.1
    passed, predicted, spaces = 0, 0.0, 400
    for _ in range(spaces):
        values = np.concatenate([[1.0], random.normal(size=3)])[None]
        space = Space(values, np.zeros((1, 1)), np.full(4, 2), 20 / np.abs(values).max())
        others = pivots[:, None] * values[0, 1:]
        rms = np.sqrt(((others - np.rint(others)) ** 2).mean(1))
        passed += int((rms < most).sum()) - 1  # zero is no vector
        predicted += float(2 ** false_bits(space, np.array([most]))[0])
    assert predicted / 20 < passed < predicted


# --- pixels


def exact(u: Tensor, offset: float, combinations: Integers) -> tuple[Lattice, Differences, Array]:
    """A lattice of combinations (k, n) of images, as it is found, and its rows in pixels."""
    levels, (c, h, w) = u.flatten(1).double().numpy(), u.shape[1:]
    differences = Differences(levels, (c, h, w))
    rows = combinations @ (levels - offset)
    whole = np.rint(differences(rows)).astype(np.int64)
    return Lattice(combinations.astype(float), whole, np.full(len(whole), 1e-3)), differences, rows


def grey_level(offset: float, u: Tensor) -> NDArray[np.float64]:
    """The offset of each channel of images (n, c, h, w)."""
    return np.full(u.shape[1], offset)


MIXED = np.array([[1, 0, 0], [0, 1, -1], [0, -1, 0], [1, 1, 0], [1, 1, 1]])


@pytest.mark.parametrize("grey", [False, True])
def test_the_constant_of_a_vector_gives_its_multiple_of_the_offset(grey: bool) -> None:
    u, pixels = photographs(4, 8, grey=grey)
    offset = float(255 * pixels.mean)
    lattice, differences, rows = exact(u[:3], offset, MIXED)
    vectors, fits = decoded(lattice, rows + 1e-4, differences, grey_level(offset, u))
    assert fits.all() and vectors.multiples.tolist() == MIXED.sum(1).tolist()
    assert np.array_equal(vectors.whole, MIXED @ u[:3].flatten(1).long().numpy())
    turned = vectors.turned(np.array([[1, 1, 0, 0, 0]]))
    assert turned.multiples.tolist() == [1] and len(turned) == 1


def test_a_wrong_offset_does_not_fit() -> None:
    u, _ = photographs(4, 8)
    lattice, differences, rows = exact(u[:3], 101.3, np.eye(3, dtype=np.int64))
    assert not decoded(lattice, rows, differences, grey_level(100.0, u))[1].any()
    vectors, fits = decoded(lattice, rows, differences, grey_level(90.47, u))
    assert not (fits & (vectors.multiples == 1)).any()


@pytest.mark.parametrize("offset", [100.0, 85.0 + 1 / 3, 63.75])
def test_of_multiples_that_all_fit_that_of_an_image_is_taken(offset: float) -> None:
    u, _ = photographs(4, 8)
    u[:, :, 0, 0] = 255  # their negatives have pixels below 0
    signs = np.diag([1, -1, 1])
    lattice, differences, rows = exact(u[:3], offset, signs)
    assert ambiguous(np.array([offset]), 0.0)
    vectors, fits = decoded(lattice, rows, differences, grey_level(offset, u), images=True)
    assert fits.all() and vectors.multiples.tolist() == [1, -1, 1]
    assert np.array_equal(vectors.whole, signs @ u[:3].flatten(1).long().numpy())


def test_an_offset_is_ambiguous_by_the_precision_of_the_row_space() -> None:
    assert not ambiguous(np.array([112.3]), 0.01)
    assert ambiguous(np.array([112.3]), 0.2)


@pytest.mark.parametrize("noise", [1e-4, 0.3])
def test_an_image_as_offset_is_a_direction_of_its_own(noise: float) -> None:
    u, _ = photographs(4, 8)
    levels = u.flatten(1).double().numpy()
    offset = levels.mean(0)
    lattice, differences, _ = exact(u[:3], 0.0, MIXED)
    length = np.linalg.norm(offset)
    multiples = MIXED.sum(1, keepdims=True)
    lattice = replace(lattice, coordinates=np.hstack([MIXED, multiples * length]))
    rows = MIXED @ levels[:3] + noise
    vectors, fits = decoded_with_image(lattice, rows, differences, float(length))
    assert fits.all() == (noise < 0.1)
    assert vectors.multiples.tolist() == multiples[:, 0].tolist()
    assert np.array_equal(vectors.whole, MIXED @ u[:3].flatten(1).long().numpy())


def test_images_without_an_offset_share_one_brightness_and_a_sign() -> None:
    u, _ = photographs(4, 8)
    signs = np.diag([1, -1, -1, 1])
    lattice, differences, rows = exact(u, 101.3, signs)
    vectors, other_levels = with_common_constant(lattice, rows, differences)
    assert vectors.multiples.tolist() == [1, -1, -1, 1]
    whole = signs @ vectors.whole
    shift = whole - u.flatten(1).long().numpy()
    assert (shift == shift[0, 0]).all() and whole.min() >= 0 and whole.max() <= 255
    assert other_levels == 255 - int(u.max()) + int(u.min()) + 1


# --- separation


def unimodular(n: int, seed: int = 0) -> Integers:
    random = np.random.default_rng(seed)
    lower = np.tril(random.integers(-2, 3, (n, n)), -1) + np.eye(n, dtype=np.int64)
    upper = np.triu(random.integers(-2, 3, (n, n)), 1) + np.eye(n, dtype=np.int64)
    turn: Integers = lower @ upper
    assert basis_of(turn)
    return turn


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("n", "size", "grey"), [(4, 8, False), (8, 16, False), (4, 16, True)])
def test_images_come_back_from_any_basis_of_their_lattice(
    n: int, size: int, grey: bool, known: bool
) -> None:
    u, pixels = photographs(n, size, grey=grey)
    levels = u.flatten(1).long().numpy()
    scramble = unimodular(n)
    vectors, multiples = scramble @ levels, scramble.sum(1)
    start = shortened(vectors, multiples if known else None, pixels.shape)
    moved, gap = descend(start @ vectors, pixels.shape, boxed=known)
    combinations = moved @ start @ scramble  # of the images: one each, up to sign
    assert basis_of(moved @ start)
    assert np.array_equal(np.abs(combinations).sum(1), np.ones(n))
    assert gap.min() > 10


def test_a_sum_of_images_is_a_likelier_image_after_one_of_them_is_taken_off() -> None:
    u, pixels = photographs(4, 8)
    levels = u.flatten(1).long().numpy()
    mixed = np.stack([levels[0], levels[1] + levels[0], levels[2] - levels[3], levels[3]])
    turn, gap = descend(mixed, pixels.shape, boxed=True)
    assert np.array_equal(turn @ mixed, levels)
    assert (unlikeliness(mixed, pixels.shape) >= unlikeliness(levels, pixels.shape)).all()
    assert gap.shape == (4,) and (gap > 0).all()
    outside = cost_of(mixed, pixels.shape, boxed=True) - unlikeliness(mixed, pixels.shape)
    assert outside[1] > 0 and outside[[0, 3]].tolist() == [0, 0]


def test_approximate_images_are_rounded_to_combinations_that_hold_the_offset_once() -> None:
    wanted = np.tril(np.random.default_rng(0).integers(-2, 3, (6, 6)), -1) + np.eye(6)
    multiples = np.rint(np.linalg.inv(wanted).sum(1)).astype(np.int64)  # wanted @ multiples is 1
    random = np.random.default_rng(1)
    noisy = wanted + 0.02 * random.normal(size=wanted.shape)
    found = rounded(random.uniform(-2, 2, (6, 1)) * noisy, multiples)
    sign = found @ multiples
    assert np.array_equal(sign[:, None] * found, wanted) and basis_of(found)
    assert rounded(noisy, None).any(1).all()
    assert not rounded(noisy, np.zeros(6, dtype=np.int64)).any()


def test_a_basis_has_a_determinant_of_one() -> None:
    assert basis_of(np.array([[1, 2], [0, -1]]))
    assert not basis_of(np.array([[1, 1], [1, -1]]))
    assert not basis_of(np.array([[1, 0, 0], [0, 1, 0]]))


def test_zeros_of_inactive_units_tell_sums_from_images() -> None:
    random = np.random.default_rng(0)
    dense = random.normal(size=(400, 6))
    active = random.random((400, 6)) < 0.5
    mixing = np.eye(6, dtype=np.int64)
    mixing[0, 1:4] = [1, -2, 1]
    mixing[4] += 2 * mixing[0] - mixing[5]  # rows: vectors as sums of images
    back = np.linalg.inv(mixing)
    turn, certain = sparsest((dense * active) @ back)
    assert certain and np.array_equal(np.abs(turn @ mixing).sum(0), np.ones(6))
    assert not sparsest(dense @ back)[1]  # without zeros nothing is told
    twins = np.column_stack([active[:, 0], active[:, :5]]) * dense  # two that are active together
    assert not sparsest(twins @ back)[1]


@pytest.mark.parametrize("mean", [109.2, 110.0])
def test_vectors_that_are_images_have_one_multiple_or_its_negative(mean: float) -> None:
    u, _ = photographs(4, 8)
    u[:, :, 0, 0], u[:, :, 0, 1] = 255, 0  # no negative is in 0..255
    signs = np.diag([1, -1, 1])
    lattice, differences, rows = exact(u[:3], mean, signs)
    vectors, fits = decoded_images(lattice, rows + 1e-3, differences, grey_level(mean, u))
    assert fits.all() and vectors.multiples.tolist() == [1, -1, 1]
    assert np.array_equal(vectors.whole, signs @ u[:3].flatten(1).long().numpy())
    wrong = decoded_images(lattice, rows, differences, grey_level(mean + 0.3, u))
    assert not wrong[1].any()


# --- pairs of checkpoints


def test_of_earlier_checkpoints_the_one_with_most_images_within_reach_is_taken() -> None:
    u, pixels = photographs(16, 8)
    x, frame = inputs_from_images(u, pixels), Frame.of(pixels.shape, pixels)
    random = torch.Generator().manual_seed(0)
    first, second = changed(x, 64, size=3e-6)  # sixteen images, with too little precision
    _, after = changed(x[:6], 64, size=1e-1, seed=1)
    after = after - changed(x[:6], 64, seed=1)[0] + second  # then six images, with much
    befores = [first, second, after]
    assert best_pair(after, befores, frame, random) == 1
    start, end = changed(x, 64, size=1e-1, seed=2, dtype=torch.float64)
    precise = second.double() - (end - start)  # all sixteen, in float64
    assert best_pair(after.double(), [precise, second.double()], frame, random) == 0
    assert best_pair(after, [after], frame, random) == 0  # nothing is in it, and the attack says so


def digits_like(seed: int) -> tuple[Space, Tensor]:
    """The row space of final weights that read eight small images with a border, and the images."""
    random = torch.Generator().manual_seed(seed)
    u = torch.randint(0, 17, (8, 1, 8, 8), generator=random, dtype=torch.uint8) * 15
    u[..., :2], u[..., 6:] = 0, 240
    unit = u.double() / 255
    pixels = PixelScale((1, 8, 8), float(unit.mean()), float(unit.std()))
    # Rounding is larger where weights move, and so the noise has two levels.
    rounding = 1e-6 * torch.randn(64, 64, generator=random, dtype=torch.float64)
    rounding[:, pixels_alike(u)] *= 0.05
    weight = torch.randn(64, 8, generator=random, dtype=torch.float64)
    weight = weight @ inputs_from_images(u, pixels) + rounding
    return PixelSpace.of(Frame.of(pixels.shape, pixels), span_of(None, weight)).space, u


def pixels_alike(u: Tensor) -> Tensor:
    """(d,) bool, of images (n, c, h, w)."""
    flat = u.flatten(1)
    return (flat == flat[0]).all(0)


@pytest.mark.parametrize("seed", [0, 1])
def test_pixels_that_are_alike_in_all_images_do_not_hide_the_rank(seed: int) -> None:
    space, u = digits_like(seed)
    assert space.rank == len(u)
    assert len(integer_vectors(space, Lattice.empty(space), 10)) == len(u)


def test_differences_that_are_zero_in_all_images_are_no_evidence() -> None:
    """They would vouch for any vector, and be the checks that the error disturbs least."""
    space, u = digits_like(0)
    zero = (space.values**2).sum(0) < 1e-8
    assert zero.sum() >= pixels_alike(u).sum() - 2  # two borders, each a plane of its own
    assert np.array_equal(~space.telling, zero)
    search = plan(space, space.size, space.error())
    assert not zero[search.checks].any() and not zero[search.pivots].any()
    residual = np.array([0.05])
    other = replace(space, values=space.values[:, ~zero], pixels=space.pixels[~zero])
    alike = sqrt(len(zero) / (~zero).sum())  # the same distances, with zeros in the mean
    assert false_bits(space, residual) == pytest.approx(false_bits(other, residual * alike))
    nothing = replace(space, values=space.values * zero)
    assert false_bits(nothing, residual)[0] == inf


def test_weak_images_are_seen_down_to_the_noise_of_a_start() -> None:
    """The spectrum steps down before the last images, which are small but above the start."""
    x, random = inputs(8), torch.Generator().manual_seed(0)
    strength = torch.tensor([1, 1, 1, 1, 1, 1, 3e-4, 1e-4], dtype=torch.float64)
    c = torch.randn(150, 8, generator=random, dtype=torch.float64) * strength
    start = torch.randn(150, x.shape[1], generator=random, dtype=torch.float64)
    span = span_of(None, (c @ x + 2e-5 * start).float())
    assert span.rank == 8
    assert stage_1._steps(span.values, whole=False)[0] == 6
    inside = x @ span.basis.T @ span.basis
    assert bool(((x - inside).norm(dim=1) < 0.2 * x.norm(dim=1)).all())


def test_neurons_that_hold_most_of_the_images_do_not_make_noise_uneven() -> None:
    """Directions take the noise of such neurons with them, which is then no level of its own."""
    random = torch.Generator().manual_seed(0)
    n, h, d = 40, 200, 1024
    # Two images as faint as 1.3 times the largest singular value of the noise, after a step.
    size = torch.ones(n, dtype=torch.float64)
    size[-2:] = 1.3e-6 * (h**0.5 + d**0.5)
    left = torch.linalg.qr(torch.randn(h, n, generator=random).double() ** 5).Q
    right = torch.linalg.qr(torch.randn(d, n, generator=random).double()).Q
    noise = 1e-6 * torch.randn(h, d, generator=random, dtype=torch.float64)
    assert left.square().sum(1).max() > 0.9  # of the noise of a neuron is taken along
    assert find_span((left * size) @ right.T + noise, None, torch.Generator()).rank == n


def test_images_as_faint_as_rounding_are_not_left_out_where_noise_is_uneven() -> None:
    random = torch.Generator().manual_seed(0)
    strong, faint, h, d = 12, 8, 300, 3072
    # From far below the others down to the noise, 7.4e-6, without a step.
    size = torch.cat([torch.ones(strong), 6.5e-5 * 0.78 ** torch.arange(faint)]).double()
    left = torch.linalg.qr(torch.randn(h, strong + faint, generator=random).double()).Q
    right = torch.linalg.qr(torch.randn(d, strong + faint, generator=random).double()).Q
    noise = torch.randn(h, d, generator=random, dtype=torch.float64)
    noise *= 1e-7 * torch.linspace(0.9, 1.1, h, dtype=torch.float64)[:, None]
    span = find_span((left * size) @ right.T + noise, None, torch.Generator())
    assert strong + faint <= span.rank <= strong + faint + 1  # its noise is above that of one level
