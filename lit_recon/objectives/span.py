"""A target fitted over the span of features, with eliminated coefficients; for any features.

For features Phi (m, p) and a target T (k, p) the fit is A = (Phi Phi^T)^-1 Phi T^T, its residual
R = T - A^T Phi, and the projection onto what the features cannot fit

    P(U) = U - (U Phi^T) (Phi Phi^T)^-1 Phi.

Where p is shared among ranks, each holds its columns of Phi, T, R and U; p in a shape is then the
number of these, and what is not of length p is the same on all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lit_recon.distributed import Ranks

# Rounding of a fit, in units of eps; measured, converged float32 runs end between 3 and 40 units.
FLOOR_UNITS = 64.0
RIDGE = 1e-9  # relative to the mean diagonal of the Gram; keeps merged candidates solvable


class Features(Protocol):
    """What a fit asks of the objective that it belongs to."""

    @property
    def ranks(self) -> Ranks:
        """The processes that share p."""
        ...

    @property
    def energy(self) -> float:
        """||T||^2, over all ranks."""
        ...

    def features(self, candidates: Tensor) -> Tensor:
        """Candidates (r, d) to their features (r, p)."""
        ...


def eliminated(gram: Tensor, moments: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The coefficients (m, k), the Gram (m, m) with its ridge, and its Cholesky factor.

    Args:
        gram: (m, m) Phi Phi^T, in float64: rounding would outweigh the ridge.
        moments: (m, k) Phi T^T in float64.
        dtype: of the coefficients.
    """
    gram = gram + RIDGE * gram.diagonal().mean() * torch.eye(len(gram)).to(gram)
    factor = torch.linalg.cholesky_ex(gram).L
    return solve(factor, moments).to(dtype), gram, factor


def solve(factor: Tensor, right: Tensor) -> Tensor:
    """Solve in float64 with a Cholesky factor and return in the dtype of ``right``."""
    return torch.cholesky_solve(right.double(), factor).to(right.dtype)


@dataclass(frozen=True)
class SpanLinearisation(ABC):
    """A projection loss at one point: value, residual, and the operators around it.

    Attributes:
        z: (m + l, d) the point; l = 0 but for objectives with linear rows.
        loss: () the projection loss.
        residual: (k, p).
        phi: (m, p).
        coefficients: (m, k), the eliminated A.
        gram: (m, m) Phi Phi^T in float64, with its ridge.
        factor: (m, m) Cholesky factor of the Gram.
        moments: (m, k) Phi times the target less its linear rows, in float64.
    """

    objective: Features
    z: Tensor
    loss: Tensor
    residual: Tensor
    phi: Tensor
    coefficients: Tensor
    gram: Tensor
    factor: Tensor
    moments: Tensor

    @abstractmethod
    def jvp(self, step: Tensor) -> Tensor:
        """J[D]: (m + l, d) to (k, p)."""

    @abstractmethod
    def vjp(self, u: Tensor) -> Tensor:
        """J^T[U] for U (k, p) that is already projected: (m + l, d)."""

    @property
    def energy(self) -> float:
        """||T||^2, by which the squared residual is divided."""
        return self.objective.energy

    @property
    def candidates(self) -> Tensor:
        """(m, d)"""
        return self.z[: len(self.phi)]

    def project(self, u: Tensor) -> Tensor:
        """(k, p) to its part orthogonal to every feature row."""
        inner = self.objective.ranks.total(self.phi @ u.T)
        return u - solve(self.factor, inner).T @ self.phi

    def inner(self, u: Tensor, w: Tensor) -> Tensor:
        """() the inner product of two (k, p) over all columns."""
        return self.objective.ranks.total((u * w).sum())

    def gradient(self) -> Tensor:
        """(m + l, d) gradient of the loss."""
        return -2 / self.energy * self.vjp(self.residual)

    def importance(self) -> Tensor:
        """(m,) by how much the loss rises when one candidate is left out."""
        inverse = torch.cholesky_solve(torch.eye(len(self.factor)).to(self.factor), self.factor)
        gain = self.coefficients.double().square().sum(1) / inverse.diagonal()
        return gain / self.energy

    def floor(self) -> float:
        """The loss that rounding alone leaves here, from the size of the terms that cancel."""
        terms = self.coefficients.double().square().sum(1) @ self.gram.diagonal()
        unit = max(torch.finfo(self.phi.dtype).eps, RIDGE)  # in float64 the ridge is what is left
        return float((FLOOR_UNITS * unit) ** 2 * (1 + terms / self.energy))

    def keep(self, m: int) -> Tensor:
        """(m,) indices of the candidates that are left when the others go, least important first.

        After each one the importance of the rest is computed again.
        """
        left = list(range(len(self.phi)))
        while len(left) > m:
            inverse = torch.linalg.inv_ex(self.gram[left][:, left]).inverse
            gain = (inverse @ self.moments[left]).square().sum(1) / inverse.diagonal()
            left.pop(int(gain.argmin()))
        return torch.tensor(left, device=self.phi.device)

    def gain(self, directions: Tensor) -> Tensor:
        """(r,) by how much the loss falls when the feature of one more input (r, d) is added."""
        new = self.project(self.objective.features(directions))  # (r, p)
        inner, size = self.objective.ranks.totals(new @ self.residual.T, new.square().sum(1))
        return inner.square().sum(1) / size / self.energy
