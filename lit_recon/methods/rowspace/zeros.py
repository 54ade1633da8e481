"""Sharper candidates from the exact zeros that inactive ReLU neurons leave in the change.

Shapes: ``change (h, d) = C x`` with ``x (n, d)`` the training inputs and ``C (h, n)``;
``candidates (n, d) = (I + E) x``; ``spread (n, n)`` standard deviations of E, a row for each
candidate and a column for the input that it contains. ``d`` may include a bias as one more pixel.

``C_ji = 0`` where neuron j was inactive on input i during all of training (the observation of
SPEAR: Dimitrov et al. 2024, arXiv 2403.03945). Whether it was is seen at the checkpoints only. The
columns of ``C_hat = change pinv(candidates) = C (I + E)^-1`` are ``C_i - sum_k E_ki C_hat_k`` up to
second order in E, so every neuron that is inactive on i gives one linear equation for column i of
E. It is wrong where the neuron was active in between. In a deep network that is the case for 5 to
55 % of the equations; the rest hold up to the rounding of the weights, 1e-5 of a typical entry.

1. *Robust regression* with the spread as prior: weights ``1 / (sigma^2 + r^2)`` of an equation
   with residual r, sigma lowered slowly from the expected residual to the rounding. The slow start
   decides (n = 100, width 512: 45 columns right with a factor of .7 a step, 64 with .85).
2. *Verification.* A regression of about as many unknowns as equations fits wrong ones exactly. So
   an equation counts as exact only if its residual is at the rounding and its leverage is below
   .9: then the other equations agree. The rest keep the weights from halfway, which halve the
   error even where most equations are wrong.
3. The posterior of E is the new spread.

A candidate whose image is known exactly has no E. That takes one unknown out of every column, and
so it is worth a further pass.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf
from time import perf_counter

import torch
from torch import Tensor

FALL = 0.85  # of sigma in a step of the slow start
SLOW_STEPS = 30  # sigma then is .009 of the expected residual; those weights are the halfway ones
FAST_FALL, FAST_STEPS = 0.5, 10
EXACT = 6.0  # standard deviations of the rounding
MOST_LEVERAGE = 0.9
LEAST_FLOOR = 1e-7  # of a typical coefficient; keeps the normal equations regular with fp64 weights
CAUTION = 1.5  # on the posterior; halfway the errors were 1.4 times as large as it says
MASK_SIGMAS = 1.0  # of a pre-activation's expected error, beyond which its sign is trusted
MORE_ZEROS = 1.15  # times as many with the other sign, then it is right
DOUBTFUL = 3e-3  # spread of a settled column, relative to the candidate, in full doubt
SETTLED = 1e-4  # spread of a column, relative to the candidate, that is small enough
ROWS_PER_UNKNOWN = 8  # equations used for each unknown, those with the largest margin
MOST_NUMBERS = 2e7  # in one batch of regressions
MOST_PRODUCTS = 3e10  # multiplications in one batch, some seconds


@dataclass(frozen=True)
class Estimate:
    """Candidates with the expected size of their errors.

    >>> Estimate(torch.eye(2), torch.full((2, 2), 0.1)).known
    tensor([False, False])

    Attributes:
        candidates: (n, d) float64, ``(I + E) x`` at any scale.
        spread: (n, n) float64 standard deviations of E, in units of these candidates.
        known: (n,) bool, candidates that are exact; (1,): all or none.
        signed: the signs of all candidates are right.
    """

    candidates: Tensor
    spread: Tensor
    known: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.bool))
    signed: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "known", self.known.expand(len(self.candidates)))

    @property
    def settled(self) -> Tensor:
        """(n,) bool: inputs whose share in every other candidate is negligible."""
        return (self.spread * self._relative_norms).amax(0) < SETTLED

    @property
    def _relative_norms(self) -> Tensor:
        """(n, n) norm of the column's candidate over that of the row's."""
        norms = self.candidates.norm(dim=1)
        return norms / norms[:, None]

    def doubted(self, prior: Estimate, doubt: float) -> Estimate:
        """The same with at least a share of the prior's spread, and of a small one everywhere.

        Args:
            prior: what the spread was before the equations of this estimate.
            doubt: share in [0, 1].
        """
        least = torch.maximum(prior.spread, DOUBTFUL / self._relative_norms).fill_diagonal_(0)
        spread = torch.maximum(self.spread, doubt * least)
        spread[self.known] = 0
        return replace(self, spread=spread)


def isotropic(candidates: Tensor, error: float) -> Estimate:
    """Candidates of another attack, with a direction error that is spread over all inputs.

    Args:
        candidates: (n, d) in the row space.
        error: typical direction error, in (0, 1).
    """
    norms = candidates.norm(dim=1)
    spread = error / len(candidates) ** 0.5 * norms[:, None] / norms
    return Estimate(candidates, spread.fill_diagonal_(0))


def refine_by_zeros(
    change: Tensor,
    before: Tensor | None,
    after: Tensor | None,
    prior: Estimate,
    best: Estimate,
    deadline: float = inf,
) -> tuple[Estimate, Estimate]:
    """One pass over all inputs that are not settled.

    Every pass begins from the same prior, because equations that were used twice would count twice.
    What a pass adds to it is certain: columns that are settled.

    Args:
        change: (h, d) float64, the change of the first layer between two checkpoints.
        before: (h, d) the first layer at the first checkpoint; None: its masks are not used.
        after: (h, d) the same at the second checkpoint.
        prior: candidates that span the change's row space.
        best: the best candidates so far, in the order of the prior's, for the masks.
        deadline: value of ``time.perf_counter()`` after which the remaining columns stay.

    Returns:
        The prior with all settled columns, and the best estimate. Candidates may have another sign
        than before: masks decide it.

    Raises:
        ValueError: no weights are given.
    """
    weights = [w for w in (before, after) if w is not None]
    if not weights:
        raise ValueError("masks need the weights of at least one checkpoint")
    pending = torch.nonzero(~prior.settled).flatten()
    if len(pending) == 0:
        return prior, prior
    system = _system(change, weights, prior, best)
    sign = torch.ones_like(system.floor[:, 0]) if prior.signed else _orientation(system, prior)
    leak, spread, zeros = _regress_all(system, prior, pending, sign, deadline)
    columns = replace(prior, spread=spread)
    doubtful = pending[~(columns.settled | prior.known)[pending]]
    if len(doubtful) and not prior.signed:
        turned = _regress_all(system, prior, doubtful, -sign, deadline)
        wins = turned[2] > MORE_ZEROS * zeros
        leak, spread = torch.where(wins, turned[0], leak), torch.where(wins, turned[1], spread)
        sign = torch.where(wins, -sign, sign)
    settled = replace(prior, spread=spread).settled
    turn = sign[:, None]
    firm_leak, firm = torch.where(settled, leak, 0), torch.where(settled, spread, prior.spread)
    return (
        replace(prior, candidates=_without(firm_leak, prior.candidates) * turn, spread=firm),
        replace(prior, candidates=_without(leak, prior.candidates) * turn, spread=spread),
    )


def _without(leak: Tensor, candidates: Tensor) -> Tensor:
    """Candidates (n, d) freed from the leak E (n, n)."""
    return torch.linalg.solve(torch.eye(len(leak), dtype=leak.dtype) - leak, candidates)


@dataclass(frozen=True)
class _System:
    """The equations before anything is selected.

    Attributes:
        rows: (h, n) coefficients C_hat, a row divided by the norm of the neuron's change.
        floor: (n, h) standard deviation of an exact zero in these units.
        pre: (n, h) pre-activations at each checkpoint, with unit rms for each candidate.
        doubt: (n, h) how far each may be from the truth, in the same units.
    """

    rows: Tensor
    floor: Tensor
    pre: list[Tensor]
    doubt: list[Tensor]

    def margin(self, sign: Tensor) -> Tensor:
        """(n, h) positive where a neuron is inactive on ``sign * candidate`` at all checkpoints."""
        pairs = zip(self.pre, self.doubt, strict=True)
        return torch.stack([-sign[:, None] * pre - doubt for pre, doubt in pairs]).amin(0)


def _system(change: Tensor, weights: list[Tensor], prior: Estimate, best: Estimate) -> _System:
    """Coefficients by least squares; the noise of each neuron is what they leave over."""
    candidates = prior.candidates
    n, d = candidates.shape
    q, r = torch.linalg.qr(candidates.T)
    inside = change @ q
    rest = (change - inside @ q.T).square().sum(1) / max(1, d - n)
    size = inside.norm(dim=1).clamp_min(torch.finfo(change.dtype).tiny)
    dual = torch.linalg.inv(r.T)  # (n, n): C_hat = inside @ dual
    rows = inside @ dual / size[:, None]
    floor = dual.norm(dim=0)[:, None] * (rest.sqrt() / size)
    typical = rows.square().mean(0).sqrt()[:, None]
    pre = [best.candidates @ w.T.to(candidates.dtype) for w in weights]
    rms = [p.square().mean(1, keepdim=True).sqrt() for p in pre]
    error = [(best.spread.square() @ p.square()).sqrt() for p in pre]
    return _System(
        rows=rows,
        floor=floor.clamp_min(LEAST_FLOOR * typical),
        pre=[p / size for p, size in zip(pre, rms, strict=True)],
        doubt=[MASK_SIGMAS * e / size for e, size in zip(error, rms, strict=True)],
    )


def _orientation(system: _System, estimate: Estimate) -> Tensor:
    """(n,) signs, by larger coefficients where a neuron is active; known ones keep theirs."""
    square = system.rows.square()
    size = (square + square @ estimate.spread.square()).log().T  # (n, h), above the expected leak
    side = torch.stack([pre.sign() for pre in system.pre]).mean(0).trunc()  # 0 where it changes
    centred = size - size.mean(1, keepdim=True)
    agrees = (centred * (side - side.mean(1, keepdim=True))).sum(1) >= 0
    return torch.where(agrees | estimate.known, 1.0, -1.0).to(size.dtype)


def _regress_all(
    system: _System, estimate: Estimate, wanted: Tensor, sign: Tensor, deadline: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Regressions of the wanted columns in batches.

    Returns:
        The leak E (n, n), the new spread (n, n) and the number of exact zeros (n,). Columns that
        are not wanted are zero, as before, and zero.
    """
    n = len(estimate.candidates)
    unknown = torch.nonzero(~estimate.known).flatten()
    margin = system.margin(sign)
    leak, spread = torch.zeros_like(estimate.spread), estimate.spread.clone()
    zeros = torch.zeros(n, dtype=torch.long)
    most = max(1, ROWS_PER_UNKNOWN * n)
    length = min(most, max(1, int((margin[wanted] > 0).sum(1).max())))
    numbers = length * len(unknown) + 1
    products = numbers * len(unknown) * (SLOW_STEPS + FAST_STEPS)
    for batch in wanted.split(max(1, int(min(MOST_NUMBERS / numbers, MOST_PRODUCTS / products)))):
        if perf_counter() > deadline:
            break
        used, chosen = margin[batch].topk(length, dim=1)  # (b, l) equations of each input
        rows = system.rows[chosen]  # (b, l, n)
        own = rows.gather(2, batch[:, None, None].expand(-1, length, 1))[:, :, 0]
        rows = rows[:, :, unknown] * (unknown != batch[:, None])[:, None]
        prior = estimate.spread[unknown][:, batch].T  # (b, u)
        floor = system.floor[batch].gather(1, chosen)
        mean, deviation, exact = _regress(rows, own, floor, (used > 0).to(rows.dtype), prior)
        leak[unknown[:, None], batch] = mean.T
        spread[unknown[:, None], batch] = torch.minimum(CAUTION * deviation, prior).T
        zeros[batch] = exact
    return leak, spread, zeros


def _regress(
    rows: Tensor, own: Tensor, floor: Tensor, used: Tensor, prior: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Solve ``own = rows @ E`` for b inputs, robustly and with a Gaussian prior.

    Args:
        rows: (b, l, u) coefficients of the other inputs.
        own: (b, l) coefficients of the input itself.
        floor: (b, l) standard deviations of exact zeros.
        used: (b, l) 1 for equations that count, else 0.
        prior: (b, u) standard deviations of E.

    Returns:
        Mean (b, u), standard deviations (b, u) and the number of equations that are exact (b,).
    """
    prior = prior.clamp_min(torch.finfo(torch.float32).eps)
    expected = (rows.square() @ prior.square()[:, :, None])[:, :, 0]
    equations, residual = (rows, own, prior), own
    # Sigma is far above the rounding of float32 there, which takes half the time.
    quick = rows.float(), own.float(), prior.float()
    for step in range(SLOW_STEPS):
        sigma = FALL ** (2 * step) * expected + floor.square()
        halfway = used / (sigma + residual.square())
        residual = _ridge(*quick, halfway.float())[0].to(own.dtype)
    for step in range(1, FAST_STEPS + 1):
        sigma = (FALL**SLOW_STEPS * FAST_FALL**step) ** 2 * expected + floor.square()
        weight = used / (sigma + residual.square())
        residual, mean, factor = _ridge(*equations, weight)
    exact = (used > 0) & (residual.abs() < EXACT * floor)
    half = torch.linalg.solve_triangular(factor, rows.transpose(1, 2), upper=False)
    leverage = weight * half.square().sum(1)
    verified = exact & (leverage < MOST_LEVERAGE)
    _, mean, factor = _ridge(*equations, torch.where(verified, 1 / floor.square(), halfway))
    deviation = torch.cholesky_inverse(factor).diagonal(dim1=1, dim2=2).sqrt()
    return mean, deviation, exact.sum(1)


def _ridge(
    rows: Tensor, own: Tensor, prior: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted ridge regression of `_regress`.

    Returns:
        Residuals (b, l), the mean (b, u) and the Cholesky factor of its precision (b, u, u).
    """
    weighted = (rows * weight[:, :, None]).transpose(1, 2)
    precision = weighted @ rows
    precision.diagonal(dim1=1, dim2=2).add_(1 / prior.square())
    factor, failed = torch.linalg.cholesky_ex(precision, check_errors=rows.dtype == torch.float64)
    if failed.any():  # float32 is too coarse where weights differ by more than its digits
        residual, mean, factor = _ridge(*(given.double() for given in (rows, own, prior, weight)))
        return residual.to(rows.dtype), mean.to(rows.dtype), factor.to(rows.dtype)
    mean = torch.cholesky_solve(weighted @ own[:, :, None], factor)
    return own - (rows @ mean)[:, :, 0], mean[:, :, 0], factor
