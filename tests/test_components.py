"""Independent components, exact zeros and rounding give the images of a span back."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.photos import Photos
from lit_recon.methods.rowspace import components, zeros
from lit_recon.methods.rowspace.components import component_spread, independent_components
from lit_recon.methods.rowspace.features import STANDS_OUT, Features, coherence
from lit_recon.methods.rowspace.rounding import (
    Rounded,
    log10_chance,
    recover_integers,
    round_to_integers,
)
from lit_recon.methods.rowspace.zeros import Estimate, isotropic, refine_by_zeros

Shape = tuple[int, int, int]


def photographs(n: int, size: int) -> tuple[Tensor, Shape]:
    """(n, d) standardised patches of photographs, and their shape."""
    data = Photos(n=n, image_size=size)
    data.load()
    return data.x.double().flatten(1), (3, size, size)


def mixed(x: Tensor) -> Tensor:
    """Combinations (n, d) of the images x (n, d) with random coefficients."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(len(x), len(x), dtype=torch.float64, generator=generator) @ x


def components_of(basis: Tensor, shape: Shape, seed: int = 0) -> Tensor:
    unmixing = independent_components(basis, shape, torch.Generator().manual_seed(seed))
    return unmixing @ basis


def correlations(x: Tensor, found: Tensor) -> Tensor:
    """(n, k) absolute correlations of the pixels."""
    return torch.corrcoef(torch.cat([x, found]))[: len(x), len(x) :].abs()


@pytest.mark.parametrize(("n", "size"), [(8, 16), (20, 32)])
def test_every_image_is_one_component(n, size):
    x, shape = photographs(n, size)
    cosines = correlations(x, components_of(mixed(x), shape))
    assert sorted(cosines.argmax(1).tolist()) == list(range(n))
    assert cosines.amax(1).median() > 0.98 and cosines.amax(1).min() > 0.8


def test_one_channel_is_enough():
    x, _ = photographs(8, 32)
    grey = x.reshape(8, 3, -1).mean(1)
    cosines = correlations(grey, components_of(mixed(grey), (1, 32, 32)))
    assert cosines.amax(1).median() > 0.97


def test_constant_images_in_the_span_make_no_difference():
    x, shape = photographs(8, 16)
    levels = torch.linspace(-2, 3, 8, dtype=torch.float64)[:, None]
    cosines = correlations(x, components_of(mixed(x + levels), shape))
    assert cosines.amax(1).median() > 0.98


def test_the_basis_of_the_span_makes_no_difference():
    x, shape = photographs(8, 16)
    one, other = components_of(x, shape), components_of(mixed(x), shape, seed=3)
    assert correlations(one, other).amax(1).min() > 0.99


def test_a_basis_with_a_lower_rank_gives_fewer_components():
    x, shape = photographs(6, 16)
    constant = torch.ones(1, x.shape[1], dtype=torch.float64)
    basis = torch.cat([x, x[:1] + x[1:2], constant])
    unmixing = independent_components(basis, shape, torch.Generator().manual_seed(0))
    assert unmixing.shape == (6, 8)
    assert torch.isfinite(unmixing).all()


def test_more_rows_are_added_to_what_fewer_have_found(monkeypatch):
    x, shape = photographs(20, 16)
    monkeypatch.setattr(components, "FIRST_STAGE", 4)
    ranks = []
    whiten = components._whiten

    def noted(maps):
        ranks.append(len(maps))
        return whiten(maps)

    monkeypatch.setattr(components, "_whiten", noted)
    cosines = correlations(x, components_of(mixed(x), shape))
    assert ranks == [5, 10, 20]
    assert cosines.amax(1).median() > 0.98


def test_the_generator_decides_the_result():
    x, shape = photographs(6, 8)
    assert torch.equal(components_of(x, shape), components_of(x, shape))
    assert not torch.equal(components_of(x, shape), components_of(x, shape, seed=1))


@pytest.mark.parametrize("shape", [(1, 1, 12), (2, 3, 2)])
def test_other_shapes_give_finite_numbers(shape):
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(2, 12, dtype=torch.float64, generator=generator)
    assert torch.isfinite(components_of(basis, shape)).all()


def test_the_spread_is_the_size_of_the_errors():
    x, shape = photographs(20, 32)
    found = components_of(mixed(x), shape)
    shares = (found @ torch.linalg.pinv(x))[:, correlations(x, found).argmax(0)]
    scale = shares.diagonal()
    errors = shares / scale  # E in units of the candidates
    errors.fill_diagonal_(0)
    ratio = (errors / component_spread(found, shape).fill_diagonal_(1)).square().mean().sqrt()
    assert 0.5 < ratio < 2


# Zeros and rounding. The problem: images x, a first layer before and after, and a change whose
# coefficients are zero where a neuron is inactive at both, but for some that were active between.


@dataclass(frozen=True)
class Problem:
    x: Tensor
    change: Tensor
    before: Tensor
    after: Tensor
    levels: Tensor
    offset: float
    factor: float
    shape: Shape


def problem(n: int = 12, size: int = 16, h: int = 150, between: float = 0.2, bias=False) -> Problem:
    data = Photos(n=n, image_size=size)
    data.load()
    assert data.images is not None and data.pixels is not None
    levels, factor = data.images.double().flatten(1), 255 * float(data.pixels.std)
    offset = float(data.pixels.offset)
    x = (levels - offset) / factor
    rows = torch.cat([x, torch.ones(n, 1, dtype=x.dtype)], 1) if bias else x
    generator = torch.Generator().manual_seed(5)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, dtype=torch.float64, generator=generator)

    before = normal(h, rows.shape[1]) / rows.shape[1] ** 0.5
    coefficients = 1e-3 * normal(h, n)
    inactive = before @ rows.T < 0
    coefficients[inactive & (torch.rand(h, n, generator=generator) >= between)] = 0
    change = coefficients @ rows
    after = before + change
    change += 1e-9 * normal(*change.shape)
    return Problem(rows, change, before, after, levels, offset, factor, (3, size, size))


def contaminated(x: Tensor, size: float, seed: int = 0) -> Estimate:
    """Candidates with errors of a given relative size, and the spread that says so."""
    generator = torch.Generator().manual_seed(seed)
    leak = torch.randn(len(x), len(x), dtype=x.dtype, generator=generator)
    leak *= isotropic(x, size).spread
    return Estimate(x + leak @ x, isotropic(x, size).spread)


def direction_errors(x: Tensor, candidates: Tensor) -> Tensor:
    return (F.normalize(x, dim=1) - F.normalize(candidates, dim=1)).norm(dim=1)


@pytest.mark.parametrize("bias", [False, True])
def test_zeros_remove_the_errors(bias):
    p = problem(bias=bias)
    prior = contaminated(p.x, 0.15)
    assert direction_errors(p.x, prior.candidates).median() > 0.1
    firm, best = refine_by_zeros(p.change, p.before, p.after, prior, prior)
    assert firm.settled.all()
    assert direction_errors(p.x, best.candidates).max() < 1e-4


@pytest.mark.parametrize("missing", ["before", "after"])
def test_one_checkpoint_s_masks_are_enough(missing):
    p = problem()
    prior = contaminated(p.x, 0.15)
    before, after = (None, p.after) if missing == "before" else (p.before, None)
    _, best = refine_by_zeros(p.change, before, after, prior, prior)
    assert direction_errors(p.x, best.candidates).max() < 1e-4


def test_masks_decide_the_signs():
    p = problem()
    prior = contaminated(p.x, 0.05)
    signs = torch.tensor([1.0, -1.0] * 6, dtype=p.x.dtype)[:, None]
    turned = Estimate(signs * prior.candidates, prior.spread)
    _, best = refine_by_zeros(p.change, p.before, p.after, turned, turned)
    assert direction_errors(p.x, best.candidates).max() < 1e-4


def test_too_few_neurons_leave_the_prior_and_nothing_is_settled():
    p = problem(h=14, between=0.5)
    prior = contaminated(p.x, 0.1)
    firm, best = refine_by_zeros(p.change, p.before, p.after, prior, prior)
    assert not firm.settled.any()
    before = direction_errors(p.x, prior.candidates).median()
    assert direction_errors(p.x, best.candidates).median() < 1.5 * before


def test_equations_of_doubtful_masks_are_left_out(monkeypatch):
    """Training leaves many neurons on the kink of some images, where C is anything."""
    p = problem(n=20, h=80)
    generator = torch.Generator().manual_seed(0)
    weight, coefficients = p.after.clone(), torch.randn(80, 20, generator=generator).double()
    coefficients[weight @ p.x.T < 0] = 0
    for neuron in range(80):
        images = torch.randperm(20, generator=generator)[:5]
        rows = torch.linalg.qr(p.x[images].T).Q.T
        weight[neuron] -= rows.T @ (rows @ weight[neuron])
        coefficients[neuron, images] = torch.randn(5, generator=generator).double()
    prior = contaminated(p.x, 0.2)
    errors = []
    for sigmas in (0.0, 1.0):
        monkeypatch.setattr(zeros, "MASK_SIGMAS", sigmas)
        _, best = refine_by_zeros(coefficients @ p.x, None, weight, prior, prior)
        errors.append(direction_errors(p.x, best.candidates).median())
    assert errors[1] < 0.7 * errors[0]


def test_known_signs_are_not_tried_twice(monkeypatch):
    p = problem()
    prior = replace(contaminated(p.x, 0.15), signed=True)
    calls = []
    regress = zeros._regress_all

    def noted(*arguments):
        calls.append(arguments)
        return regress(*arguments)

    monkeypatch.setattr(zeros, "_regress_all", noted)
    _, best = refine_by_zeros(p.change, p.before, p.after, prior, prior)
    assert len(calls) == 1 and best.signed
    assert direction_errors(p.x, best.candidates).max() < 1e-4


def test_after_the_deadline_the_prior_stays():
    p = problem()
    prior = contaminated(p.x, 0.15)
    firm, best = refine_by_zeros(p.change, p.before, p.after, prior, prior, deadline=0.0)
    assert torch.equal(best.spread, prior.spread) and not firm.settled.any()


def test_known_candidates_stay_and_help():
    p = problem(h=40)
    prior = contaminated(p.x, 0.15)
    known = torch.arange(12) < 8
    candidates, spread = prior.candidates.clone(), prior.spread.clone()
    candidates[known], spread[known] = p.x[known], 0
    helped = Estimate(candidates, spread, known)
    _, without = refine_by_zeros(p.change, p.before, p.after, prior, prior)
    _, best = refine_by_zeros(p.change, p.before, p.after, helped, helped)
    assert torch.equal(best.candidates[known], p.x[known])
    assert direction_errors(p.x, best.candidates).max() < 1e-3
    assert direction_errors(p.x, without.candidates).max() > 1e-3


def test_zeros_need_masks():
    p = problem()
    prior = contaminated(p.x, 0.1)
    with pytest.raises(ValueError, match="weights of at least one checkpoint"):
        refine_by_zeros(p.change, None, None, prior, prior)


def rounded(p: Problem, estimate: Estimate, offset: float | Tensor | None = None) -> Rounded:
    generator = torch.Generator().manual_seed(0)
    zero = p.offset if offset is None else offset
    return round_to_integers(estimate, zero, p.factor, p.shape, generator)


def test_rounding_finds_the_exact_images_at_any_scale_and_sign():
    p = problem()
    prior = contaminated(p.x, 0.003)
    scale = torch.linspace(-1.5, 2, 12, dtype=p.x.dtype)[:, None]
    spread = prior.spread * scale.abs() / scale.abs().T
    found = rounded(p, Estimate(scale * prior.candidates, spread))
    assert found.exact.all() and torch.equal(found.levels, p.levels)
    assert found.residual.max() < 0.01 and found.log10_chance < -50


def test_larger_errors_in_few_directions_are_found():
    p = problem()
    spread = isotropic(p.x, 0.02).spread
    spread[:, 2:] = 0
    leak = spread * torch.randn(12, 12, generator=torch.Generator().manual_seed(2)).double()
    found = rounded(p, Estimate(p.x + leak @ p.x, spread))
    assert found.exact.sum() >= 10
    assert torch.equal(found.levels[found.exact], p.levels[found.exact])


@pytest.mark.parametrize("error", [0.3, 1.0])
def test_rounding_accepts_nothing_that_is_wrong(error):
    p = problem()
    found = rounded(p, contaminated(p.x, error))
    assert not found.exact.any()
    other = torch.randn(12, p.x.shape[1], dtype=p.x.dtype, generator=torch.Generator())
    assert not rounded(p, isotropic(other, error / 10)).exact.any()


def test_small_images_give_too_little_evidence():
    p = problem(n=2, size=2)
    found = rounded(p, contaminated(p.x, 1e-4))
    assert found.log10_chance > -12 and not found.exact.any()


@pytest.mark.parametrize("sign", [1, -1])
def test_a_mean_image_is_an_offset_too(sign):
    p = problem()
    mean = p.levels.mean(0)
    x = (p.levels - mean) / p.factor
    prior = contaminated(x[:11], 0.003)  # the twelfth is a combination of these
    found = rounded(p, Estimate(sign * prior.candidates, prior.spread), mean)
    assert found.exact.all() and torch.equal(found.levels, p.levels[:11])


def test_known_images_are_left_alone():
    p = problem()
    prior = contaminated(p.x, 0.003)
    known = torch.arange(12) == 4
    prior.candidates[known] = p.x[known]
    found = rounded(p, Estimate(prior.candidates, prior.spread, known))
    assert found.exact[4] and torch.equal(found.levels[4], p.levels[4])


@pytest.mark.parametrize("bias", [False, True])
def test_zeros_and_rounding_by_turns_find_all_images(bias):
    p = problem(h=60, between=0.3, bias=bias)
    generator = torch.Generator().manual_seed(0)
    best, found = recover_integers(
        p.change,
        p.before,
        p.after,
        contaminated(p.x, 0.15),
        p.offset,
        p.factor,
        p.shape,
        generator,
    )
    assert found.exact.all() and torch.equal(found.levels, p.levels)
    assert torch.allclose(best.candidates, p.x)


def test_features_are_whole_where_an_image_is_and_read_no_pixel_that_is_held_out():
    p = problem(size=8)
    features = Features.drawn(p.shape, torch.Generator().manual_seed(0))
    assert torch.equal(features.of(p.levels), features.of(p.levels).round())
    changed = p.levels.clone()
    changed[:, features.held] += 0.3
    assert torch.equal(features.of(changed), features.of(p.levels))
    places = features.held.reshape(3, -1) % 64  # a place is held out in all of its colours
    assert (places == places[0]).all() and len(features.held) == 3 * 13
    assert sorted(torch.cat([features.free, features.held]).tolist()) == list(range(3 * 64))
    # Each value has the coefficients 1 and -1, twice where colours and neighbours are compared.
    single = torch.eye(3 * 64, dtype=torch.float64)
    assert torch.equal(features.of(single).abs().sum(0), features.count)
    assert (features.of(torch.ones(3 * 64)) == 0).all()
    grey = Features.drawn((1, 8, 8), torch.Generator().manual_seed(0))
    assert (grey.count == 2).all()


def test_changes_of_colour_differences_are_small():
    p = problem()
    features = Features.drawn(p.shape, torch.Generator().manual_seed(0))
    values = features.of(p.levels).square().mean(0)
    assert values[features.count == 4].mean() < values[features.count == 2].mean() / 3


def test_a_few_wrong_shares_are_found():
    p = problem()
    features = Features.drawn(p.shape, torch.Generator().manual_seed(0))
    directions = p.x / p.x.norm(dim=1, keepdim=True) * p.x[0].norm() * p.factor
    share = torch.zeros(12, dtype=torch.float64)
    share[[3, 7, 9]] = torch.tensor([0.05, -0.03, 0.015], dtype=torch.float64)
    wrong = p.levels[0] + share @ directions
    assert coherence(features.of(wrong)) < STANDS_OUT < coherence(features.of(p.levels[0]))
    found = features.whole_near(wrong, directions)
    assert (found - p.levels[0]).abs().max() < 0.01


def test_coefficients_far_from_their_spread_are_searched():
    p = problem(bias=True)
    prior = contaminated(p.x, 0.003)
    prior.candidates[2] += 0.04 * p.x[5] - 0.03 * p.x[8]
    estimate = Estimate(prior.candidates, prior.spread, signed=True)
    assert not rounded(p, estimate).exact[2]
    generator = torch.Generator().manual_seed(0)
    found = round_to_integers(estimate, p.offset, p.factor, p.shape, generator, search=True)
    assert found.exact.all() and torch.equal(found.levels, p.levels)


def test_no_search_begins_after_the_deadline():
    p = problem(bias=True)
    prior = contaminated(p.x, 0.3)
    generator = torch.Generator().manual_seed(0)
    found = round_to_integers(
        prior, p.offset, p.factor, p.shape, generator, deadline=-1.0, search=True
    )
    assert not found.exact.any() and found.levels.isnan().all()


def test_a_pixel_in_the_middle_between_two_integers_makes_an_image_doubtful():
    p = problem()
    off = p.levels.clone()
    off[0, 5] += 0.45  # as where the noise of one pixel is large
    images = (off - p.offset) / p.factor
    found = rounded(p, isotropic(images, 1e-6))
    assert found.exact[1:].all() and not found.exact[0]


def test_a_background_that_all_images_share_is_no_evidence():
    p = problem(bias=True)
    levels = p.levels.reshape(12, 3, 16, 16).clone()
    levels[:, :, :, 4:] = 0
    levels = levels.flatten(1)
    x = torch.column_stack([(levels - p.offset) / p.factor, torch.ones(12)])
    p = replace(p, x=x, levels=levels)
    found = rounded(p, Estimate(contaminated(x, 0.003).candidates, isotropic(x, 0.003).spread))
    assert found.exact.all() and torch.equal(found.levels, levels)
    assert found.log10_chance > log10_chance(0.05, 3 * 3 * 16, 1e5)  # a fifth of four columns
    wrong = rounded(p, contaminated(x, 0.3))
    assert not wrong.exact.any() and wrong.residual.min() > 0.2


def test_an_image_that_is_alone_is_its_own_evidence():
    p = problem(n=2, bias=True)
    found = rounded(p, isotropic(0.7 * p.x[:1], 1e-6))
    assert found.exact.all() and torch.equal(found.levels, p.levels[:1])


def test_rounding_alone_needs_no_masks():
    p = problem()
    generator = torch.Generator().manual_seed(0)
    prior = contaminated(p.x, 0.003)
    _, found = recover_integers(p.change, None, None, prior, p.offset, p.factor, p.shape, generator)
    assert found.exact.all() and torch.equal(found.levels, p.levels)


def test_an_image_is_accepted_once():
    p = problem()
    twice = torch.cat([p.x[:3], p.x[:1]])
    found = rounded(p, isotropic(twice, 1e-6))
    assert found.exact[1:3].all() and found.exact[[0, 3]].sum() == 1


def test_a_nearly_flat_image_is_not_accepted():
    p = problem()
    flat = torch.full((1, p.x.shape[1]), (100 - p.offset) / p.factor, dtype=p.x.dtype)
    flat[0, 0] += 1 / p.factor
    found = rounded(p, isotropic(torch.cat([p.x[:2], flat]), 1e-6))
    assert found.exact.tolist() == [True, True, False]


def test_components_keep_to_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    basis = torch.randn(120, 3 * 8 * 8, dtype=torch.float64)
    steps = []

    def step(matrix: torch.Tensor) -> torch.Tensor:
        steps.append(len(matrix))
        return torch.linalg.qr(matrix)[0]

    monkeypatch.setattr("lit_recon.methods.rowspace.components._orthogonal", step)
    random = torch.Generator().manual_seed(0)
    found = independent_components(basis, (3, 8, 8), random, deadline=0.0)
    assert found.shape == (120, 120)
    assert steps == [120]  # the start alone, without the smaller stages


def test_a_regression_that_float32_cannot_solve_is_solved_in_float64() -> None:
    """Large weights on neurons that are nearly alike: float32 calls their matrix indefinite."""
    random = torch.Generator().manual_seed(0)
    rows = 1 + 1e-5 * torch.randn(1, 40, 20, generator=random)
    own, prior, weight = torch.randn(1, 40, generator=random), torch.ones(1, 20), torch.ones(1, 40)
    given = rows, own, prior, 1e9 * weight
    precision = (rows * given[3][:, :, None]).transpose(1, 2) @ rows + torch.eye(20)
    assert torch.linalg.cholesky_ex(precision).info.any()
    residual, mean, _ = zeros._ridge(*given)
    exact = zeros._ridge(*(each.double() for each in given))
    assert residual.dtype == torch.float32
    assert torch.allclose(residual.double(), exact[0], atol=1e-5)
    assert torch.allclose(mean.double(), exact[1], rtol=1e-5)
