from dataclasses import dataclass

import pytest
import torch

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
from lit_recon.solvers.gauss_newton import conjugate_gradients
from lit_recon.solvers.loop import Solver, State
from lit_recon.solvers.search import Perturbation, Search, SpareCandidates
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


def test_conjugate_gradients_solve_a_linear_system():
    a = torch.randn(12, 12, dtype=torch.float64)
    a = a @ a.T + torch.eye(12)
    right = torch.randn(3, 4, dtype=torch.float64)
    solve = conjugate_gradients(
        lambda x: (a @ x.flatten()).view(3, 4),
        right,
        lambda x: (x.flatten() / a.diagonal()).view(3, 4),
        steps=50,
        tolerance=1e-12,
    )
    assert torch.allclose(solve.flatten(), torch.linalg.solve(a, right.flatten()), atol=1e-8)


def test_conjugate_gradients_stop_when_interrupted():
    calls = []

    def apply(x):
        calls.append(1)
        return 2 * x

    conjugate_gradients(
        apply, torch.ones(2), lambda x: x, steps=9, tolerance=0, finished=lambda enough: True
    )
    assert len(calls) == 1


@pytest.mark.parametrize("every", [2, 4, 7])
def test_conjugate_gradients_asked_seldom_return_the_same(every):
    a = torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a = a @ a.T + torch.eye(12)
    right = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    asked: list[bool] = []

    def finished(enough):
        asked.append(enough)
        return enough

    def solve(every):
        return conjugate_gradients(
            lambda x: a @ x,
            right,
            lambda x: x / a.diagonal(),
            steps=50,
            tolerance=1e-3,
            every=every,
            finished=finished,
        )

    often = solve(1)
    steps = len(asked)
    asked.clear()
    assert torch.equal(solve(every), often)
    assert len(asked) == -(-steps // every) and asked[-1]


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
            return State(objective.linearise(objective.retract(state.at.z + torch.randn(N, D))))

    start = x + 0.05
    solution = run(problem, start, Climber(), Stop(max_steps=5))
    assert torch.equal(solution.at.candidates, problem.retract(start))


def test_every_ending_has_its_status():
    _, problem = objective()
    noise = torch.randn(N, D, generator=torch.Generator().manual_seed(3))
    spent = Monitor(max_seconds=0.0)
    assert run(problem, noise, GaussNewton(), monitor=spent).status is Status.OUT_OF_TIME
    assert run(problem, noise, GaussNewton(), Stop(max_steps=1)).status is Status.MAX_STEPS
    assert run(problem, noise, GaussNewton(), Stop(min_decrease=1.0)).status is Status.STALLED
    assert run(problem, noise * float("nan"), GaussNewton()).status is Status.NONFINITE
    assert run(problem, noise, GaussNewton(), Stop(loss=10.0)).status is Status.CONVERGED
    certified = Stop(satisfied=lambda at: True)
    assert run(problem, noise, GaussNewton(), certified).status == "certified"
    assert all(status.sentence for status in Status)


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
    moves = [
        SpareCandidates(2, lambda at, count: x[:count], patience=1),
        Perturbation(1.2, random, patience=2),
    ]
    search = Search(N, moves, random)
    solution = search(hopeless, 1.0 * x, GaussNewton(), Stop(), Monitor(), "test")
    assert solution.status is Status.STALLED
    assert len(solution.at.candidates) == N


@pytest.mark.parametrize(
    ("make", "flag"),
    [
        (lambda: GaussNewton(damping=float("nan")), "--recon.solver.damping"),
        (lambda: GaussNewton(cg_steps=0), "--recon.solver.cg_steps"),
        (lambda: MomentumDescent(lr=-1), "--recon.solver.lr"),
        (lambda: MomentumDescent(momentum=1.0), "--recon.solver.momentum"),
        (lambda: MomentumDescent(surrogate_slope=-0.1), "--recon.solver.surrogate_slope"),
    ],
)
def test_settings_out_of_range_are_refused_by_flag(make, flag):
    with pytest.raises(InputError, match=flag):
        make()
