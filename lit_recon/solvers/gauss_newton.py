"""Gauss-Newton with Levenberg-Marquardt damping; the linear systems by conjugate gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lit_recon.errors import InputError
from lit_recon.linalg import conjugate_gradients
from lit_recon.solvers.contracts import LeastSquaresPoint, LeastSquaresT, Objective
from lit_recon.solvers.loop import Monitor, Solver, State, positive

MAX_DAMPING = 1e4
MIN_DAMPING = 1e-7
CHECK_EVERY = 4  # steps of conjugate gradients on a GPU


@dataclass(frozen=True)
class DampedState(State[LeastSquaresT]):
    """A state with the damping of the next step."""

    damping: float = 0.0


@dataclass(frozen=True)
class GaussNewton(Solver[LeastSquaresT]):
    """Damped Gauss-Newton steps, each an inexact solve of (J^T J + mu diag(M)) D = J^T R.

    The damping mu follows the gain ratio (Levenberg 1944, Marquardt 1963). M is the curvature that
    J^T J concentrates to; it also preconditions the conjugate gradients. An objective's step rates
    are left out, because M scales the step already.

    >>> GaussNewton(cg_steps=50)
    GaussNewton(damping=0.01, cg_steps=50, cg_tolerance=0.1)

    Args:
        damping: mu at the start, relative to the diagonal of M; above 0.
        cg_steps: conjugate gradient steps for one Gauss-Newton step, at least 1.
        cg_tolerance: relative residual at which conjugate gradients stop; in (0, 1).
    """

    # Far from a minimum a step lowers the loss by more than a third; in a valley by a few per cent.
    min_decrease: ClassVar[float] = 0.3
    patience: ClassVar[int] = 1

    damping: float = 1e-2
    cg_steps: int = 30
    cg_tolerance: float = 0.1

    def __post_init__(self) -> None:
        positive("--recon.solver.damping", self.damping)
        if not 0 < self.cg_tolerance < 1:
            remedy = "give a number above 0 and below 1"
            raise InputError("--recon.solver.cg_tolerance", self.cg_tolerance, remedy)
        if self.cg_steps < 1:
            raise InputError("--recon.solver.cg_steps", self.cg_steps, "give at least 1")

    def start(self, objective: Objective[LeastSquaresT], z: Tensor) -> DampedState[LeastSquaresT]:
        return DampedState(objective.linearise(z), damping=self.damping)

    def step(
        self, objective: Objective[LeastSquaresT], state: State[LeastSquaresT], monitor: Monitor
    ) -> DampedState[LeastSquaresT]:
        assert isinstance(state, DampedState)
        at, damping = state.at, state.damping
        direction = self._direction(at, damping, monitor)
        trial = objective.linearise(objective.retract(at.z + direction))
        monitor.applications += 2  # J^T R and the trial; J of the step and the trial's own J^T R
        promised = _promised(at, direction) / at.energy
        gained = float(at.loss - trial.loss)
        if gained > 0 and torch.isfinite(trial.loss):
            return DampedState(
                trial, damping=damping_after(damping, gained / max(promised, 1e-300))
            )
        damping *= 5
        return DampedState(at, stuck=damping > MAX_DAMPING, damping=damping)

    def _direction(self, at: LeastSquaresPoint, damping: float, monitor: Monitor) -> Tensor:
        curvature = at.curvature()
        diagonal = curvature.diagonal().clamp_min(1e-30)
        shifted = curvature + torch.diag((damping + 1e-10) * diagonal)
        factor = torch.linalg.cholesky_ex(shifted).L
        shift = (damping * diagonal).to(at.z.dtype)[:, None]

        def normal(rows: Tensor) -> Tensor:
            monitor.applications += 1
            return at.vjp(at.jvp(rows)) + shift * rows

        def precondition(rows: Tensor) -> Tensor:
            return torch.cholesky_solve(rows.double(), factor).to(rows.dtype)

        return conjugate_gradients(
            normal,
            at.vjp(at.residual),
            precondition,
            steps=self.cg_steps,
            tolerance=self.cg_tolerance,
            every=CHECK_EVERY if at.z.is_cuda else 1,
            finished=lambda enough: monitor.agreed(enough or monitor.late),
        )


def _promised(at: LeastSquaresPoint, direction: Tensor) -> float:
    """By how much ||R||^2 falls in the linear model."""
    change = at.jvp(direction)
    return float(at.inner(2 * at.residual - change, change))


def damping_after(
    damping: float, ratio: float, fall: float = 5.0, smallest: float = MIN_DAMPING
) -> float:
    """The damping after an accepted step; ``ratio`` is the real decrease over the promised one."""
    if ratio > 0.75:
        return max(damping / fall, smallest)
    return damping * 3 if ratio < 0.25 else damping
