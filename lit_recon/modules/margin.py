"""Gradient descent that goes on when the loss underflows, to the margin of a classifier.

On samples that are all in the right class, a logistic loss falls for ever while the weights grow,
and their direction goes to a point of the margin problem; with steps of a fixed size that takes
millions of them. Lyu and Li (2020, arXiv 1906.05890, appendix L) take steps of a rate over the
loss, which are steps of this rate on the logarithm of the loss, and let the rate grow until the
loss rises. Here a step has a length in proportion to the norm of the weights, so that one rate fits
all scales, and is tried at once: where the loss rises, the weights are put back and the step is
shorter.

The loss sees the outputs divided by a temperature, a power of the smallest margin below 1. In a
homogeneous network that is the loss of the same weights at a smaller norm. It still falls to the
samples at the margin, only later: at a temperature of 1 each step would follow one or two samples,
and the steps would be a hundred times smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf, log
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn import functional as F
from torch.optim import Optimizer

MarginLoss = Literal["cross_entropy", "logistic"]
Outputs = Callable[[], tuple[Tensor, Tensor]]

# On 50 images of CIFAR-10 by three dense layers, for a minute each, the power 1 - SHARPENING with
# .3 gave the largest normalised margin; .2 and .5 come within 10 % (2^(1/5) and 2^(-1/2) for the
# rate; the authors' 2^(-1/10) needs twice the trials).
SHARPENING = 0.3
GROWTH = 2**0.2
SHRINKAGE = 2**-0.5
LARGEST_FALL = 10.0  # of the log of the loss in a step: growth of the weights alone has no end
SMALLEST_RATE = 1e-12  # rounding decides whether the loss of so short a step falls
UNDERFLOW = 40.0  # above it, softplus(-s) is exp(-s) to the last bit of float64


def scores(loss: MarginLoss, output: Tensor, y: Tensor) -> Tensor:
    """(r,) numbers s for which the loss is the mean of log(1 + exp(-s)).

    One for every output with `logistic`, and one for every sample with `cross_entropy`.

    Args:
        loss: its name.
        output: (n, k).
        y: (n, k) class targets.
    """
    if loss == "logistic":
        return ((y if y.shape[1] == 1 else 2 * y - 1) * output).flatten()
    true = y > 0.5
    return output[true] - output.masked_fill(true, float("-inf")).logsumexp(1)


def log_loss(s: Tensor) -> Tensor:
    """log of the mean of log(1 + exp(-s)), where the mean itself would underflow.

    >>> float(log_loss(torch.tensor([2000.0])))
    -2000.0

    Args:
        s: (r,).
    """
    near = F.softplus(-s.clamp_max(UNDERFLOW)).log()
    return torch.where(s > UNDERFLOW, -s, near).logsumexp(0) - log(len(s))


def temperature(loss: MarginLoss, output: Tensor, y: Tensor) -> Tensor:
    """() what the outputs are divided by: (smallest score)^(1 - SHARPENING), and 1 at least."""
    return scores(loss, output.detach(), y).min().clamp_min(1) ** (1 - SHARPENING)


class MarginDescent(Optimizer):
    """Gradient descent on `log_loss` at the temperature, every step of which lowers it.

    Its state is the rate, and the temperature and the loss of the next step, which the last trial
    has given; all are in checkpoints.

    Args:
        parameters: the trained parameters.
        rate: length of the first step over the norm of the weights.
        loss: what the loss is.
        outputs: gives the outputs (n, k) of the training samples with the present weights, and
            their targets (n, k), both in float64.
    """

    def __init__(
        self, parameters: Iterable[Parameter], rate: float, loss: MarginLoss, outputs: Outputs
    ) -> None:
        super().__init__(parameters, {"rate": rate, "heat": None, "loss": None})
        self._loss = loss
        self._outputs = outputs

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        assert closure is not None
        with torch.enable_grad():
            loss = closure()
        (group,) = self.param_groups
        weights = [p for p in group["params"] if p.grad is not None]
        gradient = [p.grad for p in weights if p.grad is not None]
        steepness = _norm(gradient)
        if not 0 < steepness < inf:
            return loss
        if group["heat"] is None:
            self._look_ahead(group, *self._outputs())
        start, length = [p.clone() for p in weights], _norm(weights)
        group["rate"] = min(group["rate"], LARGEST_FALL / (length * steepness))
        while group["rate"] > SMALLEST_RATE:
            for p, old, slope in zip(weights, start, gradient, strict=True):
                torch.add(old, slope, alpha=-group["rate"] * length / steepness, out=p)
            output, y = self._outputs()
            if self._value(output, y, group["heat"]) <= group["loss"]:
                group["rate"] *= GROWTH
                self._look_ahead(group, output, y)
                return loss
            group["rate"] *= SHRINKAGE
        for p, old in zip(weights, start, strict=True):
            p.copy_(old)
        group["rate"] /= SHRINKAGE  # so that the next step tries again
        return loss

    def _look_ahead(self, group: dict[str, Any], output: Tensor, y: Tensor) -> None:
        """Set the temperature of the next step and its loss before it."""
        group["heat"] = float(temperature(self._loss, output, y))
        group["loss"] = self._value(output, y, group["heat"])

    def _value(self, output: Tensor, y: Tensor, heat: float) -> float:
        return float(log_loss(scores(self._loss, output / heat, y)))


def _norm(tensors: Iterable[Tensor]) -> float:
    return float(sum(t.double().square().sum() for t in tensors)) ** 0.5
