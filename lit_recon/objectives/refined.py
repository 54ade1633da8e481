"""A loss whose values are exact to double precision; each costs one pass over V in float64."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lit_recon.objectives.projection import Linearisation, ProjectionObjective


@dataclass(frozen=True)
class RefinedLinearisation:
    """Value, point and residual in float64; derivatives in the precision of the objective.

    Iterative refinement (Wilkinson 1963): Gauss-Newton ends where its residual is zero, also with
    rough derivatives.

    Attributes:
        value: the loss in float64.
        derivative: the loss in the precision in which V is stored, at the same point.
    """

    value: Linearisation
    derivative: Linearisation

    @property
    def energy(self) -> float:
        """||T||^2, by which the squared residual is divided."""
        return self.value.energy

    @property
    def z(self) -> Tensor:
        """(m + l, d)"""
        return self.value.z

    @property
    def loss(self) -> Tensor:
        """()"""
        return self.value.loss

    @property
    def residual(self) -> Tensor:
        """(k, p)"""
        return self.value.residual

    @property
    def candidates(self) -> Tensor:
        """(m, d)"""
        return self.value.candidates

    def jvp(self, step: Tensor) -> Tensor:
        """J[D]: (m + l, d) to (k, p)."""
        return self.derivative.jvp(step.to(self.derivative.z)).double()

    def vjp(self, u: Tensor) -> Tensor:
        """J^T[U]: (k, p) to (m + l, d)."""
        return self.derivative.vjp(u.to(self.derivative.z)).double()

    def inner(self, u: Tensor, w: Tensor) -> Tensor:
        """() the inner product of two (k, p)."""
        return self.value.inner(u, w)

    def gradient(self) -> Tensor:
        """(m + l, d) gradient of the loss."""
        return -2 / self.energy * self.vjp(self.residual)

    def curvature(self) -> Tensor:
        """(m + l, m + l)"""
        return self.derivative.curvature()

    def floor(self) -> float:
        """The loss that the rounding of the target leaves, which is stored in V's precision."""
        return (torch.finfo(self.derivative.z.dtype).eps) ** 2


class RefinedObjective:
    """The projection loss with values in float64.

    Args:
        objective: the loss in the precision in which V is stored.
    """

    rates = 1.0

    def __init__(self, objective: ProjectionObjective) -> None:
        self.derivative = objective
        self.value = ProjectionObjective(
            replace(objective.map, dtype=torch.float64),
            objective.activation,
            objective.target.double(),
            linear=objective.linear_rows > 0,
            radius=objective.radius,
            surrogate_slope=objective.surrogate_slope,
        )
        self.energy = self.value.energy

    def linearise(self, z: Tensor) -> RefinedLinearisation:
        """Value and operators at z (m + l, d)."""
        value = self.value.linearise(z.double())
        return RefinedLinearisation(
            value, self.derivative.linearise(value.z.to(self.derivative.target))
        )

    def retract(self, z: Tensor) -> Tensor:
        """z with its candidates back at the radius."""
        return self.value.retract(z)
