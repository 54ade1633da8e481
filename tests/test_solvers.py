from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from lit_recon.activations import ACTIVATIONS
from lit_recon.errors import InputError
from lit_recon.linear_map import LinearMap
from lit_recon.objectives.projection import ProjectionObjective
from lit_recon.solvers import (
    GaussNewton,
    MomentumDescent,
    Monitor,
    SolverStep,
    Status,
    Stop,
    minimise,
)
from lit_recon.solvers.loop import Solver, State
from lit_recon.solvers.search import Move, Perturbation, Search, SpareCandidates
from tests.problems import sphere, trained

N, D, P = 4, 12, 300


def objective(seed=0, radius=D**0.5, slope=0.0):
    x = sphere(N, D, seed)
    model = trained(x, P, seed=seed)
    target = model.readout.weight.detach()
    map = LinearMap(model.rows(range(P)))
    return x, ProjectionObjective(
        map, ACTIVATIONS["relu"], target, radius=radius, surrogate_slope=slope
    )


@torch.no_grad()
def run(problem, z, solver, stop=None, monitor=None):
    return minimise(problem, z, solver, stop or Stop(), monitor or Monitor(), "test")


def test_gauss_newton_converges_quadratically_near_the_solution():
    x, problem = objective()
    monitor = Monitor()
    near = x + 0.05 * torch.randn(N, D, generator=torch.Generator().manual_seed(101))
    solution = run(problem, near, GaussNewton(cg_tolerance=1e-3), Stop(loss=1e-11), monitor)
    assert solution.status is Status.CONVERGED
    assert len(monitor.rows) <= 6
    assert torch.allclose(solution.at.candidates, x, atol=1e-3)


def test_momentum_descent_lowers_the_loss_and_keeps_the_radius():
    x, problem = objective(slope=0.02)
    start = x + 0.3 * torch.randn(N, D, generator=torch.Generator().manual_seed(101))
    first = float(problem.linearise(problem.retract(start)).loss)
    solution = run(problem, start, MomentumDescent(lr=1.0), Stop(max_steps=300))
    assert solution.status is Status.MAX_STEPS
    assert solution.at.loss < 0.1 * first
    assert torch.allclose(solution.at.candidates.norm(dim=1), torch.full((N,), D**0.5))


def test_surrogate_slope_replaces_zero_slopes_only():
    x, plain = objective()
    _, surrogate = objective(slope=0.02)
    slopes, replaced = plain.linearise(x).slopes, surrogate.linearise(x).slopes
    assert torch.equal(replaced[slopes == 1], slopes[slopes == 1])
    assert (replaced[slopes == 0] == 0.02).all()


def test_the_best_point_is_returned_by_a_solver_that_climbs():
    x, problem = objective()

    @dataclass(frozen=True)
    class Climber(Solver):
        min_decrease = 0.0
        patience = 1

        def start(self, objective, z):
            return State(objective.linearise(z))

        def step(self, objective, state, monitor):
            noise = torch.randn(N, D, generator=random)
            return State(objective.linearise(objective.retract(state.at.z + noise)))

    start, random, monitor = x + 0.05, torch.Generator().manual_seed(7), Monitor()
    solution = run(problem, start, Climber(), Stop(max_steps=5), monitor)
    assert torch.equal(solution.at.candidates, problem.retract(start))
    assert len(monitor.rows) == 5
    assert all(row.loss > float(solution.at.loss) for row in monitor.rows)


def test_every_ending_has_its_status():
    _, problem = objective()
    noise = torch.randn(N, D, generator=torch.Generator().manual_seed(3))
    spent = Monitor(max_seconds=0.0)
    assert run(problem, noise, GaussNewton(), monitor=spent).status is Status.OUT_OF_TIME
    assert run(problem, noise, GaussNewton(), Stop(max_steps=1)).status is Status.MAX_STEPS
    assert run(problem, noise, GaussNewton(), Stop(min_decrease=1.0)).status is Status.STALLED
    assert run(problem, noise * float("nan"), GaussNewton()).status is Status.NONFINITE
    assert run(problem, noise, GaussNewton(), Stop(loss=10.0)).status is Status.CONVERGED
    satisfied = Stop(satisfied=lambda at: True)
    assert run(problem, noise, GaussNewton(), satisfied).status is Status.SATISFIED


def test_every_status_has_a_sentence_of_its_own():
    assert len({status.sentence for status in Status}) == len(Status)


def test_a_stop_test_that_is_never_met_ends_nothing():
    _, problem = objective()
    noise = torch.randn(N, D, generator=torch.Generator().manual_seed(3))
    stop = Stop(max_steps=2, satisfied=lambda at: False)
    assert run(problem, noise, GaussNewton(), stop).status is Status.MAX_STEPS


def test_the_inner_curve_has_a_row_for_every_step_and_reports_it():
    x, problem = objective()
    seen: list[SolverStep] = []
    monitor = Monitor(on_step=lambda row, candidates: seen.append(row))
    run(problem, x + 0.1, GaussNewton(), Stop(max_steps=3), monitor)
    assert seen == monitor.rows
    assert [row.step for row in seen] == list(range(len(seen)))
    assert seen[-1].applications == monitor.applications > 0


@torch.no_grad()
def test_search_replaces_a_wrong_candidate():
    x, problem = objective()
    wrong = torch.cat([x[:-1], x[:1]])
    monitor = Monitor()

    def propose(at, count):
        return x[-1:] + 0.5 * torch.randn(count, D, generator=torch.Generator().manual_seed(0))

    random = torch.Generator().manual_seed(0)
    search = Search(N, [SpareCandidates(2, propose, patience=3)], random)
    solution = search(problem, wrong, GaussNewton(), Stop(), monitor, "test")
    assert solution.status is Status.CONVERGED
    assert len(solution.at.candidates) == N
    assert monitor.restarts >= 1


@torch.no_grad()
def test_search_gives_up_on_a_target_of_noise_and_says_so():
    x, problem = objective()
    noise = torch.randn(1, P, generator=torch.Generator().manual_seed(5))
    hopeless = ProjectionObjective(problem.map, problem.activation, noise, radius=D**0.5)
    random = torch.Generator().manual_seed(0)
    moves: list[Move] = [
        SpareCandidates(2, lambda at, count: x[:count], patience=1),
        Perturbation(1.2, random, patience=2),
    ]
    search: Search = Search(N, moves, random)
    solution = search(hopeless, 1.0 * x, GaussNewton(), Stop(), Monitor(), "test")
    assert solution.status is Status.STALLED
    assert len(solution.at.candidates) == N


@pytest.mark.parametrize(
    ("make", "flag"),
    [
        (lambda: GaussNewton(damping=float("nan")), "--recon.solver.damping"),
        (lambda: GaussNewton(cg_steps=0), "--recon.solver.cg_steps"),
        (lambda: GaussNewton(cg_tolerance=0.0), "--recon.solver.cg_tolerance"),
        (lambda: GaussNewton(cg_tolerance=1.0), "--recon.solver.cg_tolerance"),
        (lambda: MomentumDescent(lr=-1), "--recon.solver.lr"),
        (lambda: MomentumDescent(momentum=1.0), "--recon.solver.momentum"),
        (lambda: MomentumDescent(surrogate_slope=-0.1), "--recon.solver.surrogate_slope"),
    ],
)
def test_settings_out_of_range_are_refused_by_flag(make, flag):
    with pytest.raises(InputError, match=flag):
        make()


# --- contracts: a gradient is enough for one solver, and not for the other


@dataclass
class QuadraticPoint:
    """The contract of every point, and no more."""

    z: Tensor
    stiffness: Tensor

    @property
    def loss(self) -> Tensor:
        return (self.stiffness * self.z.square()).sum() / 2

    @property
    def candidates(self) -> Tensor:
        return self.z[:-1]

    def gradient(self) -> Tensor:
        return self.stiffness * self.z

    def floor(self) -> float:
        return 0.0


@dataclass
class Quadratic:
    """``sum stiffness z^2 / 2`` of z (m + 1, d): m candidates and a row of other unknowns."""

    stiffness: Tensor
    rates: float | Tensor = 1.0

    def linearise(self, z: Tensor) -> QuadraticPoint:
        return QuadraticPoint(z, self.stiffness)

    def retract(self, z: Tensor) -> Tensor:
        return z


STIFFNESS = torch.tensor([[1.0], [1.0], [1000.0]], dtype=torch.float64)
START = torch.tensor([[1.0, 2.0], [-3.0, 0.5], [0.2, -4.0]], dtype=torch.float64)


def test_blocks_of_different_curvature_converge_with_step_rates_only():
    plain, scaled = Quadratic(STIFFNESS), Quadratic(STIFFNESS, rates=1 / STIFFNESS)
    solver: MomentumDescent[QuadraticPoint] = MomentumDescent(lr=0.5, momentum=0.0)
    stop = Stop(loss=1e-20, max_steps=60)
    assert run(scaled, START, solver, stop).status is Status.CONVERGED
    halved = run(scaled, START, solver, Stop(max_steps=3)).at.z
    assert torch.allclose(halved, START / 8, rtol=1e-12)  # every block by 1 - lr in each step
    diverged = run(plain, START, solver, stop)
    assert diverged.status is Status.NONFINITE
    assert torch.equal(diverged.at.z, START)  # every step went up
    # A rate that the stiff block bears is too small for the other one.
    slow: MomentumDescent[QuadraticPoint] = MomentumDescent(lr=1e-3, momentum=0.0)
    found = run(plain, START, slow, stop)
    assert found.status is Status.MAX_STEPS
    assert torch.allclose(found.at.candidates, 0.999**60 * START[:-1], rtol=1e-12)


def test_step_rates_multiply_the_step_and_not_the_velocity():
    rates = torch.tensor([[1.0], [0.5], [0.001]], dtype=torch.float64)
    solver: MomentumDescent[QuadraticPoint] = MomentumDescent(lr=0.1, momentum=0.5)
    z, velocity = START, torch.zeros_like(START)
    for _ in range(3):
        velocity = 0.5 * velocity + STIFFNESS * z
        z = z - 0.1 * velocity * rates
    seen: list[Tensor] = []
    monitor = Monitor(on_step=lambda row, candidates: seen.append(candidates))
    run(Quadratic(STIFFNESS, rates), START, solver, Stop(max_steps=3), monitor)
    assert len(seen) == 3
    assert torch.allclose(seen[-1], z[:-1], rtol=1e-12)


def test_a_step_rate_of_one_changes_no_bit():
    x, problem = objective()
    solver: MomentumDescent = MomentumDescent(lr=1.0)
    stop = Stop(max_steps=5)
    plain = run(problem, x + 0.1, solver, stop).at.z
    problem.rates = torch.ones(N, 1)
    assert torch.equal(run(problem, x + 0.1, solver, stop).at.z, plain)
    problem.rates = 0.5
    assert not torch.equal(run(problem, x + 0.1, solver, stop).at.z, plain)


def test_gauss_newton_needs_a_residual_and_momentum_descent_does_not():
    # The type checker refuses it too. If it did not, it would complain of an unused comment here.
    solver: GaussNewton[QuadraticPoint] = GaussNewton()  # type: ignore[type-var]
    with pytest.raises(AttributeError, match="curvature"):
        run(Quadratic(STIFFNESS), START, solver)
    stop = Stop(max_steps=1)
    assert run(Quadratic(STIFFNESS), START, MomentumDescent(), stop).status is Status.MAX_STEPS
