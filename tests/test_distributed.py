"""An attack whose rows of V are shared among ranks is the attack of one process."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_recon.activations import ACTIVATIONS
from lit_recon.distributed import Ranks, ranks
from lit_recon.errors import RunError
from lit_recon.linalg import least_squares_rows, spectral_directions, times_rows
from lit_recon.linear_map import LinearMap
from lit_recon.methods import ProjectionReconstructor
from lit_recon.models import RandomFeatures
from lit_recon.objectives.projection import ProjectionObjective
from lit_recon.randomness import generator
from lit_recon.tall_matrix import BLOCK_ROWS, SeededMatrix, TallMatrix, gaussian_rows
from tests.problems import images, knowledge, sphere, trained
from tests.ranks import on_ranks

pytestmark = pytest.mark.slow

D = 6


# --- shares


def test_shares_are_consecutive_even_and_complete() -> None:
    for p, size in ((10, 3), (7, 2), (2, 5), (0, 2), (1, 1)):
        shares = [Ranks(rank, size).share(p) for rank in range(size)]
        assert [row for share in shares for row in share] == list(range(p))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("stored", [range(0), range(10), range(4000, 9000), range(0, 9001)])
def test_rows_are_the_same_to_the_bit_stored_or_drawn(stored: range, threads: int) -> None:
    whole = gaussian_rows(3, 2 * BLOCK_ROWS + 809, 2)
    matrix = SeededMatrix(3, len(whole), 2)
    torch.set_num_threads(threads)
    matrix.store(stored, torch.empty(0))
    assert matrix.stored.shape == (len(stored), 2)
    for share in (
        range(len(whole)),
        range(3, 5),
        range(4095, 4097),
        range(4100, 9001),
        range(8, 8),
    ):
        rows = TallMatrix(matrix, share, torch.empty(0))
        parts = list(rows)
        assert sum(map(len, parts)) == len(rows) == len(share)
        assert torch.equal(torch.cat(parts), whole[share.start : share.stop])
        assert torch.equal(torch.cat(list(rows.head(2))), torch.cat(parts)[:2])
        doubles = list(TallMatrix(matrix, share, torch.empty(0, dtype=torch.float64)))
        assert torch.equal(torch.cat(doubles), torch.cat(parts).double())


def test_a_trained_layer_is_read_in_place_and_gets_its_gradient() -> None:
    weight = torch.nn.Parameter(torch.randn(7, 3))
    rows = TallMatrix(weight, Ranks(1, 2).share(7), weight)
    (part,) = rows
    assert part.data_ptr() == weight[3].data_ptr() and part.shape == (4, 3)
    times_rows(torch.ones(1, 3), rows).sum().backward()
    assert weight.grad is not None
    assert weight.grad.sum(1).tolist() == [0, 0, 0, 3, 3, 3, 3]


def test_a_copy_of_a_model_shares_its_rows() -> None:
    model = RandomFeatures(d=D, k=1, n=3, p=50)
    x = sphere(2, D, 0)
    twin = copy.deepcopy(model)
    phi = twin.features(x)
    assert torch.equal(phi, model.features(x))
    assert twin.first_layer is model.first_layer
    assert model.first_layer.stored.shape == (50, D)


# --- operators


def operators(p: int, k: int, linear: bool, stored: int | None) -> dict[str, Tensor]:
    """All that is summed over p, at one point of a problem with k outputs."""
    us = ranks()
    model = RandomFeatures(d=D, k=k, n=3, p=p, seed=1, stored_rows=stored).double()
    share = us.share(p)
    map = LinearMap(model.rows(share), us)
    random = torch.Generator().manual_seed(0)

    def columns(rows: int) -> Tensor:
        whole = torch.randn(rows, p, generator=random, dtype=torch.float64)
        return whole[:, share.start : share.stop]

    target, u = columns(k), columns(k)
    problem = ProjectionObjective(map, ACTIVATIONS["relu"], target, linear=linear)
    z, step = (sphere(3 + problem.linear_rows, D, seed).double() for seed in (2, 3))
    at = problem.linearise(z)
    directions = spectral_directions(map, target, 2, random)
    few = spectral_directions(
        map, target, 2, random, lambda rows: rows[:, :4], lambda z: torch.cat([z, 0 * z[:, :2]], 1)
    )
    return {
        "p": torch.tensor([map.p]),
        "mean_square": torch.tensor([map.mean_square]),
        "loss": at.loss,
        "residual": at.inner(at.residual, u),
        "coefficients": at.coefficients,
        "jvp": at.inner(at.jvp(step), u),
        "vjp": at.vjp(at.project(u)),
        "gradient": at.gradient(),
        "curvature": at.curvature(),
        "importance": at.importance(),
        "keep": at.keep(2),
        "gain": at.gain(sphere(3, D, 4).double()),
        "floor": torch.tensor([at.floor()]),
        "least_squares_rows": least_squares_rows(map, target, 1e-12),
        "spectral_directions": directions.T @ directions,
        "in a subspace": few.T @ few,
        "features": model.features(sphere(2, D, us.rank).double()).sum(1),
        "stored": torch.tensor([len(model.first_layer.stored)]),
    }


def every_case() -> list[dict[str, Tensor]]:
    return [operators(*case) for case in CASES]


CASES = [
    (301, 1, False, None),
    (301, 1, True, 0),
    (301, 3, True, None),
    (301, 3, False, 40),
    (5000, 1, False, 30),
]


def test_two_and_three_ranks_compute_what_one_does() -> None:
    alone = every_case()
    for size in (2, 3):
        found = on_ranks(size, every_case)
        for case, one, *shared in zip(CASES, alone, *found, strict=True):
            for rank, numbers in enumerate(shared):
                share = len(Ranks(rank, size).share(case[0]))
                stored = share if case[3] is None else min(share, case[3])
                assert int(numbers.pop("stored")) == stored
                if rank > 0:  # the features of other inputs, without the help of rank 0
                    del numbers["features"]
                for name, value in numbers.items():
                    same = torch.allclose(value, one[name].to(value), rtol=1e-7, atol=1e-9)
                    assert same, (size, rank, case, name)


def few_features() -> list[Any]:
    """A loss and its gradient where the last rank has the only row, or none at all has two."""
    us = ranks()
    found = []
    for p in (1, 2):
        model = RandomFeatures(d=D, k=1, n=1, p=p)
        map = LinearMap(model.rows(us.share(p)), us)
        target = torch.arange(1.0, p + 1)[None, us.share(p).start : us.share(p).stop]
        at = ProjectionObjective(map, ACTIVATIONS["tanh"], target).linearise(sphere(1, D, 0))
        found.append((float(at.loss), at.gradient(), float(map.mean_square)))
    return found


def test_a_rank_without_rows_takes_part() -> None:
    alone = few_features()
    for shared in on_ranks(3, few_features):
        for (loss, gradient, square), one in zip(shared, alone, strict=True):
            assert loss == pytest.approx(one[0], abs=1e-6)
            assert torch.allclose(gradient, one[1], atol=1e-5)
            assert square == pytest.approx(one[2])


def what_one_rank_hears() -> str:
    """What a sum raises on rank 0 where the other rank has ended."""
    us = ranks()
    if us.rank == 1:
        return ""
    with pytest.raises(RunError) as raised:
        us.total(torch.ones(3))
    return str(raised.value)


def test_a_rank_that_ends_is_told_in_one_line() -> None:
    told, _ = on_ranks(2, what_one_rank_hears)
    assert told.startswith("another process of this run has ended (") and "\n" not in told


# --- the whole attack


def attacks(stored: int | None) -> list[Any]:
    """Candidates, status, loss and loss at the truth of some reconstructions."""
    u, pixels = images(3, 8, 0)
    pictures = ((u.double() / 255 - pixels.mean) / pixels.std).flatten(1).float()
    points = sphere(4, 16, 0)
    problems = [
        (points, knowledge(trained(points, 301, stored=stored), 4, radius=4.0)),
        (points, knowledge(trained(points, 151, k=3, stored=stored), 4, radius=4.0)),
        (pictures, knowledge(trained(pictures, 1801, stored=stored), 3, pixels)),
    ]
    found = []
    for x, known in problems:
        attack = ProjectionReconstructor(max_seconds=60)
        outcome = attack.reconstruct(known, generator(0, "candidates"))
        certified = None if outcome.certificates is None else outcome.certificates.accepted
        found.append(
            {
                "candidates": outcome.candidates,
                "status": outcome.status,
                "loss": outcome.numbers["projection_loss"],
                "oracle": outcome.at_truth(x)["oracle_loss"],
                "certified": certified,
                "p_over_dn": outcome.at_truth(x)["p_over_dn"],
                "steps": len(outcome.curve),
                "applications": outcome.numbers["applications"],
            }
        )
    return found


@pytest.mark.long  # a run of two processes in test_cli.py looks at the same
@pytest.mark.parametrize("stored", [None, 100])
def test_a_whole_reconstruction_is_that_of_one_process(stored: int | None) -> None:
    alone = attacks(None)
    first, second = on_ranks(2, attacks, stored)
    for one, a, b in zip(alone, first, second, strict=True):
        assert a["status"] == b["status"] == one["status"]
        assert a["status"] in ("converged", "certified")
        for name in ("candidates", "certified"):
            assert a[name] is b[name] is None or torch.equal(a[name], b[name])
        assert torch.allclose(a["candidates"], one["candidates"], atol=2e-3)
        for name in ("loss", "oracle", "steps", "applications", "p_over_dn"):
            assert a[name] == b[name]
        assert a["p_over_dn"] == one["p_over_dn"]
        assert max(a["loss"], a["oracle"], one["oracle"]) < 1e-7


def endings() -> list[tuple[str, float]]:
    """Status and loss at the truth where the weights of one rank alone are out of the ordinary."""
    us, x = ranks(), sphere(4, 16, 0)
    attack = ProjectionReconstructor(max_seconds=60, restarts=0, rounds=0)
    impatient = ProjectionReconstructor(max_seconds=1e-9 if us.rank == 0 else 60)
    models = [trained(x, 301) for _ in range(4)]
    broken, dark, half, _ = models
    with torch.no_grad():
        if us.rank == 1:
            broken.readout.weight[0, 250] = float("nan")
            next(iter(dark.rows(us.share(301))))[7] = float("inf")
        half.readout.weight[0, :151] = 0  # nothing at all for rank 0
    found = []
    for model, recon in zip(models, (attack, attack, attack, impatient), strict=True):
        outcome = recon.reconstruct(knowledge(model, 4), generator(0, "candidates"))
        found.append((outcome.status, outcome.at_truth(x)["oracle_loss"]))
    return found


def test_all_ranks_end_alike_whatever_one_of_them_has() -> None:
    first, second = on_ranks(2, endings)
    assert [status for status, _ in first] == [status for status, _ in second]
    assert [status for status, _ in first[:2]] == ["nonfinite", "nonfinite"]
    assert first[2] == second[2] and 0 < first[2][1] < 1
    assert first[3] == second[3] and first[3][0] == "out_of_time"
