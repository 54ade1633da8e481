"""How the model is trained; the flags of ``--optim``.

Every optimiser says whether it keeps the span property: the trained readout less its start lies in
the span of the training samples' features, which is what the projection attack rests on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import isfinite
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from lit_recon.errors import InputError
from lit_recon.linalg import minimum_norm

Design = Callable[[], tuple[Tensor, Tensor]]


class Optim(ABC):
    """A choice of optimiser with its settings."""

    span_warning: ClassVar[str | None] = None

    @abstractmethod
    def build(self, parameters: Iterable[Parameter], design: Design) -> Optimizer:
        """The torch optimiser.

        Args:
            parameters: what is trained.
            design: gives features (n, p) and targets (n, k) of the current batch.
        """


def _check(**values: float) -> None:
    for name, value in values.items():
        if not (isfinite(value) and value >= 0):
            raise InputError(f"--optim.{name}", value, "give a finite number, 0 or more")


@dataclass(frozen=True)
class LeastSquares(Optim):
    """The readout of minimum norm that fits the batch, in closed form and one step.

    theta = y^T (Phi Phi^T)^-1 Phi, solved in the dual with a float64 Gram; least squares where
    there are fewer features than samples. It is where gradient descent from zero converges.
    """

    def build(self, parameters: Iterable[Parameter], design: Design) -> Optimizer:
        return _ClosedForm(parameters, design)


class _ClosedForm(Optimizer):
    """An optimiser whose single step is the closed-form readout."""

    def __init__(self, parameters: Iterable[Parameter], design: Design) -> None:
        super().__init__(parameters, {})
        self.design = design

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        phi, y = self.design()
        (readout,) = self.param_groups[0]["params"]
        readout.copy_(minimum_norm(phi, y))
        return loss


@dataclass(frozen=True)
class SGD(Optim):
    """Stochastic gradient descent; keeps the span property.

    Args:
        lr: learning rate, 0 or more.
        momentum: heavy-ball momentum, 0 or more.
        weight_decay: L2 penalty, 0 or more.
    """

    lr: float = 1e-3
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check(lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)

    def build(self, parameters: Iterable[Parameter], design: Design) -> Optimizer:
        return torch.optim.SGD(
            parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )


@dataclass(frozen=True)
class Adam(Optim):
    """Adam; breaks the span property.

    Args:
        lr: learning rate, 0 or more.
        weight_decay: L2 penalty, 0 or more.
    """

    span_warning: ClassVar[str | None] = (
        "Adam scales every weight on its own, so the trained readout leaves the span of the"
        " training samples' features and the projection attack loses its ground; expect few or no"
        " images. SGD, LBFGS and LeastSquares keep the span."
    )

    lr: float = 1e-3
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check(lr=self.lr, weight_decay=self.weight_decay)

    def build(self, parameters: Iterable[Parameter], design: Design) -> Optimizer:
        return torch.optim.Adam(parameters, lr=self.lr, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class LBFGS(Optim):
    """Limited-memory BFGS with strong Wolfe line search; keeps the span property.

    Args:
        lr: first step length, 0 or more.
        max_iter: inner iterations of one training step, at least 1.
    """

    lr: float = 1.0
    max_iter: int = 20

    def __post_init__(self) -> None:
        _check(lr=self.lr)
        if self.max_iter < 1:
            raise InputError("--optim.max_iter", self.max_iter, "give at least 1")

    def build(self, parameters: Iterable[Parameter], design: Design) -> Optimizer:
        return torch.optim.LBFGS(
            parameters, lr=self.lr, max_iter=self.max_iter, line_search_fn="strong_wolfe"
        )
