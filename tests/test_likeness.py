"""NCC, stretched SSIM, nearest candidates and clusters against slow code and known values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d
from torch import Tensor

from lit_recon.metrics import cluster, duplicates, ncc, nearest, null_good, ssim_stretched


def images_of(n: int, c: int = 3, side: int = 8, seed: int = 0) -> Tensor:
    """(n, c, side, side) uint8 noise."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, c, side, side), generator=generator, dtype=torch.uint8)


def inputs(images: Tensor) -> Tensor:
    return images.double() / 255 - 0.4


def pixels(x: Tensor) -> Tensor:
    return x + 0.4


def slow_ncc(a: np.ndarray, b: np.ndarray) -> float:
    """Of two images (c, h, w), channel by channel."""
    return float(
        np.mean([np.corrcoef(p.ravel(), q.ravel())[0, 1] for p, q in zip(a, b, strict=True)])
    )


def slow_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Of two images (c, h, w) in [0, 1], with kornia's window of 3."""
    window = np.exp(-(np.array([-1, 0, 1]) ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def mean(image: np.ndarray) -> np.ndarray:
        blurred = correlate1d(image, window, axis=0, mode="mirror")
        return np.asarray(correlate1d(blurred, window, axis=1, mode="mirror"))

    total = 0.0
    for p, q in zip(a, b, strict=True):
        covariance = mean(p * q) - mean(p) * mean(q)
        variances = mean(p * p) - mean(p) ** 2 + mean(q * q) - mean(q) ** 2
        light = (2 * mean(p) * mean(q) + 1e-4) / (mean(p) ** 2 + mean(q) ** 2 + 1e-4)
        total += (light * (2 * covariance + 9e-4) / (variances + 9e-4)).mean()
    return total / len(a)


# -- NCC --------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [1, 3])
def test_ncc_is_the_mean_correlation_of_channels(c: int) -> None:
    x, candidates = inputs(images_of(3, c, 5)), inputs(images_of(4, c, 5, seed=1))
    slow = [[slow_ncc(a, b) for b in candidates.numpy()] for a in x.numpy()]
    assert ncc(x, candidates).numpy() == pytest.approx(np.array(slow), abs=1e-12)
    assert ncc(x, candidates[:0]).shape == (3, 0)


def test_ncc_gives_the_distance_of_the_paper() -> None:
    x, candidates = inputs(images_of(2)), inputs(images_of(2, seed=1))

    def scores(v: Tensor) -> Tensor:
        flat = v.flatten(2)
        return ((flat - flat.mean(2, keepdim=True)) / flat.std(2, keepdim=True)).flatten(1)

    distance = torch.cdist(scores(x), scores(candidates)).square()
    assert torch.allclose(2 * (8 * 8 - 1) * 3 * (1 - ncc(x, candidates)), distance)


def test_ncc_ignores_offset_and_scale_of_a_channel_and_sees_the_sign() -> None:
    x = inputs(images_of(1))
    changed = x * torch.tensor([0.1, 2.0, 30.0])[:, None, None] + torch.rand(3, 1, 1)
    assert ncc(x, torch.cat([changed, -changed])).tolist() == [pytest.approx([1, -1])]


def test_a_channel_without_contrast_counts_as_zero() -> None:
    x = inputs(images_of(2))
    x[0, 1] = 0.3  # not a multiple of a power of two: its mean is rounded
    assert ncc(x, x)[0, 0].item() == pytest.approx(2 / 3)
    assert ncc(x.float(), x)[0, 0].item() == pytest.approx(2 / 3)
    assert not ncc(torch.full((1, 1, 4, 4), 0.1), torch.zeros(2, 1, 4, 4)).any()


# -- SSIM -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("c", "side"), [(1, 3), (3, 8), (3, 33)])
def test_stretched_ssim_is_that_of_slow_code(c: int, side: int) -> None:
    images = images_of(40, c, side).double()
    found = images + 80 * torch.randn(images.shape, dtype=torch.float64)

    def stretch(image: np.ndarray) -> np.ndarray:
        return np.asarray((image - image.min()) / (image.max() - image.min()))

    pairs = zip(images.numpy(), found.numpy(), strict=True)
    slow = [slow_ssim(stretch(a), stretch(b)) for a, b in pairs]
    values = ssim_stretched(images, found)
    assert values is not None and values.numpy() == pytest.approx(np.array(slow), abs=1e-9)


def test_stretched_ssim_ignores_contrast_and_sees_the_sign() -> None:
    images = images_of(5)
    same = ssim_stretched(images, 0.01 * images - 3)
    negated = ssim_stretched(images, 255 - images)
    assert same is not None and same.tolist() == pytest.approx([1] * 5)
    assert negated is not None and negated.max() < 0


def test_stretched_ssim_of_small_flat_and_no_images() -> None:
    assert ssim_stretched(images_of(2, side=2), images_of(2, side=2)) is None
    flat = torch.full((1, 3, 4, 4), 7)
    against = ssim_stretched(images_of(1, side=4), flat)
    assert against is not None and 0 < against.item() < 0.1
    none = ssim_stretched(images_of(0), images_of(0))
    assert none is not None and none.shape == (0,)


# -- Nearest candidates -----------------------------------------------------------------------


def test_every_image_takes_its_nearest_and_a_candidate_may_serve_several() -> None:
    images = images_of(3)
    x = inputs(images)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    candidates = torch.cat([noise, 7 * x[[1]] + 2, 0.5 * (x[[0]] + x[[2]])])
    found = nearest(x, candidates, images, pixels)
    assert found.index.tolist() == [4, 3, 4]
    assert found.ncc[1].item() == pytest.approx(1)
    assert found.ssim is not None and found.ssim[1].item() == pytest.approx(1)
    assert found.ncc[0].item() == pytest.approx(slow_ncc(x[0].numpy(), candidates[4].numpy()))
    assert found.good is not None and found.good.all()


def test_colours_are_searched_at_half_size_and_compared_at_full_size() -> None:
    x = torch.nn.functional.interpolate(torch.rand(2, 3, 4, 4), scale_factor=2.0)
    checks = (torch.arange(8)[:, None] + torch.arange(8)) % 2 - 0.5  # gone at half the size
    smooth, noisy = x[[0]] + 0.1 * torch.rand(1, 3, 8, 8), x[[0]] + checks
    assert ncc(x[:1], smooth) > ncc(x[:1], noisy)
    found = nearest(x[:1], torch.cat([smooth, noisy]), x[:1], lambda v: v)
    assert found.index.item() == 1
    assert found.ncc.item() == pytest.approx(ncc(x[:1], noisy).item())
    grey = nearest(x[:1, :1], torch.cat([smooth, noisy])[:, :1], x[:1, :1], lambda v: v)
    assert grey.index.item() == 0


def test_a_sign_counts_unless_the_attack_is_blind_to_it() -> None:
    images = images_of(3)
    x = inputs(images)
    candidates = x * torch.tensor([1.0, -1.0, -1.0])[:, None, None, None]
    seeing = nearest(x, candidates, images, pixels)
    assert seeing.good is not None and seeing.good.tolist() == [True, False, False]
    assert seeing.sign.tolist() == [1, 1, 1]
    blind = nearest(x, candidates, images, pixels, sign_blind=True)
    assert blind.index.tolist() == [0, 1, 2] and blind.sign.tolist() == [1, -1, -1]
    assert blind.ncc.tolist() == pytest.approx([1, 1, 1])
    assert blind.ssim is not None and blind.ssim.tolist() == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_without_candidates_there_is_none_nearest(broken: float) -> None:
    images = images_of(2)
    x = inputs(images)
    for candidates in (x[:0], torch.full_like(x, broken)):
        found = nearest(x, candidates, images, pixels)
        assert found.index.tolist() == [-1, -1] and found.ncc.isnan().all()
        assert found.good is not None and not found.good.any()
        assert duplicates(x, candidates, images, pixels) == 0
    mixed = torch.cat([torch.full_like(x, broken), x])
    assert nearest(x, mixed, images, pixels).index.tolist() == [2, 3]
    assert duplicates(x, mixed, images, pixels) == 0


def test_sides_below_three_have_an_ncc_and_no_ssim() -> None:
    images = images_of(3, 1, 2)
    x = inputs(images)
    for candidates in (x, x[:0]):
        found = nearest(x, candidates, images, pixels)
        assert found.ssim is found.good is None
    assert nearest(x, x, images, pixels).ncc.tolist() == pytest.approx([1, 1, 1])
    assert duplicates(x, x, images, pixels) is None
    assert null_good(x, x, images, pixels) is None


def test_duplicates_are_good_candidates_of_an_image_that_has_one() -> None:
    images = images_of(3)
    x = inputs(images)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    assert duplicates(x, torch.cat([noise, x]), images, pixels) == 0
    copies = torch.cat([x, 2 * x, 3 * x[:1], noise, -x])
    assert duplicates(x, copies, images, pixels) == 4
    assert duplicates(x, copies, images, pixels, sign_blind=True) == 7


def test_null_is_the_share_that_others_resemble() -> None:
    images = images_of(4)
    x = inputs(images)
    assert null_good(x, x[:1], images, pixels) == 0.25
    assert null_good(x, x[:0], images, pixels) is null_good(x, None, images, pixels) is None


# -- Clusters ---------------------------------------------------------------------------------


def several(sizes: list[int], noise: float = 0.3) -> tuple[Tensor, list[int]]:
    """Noisy candidates of as many images as there are sizes, shuffled, and whose they are."""
    generator = torch.Generator().manual_seed(0)
    owners = torch.tensor([i for i, size in enumerate(sizes) for _ in range(size)])
    owners = owners[torch.randperm(len(owners), generator=generator)]
    truth = torch.randn(len(sizes), 3, 8, 8, generator=generator)
    error = torch.randn(len(owners), 3, 8, 8, generator=generator)
    return truth[owners] + noise * error, owners.tolist()


def test_clusters_are_the_candidates_of_one_image() -> None:
    candidates, owners = several([2, 5, 1, 3])
    found = cluster(candidates, above=0.8)
    assert found.sizes.tolist() == [5, 3, 2]
    assert found.labels.tolist() == [{1: 0, 3: 1, 0: 2, 2: -1}[owner] for owner in owners]
    largest = candidates[found.labels == 0]
    assert torch.allclose(found.candidates[0], largest.mean(0))
    medoids = cluster(candidates, above=0.8, average=False)
    centre = int(ncc(largest, largest).mean(1).argmax())
    assert torch.equal(medoids.candidates[0], largest[centre])
    assert cluster(candidates, above=0.8, least=1).sizes.tolist() == [5, 3, 2, 1]


def test_all_pairs_of_a_cluster_agree() -> None:
    first, second = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    turns = torch.linspace(0, 2, 9)[:, None, None, None]
    candidates = first * turns.cos() + second * turns.sin()  # neighbours agree, the ends do not
    found = cluster(candidates, above=0.9, least=1)
    agreement = ncc(candidates, candidates)
    same = found.labels[:, None] == found.labels
    assert agreement[same].min() > 0.9 and len(found.sizes) > 1


def test_averages_have_less_noise_than_their_candidates() -> None:
    candidates, _ = several([12], noise=0.5)
    clean, _ = several([12], noise=0.0)
    found = cluster(candidates, above=0.6)
    assert ncc(clean[:1], found.candidates).item() > 0.98 > ncc(clean[:1], candidates).max().item()


@pytest.mark.parametrize("m", [0, 1])
def test_clusters_of_hardly_any_candidates(m: int) -> None:
    candidates = torch.cat([several([3])[0][:m], torch.full((2, 3, 8, 8), math.nan)])
    found = cluster(candidates)
    assert found.candidates.shape == (0, 3, 8, 8) and found.sizes.tolist() == []
    assert found.labels.tolist() == [-1] * (m + 2)
    assert cluster(candidates, least=1).sizes.tolist() == [1] * m
