"""Gauss-Newton with Levenberg-Marquardt damping; the linear systems by conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lit_recon.errors import InputError
from lit_recon.solvers.loop import Linearised, Monitor, Objective, Solver, State, positive

MAX_DAMPING = 1e4
MIN_DAMPING = 1e-7
CHECK_EVERY = 4  # steps of conjugate gradients on a GPU


@dataclass(frozen=True)
class DampedState(State):
    damping: float = 0.0


@dataclass(frozen=True)
class GaussNewton(Solver):
    """Damped Gauss-Newton steps, each an inexact solve of (J^T J + mu diag(M)) D = J^T R.

    The damping follows the gain ratio (Levenberg 1944, Marquardt 1963); M is the curvature that
    J^T J concentrates to, and preconditions the conjugate gradients.

    Args:
        damping: mu at the start, relative to the diagonal of M; above 0.
        cg_steps: conjugate gradient steps for one Gauss-Newton step, at least 1.
        cg_tolerance: relative residual at which conjugate gradients stop; in (0, 1).
    """

    # Far from stuck, a step takes more than a third of the loss away; in a valley a few per cent.
    min_decrease: ClassVar[float] = 0.3
    patience: ClassVar[int] = 1

    damping: float = 1e-2
    cg_steps: int = 30
    cg_tolerance: float = 0.1

    def __post_init__(self) -> None:
        positive("--recon.solver.damping", self.damping)
        positive("--recon.solver.cg_tolerance", self.cg_tolerance)
        if self.cg_steps < 1:
            raise InputError("--recon.solver.cg_steps", self.cg_steps, "give at least 1")

    def start(self, objective: Objective, z: Tensor) -> DampedState:
        return DampedState(objective.linearise(z), damping=self.damping)

    def step(self, objective: Objective, state: State, monitor: Monitor) -> DampedState:
        assert isinstance(state, DampedState)
        at, damping = state.at, state.damping
        direction = self._direction(at, damping, monitor)
        trial = objective.linearise(objective.retract(at.z + direction))
        monitor.applications += 2  # J^T R and the trial; J of the step and the trial's own J^T R
        promised = _promised(at, direction) / objective.energy
        gained = float(at.loss - trial.loss)
        if gained > 0 and torch.isfinite(trial.loss):
            return DampedState(trial, damping=_updated(damping, gained / max(promised, 1e-300)))
        damping *= 5
        return DampedState(at, stuck=damping > MAX_DAMPING, damping=damping)

    def _direction(self, at: Linearised, damping: float, monitor: Monitor) -> Tensor:
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


def _promised(at: Linearised, direction: Tensor) -> float:
    """By how much the linear model says that ||R||^2 falls."""
    change = at.jvp(direction)
    return float(at.inner(2 * at.residual - change, change))


def _updated(damping: float, ratio: float) -> float:
    """New damping after an accepted step with this ratio of gained to promised decrease."""
    if ratio > 0.75:
        return max(damping / 5, MIN_DAMPING)
    return damping * 3 if ratio < 0.25 else damping


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor],
    right: Tensor,
    precondition: Callable[[Tensor], Tensor],
    *,
    steps: int,
    tolerance: float,
    every: int = 1,
    finished: Callable[[bool], bool] = lambda enough: enough,
) -> Tensor:
    """Solve ``apply(x) = right`` for a symmetric positive definite operator, from x = 0.

    Args:
        apply: the operator, rows (m, d) to (m, d).
        right: (m, d).
        precondition: approximate inverse, symmetric positive definite.
        steps: at most so many applications.
        tolerance: stop when the preconditioned residual norm has fallen to this share.
        every: ask after so many steps. A GPU is not waited for at each; steps that it takes after
            the tolerance is met have length 0, so that the result is the same.
        finished: told then whether the tolerance is met; True returns what there is.
    """
    x = torch.zeros_like(right)
    r = right
    direction = y = precondition(r)
    ry = (r * y).sum()
    enough = tolerance**2 * ry
    met = torch.zeros_like(ry, dtype=torch.bool)
    for step in range(1, steps + 1):
        q = apply(direction)
        length = torch.where(met, 0.0, ry / (direction * q).sum())
        x, r = x + length * direction, r - length * q
        y = precondition(r)
        new = (r * y).sum()
        met = met | ~(new > enough)
        if step % every == 0 and finished(bool(met)):
            break
        direction, ry = y + new / ry * direction, new
    return x
