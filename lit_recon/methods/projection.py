"""Reconstruction from the projection loss (Iurada, Bombari, Tommasi, Mondelli 2025)."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite, nan
from typing import Literal

import torch
from torch import Tensor

from lit_recon.distributed import ranks
from lit_recon.errors import InputError
from lit_recon.features import LinearMap
from lit_recon.knowledge import Knowledge
from lit_recon.linalg import least_squares_rows, spectral_directions
from lit_recon.methods.base import Reconstruction, Reconstructor
from lit_recon.methods.problem import (
    Problem,
    all_certified,
    coarse_blocks,
    loss_at,
    noise,
    on_pixels,
    proposals,
    refused,
    unit,
    with_signs,
)
from lit_recon.metrics.certificate import certify
from lit_recon.models import OneHiddenLayer
from lit_recon.objectives.projection import Linearisation, ProjectionObjective
from lit_recon.objectives.refined import RefinedObjective
from lit_recon.rows import Rows
from lit_recon.solvers import GaussNewton, Monitor, OnStep, Solution, Solver, Status, Stop, minimise
from lit_recon.solvers.gauss_newton import MIN_DAMPING
from lit_recon.solvers.search import Move, Perturbation, Search, SpareCandidates, fewest

# The even stage spends k d of the k p equations on the linear rows. Below this many equations per
# unknown the plain loss goes first (measured: synthetic data at p = 1.5 d n are complete in half
# the applications then, images at p = 2 d n in twice as many).
EVEN_FIRST = 1.7
# Below this many equations per unknown a stuck fit is mostly wrong, so that all candidates are
# perturbed before single ones are replaced.
HOP_BELOW = 2.2
HOP_SCALE = 1.2
COARSE_STARTS = 3
# A subspace with more than this share of the dimensions is not searched: to search it would save
# nothing against a search in all of them.
SEARCHED = 0.2
# Rows of V that the subspace search reads, per unknown; more change its result little.
COARSE_ROWS = 150
COARSE_TRIES = Stop(min_decrease=1e-3, max_steps=80)
# Directions of the spectral subspace per candidate; a few more than needed cost nothing.
SUBSPACE = 1.4
# Even-part loss at which signs are told and the plain loss takes over.
HANDOVER = 1e-7
# The candidates with which to begin where their number is to be found, and the equations per
# unknown below which it cannot be.
FIRST = 2
IDENTIFIABLE = 1.2
# The last steps, with residuals in float64.
POLISH = Stop(min_decrease=0.3, max_steps=6)
POLISH_TOLERANCE = 1e-2


class ProjectionReconstructor(Reconstructor):
    """Inputs whose features span the trained readout.

    With the defaults: the linear part of the activation is taken out, candidates start in a
    spectral subspace at low image resolution, Gauss-Newton with spare candidates finds all of them
    up to sign, one least-squares fit tells the signs, and the plain loss is minimised until every
    candidate is an image of integer pixels or the loss is at its floor, where residuals in float64
    take it on. Close to the threshold the plain loss goes first, by basin hopping. Nothing of it
    looks at the training data.

    Args:
        solver: GaussNewton, or MomentumDescent as in the paper.
        max_seconds: time budget of one reconstruction in seconds, above 0; the best candidates so
            far are returned when it ends.
        restarts: fresh starts from noise after the first one, 0 or more.
        rounds: rounds of single-candidate restarts in a row without progress before something else
            is tried; 0 turns them off.
        hops: perturbations of all candidates in a row without progress before something else is
            tried, near the threshold; 0 turns them off.
        candidates: number of candidates m; null takes the number of training samples, ``auto``
            estimates it from the weights alone.
        spare: candidates beyond m during the search, 0 or more; 0 also turns single-candidate
            restarts off.
        even_stage: ``auto`` takes the linear part out where there are equations to spare, ``never``
            minimises the plain loss only.
        spectral_start: start in the spectral subspace; false starts from noise.
        polish: last Gauss-Newton steps with residuals in float64, where the loss is at the floor of
            float32.
        max_steps: solver steps of one phase, at least 1.
        loss: loss at which a phase ends, 0 for the numerical floor; the paper uses 1e-7.
        seed: seed of the attack's own generator, 0 or more; null: --run.seed.
        enabled: false trains and saves checkpoints without reconstructing.
    """

    name = "projection"
    citation = "Iurada, Bombari, Tommasi, Mondelli 2025, arXiv 2509.22214"

    def __init__(
        self,
        solver: Solver | None = None,
        max_seconds: float = 600.0,
        restarts: int = 20,
        rounds: int = 4,
        hops: int = 40,
        candidates: int | Literal["auto"] | None = None,
        spare: int = 3,
        even_stage: Literal["auto", "never"] = "auto",
        spectral_start: bool = True,
        polish: bool = True,
        max_steps: int = 1_000_000,
        loss: float = 0.0,
        seed: int | None = None,
        enabled: bool = True,
    ) -> None:
        if not max_seconds > 0:
            raise InputError("--recon.max_seconds", max_seconds, "give seconds above 0")
        for flag, value, least in (
            ("restarts", restarts, 0),
            ("rounds", rounds, 0),
            ("hops", hops, 0),
            ("candidates", candidates if isinstance(candidates, int) else 1, 1),
            ("spare", spare, 0),
            ("max_steps", max_steps, 1),
            ("seed", seed or 0, 0),
        ):
            if value < least:
                raise InputError(f"--recon.{flag}", value, f"give {least} or more")
        if not (isfinite(loss) and loss >= 0):
            raise InputError("--recon.loss", loss, "give 0 or more")
        self.solver = solver or GaussNewton()
        self.max_seconds = max_seconds
        self.restarts = restarts
        self.rounds = rounds
        self.hops = hops
        self.candidates = candidates
        self.spare = spare
        self.even_stage = even_stage
        self.spectral_start = spectral_start
        self.polish = polish
        self.stop = Stop(loss=loss, max_steps=max_steps)
        self.seed = seed or 0
        self.enabled = enabled

    @torch.no_grad()
    def reconstruct(
        self, knowledge: Knowledge, generator: torch.Generator, on_step: OnStep | None = None
    ) -> Reconstruction:
        problem = self._problem(knowledge)
        monitor = Monitor(self.max_seconds, on_step, problem.map.ranks)
        refusal = refused(problem)
        if refusal is None:
            problem, solution = self._attack(problem, monitor, generator)
            candidates, loss = solution.at.candidates, float(solution.at.loss)
            status = solution.status
            if status is Status.CONVERGED and problem.equations < problem.m * problem.map.d:
                status = Status.UNDERDETERMINED
        else:
            candidates = noise(problem, problem.m, generator)
            loss, status = nan, refusal
        certificates = None
        if problem.pixels is not None:
            certificates = certify(candidates.cpu(), problem.pixels)
            candidates = on_pixels(candidates, certificates, problem.pixels, problem.radius)
        return Reconstruction(
            candidates=candidates.cpu(),
            projection_loss=loss,
            oracle=lambda x: loss_at(problem, x),
            status=status,
            certificates=certificates,
            sign_blind=problem.activation.odd,
            p_over_dn=problem.equations / (knowledge.n * problem.map.d),
            rows=monitor.rows,
            applications=monitor.applications,
            restarts=monitor.restarts,
            seconds=monitor.seconds,
        )

    def _problem(self, knowledge: Knowledge) -> Problem:
        model = knowledge.model
        if not isinstance(model, OneHiddenLayer):
            raise InputError("--model", type(model).__name__, "projection needs one hidden layer")
        us = ranks()
        share = us.share(model.p)
        map = LinearMap(model.rows(share), us)
        radius = knowledge.radius
        if model.activation.homogeneous and radius is None:
            radius = map.d**0.5  # the norm cannot be seen, so any fixed one will do
        return Problem(
            map=map,
            activation=model.activation,
            target=unit(knowledge.target.detach())[:, share.start : share.stop].to(map.rows.like),
            m=FIRST if self.candidates == "auto" else self.candidates or knowledge.n,
            pixels=knowledge.pixels,
            radius=radius,
        )

    def _attack(
        self, problem: Problem, monitor: Monitor, generator: torch.Generator
    ) -> tuple[Problem, Solution]:
        """Fresh starts until one converges; the best of them otherwise."""
        even, start, counted = self._even_first(problem), None, None
        if self.candidates == "auto":
            counted = self._count(problem, monitor, generator)
            problem = replace(problem, m=len(counted.at.candidates))
            if counted.status not in (Status.STALLED, Status.CONVERGED):
                return problem, counted
            even, start = self._has_even_stage(problem), counted.at.z
        best = self._attempt(problem, monitor, generator, even=even, start=start)
        for _ in range(self.restarts):
            if best.status is not Status.STALLED:
                break
            monitor.restarts += 1
            even = self._has_even_stage(problem) and not even
            fresh = self._attempt(problem, monitor, generator, even=even)
            best = fresh if fresh.at.loss < best.at.loss else replace(best, status=fresh.status)
        if counted is not None and counted.status is Status.STALLED:  # with as many as can be told
            objective = problem.objective()
            best = fewest(best, objective, self.solver, self.stop, monitor, "count")
            problem = replace(problem, m=len(best.at.candidates))
        return problem, self._polished(problem, best, monitor)

    def _count(self, problem: Problem, monitor: Monitor, generator: torch.Generator) -> Solution:
        """A solution of the first stage with as few candidates as it needs.

        More candidates than samples are the easier fit, so one descent for every power of two
        mostly finds one; where none does, each number gets a search.
        """
        most = max(int(problem.equations / (IDENTIFIABLE * problem.map.d)), FIRST)
        sizes = [m for m in (FIRST * 2**i for i in range(64)) if m < most] + [most]
        stop = replace(self.stop, loss=max(self.stop.loss, HANDOVER), min_decrease=0.05, patience=2)
        even = self._has_even_stage(problem)
        objective = problem.even_objective() if even else problem.objective()
        for searched in (False, True):
            for m in sizes:
                guess = replace(problem, m=m)
                z = self._start(guess, monitor, generator, even=even)
                if searched:
                    found = self._minimise(objective, z, stop, guess, monitor, generator, "count")
                else:
                    found = minimise(objective, z, self.solver, stop, monitor, "count")
                if found.status is not Status.STALLED:
                    return fewest(found, objective, self.solver, stop, monitor, "count")
        return found

    def _has_even_stage(self, problem: Problem) -> bool:
        return self.even_stage == "auto" and problem.activation.even_part is not None

    def _even_first(self, problem: Problem) -> bool:
        return self._has_even_stage(problem) and problem.per_unknown >= EVEN_FIRST

    def _hops_first(self, problem: Problem) -> bool:
        return self.hops > 0 and problem.per_unknown < HOP_BELOW

    def _width(self, problem: Problem) -> int:
        """Candidates to start with."""
        return problem.m if self._hops_first(problem) else problem.m + self.spare

    def _attempt(
        self,
        problem: Problem,
        monitor: Monitor,
        generator: torch.Generator,
        *,
        even: bool,
        start: Tensor | None = None,
    ) -> Solution:
        """From noise, or from a start for the first stage, to a solution of the plain loss."""
        if start is None:
            start = self._start(problem, monitor, generator, even=even)
        if even:
            start = self._even_stage(problem, start, monitor, generator)
        objective = problem.objective(self.solver.surrogate_slope)
        stop = replace(self.stop, satisfied=all_certified(problem))
        return self._minimise(objective, start, stop, problem, monitor, generator, "plain")

    def _polished(self, problem: Problem, found: Solution, monitor: Monitor) -> Solution:
        """A solution at the floor of single precision, taken to the floor of the stored target."""
        at = found.at
        if not (
            self.polish
            and found.status is Status.CONVERGED
            and isinstance(self.solver, GaussNewton)
            and isinstance(at, Linearisation)
            and at.z.dtype == torch.float32
            and monitor.agreed(float(at.loss) <= at.floor())
        ):
            return found
        objective = RefinedObjective(at.objective)
        solver = replace(self.solver, damping=MIN_DAMPING, cg_tolerance=POLISH_TOLERANCE)
        stop = replace(POLISH, satisfied=all_certified(problem))
        polished = minimise(objective, at.z, solver, stop, monitor, "polish")
        certified = polished.status is Status.CERTIFIED
        return polished if certified else replace(polished, status=found.status)

    def _minimise(
        self,
        objective: ProjectionObjective,
        z: Tensor,
        stop: Stop,
        problem: Problem,
        monitor: Monitor,
        generator: torch.Generator,
        phase: str,
    ) -> Solution:
        """Minimise from z, with the moves that are switched on."""
        moves = self._moves(problem, generator, both_signs=objective.linear_rows == 0)
        if not (moves or self.spare):
            return minimise(objective, z, self.solver, stop, monitor, phase)
        search = Search(problem.m, moves, generator)
        return search(objective, z, self.solver, stop, monitor, phase)

    def _moves(
        self, problem: Problem, generator: torch.Generator, *, both_signs: bool
    ) -> list[Move]:
        """What to try where a descent is stuck."""
        moves: list[Move] = []
        if self._hops_first(problem):
            moves.append(Perturbation(HOP_SCALE, generator, self.hops))
        if self.spare and self.rounds:
            propose = proposals(problem, generator, both_signs=both_signs)
            moves.append(SpareCandidates(self.spare, propose, self.rounds))
        return moves

    def _start(
        self, problem: Problem, monitor: Monitor, generator: torch.Generator, *, even: bool
    ) -> Tensor:
        """(m' + l, d), m' >= m, the first point of the even or of the plain loss."""
        if not even:
            return noise(problem, self._width(problem), generator)
        linear = least_squares_rows(problem.map, problem.target)
        return self._coarse_start(problem, linear, monitor, generator)

    def _even_stage(
        self, problem: Problem, start: Tensor, monitor: Monitor, generator: torch.Generator
    ) -> Tensor:
        """(m, d) candidates from the even part of the activation, with their signs told."""
        objective = problem.even_objective()
        stop = replace(self.stop, loss=max(self.stop.loss, HANDOVER))
        found = self._minimise(objective, start, stop, problem, monitor, generator, "even")
        return with_signs(problem, found.at.candidates)

    def _coarse_start(
        self, problem: Problem, linear: Tensor, monitor: Monitor, generator: torch.Generator
    ) -> Tensor:
        """(m' + k, d) candidates, m' >= m, and linear rows from a spectral subspace.

        In the subspace, of a few dimensions more than candidates, a Gauss-Newton step costs
        milliseconds, so several starts are tried and the best is taken.
        """
        map, count = problem.map, self._width(problem)
        if not self.spectral_start:
            return torch.cat([noise(problem, count, generator), linear])
        rest = problem.target - map.apply(linear)
        blocks = coarse_blocks(problem)
        dimensions = min(round(SUBSPACE * problem.m) + 1, blocks.dimension)
        basis = blocks.up(
            spectral_directions(map, rest, dimensions, generator, blocks.down, blocks.up)
        )  # (r, d)
        if dimensions > SEARCHED * map.d:
            z = torch.randn(count, dimensions, generator=generator, dtype=basis.dtype).to(basis)
            return torch.cat([z @ basis, linear])
        # Every rank's first rows, so that all have the same to do.
        head = map.head(-(-COARSE_ROWS * count * dimensions // map.ranks.size))
        weight = head.apply(basis).T.contiguous()  # (rows, r)
        objective = ProjectionObjective(
            LinearMap(Rows.of(weight), map.ranks),
            problem.even_part,
            rest[:, : len(weight)],
            linear=True,
            radius=problem.norm,
        )
        tries = []
        for _ in range(COARSE_STARTS):
            z = torch.randn(count, dimensions, generator=generator, dtype=weight.dtype)
            z = torch.cat([z.to(weight.device), linear.new_zeros(len(linear), dimensions)])
            tries.append(minimise(objective, z, GaussNewton(), COARSE_TRIES, monitor, "coarse"))
        z = min(tries, key=lambda solution: float(solution.at.loss)).at.z @ basis
        return torch.cat([z[:count], z[count:] + linear])
