"""The search around a solver: its moves, their order, what it accepts and how it ends.

Most tests put a script in the place of `minimise`, so that losses and endings are given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise, repeat
from math import exp, nan
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_recon.activations import HALF_ABS
from lit_recon.linear_map import LinearMap
from lit_recon.objectives.projection import ProjectionObjective
from lit_recon.solvers import GaussNewton, Monitor, Solution, Status, Stop
from lit_recon.solvers.contracts import Point
from lit_recon.solvers.search import PATIENT, PROGRESS, TEMPERATURE, Move, Perturbation, Search
from lit_recon.tall_matrix import TallMatrix, gaussian_rows
from tests.problems import sphere

M, D, P = 4, 12, 300
STALLED = Status.STALLED


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- perturbation


def with_linear_rows(d: int = D, k: int = 2) -> tuple[ProjectionObjective, Tensor]:
    v = gaussian_rows(0, P, d)
    target = torch.randn(k, P, generator=seeded())
    objective = ProjectionObjective(LinearMap(TallMatrix.of(v)), HALF_ABS, target, linear=True)
    x = sphere(M, d, 0) * torch.tensor([[0.5], [1.0], [2.0], [3.0]])
    return objective, torch.cat([x, torch.randn(k, d, generator=seeded(1))])


def test_a_perturbation_leaves_the_linear_rows_alone():
    objective, z = with_linear_rows()
    moved = Perturbation(1.2, seeded(), patience=1)(objective.linearise(z))
    assert moved.shape == z.shape and moved.dtype == z.dtype
    assert torch.equal(moved[M:], z[M:])
    assert (moved[:M] != z[:M]).all()


def test_the_noise_of_a_perturbation_has_the_stated_norm_and_no_direction():
    objective, z = with_linear_rows(d=2000)
    moved = Perturbation(1.2, seeded(4), patience=1)(objective.linearise(z))
    noise, x = (moved - z)[:M], z[:M]
    lengths = noise.norm(dim=1) / x.norm(dim=1)
    assert torch.allclose(lengths, torch.full((M,), 1.2), rtol=0.1)
    unit = torch.nn.functional.normalize(torch.cat([x, noise]))
    cosines = unit[M:] @ unit.T - torch.eye(2 * M)[M:]
    assert cosines.abs().max() < 0.13  # six standard deviations


def test_a_perturbation_draws_from_its_generator_only():
    objective, z = with_linear_rows()
    at = objective.linearise(z)
    outside = torch.get_rng_state()
    one, other = seeded(3), seeded(3)
    first, second = (Perturbation(1.2, random, patience=1) for random in (one, other))
    assert torch.equal(first(at), second(at))
    assert not torch.equal(first(at), first(at))
    assert torch.equal(torch.get_rng_state(), outside)


# --- a scripted search


@dataclass
class Place:
    """A point of which only the place and the loss count; its loss stands in z too."""

    z: Tensor
    loss: Tensor

    @property
    def candidates(self) -> Tensor:
        return self.z

    def keep(self, m: int) -> Tensor:
        return torch.arange(len(self.z) - m, len(self.z))


@dataclass
class Script:
    """In the place of `minimise`: ends with the next loss and status, at a place of that loss."""

    endings: Iterator[tuple[float, Status]]
    stops: list[Stop] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def __call__(self, objective, z, solver, stop, monitor, phase) -> Solution:
        loss, status = next(self.endings)
        self.stops.append(stop)
        self.sizes.append(len(z))
        at: Any = Place(torch.full_like(z, loss), torch.tensor(loss, dtype=torch.float64))
        return Solution(at, status)


@dataclass
class Recorder(Move[Point]):
    """A move that says when it was called and from which loss."""

    name: str
    patience: int
    log: list[tuple[str, float]]

    def __call__(self, at: Point) -> Tensor:
        self.log.append((self.name, float(at.loss)))
        return at.z


@dataclass
class Hop(Recorder):
    slow = (0.05, 2)


Run = Callable[..., tuple[Solution, list[tuple[str, float]], Script]]


@pytest.fixture
def run(monkeypatch) -> Run:
    def run(endings, patiences, *, seed=0, kind=Recorder, start=2, monitor=None, log=None):
        """From `start` candidates to two, with a move for every patience."""
        script, log = Script(iter(endings)), [] if log is None else log
        monkeypatch.setattr("lit_recon.solvers.search.minimise", script)
        moves = [kind(name, n, log) for name, n in zip("ABC", patiences, strict=False)]
        z, monitor = torch.ones(start, 3, dtype=torch.float64), monitor or Monitor()
        nothing: Any = None
        search = Search(2, moves, seeded(seed))
        return search(nothing, z, GaussNewton(), Stop(), monitor, "test"), log, script

    return run


def names(log: list[tuple[str, float]]) -> str:
    return "".join(name for name, _ in log)


def stalled(*losses: float) -> list[tuple[float, Status]]:
    return [(loss, STALLED) for loss in losses]


def test_moves_take_turns_when_their_patience_ends_and_the_search_gives_up_after_the_last(run):
    monitor = Monitor()
    found, log, _ = run(repeat((1.0, STALLED)), (2, 3), monitor=monitor)
    assert names(log) == "AABBB"
    assert found.status is STALLED
    assert monitor.restarts == 5


def test_progress_gives_the_move_its_patience_back_and_the_others_their_turn(run):
    _, log, _ = run([*stalled(1, 1, 1, 1, 0.5), *repeat((0.5, STALLED), 99)], (2, 3))
    #                 first A  A  B  B: progress, three more of B, then A again
    assert names(log) == "AABB" + "BBB" + "AA"


def test_small_gains_are_no_progress_until_they_add_up(run):
    losses = [1.0, 0.96, 0.92, 0.88]
    assert 0.92 > PROGRESS > 0.88
    _, log, _ = run([*stalled(*losses), *repeat((0.8799, STALLED), 99)], (3,))
    assert len(log) == 3 + 3  # the third trial is progress, after it there is none
    _, log, _ = run([*stalled(*losses), *repeat((0.8799, STALLED), 99)], (2,))
    assert len(log) == 2


def test_the_best_trial_is_returned_however_small_its_gain(run):
    for seed in range(20):
        random = seeded(seed)
        losses = (1 + 0.2 * torch.rand(30, generator=random, dtype=torch.float64)).tolist()
        found, log, _ = run([*stalled(*losses), *repeat((2.0, STALLED), 30)], (29,), seed=seed)
        assert len(log) >= 29
        assert float(found.at.loss) == min(losses)
        assert found.status is STALLED


def test_worse_trials_are_accepted_by_the_metropolis_rule(run):
    trials = 400

    def accepted(factor: float, seed: int = 0) -> list[bool]:
        """Whether each of many trials, all worse by a factor than their origin, is the next one."""
        log: list[tuple[str, float]] = []

        def endings():
            yield 1.0, STALLED
            while True:
                yield factor * log[-1][1], STALLED

        found, _, _ = run(endings(), (trials,), seed=seed, log=log)
        assert float(found.at.loss) == 1.0 and len(log) == trials
        return [after > before for (_, before), (_, after) in pairwise(log)]

    for factor, chance in ((exp(TEMPERATURE), exp(-1)), (exp(TEMPERATURE / 4), exp(-0.25))):
        share = sum(accepted(factor)) / trials
        assert abs(share - chance) < 0.1  # four standard deviations
    assert not any(accepted(10.0))
    assert accepted(1.1) == accepted(1.1) != accepted(1.1, seed=1)


def test_better_and_equal_trials_are_always_the_next_origin(run):
    losses = [1.0, 1.0, 0.99, 0.95, 0.95, 0.91]
    _, log, _ = run(stalled(*losses, 0.91), (6,))
    assert [loss for _, loss in log] == losses


@pytest.mark.parametrize(
    "ending", [Status.SATISFIED, Status.CONVERGED, Status.OUT_OF_TIME, Status.NONFINITE]
)
def test_a_first_descent_that_ends_otherwise_than_stalled_is_all(run, ending):
    found, log, _ = run([(1.0, ending)], (2, 3))
    assert found.status is ending and not log


@pytest.mark.parametrize("ending", [Status.OUT_OF_TIME, Status.NONFINITE, Status.MAX_STEPS])
@pytest.mark.parametrize("loss", [0.3, 0.6, 0.95, 5.0])
def test_a_trial_that_is_cut_short_ends_the_search_with_the_best_point(run, ending, loss):
    found, log, _ = run([*stalled(1.0, 0.6), (loss, ending)], (4, 4))
    assert found.status is ending and names(log) == "AA"
    assert float(found.at.loss) == float(found.at.z[0, 0]) == min(loss, 0.6)


def test_a_trial_without_a_finite_loss_is_not_returned(run):
    found, _, _ = run([(1.0, STALLED), (nan, Status.NONFINITE)], (4,))
    assert found.status is Status.NONFINITE and float(found.at.loss) == 1.0


@pytest.mark.parametrize("ending", [Status.SATISFIED, Status.CONVERGED])
def test_a_trial_that_reaches_the_end_is_returned(run, ending):
    found, log, _ = run([*stalled(1.0, 1.0), (0.99, ending)], (4, 4))
    assert found.status is ending and float(found.at.loss) == 0.99
    assert len(log) == 2


def test_spare_candidates_are_dropped_after_every_descent_and_then_it_goes_on(run):
    found, _, script = run([*stalled(1, 0.9), (0.5, Status.SATISFIED)], (1,), start=5)
    assert script.sizes == [5, 2, 2]
    assert len(found.at.candidates) == 2 and found.status is Status.SATISFIED


def test_a_descent_is_as_patient_as_its_move_asks_for(run):
    solver: GaussNewton = GaussNewton()
    _, _, script = run(stalled(1, 1, 1), (2,))
    asked = [(stop.min_decrease, stop.patience) for stop in script.stops]
    assert asked == [(solver.min_decrease, solver.patience)] * 2 + [PATIENT]
    _, _, script = run(stalled(1, 1, 1), (2,), kind=Hop)
    assert {(stop.min_decrease, stop.patience) for stop in script.stops} == {Hop.slow}


# --- a real objective


@torch.no_grad()
def test_without_moves_it_minimises_and_prunes():
    v, x = gaussian_rows(0, P, D), sphere(M, D, 0)
    target = torch.tensor([[1.0, -2.0, 1.5, 0.7]]) @ (x @ v.T).abs()
    objective = ProjectionObjective(LinearMap(TallMatrix.of(v)), HALF_ABS, target, radius=D**0.5)
    start = torch.cat([sphere(2, D, 9), x + 0.1 * sphere(M, D, 8)])
    random, monitor = seeded(), Monitor()
    before = random.get_state()
    search: Search = Search(M, [], random)
    found = search(objective, start, GaussNewton(), Stop(), monitor, "test")
    assert found.status is Status.CONVERGED
    assert torch.allclose(found.at.candidates, x, atol=1e-3)
    assert monitor.restarts == 0 and torch.equal(random.get_state(), before)
    assert monitor.rows[0].candidates == M + 2 and monitor.rows[-1].candidates == M
    hopeless = ProjectionObjective(
        objective.map, HALF_ABS, torch.randn(1, P, generator=seeded(5)), radius=D**0.5
    )
    found = search(hopeless, start, GaussNewton(), Stop(), monitor, "test")
    assert found.status is STALLED and len(found.at.candidates) == M
