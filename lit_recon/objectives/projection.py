"""The projection loss with eliminated coefficients and its Gauss-Newton operators.

For candidates x (m, d), Phi = s(x V^T) (m, p) and target T (k, p),

    L = ||R||^2 / ||T||^2,   R = T - A^T Phi - W V^T,   A = (Phi Phi^T)^-1 Phi (T - W V^T)^T.

Without the linear rows W (k, d) it is the loss of Iurada, Bombari, Tommasi, Mondelli 2025
(arXiv 2509.22214) for one output, and the same loss for k outputs without their (mk, kp) Jacobian.
With them, T is fitted over span{s(V x_i)} + colspan(V): what is linear in V is explained away, and
the even part of the activation is left to tell the samples.

Variables are one tensor z (m + l, d): m candidates, then l = k linear rows, or l = 0. The Jacobian
is that of Kaufman (1975) for variable projection (Golub and Pereyra 1973):

    J[D]   = P(A^T (S * (D_x V^T)) + D_W V^T)            (k, p),   S = s'(x V^T)
    J^T[U] = rows (S * (A P(U))) V and P(U) V            (m + l, d)
    P(U)   = U - (U Phi^T) (Phi Phi^T)^-1 Phi

so an application of J^T J is two passes over V, block by block, and nothing of V's size is made.

Where the rows of V are shared among ranks, each holds its columns of Phi, T, R and U; p in a shape
is then the number of these. Points z are rank 0's, and what is not of length p is a sum over ranks,
so the same on all: an application exchanges (m, k) and (m + l, d) numbers, whatever p is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_recon.activations import Activation
from lit_recon.features import CACHE_ROWS, LinearMap

# Rounding of a fit, in units of eps; measured, converged float32 runs end between 3 and 40 units.
FLOOR_UNITS = 64.0
RIDGE = 1e-9  # relative to the mean diagonal of the Gram; keeps merged candidates solvable


def _solve(factor: Tensor, right: Tensor) -> Tensor:
    """Solve in float64 with a Cholesky factor and return in the dtype of ``right``."""
    return torch.cholesky_solve(right.double(), factor).to(right.dtype)


@dataclass(frozen=True)
class Linearisation:
    """The objective at one point: value, residual, and the operators around it.

    Attributes:
        z: (m + l, d) the point.
        loss: () the projection loss.
        residual: (k, p).
        coefficients: (m, k), the eliminated A.
        phi, slopes: (m, p).
        gram: (m, m) Phi Phi^T in float64, with its ridge.
        factor: (m, m) Cholesky factor of the Gram.
        moments: (m, k) Phi times the target less its linear rows, in float64.
    """

    objective: ProjectionObjective
    z: Tensor
    loss: Tensor
    residual: Tensor
    coefficients: Tensor
    phi: Tensor
    slopes: Tensor
    gram: Tensor
    factor: Tensor
    moments: Tensor

    @property
    def candidates(self) -> Tensor:
        """(m, d)"""
        return self.z[: len(self.phi)]

    def project(self, u: Tensor) -> Tensor:
        """(k, p) to its part orthogonal to every feature row."""
        inner = self.objective.ranks.total(self.phi @ u.T)
        return u - _solve(self.factor, inner).T @ self.phi

    def inner(self, u: Tensor, w: Tensor) -> Tensor:
        """() the inner product of two (k, p) over all columns."""
        return self.objective.ranks.total((u * w).sum())

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

    def gradient(self) -> Tensor:
        """(m + l, d) gradient of the loss."""
        return -2 / self.objective.energy * self.vjp(self.residual)

    def curvature(self) -> Tensor:
        """(m + l, m + l) what J^T J concentrates to for p >> d m, an identity on d left out.

        (A A^T) * (S S^T) times the mean square of V, the linear rows being candidates with unit
        coefficient and slope. float64.
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

    def importance(self) -> Tensor:
        """(m,) by how much the loss rises when one candidate is left out."""
        inverse = torch.cholesky_solve(torch.eye(len(self.factor)).to(self.factor), self.factor)
        gain = self.coefficients.double().square().sum(1) / inverse.diagonal()
        return gain / self.objective.energy

    def floor(self) -> float:
        """The loss that rounding alone leaves here, from the size of the terms that cancel."""
        terms = self.coefficients.double().square().sum(1) @ self.gram.diagonal()
        unit = max(torch.finfo(self.phi.dtype).eps, RIDGE)  # in float64 the ridge is what is left
        return float((FLOOR_UNITS * unit) ** 2 * (1 + terms / self.objective.energy))

    def keep(self, m: int) -> Tensor:
        """Indices of the m candidates left when the least important one goes, again and again."""
        left = list(range(len(self.phi)))
        while len(left) > m:
            inverse = torch.linalg.inv_ex(self.gram[left][:, left]).inverse
            gain = (inverse @ self.moments[left]).square().sum(1) / inverse.diagonal()
            left.pop(int(gain.argmin()))
        return torch.tensor(left, device=self.phi.device)

    def gain(self, directions: Tensor) -> Tensor:
        """(r,) by how much the loss falls when the feature of one more input (r, d) is added."""
        new = self.objective.activation.value(self.objective.map.apply(directions))  # (r, p)
        new = self.project(new)
        inner, size = self.objective.ranks.totals(new @ self.residual.T, new.square().sum(1))
        return inner.square().sum(1) / size / self.objective.energy


class ProjectionObjective:
    """The projection loss of a target over features s(V x).

    Args:
        map: V; of one that is shared among ranks, every rank has an objective, and uses it at the
            same places as the others.
        activation: s.
        target: (k, p).
        linear: carry linear rows, that is, fit over span{s(V x_i)} + colspan(V).
        radius: keep candidates at this norm; None leaves the norm free.
        surrogate_slope: slope to use where the activation's own is 0 (Iurada et al. use 0.02).
    """

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

        One point for all: ranks whose points differ in their last bits would soon part ways.
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
        gram = gram + RIDGE * gram.diagonal().mean() * torch.eye(m).to(gram)
        factor = torch.linalg.cholesky_ex(gram).L
        coefficients = _solve(factor, moments).to(phi.dtype)
        residual = fitted - phi @ coefficients
        loss = self.ranks.total(residual.square().sum()) / self.energy
        return Linearisation(
            self, z, loss, residual.T, coefficients, phi.T, slopes.T, gram, factor, moments
        )

    def retract(self, z: Tensor) -> Tensor:
        """z with its candidates back at the radius."""
        if self.radius is None:
            return z
        m = len(z) - self.linear_rows
        scale = self.radius / torch.linalg.vector_norm(z[:m], dim=1, keepdim=True)
        return torch.cat([z[:m] * scale, z[m:]])
