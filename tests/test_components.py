"""Images come back as independent components of their span."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from datamodules.photos import Photos
from lit_recon.methods.rowspace.components import independent_components

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


def test_the_generator_decides_the_result():
    x, shape = photographs(6, 8)
    assert torch.equal(components_of(x, shape), components_of(x, shape))
    assert not torch.equal(components_of(x, shape), components_of(x, shape, seed=1))


@pytest.mark.parametrize("shape", [(1, 1, 12), (2, 3, 2)])
def test_other_shapes_give_finite_numbers(shape):
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(2, 12, dtype=torch.float64, generator=generator)
    assert torch.isfinite(components_of(basis, shape)).all()
