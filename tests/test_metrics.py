"""Matching, scores and certificates against known answers, invariances and false friends."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from lit_recon.audit.scoring import score_reconstruction
from lit_recon.knowledge import ChannelScale, MeanImageScale, PixelScale
from lit_recon.methods import Outcome, Reconstruction
from lit_recon.metrics import (
    ABSOLUTE,
    DIRECTION,
    EUCLIDEAN,
    SIGN_BLIND_DIRECTION,
    certify,
    direction_error,
    exact,
    images_from_inputs,
    inputs_from_images,
    match,
    matched_error,
    matched_error_abs,
    null_direction_error,
    psnr,
    recovered_fraction,
    score,
    ssim,
)
from lit_recon.records.truth import Truth


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


def off_by(x: Tensor, error: float, seed: int = 0) -> Tensor:
    """Directions (n, d) at a distance of ``error`` from those of x, the error isotropic."""
    direction = unit(x.double())
    noise = gaussian(*x.shape, seed=seed)
    noise -= (noise * direction).sum(1, keepdim=True) * direction
    return unit(direction + error * unit(noise))


# -- Matching ---------------------------------------------------------------------------------


def test_match_undoes_a_permutation() -> None:
    x, order = gaussian(7, 20), torch.tensor([3, 0, 6, 1, 5, 2, 4])
    matching = match(x, x[order], EUCLIDEAN)
    assert matching.index.tolist() == order.argsort().tolist()
    assert matching.error.max() == 0


@pytest.mark.parametrize("cost", [EUCLIDEAN, DIRECTION, SIGN_BLIND_DIRECTION, ABSOLUTE])
def test_match_is_best_of_all_assignments_and_reports_distances(cost) -> None:
    x, candidates = gaussian(4, 5), gaussian(4, 5, seed=1)
    matching = match(x, candidates, cost)
    best = min(
        sum(match(x[[i]], candidates[[j]], cost).error.item() for i, j in enumerate(order))
        for order in torch.cartesian_prod(*[torch.arange(4)] * 4).tolist()
        if len(set(order)) == 4
    )
    assert matching.error.sum().item() == pytest.approx(best)


def test_costs_on_one_pair() -> None:
    x, candidate = torch.tensor([[3.0, 4.0]]), torch.tensor([[-6.0, -8.0]])
    root = math.sqrt(2)
    assert match(x, candidate, EUCLIDEAN).error.item() == pytest.approx(15 / root)
    assert match(x, candidate, DIRECTION).error.item() == pytest.approx(2)
    assert match(x, candidate, ABSOLUTE).error.item() == pytest.approx(5 / root)
    blind = match(x, candidate, SIGN_BLIND_DIRECTION)
    assert blind.error.item() == pytest.approx(0, abs=1e-12) and blind.sign.item() == -1


def test_small_errors_are_not_lost() -> None:
    x = gaussian(40, 300, seed=1)  # torch.cdist multiplies matrices at this size
    matching = match(x, off_by(x, 1e-9), DIRECTION)
    assert matching.error.tolist() == pytest.approx([1e-9] * 40, rel=1e-3)


def test_fewer_candidates_than_samples() -> None:
    x = gaussian(5, 30)
    matching = match(x, x[[4, 1]], DIRECTION)
    assert matching.index.tolist() == [-1, 1, -1, -1, 0]
    assert matching.error.isinf().tolist() == [True, False, True, True, False]
    assert matching.mean_error() == pytest.approx(0, abs=1e-12)
    assert recovered_fraction(matching) == pytest.approx(2 / 5)


def test_more_candidates_than_samples() -> None:
    x = gaussian(3, 30)
    matching = match(x, torch.cat([gaussian(4, 30, seed=1), x]), DIRECTION)
    assert matching.index.tolist() == [4, 5, 6]


def test_candidates_that_are_not_finite_are_never_assigned() -> None:
    x = gaussian(3, 10)
    broken = torch.full((1, 10), math.nan, dtype=torch.float64)
    assert match(x, torch.cat([broken, x]), EUCLIDEAN).index.tolist() == [1, 2, 3]
    assert match(x, broken, EUCLIDEAN).index.tolist() == [-1, -1, -1]
    assert match(x, torch.zeros(0, 10), EUCLIDEAN).mean_error() is None


# -- Scores -----------------------------------------------------------------------------------


def test_chance_levels() -> None:
    x, candidates = gaussian(10, 20_000), gaussian(10, 20_000, seed=1)
    assert matched_error(x, candidates) == pytest.approx(math.sqrt(2), abs=0.02)
    assert direction_error(x, candidates) == pytest.approx(math.sqrt(2), abs=0.02)
    assert matched_error_abs(x, candidates) == pytest.approx(0.853, abs=0.01)
    assert null_direction_error(candidates, x, n=10) == pytest.approx(math.sqrt(2), abs=0.02)


def test_invariances() -> None:
    x, candidates = gaussian(6, 40), gaussian(6, 40, seed=1)
    before = direction_error(x, candidates)
    scale = torch.rand(6, 1, dtype=torch.float64) + 0.1
    assert direction_error(x, candidates.flip(0)) == pytest.approx(before)
    assert direction_error(x, scale * candidates) == pytest.approx(before)
    assert direction_error(scale * x, candidates) == pytest.approx(before)
    signs = torch.tensor([1, -1, -1, 1, 1, -1.0]).double()[:, None]
    blind = direction_error(x, candidates, sign_blind=True)
    assert blind is not None and before is not None and blind < before
    assert direction_error(x, signs * candidates, sign_blind=True) == pytest.approx(blind)
    assert matched_error_abs(x, signs * candidates) == pytest.approx(
        matched_error_abs(x, candidates)
    )


def test_null_has_no_more_to_choose_from_than_the_truth() -> None:
    candidates, held_out = gaussian(5, 20), gaussian(300, 20, seed=1)
    few = direction_error(held_out[:5], candidates)
    assert null_direction_error(candidates, held_out, n=5) == few
    all_of_them = null_direction_error(candidates, held_out, n=300)
    assert few is not None and all_of_them is not None and all_of_them < few


def test_psnr_known_answers() -> None:
    images = torch.full((3, 1, 4, 4), 100, dtype=torch.uint8)
    found = images.clone()
    found[1] += 51  # a fifth of the range
    found[2, 0, 0, 0] += 1
    best = 20 * math.log10(255) + 10 * math.log10(16)
    expected = [best, 20 * math.log10(5), best]
    assert psnr(images, found).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("side", [3, 4, 8, 10, 11, 32])
def test_ssim_of_any_size(side: int) -> None:
    images = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    found = torch.stack([images[0], 255 - images[1]])
    values = ssim(images, found)
    assert values is not None and values.shape == (2,)
    assert values[0] == pytest.approx(1) and values[1] < 0.5


def test_ssim_is_standard_from_eleven_pixels_and_has_no_meaning_below_three() -> None:
    from torchmetrics.functional.image import structural_similarity_index_measure

    images = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    found = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    standard = structural_similarity_index_measure(found / 255.0, images / 255.0, data_range=1.0)
    values = ssim(images, found)
    assert isinstance(standard, Tensor)
    assert values is not None and values.item() == pytest.approx(standard.item(), abs=1e-6)
    assert ssim(images[..., :2], found[..., :2]) is None


def test_score_of_a_perfect_reconstruction(patches: Tensor) -> None:
    images = patches[:6]
    pixels = scale_of(images)
    x, order = inputs_from_images(images, pixels), torch.tensor([2, 0, 1, 5, 4, 3])
    certificates = certify(x[order], pixels)
    held_out = inputs_from_images(patches[6:12], pixels)
    scores = score(
        x, x[order], held_out, pixels, images, certificates.images, certificates.accepted
    )
    numbers = scores.metrics.as_dict()
    assert set(numbers) == {
        *("matched_error", "direction_error", "recovered_fraction"),
        *("exact_fraction", "certified_fraction", "psnr", "ssim", "null_direction_error"),
        *("ncc", "ssim_stretched", "good_fraction", "duplicates", "null_good_fraction"),
        *("null_held_out", "null_good_rows", "null_good_mean"),
    }
    assert numbers["matched_error"] == pytest.approx(0, abs=1e-12)
    for share in ("recovered_fraction", "exact_fraction", "certified_fraction", "good_fraction"):
        assert numbers[share] == 1
    for name in ("ssim", "ncc", "ssim_stretched"):
        assert numbers[name] == pytest.approx(1)
    assert (numbers["duplicates"], numbers["null_held_out"]) == (0, 6)
    assert numbers["null_good_rows"] is None
    assert [row.nearest for row in scores.rows] == [row.candidate for row in scores.rows]
    for row in scores.rows:
        assert row.ncc == pytest.approx(1) and row.ssim_stretched == pytest.approx(1)
    null = numbers["null_direction_error"]
    assert null is not None and null > 0.3
    assert [row.index for row in scores.rows] == list(range(6))
    assert [row.candidate for row in scores.rows] == order.argsort().tolist()
    assert scores.reconstructions is not None and exact(images, scores.reconstructions).all()


def test_score_counts_missing_candidates_in_shares_and_not_in_means(patches: Tensor) -> None:
    images = patches[:4]
    pixels = scale_of(images)
    x = inputs_from_images(images, pixels)
    scores = score(x, x[:1], None, pixels, images)
    metrics = scores.metrics
    assert metrics.direction_error == pytest.approx(0, abs=1e-12)
    assert metrics.recovered_fraction == metrics.exact_fraction == 0.25
    assert metrics.certified_fraction is None and metrics.null_direction_error is None
    missing = scores.rows[3]
    assert missing.candidate is missing.direction_error is missing.psnr is None
    assert missing.exact is False and not missing.recovered
    assert scores.reconstructions is not None and not scores.reconstructions[3].any()


def test_score_without_pixels() -> None:
    x = gaussian(4, 30)
    scores = score(x, 2 * x, gaussian(4, 30, seed=1))
    assert scores.metrics.psnr is scores.metrics.ssim is scores.metrics.exact_fraction is None
    assert scores.reconstructions is None and scores.rows[0].exact is None
    assert scores.metrics.ncc is scores.metrics.good_fraction is scores.rows[0].nearest is None
    assert scores.metrics.null_held_out is scores.metrics.null_good_mean is None
    assert scores.metrics.direction_error == pytest.approx(0, abs=1e-12)
    assert scores.metrics.matched_error == pytest.approx(
        (x.norm(dim=1) / math.sqrt(30)).mean().item()
    )


def test_images_of_another_brightness_are_recognisable_and_not_recovered(patches: Tensor) -> None:
    images = patches[:4]
    pixels = scale_of(images)
    x = inputs_from_images(images, pixels)
    metrics = score(x, torch.cat([0.5 * x + 3, -x]), None, pixels, images).metrics
    assert metrics.recovered_fraction == 0
    assert metrics.good_fraction == 1 and metrics.duplicates == 0
    assert metrics.ncc == pytest.approx(1) and metrics.ssim_stretched == pytest.approx(1)
    blind = score(x, torch.cat([x, -x]), None, pixels, images, sign_blind=True).metrics
    assert blind.good_fraction == 1 and blind.duplicates == 4


def test_nulls_are_what_looks_alike_without_an_attack(patches: Tensor) -> None:
    images = patches[:4]
    pixels = scale_of(images)
    x = inputs_from_images(images, pixels)
    nothing = torch.zeros(0, pixels.d)
    held_out = torch.cat([x[:1] / 3, gaussian(3, pixels.d)])
    rows = torch.cat([x[1:4] / 7, gaussian(9, pixels.d)])
    metrics = score(x, nothing, held_out, pixels, images, first_layer=rows).metrics
    assert metrics.good_fraction == metrics.duplicates == 0
    assert metrics.ncc is metrics.ssim_stretched is None
    assert (metrics.null_good_fraction, metrics.null_held_out) == (0.25, 4)
    assert metrics.null_good_rows == 0.75
    none_held_out = score(x, x, nothing, pixels, images).metrics
    assert none_held_out.null_good_fraction is None and none_held_out.null_held_out == 0


def test_the_null_of_weights_takes_a_dense_layer_of_whole_inputs(patches: Tensor) -> None:
    images = patches[:4]
    pixels = scale_of(images)
    x = inputs_from_images(images, pixels).float()
    truth = Truth(x, x[:0], images, pixels, None, [], [], indices=[0, 1, 2, 3])
    found = Reconstruction(x[:0], Outcome("stalled", "nothing was found"))
    layer = nn.Linear(pixels.d, 4)
    layer.weight.data = x / 9
    narrow = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(pixels.d // 4, 4))
    shares = [
        score_reconstruction(found, truth, model).metrics.null_good_rows
        for model in (nn.Sequential(nn.Flatten(), layer), nn.Conv2d(3, 4, 3), narrow, None)
    ]
    assert shares == [1, None, None, None]


def test_the_mean_image_is_a_null_of_its_own(patches: Tensor) -> None:
    alike = (patches[:1].double() + 9 * gaussian(5, 3, 32, 32)).round().clamp(0, 255)
    images = alike.to(torch.uint8)
    mean = MeanImageScale((3, 32, 32), images.double().mean(0) / 255)
    for pixels in (scale_of(images), mean):  # with a mean image, its input is zero
        x = inputs_from_images(images, pixels)
        assert score(x, x[:0], None, pixels, images).metrics.null_good_mean == 1
    x = inputs_from_images(patches[:5], scale_of(patches[:5]))
    different = score(x, x, None, scale_of(patches[:5]), patches[:5]).metrics.null_good_mean
    assert different is not None and different < 1


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (1, 3, 2, 2), (2, 1, 2, 5), (1, 1, 1, 1)])
def test_likeness_of_one_grey_and_tiny_images(shape: tuple[int, int, int, int]) -> None:
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    pixels = PixelScale(shape[1:], 0.4, 0.25)
    x = inputs_from_images(images, pixels)
    for candidates in (x, x[:0]):
        metrics = score(x, candidates, x, pixels, images, first_layer=x).metrics
        known = None if min(shape[2:]) < 3 else float(len(candidates) > 0)
        assert metrics.good_fraction == known
        if shape[2:] != (1, 1):
            assert metrics.ncc == (pytest.approx(1) if len(candidates) else None)


def test_sign_blind_scoring_takes_the_sign_from_the_truth(patches: Tensor) -> None:
    images = patches[:5]
    pixels = scale_of(images)
    x = inputs_from_images(images, pixels)
    candidates = x * torch.tensor([1, -1, 1, -1, -1.0]).double()[:, None]
    seeing = score(x, candidates, None, pixels, images).metrics
    assert seeing.recovered_fraction == seeing.exact_fraction == 0.4
    for decoded, certified in (
        (None, None),
        (images_from_inputs(candidates, pixels), torch.zeros(5, dtype=torch.bool)),
    ):
        scores = score(x, candidates, None, pixels, images, decoded, certified, sign_blind=True)
        assert scores.metrics.recovered_fraction == scores.metrics.exact_fraction == 1
        assert scores.metrics.matched_error == pytest.approx(0, abs=1e-12)
        assert [row.sign for row in scores.rows] == [1, -1, 1, -1, -1]


# -- Certificates: the findings of lit_recon/metrics/certificate.py ---------------------------


@pytest.fixture(scope="module")
def patches() -> Tensor:
    """(40, 3, 32, 32) uint8 photograph patches that are not flat."""
    photos = [torch.tensor(photo).permute(2, 0, 1) for photo in load_sample_images().images]
    tiles = torch.cat(
        [
            photo[:, :416].unfold(1, 32, 32).unfold(2, 32, 32).permute(1, 2, 0, 3, 4).flatten(0, 1)
            for photo in photos
        ]
    )
    tiles = tiles[tiles.double().flatten(1).std(1) > 12]
    return tiles[torch.randperm(len(tiles), generator=torch.Generator().manual_seed(0))[:40]]


def scale_of(images: Tensor) -> PixelScale:
    values = images.double() / 255
    channels, height, width = images.shape[1:]
    return PixelScale((channels, height, width), values.mean().item(), values.std().item())


def small(images: Tensor, side: int, *, grey: bool = False) -> Tensor:
    values = avg_pool2d(images.float(), images.shape[-1] // side)
    return (values.mean(1, keepdim=True) if grey else values).round().to(torch.uint8)


def mean_scale_of(images: Tensor) -> MeanImageScale:
    channels, height, width = images.shape[1:]
    return MeanImageScale((channels, height, width), images.double().mean(0) / 255)


KINDS = {
    "32x32": lambda images: images,
    "8x8": lambda images: small(images, 8),
    "8x8 grey": lambda images: small(images, 8, grey=True),
    "4x4 grey": lambda images: small(images, 4, grey=True),
}


# The largest take most of the time; tests of other scales have images as large.
SIZES = [pytest.param(kind, marks=pytest.mark.long) if kind == "32x32" else kind for kind in KINDS]


@pytest.fixture(params=SIZES)
def problem(request, patches: Tensor) -> tuple[str, Tensor, PixelScale, Tensor]:
    images = KINDS[request.param](patches)
    pixels = scale_of(images[:10])
    return request.param, images, pixels, inputs_from_images(images, pixels)


def test_inputs_and_images_are_inverse(problem) -> None:
    _, images, pixels, x = problem
    assert x.shape == (len(images), pixels.d) and x.dtype == torch.float64
    assert (images_from_inputs(x, pixels) == images).all()


# Smallest share accepted, at direction errors 1e-5, 1e-4, 5e-4 and 1e-3.
ACCEPTED = {
    "32x32": (1.0, 1.0, 0.9, 0.5),
    "8x8": (0.95, 0.95, 0.8, 0.55),
    "8x8 grey": (0.8, 0.7, 0.4, 0.3),
    "4x4 grey": (0.6, 0.5, 0.1, 0.0),
}


def test_accepts_right_directions_and_only_exact_pixels(problem) -> None:
    name, images, pixels, x = problem
    for error, share in zip((1e-5, 1e-4, 5e-4, 1e-3), ACCEPTED[name], strict=True):
        scale = 0.1 + gaussian(len(x), 1).abs()
        certificates = certify(scale * off_by(x, error), pixels)
        accepted = certificates.accepted
        assert accepted.double().mean() >= share, error
        assert exact(images, certificates.images)[accepted].all(), error
        norms = x[accepted].norm(dim=1)
        assert certificates.scale[accepted].tolist() == pytest.approx(norms.tolist())
        assert (certificates.sign == 1).all()


def test_refuses_directions_that_are_not_good_enough(problem) -> None:
    _, _, pixels, x = problem
    for error in (2e-3, 5e-3, 1e-2, 0.1):
        assert not certify(off_by(x, error), pixels).accepted.any(), error


def test_refuses_noise_and_smooth_pictures(problem) -> None:
    _, _, pixels, x = problem
    channels, height, width = pixels.shape
    noise = gaussian(*x.shape)
    smooth = interpolate(
        gaussian(len(x), channels, max(2, height // 8), max(2, width // 8)),
        size=(height, width),
        mode="bicubic",
        align_corners=True,
    ).flatten(1)
    for wrong in (noise, noise.clamp(-0.5, 0.5), smooth):
        assert not certify(wrong, pixels).accepted.any()


def test_residual_is_near_zero_or_near_chance(problem) -> None:
    name, _, pixels, x = problem
    assert certify(x, pixels).residual.median() < 1e-9
    noise = certify(gaussian(*x.shape), pixels).residual
    assert noise.median() > (0.15 if name == "4x4 grey" else 0.2)
    assert (noise < 0.3).all()


@pytest.mark.parametrize("kind", SIZES[:2])
def test_refuses_mixtures_and_brightness_errors(kind: str, patches: Tensor) -> None:
    images = KINDS[kind](patches)
    pixels = scale_of(images[:10])
    x = inputs_from_images(images, pixels)
    other = x.roll(1, 0)
    weight = 0.05 + 0.9 * torch.rand(len(x), 1, generator=torch.Generator().manual_seed(0))
    constant = torch.ones_like(x)
    for wrong in (
        weight * x + (1 - weight) * other,
        x + other,
        x + 0.4 / 255 / pixels.std * constant,
        unit(x) + 0.01 * unit(constant + 0.1 * gaussian(*x.shape)),
    ):
        assert not certify(wrong, pixels).accepted.any()
    # Some of these are uint8 images, or as good as: the limit of what a certificate can tell.
    for wrong in (2 * x - other, x + 0.01 * other):
        assert certify(wrong, pixels).accepted.sum() <= 1


def test_statistics_may_be_rounded_to_float32(patches: Tensor) -> None:
    images = patches[:10]
    pixels = scale_of(images)
    x = inputs_from_images(images, pixels)
    rounded = PixelScale(
        pixels.shape, torch.tensor(pixels.mean).item(), torch.tensor(pixels.std).item()
    )
    assert certify(x, rounded).accepted.all() and certify(x, pixels).accepted.all()


def test_negated_images(problem) -> None:
    _, images, pixels, x = problem
    negated = -off_by(x, 1e-4)
    assert not certify(negated, pixels).accepted.any()
    plain = certify(-negated, pixels)
    both = certify(negated, pixels, both_signs=True)
    assert both.accepted.sum() >= 0.9 * plain.accepted.sum()
    assert (both.sign[both.accepted] == -1).all()
    assert exact(images, both.images)[both.accepted].all()


def test_sign_is_not_certified_where_negatives_are_images_too(patches: Tensor) -> None:
    pixels = PixelScale((3, 32, 32), mean=0.5, std=0.25)
    x = off_by(inputs_from_images(patches, pixels), 1e-4)
    assert not certify(x, pixels, both_signs=True).accepted.any()
    assert certify(x, pixels).accepted.all()


def test_rounding_decides_no_tie_between_an_image_and_its_negative() -> None:
    """Candidates without an error, where both decode to whole pixels."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 3, 6, 6), generator=random).to(torch.uint8)
    pixels = PixelScale((3, 6, 6), mean=0.5, std=0.25)
    x = inputs_from_images(images, pixels)
    for scale in (1.0, 0.3, 0.037):
        assert not certify(scale * x, pixels, both_signs=True).accepted.any()
        found = certify(scale * x, pixels)
        assert found.accepted.all() and torch.equal(found.images, images)


@pytest.mark.parametrize(("share", "accepted"), [(0.6, 0.9), (0.8, 0.9), (0.95, 0.3)])
def test_saturated_images(share: float, accepted: float, patches: Tensor) -> None:
    values = avg_pool2d(
        patches.float(), 2
    )  # finer than integers, so that stretching leaves no gaps
    tail = torch.tensor([share / 2, 1 - share / 2])
    low, high = torch.quantile(values.flatten(1), tail, dim=1)[:, :, None, None, None]
    images = ((values - low) / (high - low) * 255).round().clamp(0, 255).to(torch.uint8)
    saturated = ((images == 0) | (images == 255)).double().mean()
    assert saturated > share - 0.02
    pixels = scale_of(images[:10])
    x = inputs_from_images(images, pixels)
    certificates = certify(off_by(x, 1e-5), pixels)
    assert certificates.accepted.double().mean() >= accepted
    assert exact(images, certificates.images)[certificates.accepted].all()
    tails = torch.quantile(gaussian(10_000), tail.double())
    clipped = gaussian(*x.shape).clamp(tails[0], tails[1])
    for wrong in (off_by(x, 0.01), -off_by(x, 1e-5), clipped):
        assert not certify(wrong, pixels).accepted.any()


def test_two_valued_images_are_refused() -> None:
    images = (torch.rand(10, 1, 16, 16, generator=torch.Generator().manual_seed(0)) > 0.5) * 200
    images = images.to(torch.uint8) + 20
    pixels = scale_of(images[:4])
    assert not certify(inputs_from_images(images, pixels), pixels).accepted.any()


@pytest.mark.parametrize("divisor", [4, 20])
def test_images_of_low_contrast(divisor: int, patches: Tensor) -> None:
    images = ((patches.double() - 128) / divisor + 100).round().to(torch.uint8)
    pixels = scale_of(torch.cat([images[:2], patches[:8]]))
    x = inputs_from_images(images, pixels)
    certificates = certify(off_by(x, 1e-5), pixels)
    assert certificates.accepted.double().mean() > 0.3
    assert exact(images, certificates.images)[certificates.accepted].all()
    assert not certify(off_by(x, 0.01), pixels).accepted.any()


def test_candidates_that_no_scale_makes_an_image() -> None:
    pixels = PixelScale((3, 8, 8), mean=0.46, std=0.3)
    candidates = torch.zeros(4, 192)
    candidates[1] = 1
    candidates[2, 0], candidates[3, 0] = math.nan, math.inf
    certificates = certify(candidates, pixels)
    assert not certificates.accepted.any()
    assert certificates.residual.isinf().all()
    assert certificates.images.shape == (4, 3, 8, 8)
    assert certify(candidates[:0], pixels).accepted.shape == (0,)
    with pytest.raises(ValueError, match="d = 192"):
        certify(candidates[:, :100], pixels)


def test_refused_candidates_are_shown_as_they_stand(patches: Tensor) -> None:
    pixels = scale_of(patches[:10])
    candidates = inputs_from_images(patches, pixels) + 0.3 * gaussian(40, 3072)
    certificates = certify(candidates, pixels)
    assert not certificates.accepted.any()
    assert (certificates.images == images_from_inputs(candidates, pixels)).all()


def test_verdicts_do_not_depend_on_company_scale_or_precision(patches: Tensor) -> None:
    images = small(patches, 8)
    pixels = scale_of(images[:10])
    x = off_by(inputs_from_images(images, pixels), 3e-4)
    together = certify(x, pixels)
    for other in (certify(7 * x.flip(0), pixels), certify(x.float().flip(0), pixels)):
        assert (other.accepted.flip(0) == together.accepted).all()
        exact_ones = together.accepted
        assert (other.images.flip(0)[exact_ones] == together.images[exact_ones]).all()


# -- Certificates with a mean and a standard deviation for each channel -------------------------

MEANS, STDS = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)  # of CIFAR-10's usual pipeline


def test_a_scale_for_each_channel_is_that_of_the_usual_pipelines(patches: Tensor) -> None:
    scale = ChannelScale.of((3, 32, 32), MEANS, STDS)
    x = inputs_from_images(patches, scale).reshape(patches.shape)
    for channel in range(3):
        one = PixelScale((1, 32, 32), MEANS[channel], STDS[channel])
        expected = inputs_from_images(patches[:, channel : channel + 1], one)
        assert torch.allclose(x[:, channel].flatten(1), expected)
    assert torch.equal(images_from_inputs(x.flatten(1), scale), patches)
    assert scale == ChannelScale.of((3, 32, 32), MEANS, STDS)
    assert scale != ChannelScale.of((3, 32, 32), STDS, MEANS)
    assert scale != PixelScale((3, 32, 32), MEANS[0], STDS[0])


def test_certificates_with_a_scale_for_each_channel(patches: Tensor) -> None:
    scale = ChannelScale.of((3, 32, 32), MEANS, STDS)
    x = inputs_from_images(patches, scale)
    found = certify(0.01 * off_by(x, 1e-4), scale)
    assert found.accepted.all() and torch.equal(found.images, patches)
    assert torch.allclose(found.scale, x.norm(dim=1))
    other = ChannelScale.of((3, 32, 32), MEANS, (0.247, 0.247, 0.3))
    for wrong in (off_by(x, 2e-2), x + 0.3 * x.roll(1, 0), -x, inputs_from_images(patches, other)):
        assert not certify(wrong, scale).accepted.any()


def test_channels_with_equal_scales_are_one_scale(patches: Tensor) -> None:
    plain = PixelScale((3, 32, 32), 0.47, 0.25)
    same = ChannelScale.of(plain.shape, [0.47] * 3, [0.25] * 3)
    x = inputs_from_images(patches, plain)
    assert torch.equal(x, inputs_from_images(patches, same))
    for candidates in (x, off_by(x, 5e-4), -x):
        first, second = certify(candidates, plain), certify(candidates, same)
        for name in ("accepted", "residual", "scale", "images", "sign"):
            assert torch.equal(getattr(first, name), getattr(second, name)), name


# -- Certificates with a mean image -------------------------------------------------------------


def test_mean_images_compare_by_value() -> None:
    mean = torch.rand(3, 2, 2, dtype=torch.float64)
    scale = MeanImageScale((3, 2, 2), mean)
    assert scale == MeanImageScale((3, 2, 2), mean.clone())
    assert hash(scale) == hash(MeanImageScale((3, 2, 2), mean.clone()))
    assert scale != MeanImageScale((3, 2, 2), mean / 2)
    assert scale != MeanImageScale((3, 2, 2), mean, std=0.5)
    assert scale != PixelScale((3, 2, 2), 0.5, 1.0) and PixelScale((3, 2, 2), 0.5, 1.0) != scale
    for wrong in (mean.float(), mean[0]):
        with pytest.raises(ValueError, match="mean image must be"):
            MeanImageScale((3, 2, 2), wrong)


@pytest.mark.parametrize("kind", SIZES)
def test_one_mean_image_of_equal_pixels_is_the_scale_with_one_mean(
    kind: str, patches: Tensor
) -> None:
    images = KINDS[kind](patches)
    plain = scale_of(images[:10])
    flat = torch.full(plain.shape, plain.mean, dtype=torch.float64)  # type: ignore[arg-type]
    same = MeanImageScale(plain.shape, flat, float(plain.std))
    x = inputs_from_images(images, plain)
    assert torch.equal(x, inputs_from_images(images, same))
    for candidates in (x, off_by(x, 5e-4), off_by(x, 1e-2), -x, 2 * x - x.roll(1, 0)):
        first, second = certify(candidates, plain), certify(candidates, same)
        for name in ("accepted", "residual", "scale", "images", "sign"):
            assert torch.equal(getattr(first, name), getattr(second, name)), name


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("kind", SIZES[:2])
def test_mean_image_accepts_training_images_and_nothing_else(
    kind: str, n: int, patches: Tensor
) -> None:
    images = KINDS[kind](patches)[:n]
    pixels = mean_scale_of(images)
    x = inputs_from_images(images, pixels)
    assert (images_from_inputs(x, pixels) == images).all()
    assert certify(x.float(), pixels).accepted.all()
    for error, share in ((1e-5, 1.0), (1e-4, 1.0), (5e-4, 0.6)):
        certificates = certify(0.3 * off_by(x, error), pixels)
        accepted = certificates.accepted
        assert accepted.double().mean() >= share
        assert exact(images, certificates.images)[accepted].all()
        norms = x[accepted].norm(dim=1)
        assert certificates.scale[accepted].tolist() == pytest.approx(norms.tolist())
    other = x.roll(1, 0)
    constant = torch.ones_like(x)
    for wrong in (
        off_by(x, 5e-3),
        -off_by(x, 1e-5),
        gaussian(*x.shape),
        x + other,
        0.7 * x + 0.3 * other,
        x + 0.4 / 255 * constant,
        torch.zeros_like(x),
    ):
        assert not certify(wrong, pixels).accepted.any()
    both = certify(-off_by(x, 1e-5), pixels, both_signs=True)
    assert both.accepted.all() and (both.sign == -1).all()
    assert exact(images, both.images).all()


def test_mean_image_at_three_samples_does_not_take_a_negative_for_an_image(
    patches: Tensor,
) -> None:
    accepted = []
    for trio in small(patches[:39], 8, grey=True).split(3):
        pixels = mean_scale_of(trio)
        x = off_by(inputs_from_images(trio, pixels), 1e-5)
        # o - 2 (u_1 - o) = u_2 + u_3 - u_1 are integers, in range for one in three of these.
        assert not certify(-x, pixels).accepted.any()
        certificates = certify(x, pixels)
        assert exact(trio, certificates.images)[certificates.accepted].all()
        accepted.append(certificates.accepted)
    assert torch.cat(accepted).double().mean() > 0.85


def test_mean_image_of_two_makes_each_input_the_negative_of_the_other(patches: Tensor) -> None:
    images = patches[:2]
    pixels = mean_scale_of(images)
    x = inputs_from_images(images, pixels)
    assert torch.allclose(x[0], -x[1])
    candidates = off_by(x[[0, 0]], 1e-5) * torch.tensor([[1.0], [-1.0]])
    certificates = certify(candidates, pixels)
    assert certificates.accepted.all() and exact(images, certificates.images).all()
    assert not certify(candidates, pixels, both_signs=True).accepted.any()


def test_mean_image_ignores_a_background_that_all_images_share(patches: Tensor) -> None:
    images = small(patches, 8)[:10].flatten(1)
    shared = torch.rand(192, generator=torch.Generator().manual_seed(0)) < 0.8
    images[:, shared] = images[0, shared]
    images = images.reshape(10, 3, 8, 8)
    pixels = mean_scale_of(images)
    x = inputs_from_images(images, pixels)
    certificates = certify(off_by(x, 1e-4), pixels)
    assert certificates.accepted.all() and exact(images, certificates.images).all()
    assert not certify(gaussian(*x.shape), pixels).accepted.any()
    assert not certify(x + x.roll(1, 0), pixels).accepted.any()


def test_images_that_hardly_differ_are_refused_and_not_decoded_to_multiples(
    patches: Tensor,
) -> None:
    apart = small(patches, 8)[:10].double()
    images = (apart[:1] + (apart - apart[:1]) / 30).round().to(torch.uint8)
    pixels = mean_scale_of(images)
    certificates = certify(inputs_from_images(images, pixels).float(), pixels)
    assert exact(images, certificates.images)[certificates.accepted].all()
