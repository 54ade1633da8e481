"""What another order of summation changes in an attack, and what it must not change."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lit_recon.knowledge import Knowledge
from lit_recon.methods import ProjectionReconstructor, Reconstruction
from lit_recon.metrics import inputs_from_images
from lit_recon.metrics.matching import EUCLIDEAN, match
from lit_recon.models import MLP
from lit_recon.randomness import generator
from tests.problems import images, knowledge, sphere, taught, trained
from tests.rounding import TOLERANCE, OtherOrder, apart

A = torch.randn(200, 40, generator=torch.Generator().manual_seed(0))
CHANNELS = torch.randn(2, 5, 6, 6, generator=torch.Generator().manual_seed(1))
KERNEL = torch.randn(4, 5, 3, 3, generator=torch.Generator().manual_seed(2))
SUMMING: dict[str, Callable[[], Tensor]] = {
    "mm": lambda: A.T @ A,
    "mv": lambda: A @ A[0],
    "dot": lambda: A[:, 0].dot(A[:, 1]),
    "bmm": lambda: torch.stack([A, A]) @ A.T,
    "addmm": lambda: torch.addmm(A[:40], A[:40] @ A[40:80].T, A[80:120]),
    "addmm_": lambda: torch.zeros(40, 40).addmm_(A.T, A),
    "convolution": lambda: torch.conv2d(CHANNELS, KERNEL),
    "sum": lambda: A.sum(),
    "sum over a dimension": lambda: A.sum(-1, keepdim=True),
    "mean": lambda: A.mean(0),
    "norm": lambda: torch.linalg.vector_norm(A, dim=1),
}


@pytest.mark.parametrize("name", SUMMING)
def test_another_order_changes_the_last_bits_and_no_more(name: str) -> None:
    compute, state = SUMMING[name], torch.get_rng_state()
    expected = compute()
    with OtherOrder(0):
        found = [compute() for _ in range(8)]
    assert any(not torch.equal(one, expected) for one in found)
    for one in found:
        assert torch.allclose(one, expected, rtol=1e-4, atol=1e-3)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_grouped_convolution_is_left_as_it_is() -> None:
    expected = torch.conv2d(CHANNELS, KERNEL[:, :1].repeat(5, 1, 1, 1), groups=5)
    with OtherOrder(0):
        found = torch.conv2d(CHANNELS, KERNEL[:, :1].repeat(5, 1, 1, 1), groups=5)
    assert torch.allclose(found, expected)


def test_candidates_are_compared_as_a_set() -> None:
    x = sphere(3, 5, 0)
    assert apart(x, x.flip(0)) == 0
    assert apart(x, x + 1e-3) == pytest.approx(1e-3, rel=1e-3)
    assert apart(x, x[:2]) == torch.inf


# --- promises that hold in any order


def attack(known: Knowledge, order: int | None = None) -> Reconstruction:
    method = ProjectionReconstructor(max_seconds=300.0)
    if order is None:
        return method.reconstruct(known, generator(0, "candidates"))
    with OtherOrder(order):
        return method.reconstruct(known, generator(0, "candidates"))


@pytest.mark.rounding
@pytest.mark.parametrize("order", range(2))
def test_exact_images_and_certificates_are_the_same(order: int) -> None:
    u, pixels = images(3, 8, 0)
    x = inputs_from_images(u, pixels).flatten(1).float()
    known = knowledge(trained(x, 3 * 3 * pixels.d), 3, pixels)
    expected, found = attack(known), attack(known, order)
    assert found.outcome == expected.outcome
    assert found.status == "certified"
    assert expected.certificates is not None and found.certificates is not None
    index = match(expected.candidates, found.candidates, EUCLIDEAN).index
    assert torch.equal(found.certificates.images[index], expected.certificates.images)
    assert torch.equal(found.certificates.accepted[index], expected.certificates.accepted)
    assert torch.equal(found.candidates[index], expected.candidates)


@pytest.mark.rounding
@pytest.mark.parametrize("order", range(2))
@pytest.mark.parametrize("drifted", [False, True])
def test_an_attack_that_succeeds_ends_in_the_same_candidates(drifted: bool, order: int) -> None:
    x = sphere(3, 16, 0)
    if drifted:
        model = MLP(d=16, k=1, n=3, width=240)
        known = taught(model, x, steps=50, lr=1e-4, radius=4.0)
    else:
        known = knowledge(trained(x, 240), 3, radius=4.0)
    expected, found = attack(known), attack(known, order)
    assert found.outcome == expected.outcome
    assert found.status == ("agreed" if drifted else "converged")
    assert apart(expected.candidates, found.candidates) < TOLERANCE
