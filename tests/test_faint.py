"""Images that are faint in the weights: told by their noise, separated again, and filtered."""

from __future__ import annotations

from time import perf_counter

import pytest
import torch
from torch import Tensor

from datamodules import Photos
from lit_recon.methods.rowspace.faint import FAINT, filtered, noise_shares, separated_again

SHAPE = (3, 32, 32)
CLEAR, FAINTS = 12, 4


def photographs(n: int) -> Tensor:
    """(n, d) patches of photographs, standardised."""
    data = Photos(n=n, image_size=32)
    data.load()
    return data.x.double().flatten(1)


def white(n: int, level: float, seed: int = 1) -> Tensor:
    """(n, d) white noise."""
    random = torch.Generator().manual_seed(seed)
    return level * torch.randn(n, 32 * 32 * 3, generator=random, dtype=torch.float64)


def likeness(found: Tensor, true: Tensor) -> Tensor:
    """(n,) correlation of each image with its own candidate."""
    return torch.stack(
        [torch.corrcoef(torch.stack(p))[0, 1] for p in zip(found, true, strict=True)]
    )


def test_the_share_of_noise_is_that_of_the_energy_of_differences() -> None:
    noise = white(4, 0.3)
    shares = noise_shares(noise, torch.full((4,), 0.09), SHAPE)
    torch.testing.assert_close(shares, torch.ones_like(shares), rtol=0.1, atol=0)
    images = photographs(4)
    assert (noise_shares(images, torch.full((4,), 1e-8), SHAPE) < 1e-4).all()


@pytest.fixture(scope="module")
def mixture() -> tuple[Tensor, Tensor, Tensor]:
    """The images, candidates of which the last ones are faint and mixed, and which are faint."""
    images = photographs(CLEAR + FAINTS)
    mixing = torch.eye(len(images), dtype=torch.float64)
    random = torch.Generator().manual_seed(2)
    mixing[CLEAR:, CLEAR:] += 0.4 * torch.randn(FAINTS, FAINTS, generator=random)
    mixing[CLEAR:, :CLEAR] += 0.1 * torch.randn(FAINTS, CLEAR, generator=random)
    noise = torch.cat([0 * white(CLEAR, 0), white(FAINTS, 0.4)])
    faint = torch.arange(len(images)) >= CLEAR
    return images, mixing @ (images + noise), faint


def test_faint_images_are_separated_and_the_others_stay(mixture: tuple[Tensor, ...]) -> None:
    images, candidates, faint = mixture
    found = separated_again(candidates, faint, SHAPE) @ candidates
    torch.testing.assert_close(found[~faint], candidates[~faint], rtol=0, atol=0)
    torch.testing.assert_close(found.norm(dim=1), candidates.norm(dim=1))
    before, after = (likeness(x[faint], images[faint]) for x in (candidates, found))
    assert (after > before).all()
    assert after.mean() > before.mean() + 0.05


def test_no_step_begins_after_the_deadline(mixture: tuple[Tensor, ...]) -> None:
    _, candidates, faint = mixture
    late = separated_again(candidates, faint, SHAPE, deadline=perf_counter() - 1)
    torch.testing.assert_close(late, torch.eye(len(candidates)).double())


def test_the_filter_takes_noise_and_keeps_images() -> None:
    images = photographs(CLEAR + FAINTS)
    clear, true = images[:CLEAR], images[CLEAR:]
    noisy = true + white(FAINTS, 0.5)
    variance = torch.full((FAINTS,), 0.25, dtype=torch.float64)
    found = filtered(noisy, variance, clear, SHAPE)
    assert ((found - true).square().sum(1) < 0.4 * (noisy - true).square().sum(1)).all()
    means = [x.reshape(FAINTS, 3, -1).mean(2) for x in (found, noisy)]
    torch.testing.assert_close(*means)
    # The scale of what the spectrum is taken from makes no difference.
    torch.testing.assert_close(filtered(noisy, variance, 7 * clear, SHAPE), found)
    # With next to no noise nothing is changed.
    same = filtered(true, torch.full((FAINTS,), 1e-12, dtype=torch.float64), clear, SHAPE)
    torch.testing.assert_close(same, true, rtol=0, atol=1e-4)


def test_grey_images_can_be_faint_too() -> None:
    grey = photographs(8).reshape(8, 3, -1).mean(1)
    shape = (1, 32, 32)
    noise = white(8, 0.5)[:, : grey.shape[1]]
    noisy = grey + torch.where(torch.arange(8)[:, None] < 2, noise, 0)
    variance = torch.where(torch.arange(8) < 2, 0.25, 0.0).double()
    faint = noise_shares(noisy, variance, shape) > FAINT
    assert faint.tolist() == [True] * 2 + [False] * 6
    found = filtered(noisy[:2], variance[:2], noisy[2:], shape)
    assert (likeness(found, grey[:2]) > likeness(noisy[:2], grey[:2])).all()
