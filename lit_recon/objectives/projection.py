"""The projection loss with eliminated coefficients and its Gauss-Newton operators.

For candidates x (m, d), Phi = s(x V^T) (m, p) and target T (k, p),

    L = ||R||^2 / ||T||^2,   R = T - A^T Phi - W V^T,   A = (Phi Phi^T)^-1 Phi (T - W V^T)^T.

Without the linear rows W (k, d) it is the loss of Iurada, Bombari, Tommasi, Mondelli 2025
(arXiv 2509.22214) for one output, and the same loss for k outputs without their (mk, kp) Jacobian.
With them, T is fitted over span{s(V x_i)} + colspan(V): the linear rows explain the part that is
linear in V, and the candidates explain the even part of the activation.

Variables are one tensor z (m + l, d): m candidates, then l = k linear rows, or l = 0. The Jacobian
is that of Kaufman (1975) for variable projection (Golub and Pereyra 1973):

    J[D]   = P(A^T (S * (D_x V^T)) + D_W V^T)            (k, p),   S = s'(x V^T)
    J^T[U] = rows (S * (A P(U))) V and P(U) V            (m + l, d)
    P(U)   = U - (U Phi^T) (Phi Phi^T)^-1 Phi

so an application of J^T J is two passes over V, block by block. It makes nothing of V's size.

Where the rows of V are shared among ranks, each rank holds its columns of Phi, T, R and U; p in a
shape is then the number of these columns. Points z are rank 0's. What is not of length p is a sum
over ranks, and so the same on all: an application exchanges (m, k) and (m + l, d) numbers, for any
p.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_recon.activations import Activation
from lit_recon.linear_map import CACHE_ROWS, LinearMap
from lit_recon.objectives.span import SpanLinearisation, eliminated


@dataclass(frozen=True)
class Linearisation(SpanLinearisation):
    """The objective at one point.

    Attributes:
        slopes: (m, p) S.
    """

    objective: ProjectionObjective
    slopes: Tensor

    def jvp(self, step: Tensor) -> Tensor:
        """J[D]: (m + l, d) to (k, p)."""
        m, slopes = len(self.phi), self.slopes.T
        change = torch.empty_like(self.residual.T)  # (p, k)
        for rows, v in self.objective.map.blocks():
            h = v @ step.T  # (b, m + l)
            change[rows] = (slopes[rows] * h[:, :m]) @ self.coefficients
            if self.objective.linear_rows:
                change[rows] += h[:, m:]
        return self.project(change.T)

    def vjp(self, u: Tensor) -> Tensor:
        """J^T[U] for U (k, p) that is already projected: (m + l, d)."""
        u, slopes = u.T, self.slopes.T
        total = torch.zeros_like(self.z)
        for rows, v in self.objective.map.blocks():
            weights = slopes[rows] * (u[rows] @ self.coefficients.T)  # (b, m)
            if self.objective.linear_rows:
                weights = torch.cat([weights, u[rows]], dim=1)
            total.addmm_(weights.T, v)
        return self.objective.ranks.total(total)

    def curvature(self) -> Tensor:
        """(m + l, m + l) the matrix M for which J^T J[D] is about M D where p >> d m, in float64.

        M = (A A^T) * (S S^T) times the mean square of V. Linear rows count as candidates with
        coefficient 1 and slope 1.
        """
        coefficients, linear = self.coefficients, self.objective.linear_rows
        overlaps = torch.zeros(len(self.z), len(self.z), dtype=torch.float64, device=self.z.device)
        for slopes in self.slopes.T.split(CACHE_ROWS):
            if linear:
                slopes = torch.cat([slopes, slopes.new_ones(1, 1).expand(len(slopes), linear)], 1)
            overlaps += slopes.T @ slopes
        if linear:
            k = coefficients.shape[1]
            coefficients = torch.cat([coefficients, torch.eye(k).to(coefficients)])
        overlaps = self.objective.ranks.total(overlaps)
        return (coefficients @ coefficients.T).double() * overlaps * self.objective.map.mean_square


class ProjectionObjective:
    """The projection loss of a target over features s(V x).

    >>> from lit_recon.activations import ACTIVATIONS
    >>> from lit_recon.tall_matrix import TallMatrix, gaussian_rows
    >>> v, x = gaussian_rows(0, 100, 4), torch.eye(2, 4)  # p = 100, two samples in d = 4
    >>> target = (x @ v.T).relu().sum(0, keepdim=True)
    >>> map = LinearMap(TallMatrix.of(v))
    >>> objective = ProjectionObjective(map, ACTIVATIONS["relu"], target)
    >>> bool(objective.linearise(x).loss < 1e-10), bool(objective.linearise(-x).loss > 0.1)
    (True, True)

    Args:
        map: V. Where its rows are shared among ranks, every rank has an objective, and all ranks
            call it at the same places.
        activation: s.
        target: (k, p).
        linear: carry linear rows, that is, fit over span{s(V x_i)} + colspan(V).
        radius: keep candidates at this norm; None leaves the norm free.
        surrogate_slope: slope to use where the activation's own is 0 (Iurada et al. use 0.02).
    """

    rates = 1.0

    def __init__(
        self,
        map: LinearMap,
        activation: Activation,
        target: Tensor,
        *,
        linear: bool = False,
        radius: float | None = None,
        surrogate_slope: float = 0.0,
    ) -> None:
        self.map = map
        self.ranks = map.ranks
        self.activation = activation
        self.target = target
        self.linear_rows = len(target) if linear else 0
        self.radius = radius
        self.surrogate_slope = surrogate_slope
        self.energy = float(self.ranks.total(target.double().square().sum()))

    def linearise(self, z: Tensor) -> Linearisation:
        """Value and operators at z (m + l, d), the point of rank 0.

        All ranks take rank 0's point: where points differ in their last bits, the ranks would soon
        take different decisions.
        """
        z = self.ranks.first(z)
        m, target = len(z) - self.linear_rows, self.target.T
        phi, slopes = z.new_empty(2, len(target), m)  # the long side outermost, as V has it
        fitted = target.clone() if self.linear_rows else target
        sums = torch.zeros(m, m + target.shape[1], dtype=torch.float64, device=z.device)
        for rows, v in self.map.blocks():
            h = v @ z.T  # (b, m + l)
            if self.linear_rows:
                fitted[rows] -= h[:, m:]
            phi[rows] = self.activation.value(h[:, :m])
            slopes[rows] = self.activation.slope(h[:, :m])
            exact = phi[rows].double()  # rounding in the Gram would outweigh its ridge
            sums += exact.T @ torch.cat([exact, fitted[rows].double()], dim=1)
        if self.surrogate_slope:
            slopes[slopes == 0] = self.surrogate_slope
        gram, moments = self.ranks.total(sums).split([m, target.shape[1]], dim=1)
        coefficients, gram, factor = eliminated(gram, moments, phi.dtype)
        residual = fitted - phi @ coefficients
        loss = self.ranks.total(residual.square().sum()) / self.energy
        return Linearisation(
            objective=self,
            z=z,
            loss=loss,
            residual=residual.T,
            phi=phi.T,
            coefficients=coefficients,
            gram=gram,
            factor=factor,
            moments=moments,
            slopes=slopes.T,
        )

    def features(self, candidates: Tensor) -> Tensor:
        """(r, p) of candidates (r, d)."""
        return self.activation.value(self.map.apply(candidates))

    def retract(self, z: Tensor) -> Tensor:
        """z with its candidates back at the radius."""
        if self.radius is None:
            return z
        m = len(z) - self.linear_rows
        scale = self.radius / torch.linalg.vector_norm(z[:m], dim=1, keepdim=True)
        return torch.cat([z[:m] * scale, z[m:]])
