"""Which candidate belongs to which training sample, one to one.

Shapes: ``x (n, d)`` training samples, ``candidates (m, d)``. Errors are Euclidean distances over
sqrt(d), so that 1 is the size of a typical standardised input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


@dataclass(frozen=True)
class Cost:
    """A distance: Euclidean over sqrt(d) between two views of the vectors.

    Attributes:
        view: maps (n, d) to (n, d), applied to both sides.
        sign_blind: take the smaller of the distances to the candidate and to its negative.
    """

    view: Callable[[Tensor], Tensor]
    sign_blind: bool = False


@dataclass(frozen=True)
class Matching:
    """One candidate, or none, for each training sample.

    Attributes:
        index: (n,) int64, the candidate of each sample, -1 where there is none.
        error: (n,) float64, its distance over sqrt(d), inf where there is none.
        sign: (n,) float64, the sign that the candidate takes in a sign-blind cost, else 1.
    """

    index: Tensor
    error: Tensor
    sign: Tensor

    @property
    def matched(self) -> Tensor:
        """(n,) bool, which samples have a candidate."""
        return self.index >= 0

    def mean_error(self) -> float | None:
        """Mean over the matched samples, None if there are none.

        Samples without a candidate are left out here; they count against every share that has n as
        its denominator.
        """
        return self.error[self.matched].mean().item() if self.matched.any() else None


def _raw(v: Tensor) -> Tensor:
    return v


def _direction(v: Tensor) -> Tensor:
    norm = v.norm(dim=1, keepdim=True).clamp_min(torch.finfo(v.dtype).tiny)
    return v / norm * sqrt(v.shape[1])


EUCLIDEAN = Cost(_raw)
DIRECTION = Cost(_direction)  # both sides scaled to norm sqrt(d)
SIGN_BLIND_DIRECTION = Cost(_direction, sign_blind=True)  # for purely odd or even activations
ABSOLUTE = Cost(torch.abs)  # Iurada et al. (2025, arXiv 2509.22214): |x| element-wise on both sides


def match(x: Tensor, candidates: Tensor, cost: Cost) -> Matching:
    """Assigns candidates to samples one to one with the least total cost (Hungarian).

    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> match(x, x.flip(0), EUCLIDEAN).index.tolist()
    [1, 0]

    Args:
        x: (n, d).
        candidates: (m, d), m and n independent of each other. Candidates that are not finite are
            never assigned.
        cost: one of the costs above.

    Returns:
        min(n, m) pairs; the samples left over have index -1 and error inf.
    """
    x, candidates, usable = _prepare(x, candidates)
    rows, columns = linear_sum_assignment(_distances(x, candidates[usable], cost).numpy())
    return _pairs(x, candidates, cost, torch.from_numpy(rows), usable[torch.from_numpy(columns)])


def _prepare(x: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both in float64 on the CPU, and the indices of the candidates that are finite."""
    x = x.detach().to("cpu", torch.float64)
    candidates = candidates.detach().to("cpu", torch.float64)
    return x, candidates, torch.isfinite(candidates).all(1).nonzero()[:, 0]


def _distances(x: Tensor, candidates: Tensor, cost: Cost) -> Tensor:
    """(n, m) costs, good to about 1e-7: enough to choose by, not to report."""
    a, b = cost.view(x), cost.view(candidates)
    distance = torch.cdist(a, b)
    if cost.sign_blind:
        distance = distance.minimum(torch.cdist(a, -b))
    return distance / sqrt(x.shape[1])


def _pairs(x: Tensor, candidates: Tensor, cost: Cost, rows: Tensor, columns: Tensor) -> Matching:
    """The matching of samples ``rows`` (r,) with candidates ``columns`` (r,), errors exact."""
    n, d = x.shape
    index = torch.full((n,), -1)
    error = torch.full((n,), torch.inf, dtype=torch.float64)
    sign = torch.ones(n, dtype=torch.float64)
    a, b = cost.view(x[rows]), cost.view(candidates[columns])  # (r, d) each
    if cost.sign_blind:
        sign[rows] = torch.where((a * b).sum(1) < 0, -1.0, 1.0).double()
    index[rows] = columns
    error[rows] = (a - sign[rows, None] * b).norm(dim=1) / sqrt(d)
    return Matching(index, error, sign)
