"""Weights as a combination of the gradients of candidates: the objective of the KKT attacks.

At the end of training on a margin (Haim et al. 2022, arXiv 2206.07758, equations 5 to 8), or with
weight decay (Buzaglo et al. 2023, arXiv 2307.01827), the trained parameters are

    theta = sum_j lambda_j grad s_j(x_j),

where the scalar s_j of input j is its margin with lambda_j >= 0, or with weight decay any output
with a multiplier of any sign. Candidates x (m, d) are sought for which this holds:

    L = ||theta - (1 / m) sum_j lambda_j grad s_j(x_j)||^2
        + sum (x - high)_+^2 + (low - x)_+^2 + 5 sum_j (min_dual - lambda_j)_+^2.

This is the authors' objective, where the multipliers are trained beside the candidates. They can
also be eliminated: for given x they solve a least-squares problem in the inner products of the
gradients, non-negative for margins (variable projection). There the derivative of L by lambda_j is
0, or lambda_j stays 0, so the gradient by x needs no more than lambda. Then the first term is
divided by ||theta||^2, and the sum of the prior by the number of pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import ceil
from typing import Literal

import torch
from torch import Tensor, nn

from lit_recon.objectives.stationarity import (
    GradientProducts,
    Stationarity,
    energy_of,
    gradient_products,
    margin_stationarity,
    margins,
    trained_parameters,
)
from lit_recon.objectives.surrogate import SurrogateReLU

Task = Literal["binary", "multiclass", "general"]
DUAL_WEIGHT = 5.0  # of the dual feasibility, as in the authors' code


def own_targets(output: Tensor) -> Tensor:
    """(m, k) class targets that outputs (m, k) themselves say: a trained network fits its data.

    >>> own_targets(torch.tensor([[-0.3], [2.0]])).T.tolist()
    [[-1.0, 1.0]]
    """
    if output.shape[1] == 1:
        return torch.where(output < 0, -1.0, 1.0).to(output)
    return nn.functional.one_hot(output.argmax(1), output.shape[1]).to(output)


def block_targets(m: int, k: int) -> Tensor:
    """(m, k) class targets of candidates in blocks of nearly equal size, one for each class.

    >>> block_targets(4, 1).T.tolist()
    [[-1.0, -1.0, 1.0, 1.0]]
    """
    classes = torch.arange(m) * max(k, 2) // m
    if k == 1:
        return (2.0 * classes - 1)[:, None]
    return nn.functional.one_hot(classes, k).float()


@dataclass(frozen=True)
class Bounds:
    """The pixel prior: the range that inputs should be in.

    >>> float(Bounds(-1.0, 1.0).penalty(torch.tensor([[0.5, 1.5, -3.0]])))
    4.25

    Attributes:
        low, high: (d,) or numbers, in units of the inputs.
    """

    low: Tensor | float
    high: Tensor | float

    def penalty(self, x: Tensor) -> Tensor:
        """() the sum of the squared excess of inputs (m, d)."""
        return ((x - self.high).relu() + (self.low - x).relu()).square().sum()


@dataclass(frozen=True)
class TrainedMultipliers:
    """Multipliers (m, q) that are unknowns in further rows below the candidates (m, d).

    >>> trained = TrainedMultipliers(m=2, q=1, d=4, min_dual=0.1, rate=1.0)
    >>> trained.joined(torch.ones(2, 4), torch.tensor([[5.0], [6.0]]))[2:]
    tensor([[5., 6., 0., 0.]])

    Attributes:
        m: number of candidates, at least 1.
        q: multipliers of each candidate, at least 1.
        d: numbers of each candidate, at least 1.
        min_dual: floor of the multipliers of margins.
        rate: their learning rate over that of the candidates, above 0.
    """

    m: int
    q: int
    d: int
    min_dual: float
    rate: float

    @property
    def rates(self) -> Tensor:
        """(m + l, 1) the relative learning rate of every row."""
        rows = ceil(self.m * self.q / self.d)
        return torch.tensor([1.0] * self.m + [self.rate] * rows)[:, None]

    def joined(self, x: Tensor, multipliers: Tensor) -> Tensor:
        """(m + l, d) candidates, and multipliers below them; zeros fill the last row."""
        rows = x.new_zeros(ceil(self.m * self.q / self.d), self.d)
        rows.view(-1)[: self.m * self.q] = multipliers.flatten()
        return torch.cat([x, rows])

    def split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Candidates (m, d) and multipliers (m, q) of a point."""
        flat = z[self.m :].flatten()[: self.m * self.q]
        return z[: self.m], flat.view(self.m, self.q)


@dataclass(frozen=True)
class KKTPoint:
    """The objective at one point.

    Attributes:
        z: (m + l, d) the point.
        loss: () its value.
        candidates: (m, d).
        multipliers: (m, q) lambda.
    """

    z: Tensor
    loss: Tensor
    candidates: Tensor
    multipliers: Tensor
    slope: Tensor

    def gradient(self) -> Tensor:
        """(m + l, d) the gradient of the loss by all of z."""
        return self.slope

    def floor(self) -> float:
        """0: the least value that a network leaves is not known."""
        return 0.0


def signed_stationarity(products: GradientProducts) -> Stationarity:
    """The smallest ||theta - sum_i lambda_i grad o_i|| / ||theta|| over lambda of any sign."""
    inverse = torch.linalg.pinv(products.gram, hermitian=True)
    multipliers = inverse @ products.with_weights
    explained = float(multipliers @ products.with_weights) / products.energy
    return Stationarity(max(0.0, 1 - explained) ** 0.5, multipliers)


class KKTObjective:
    """The objective for one network, as the solvers ask for it.

    A point is (m, d) where multipliers are eliminated, and (m + l, d) where they are trained.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> objective = KKTObjective(model, "binary")
    >>> at = objective.linearise(model.weight.detach().clone())
    >>> bool(at.loss < 1e-9), at.multipliers.shape  # its one gradient is the candidate itself
    (True, torch.Size([1, 1]))

    Args:
        model: the network in eval mode, whose trained parameters are theta. It is not changed.
        task: what the scalars s_j are: ``binary``, y f; ``multiclass``, the output of the class
            less the largest other one; ``general``, every output.
        as_inputs: candidates (m, d) to what the network takes, (m, *input shape).
        targets: (m, k) class targets of the candidates; None: those of the network's own outputs.
            ``general`` has none.
        multipliers: how they are trained; None: they are eliminated.
        slope: of `SurrogateReLU`; None: ReLU's own slope.
        relative: the slope is in units of the pre-activations' rms.
        bounds: the pixel prior; None: none.
        as_pixels: candidates to the inputs that the prior is about.
        ball: largest root mean square of a point, above 0; None: the point is free.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        as_inputs: Callable[[Tensor], Tensor] = lambda z: z,
        *,
        targets: Tensor | None = None,
        multipliers: TrainedMultipliers | None = None,
        slope: float | None = None,
        relative: bool = False,
        bounds: Bounds | None = None,
        as_pixels: Callable[[Tensor], Tensor] = lambda z: z,
        ball: float | None = None,
    ) -> None:
        self.model, self.task, self.as_inputs, self.targets = model, task, as_inputs, targets
        self.multipliers, self.slope, self.relative = multipliers, slope, relative
        self.bounds, self.as_pixels, self.ball = bounds, as_pixels, ball
        self.theta = trained_parameters(model)
        self.energy = energy_of(self.theta)

    @property
    def rates(self) -> float | Tensor:
        """1 for candidates, and the rate of the multipliers below them."""
        return 1.0 if self.multipliers is None else self.multipliers.rates

    def linearise(self, z: Tensor) -> KKTPoint:
        """The objective and its gradient at z, by automatic differentiation."""
        with torch.enable_grad():
            z = z.detach().requires_grad_(True)
            if self.multipliers is None:
                x, multipliers = z, self.eliminated(z).multipliers.to(z)
            else:
                x, multipliers = self.multipliers.split(z)
            loss = self._loss(x, multipliers)
            (slope,) = torch.autograd.grad(loss, z)
        return KKTPoint(z.detach(), loss.detach(), x.detach(), multipliers.detach(), slope)

    def retract(self, z: Tensor) -> Tensor:
        """z, shrunk into the ball."""
        if self.ball is None:
            return z
        rms = z.square().mean().sqrt()
        return z * (self.ball / rms.clamp_min(self.ball))

    def eliminated(self, x: Tensor) -> Stationarity:
        """The best multipliers (m, q) of candidates x (m, d), and ||residual|| / ||theta||."""
        with torch.no_grad():
            x = self.as_inputs(x.detach())
            q = self.model(x[:1]).shape[1] if self.task == "general" else 1
        columns = torch.arange(q, device=x.device).repeat(len(x))[:, None]  # (m q, 1)

        def one_each(output: Tensor) -> Tensor:
            """(m q,) from outputs (m q, k)."""
            return self._scalars(output).gather(1, columns)[:, 0]

        with self._surrogate():
            products = gradient_products(self.model, x.repeat_interleave(q, 0), one_each)
        solve = signed_stationarity if self.task == "general" else margin_stationarity
        found = solve(products)
        return Stationarity(found.residual, found.multipliers.reshape(-1, q))

    def _scalars(self, output: Tensor) -> Tensor:
        """(m, q) the scalars of outputs (m, k)."""
        if self.task == "general":
            return output
        targets = own_targets(output.detach()) if self.targets is None else self.targets
        return margins(output, targets.to(output))[:, None]

    def _surrogate(self) -> AbstractContextManager[object]:
        if self.slope is None:
            return nullcontext()
        return SurrogateReLU(self.slope, relative=self.relative)

    def _loss(self, x: Tensor, multipliers: Tensor) -> Tensor:
        """() L of candidates (m, d) with multipliers (m, q)."""
        trained = self.multipliers
        with self._surrogate():
            combined = (multipliers * self._scalars(self.model(self.as_inputs(x)))).sum()
            parts = torch.autograd.grad(
                combined if trained is None else combined / trained.m,
                self.theta,
                create_graph=True,
                materialize_grads=True,
            )
        pairs = zip(self.theta, parts, strict=True)
        loss = sum((value.detach() - part).square().sum() for value, part in pairs)
        assert isinstance(loss, Tensor)
        prior = x.new_zeros(())
        if self.bounds is not None:
            pixels = self.as_pixels(x)
            prior = self.bounds.penalty(pixels)
            if trained is None:
                prior = prior / pixels.numel()
        if trained is None:
            return loss / self.energy + prior
        if self.task != "general":
            below = (trained.min_dual - multipliers).relu()
            prior = prior + DUAL_WEIGHT * below.square().sum()
        return loss + prior
