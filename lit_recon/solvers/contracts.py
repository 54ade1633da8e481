"""What a solver asks of an objective: one contract for all, and one more for each kind of problem.

An objective is the function that is minimised. ``objective.linearise(z)`` gives its point at z: the
loss there and the derivatives. A kind of problem adds members to the point:

    Point               a loss and its gradient                 MomentumDescent
    LeastSquaresPoint   a residual and its Jacobian             GaussNewton
    SpanPoint           what each candidate explains            Search, fewest

A solver names the contract that it needs, and any objective that has these members will do; there
is no class to inherit from. The letters are those of the whole package: m candidates, k outputs, p
features, d the dimension of an input. A point z is one tensor (m + l, d): m candidates, and below
them l rows of further unknowns, which an objective may have or not.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from torch import Tensor


class Point(Protocol):
    """An objective at one point, as every objective offers it."""

    @property
    def z(self) -> Tensor:
        """(m + l, d) the point."""
        ...

    @property
    def loss(self) -> Tensor:
        """() the value of the objective, 0 or more; the solvers make it small."""
        ...

    @property
    def candidates(self) -> Tensor:
        """(m, d) the rows of z that are candidates: its first ones."""
        ...

    def gradient(self) -> Tensor:
        """(m + l, d) the gradient of the loss, by all of z."""
        ...

    def floor(self) -> float:
        """The loss that rounding alone leaves near this point; below it the loss is as good as 0.

        0 or more. 0 for an objective whose least loss is not known: a solver that can get no
        further on it has then stalled, and not converged.
        """
        ...


PointT = TypeVar("PointT", bound=Point)
PointT_co = TypeVar("PointT_co", bound=Point, covariant=True)


class Objective(Protocol[PointT_co]):
    """A function of z (m + l, d) that a solver minimises, with points of one kind."""

    @property
    def rates(self) -> float | Tensor:
        """The relative step rate of each unknown: above 0, and 1.0 where all are alike.

        A float, or a tensor that broadcasts to z (m + l, d) for every m that occurs. Blocks of
        unknowns with different scales, such as candidates and multipliers, get their own learning
        rates by it. Solvers that step along the gradient multiply their step by it. Solvers that
        scale their steps themselves, as Gauss-Newton does by the curvature, leave it out.
        """
        ...

    def linearise(self, z: Tensor) -> PointT_co:
        """The point at z (m + l, d): its loss and what the derivatives need."""
        ...

    def retract(self, z: Tensor) -> Tensor:
        """(m + l, d) z brought back to the constraint, such as candidates to their norm.

        The identity where there is no constraint. Solvers call it after every step.
        """
        ...


class LeastSquaresPoint(Point, Protocol):
    """A point whose loss is ``||R||^2 / energy`` for a residual R (k, p).

    J is the Jacobian of the fit: for small steps D the residual at z + D is about R - J[D].
    """

    @property
    def energy(self) -> float:
        """The squared norm by which ||R||^2 is divided, above 0; the same at every point."""
        ...

    @property
    def residual(self) -> Tensor:
        """(k, p) R."""
        ...

    def jvp(self, step: Tensor) -> Tensor:
        """J[D]: a step (m + l, d) to the change of the fit (k, p)."""
        ...

    def vjp(self, u: Tensor) -> Tensor:
        """J^T[U]: (k, p) to (m + l, d). U is a residual or an image of `jvp`."""
        ...

    def inner(self, u: Tensor, w: Tensor) -> Tensor:
        """() the inner product of u and w, both (k, p), over all ranks."""
        ...

    def curvature(self) -> Tensor:
        """(m + l, m + l) the matrix M for which M D is near J^T J[D]; float64, symmetric.

        It preconditions, so it may be rough, and must be positive semidefinite.
        """
        ...


class LeastSquaresObjective(Objective[PointT_co], Protocol[PointT_co]):
    """A least-squares problem: an objective whose points have a residual."""

    @property
    def energy(self) -> float:
        """The ``energy`` of its points."""
        ...


class SpanPoint(LeastSquaresPoint, Protocol):
    """A least-squares point that fits a target by one row of features (p,) for each candidate.

    The weights of the rows are eliminated, so candidates may be added and left out.
    """

    def importance(self) -> Tensor:
        """(m,) by how much the loss rises when one candidate is left out; each for itself."""
        ...

    def keep(self, m: int) -> Tensor:
        """(m,) increasing indices of the candidates that are left when the others go.

        The least important one goes first, then the least important one of those that are left,
        and so on. At least one candidate stays.
        """
        ...

    def gain(self, directions: Tensor) -> Tensor:
        """(r,) by how much the loss falls when one of r further candidates (r, d) is added."""
        ...


SpanT = TypeVar("SpanT", bound=SpanPoint)
LeastSquaresT = TypeVar("LeastSquaresT", bound=LeastSquaresPoint)
