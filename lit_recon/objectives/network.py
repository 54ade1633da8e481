"""The projection loss of any network, its derivatives by automatic differentiation.

The same loss as in `objectives.projection`. There Phi comes from a first layer whose weights are
read; here it comes from a network that is run forward and back. For candidates z (m, q)

    J[D]   = P(A^T dPhi[D])                (k, p)
    J^T[U] = dPhi^T[A P(U)]                (m, q)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_recon.distributed import Ranks
from lit_recon.objectives.span import SpanLinearisation, eliminated

PROBES = 4  # random directions from which the curvature is estimated


@dataclass(frozen=True)
class NetworkLinearisation(SpanLinearisation):
    """The objective at one point.

    Attributes:
        backward: dPhi^T, (m, p) to (m, q).
    """

    objective: NetworkObjective
    backward: Callable[[Tensor], Tensor]

    def jvp(self, step: Tensor) -> Tensor:
        return self.project(self.coefficients.T @ self._forward(step))

    def vjp(self, u: Tensor) -> Tensor:
        return self.backward(self.coefficients @ u)

    def curvature(self) -> Tensor:
        """(m, m) the matrix M for which J^T J[D] is about M D, from a few probes, in float64.

        M = (A A^T) * the mean of dPhi[v] dPhi[v]^T over unit directions v, with every candidate
        moved along the same v.
        """
        random = torch.Generator().manual_seed(0)  # a fixed preconditioner; no run depends on it
        overlaps = torch.zeros_like(self.gram)
        for _ in range(PROBES):
            direction = torch.randn(self.z.shape[1], generator=random).to(self.z)
            moved = self._forward((direction / direction.norm()).expand_as(self.z)).double()
            overlaps += moved @ moved.T / PROBES
        return (self.coefficients @ self.coefficients.T).double() * overlaps

    def inner(self, u: Tensor, w: Tensor) -> Tensor:
        return self.objective.first(super().inner(u, w))

    def _forward(self, step: Tensor) -> Tensor:
        """dPhi: (m, q) to (m, p)."""
        change: Tensor = torch.func.jvp(self.objective.features, (self.z,), (step,))[1]
        return change


class NetworkObjective:
    """The projection loss of a target over a network's features.

    All ranks compute the same. Points, losses and inner products are rank 0's: where these differ
    in their last bits, the ranks would soon take different decisions.

    Args:
        features: candidates (m, q) to their features (m, p).
        target: (k, p).
        radius: keep candidates at this norm; None leaves the norm free.
        first: gives rank 0's tensor to all.
    """

    ranks = Ranks()  # every rank holds all p columns
    rates = 1.0

    def __init__(
        self,
        features: Callable[[Tensor], Tensor],
        target: Tensor,
        *,
        radius: float | None = None,
        first: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    ) -> None:
        self.features = features
        self.target = target
        self.radius = radius
        self.first = first
        self.energy = float(target.double().square().sum())

    def linearise(self, z: Tensor) -> NetworkLinearisation:
        """Value and operators at z (m, q)."""
        z = self.first(z)
        phi, backward = torch.func.vjp(self.features, z)[:2]
        exact = phi.double()
        gram, moments = exact @ exact.T, exact @ self.target.T.double()
        coefficients, gram, factor = eliminated(gram, moments, phi.dtype)
        residual = self.target - coefficients.T @ phi
        return NetworkLinearisation(
            objective=self,
            z=z,
            loss=self.first(residual.square().sum() / self.energy),
            residual=residual,
            phi=phi,
            coefficients=coefficients,
            gram=gram,
            factor=factor,
            moments=moments,
            backward=lambda cotangent: backward(cotangent)[0],
        )

    def retract(self, z: Tensor) -> Tensor:
        """z with its candidates back at the radius."""
        if self.radius is None:
            return z
        return z * (self.radius / torch.linalg.vector_norm(z, dim=1, keepdim=True))
