"""Optimisers and their settings: the flags of ``--optim``.

The projection attack needs the span property: the final minus the initial readout lies in the span
of the training samples' features. Every optimiser states whether it keeps this property.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import cos, isfinite, pi
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from lit_recon.errors import InputError
from lit_recon.linalg import minimum_norm
from lit_recon.models import Interpolator, Model, ReadoutModel
from lit_recon.modules.gauss_newton import GaussNewtonSteps, Problem, check_size
from lit_recon.modules.losses import LOSSES, Loss, evaluated
from lit_recon.modules.margin import (
    MarginDescent,
    MarginLoss,
    Outputs,
    log_loss,
    scores,
    temperature,
)
from lit_recon.modules.tasks import Task
from lit_recon.modules.tensor_adam import PerTensorAdam

Schedule = Literal["constant", "cosine"]
Design = Callable[[], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Current:
    """What an optimiser can ask about the batch of the current step.

    >>> x = torch.eye(2)
    >>> Current(lambda: (x, x), lambda: (x, x), lambda: (nn.Identity(), x, x)).outputs()[0].shape
    torch.Size([2, 2])

    Attributes:
        design: returns features (n, p) and targets (n, k).
        outputs: returns outputs (n, k) and targets (n, k), in float64 and without gradients.
        problem: returns the network, inputs (n, *input shape) and targets (n, k).
    """

    design: Design
    outputs: Outputs
    problem: Problem


class Optim(ABC):
    """An optimiser with its settings.

    Attributes:
        span_warning: the warning printed before training if the optimiser breaks the span property;
            None: it keeps the property.
        full_batch: every step needs all samples in one batch on one process.
        closed_form: one step computes the last layers from all samples; nothing else is trained.
        loss: the training loss.
        stop_loss: training ends when the mean loss of an epoch is not above it; None: never.
        schedule: how the learning rate changes over the steps of the run.
        polish: the last step ends with the readout in closed form.
    """

    span_warning: ClassVar[str | None] = None
    full_batch: ClassVar[bool] = False
    closed_form: ClassVar[bool] = False
    loss: Loss = "mse"
    stop_loss: float | None = None
    schedule: Schedule = "constant"
    polish: bool = False

    def check_data(self, model: Model, x: Tensor, y: Tensor) -> None:
        """Refuse a network or data that cannot be trained so.

        Args:
            model: the network.
            x: (n, *input shape) training inputs.
            y: (n, k) their targets.

        Raises:
            InputError: says why.
        """
        if isinstance(model, Interpolator):
            remedy = "is for networks with gradients, and Interpolator has none; give Construct"
            raise InputError("--optim", type(self).__name__, remedy)

    @abstractmethod
    def build(self, parameters: Iterable[Parameter], current: Current) -> Optimizer:
        """Make the torch optimiser.

        Args:
            parameters: the trained parameters.
            current: what can be asked about the batch of the current step.
        """

    def check(self, model: Model, task: Task, n: int, k: int) -> None:  # noqa: B027
        """Refuse what it cannot train; called before a fit.

        Args:
            model: the network at its start.
            task: what the targets are.
            n: training samples.
            k: outputs.

        Raises:
            InputError: the network, the task or the number of samples is not for this optimiser.
        """

    def losses(self, output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """What is minimised, and the training loss; from outputs and targets (n, k)."""
        loss = LOSSES[self.loss](output, y)
        return loss, loss

    def rate(self, progress: float) -> float:
        """The learning rate over its first value, at a share `progress` in [0, 1] of the steps."""
        return 1.0 if self.schedule == "constant" else (1 + cos(pi * min(progress, 1.0))) / 2

    @property
    def keeps_span(self) -> bool:
        """Whether every update is a combination of the samples' gradients."""
        return self.span_warning is None

    @abstractmethod
    def initial_share(self, steps: int) -> float | None:
        """The factor a by which weight decay has scaled the initial readout after `steps` steps.

        The readout minus a times its start is the part that comes from the training samples. None
        if the remainder of the start is not a multiple of the start.
        """


def _check(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not (isfinite(value) and value >= 0):
            raise InputError(f"--optim.{name}", value, "give a finite number, 0 or more")


@dataclass(frozen=True)
class LeastSquares(Optim):
    """The readout of minimum norm that fits the batch, in closed form and one step.

    theta = y^T (Phi Phi^T)^-1 Phi, from a float64 Gram matrix; the least-squares solution if there
    are fewer features than samples. Gradient descent from zero converges to the same readout.

    >>> LeastSquares().closed_form, LeastSquares().initial_share(1)
    (True, 0.0)
    """

    closed_form: ClassVar[bool] = True

    def check_data(self, model: Model, x: Tensor, y: Tensor) -> None:
        super().check_data(model, x, y)
        if not (isinstance(model, ReadoutModel) and model.frozen):
            kind = type(model).__name__
            remedy = f"fits the readout alone, and {kind} trains all; give --optim SGD"
            raise InputError("--optim", "LeastSquares", remedy)

    def build(self, parameters: Iterable[Parameter], current: Current) -> Optimizer:
        return _ClosedForm(parameters, current.design)

    def initial_share(self, steps: int) -> float:
        return 0.0 if steps else 1.0


class _ClosedForm(Optimizer):
    """A torch optimiser whose step sets the readout to the closed-form solution."""

    def __init__(self, parameters: Iterable[Parameter], design: Design) -> None:
        super().__init__(parameters, {})
        self.design = design

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        loss = evaluated(closure)
        phi, y = self.design()
        (readout,) = self.param_groups[0]["params"]
        readout.copy_(minimum_norm(phi, y))
        return loss


@dataclass(frozen=True)
class SGD(Optim):
    """Stochastic gradient descent; keeps the span property.

    >>> round(SGD(lr=0.1, weight_decay=1.0).initial_share(2), 6)  # (1 - 0.1)^2
    0.81

    Args:
        lr: learning rate, 0 or more.
        momentum: heavy-ball momentum, 0 or more.
        weight_decay: L2 penalty, 0 or more.
        loss: mse or huber for any targets; logistic for classes; cross_entropy for three or more
            classes.
        stop_loss: training ends after an epoch whose mean loss is not above this, 0 or more; the
            loss of each batch is taken before its step; null: never.
    """

    lr: float = 1e-3
    momentum: float = 0.0
    weight_decay: float = 0.0
    loss: Loss = "mse"
    stop_loss: float | None = None

    def __post_init__(self) -> None:
        _check(lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        _check(stop_loss=self.stop_loss)

    def build(self, parameters: Iterable[Parameter], current: Current) -> Optimizer:
        return torch.optim.SGD(
            parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )

    def initial_share(self, steps: int) -> float:
        """The factor from weight decay, by torch's recursion v = mu v + g + lambda w, w = w - lr v.

        The recursion is linear, so the part of w that comes from its start follows it with g = 0.
        """
        share, velocity = 1.0, 0.0
        for _ in range(steps):
            velocity = self.momentum * velocity + self.weight_decay * share
            share -= self.lr * velocity
        return share


@dataclass(frozen=True)
class Adam(Optim):
    """Adam; breaks the span property.

    >>> Adam().keeps_span
    False

    Args:
        lr: learning rate, 0 or more.
        weight_decay: L2 penalty, 0 or more.
        loss: mse or huber for any targets; logistic for classes; cross_entropy for three or more
            classes.
        stop_loss: training ends after an epoch whose mean loss is not above this, 0 or more; the
            loss of each batch is taken before its step; null: never.
        schedule: constant learning rate, or cosine to 0 over the steps of the run.
        polish: after the last step, or that of `stop_loss`, solve for the readout in float64, so
            that all outputs are the targets; needs mse and as many features as samples.
    """

    span_warning: ClassVar[str | None] = (
        "Adam scales every weight on its own, so the trained readout leaves the span of the"
        " training samples' features, which the projection attack needs; expect few or no"
        " images. SGD, LBFGS and LeastSquares keep the span."
    )

    lr: float = 1e-3
    weight_decay: float = 0.0
    loss: Loss = "mse"
    stop_loss: float | None = None
    schedule: Schedule = "constant"
    polish: bool = False

    def __post_init__(self) -> None:
        _check(lr=self.lr, weight_decay=self.weight_decay, stop_loss=self.stop_loss)

    def build(self, parameters: Iterable[Parameter], current: Current) -> Optimizer:
        return torch.optim.Adam(parameters, lr=self.lr, weight_decay=self.weight_decay)

    def initial_share(self, steps: int) -> float | None:
        """1 without weight decay; None with it, because every weight shrinks at its own rate."""
        return None if self.weight_decay and steps else 1.0


@dataclass(frozen=True)
class TensorAdam(Optim):
    """Adam with one second moment for each weight matrix or bias; keeps the span property.

    v = 0.999 v + 0.001 ||g||^2 for the gradient g of a tensor, and the step is lr m / sqrt(v), with
    Adam's mean m of gradients and its corrections. NovoGrad (Ginsburg et al. 2019, arXiv
    1905.11286) and Adam-mini (Zhang et al. 2024, arXiv 2406.16793) share second moments likewise.

    The steps are rotation-equivariant: rotate the inputs, the targets, and the initial weights of
    the first layer and the readout with them, and the trained network is the rotated one. Adam,
    which scales every weight on its own, prefers the axes. So for dense layers, whatever the biases
    and the start:

    - The first layer moves in the span of the inputs (with noisy copies, of these).
    - The readout and its bias move in the span of the residuals y - f(x). With both at 0 at the
      start this is the span of the targets, and all outputs for any input lie in it. With another
      start, outputs also have a part in the range of the initial readout.

    >>> TensorAdam().keeps_span, TensorAdam().rate(0.5)
    (True, 0.5)

    Args:
        lr: length of a first step of every tensor, 0 or more.
        loss: mse or huber for any targets; logistic for classes; cross_entropy for three or more
            classes.
        stop_loss: training ends after an epoch whose mean loss is not above this, 0 or more; the
            loss of each batch is taken before its step; null: never.
        schedule: constant learning rate, or cosine to 0 over the steps of the run.
        polish: after the last step, or that of `stop_loss`, solve for the readout in float64, so
            that all outputs are the targets; needs mse and as many features as samples.
    """

    lr: float = 1.0
    loss: Loss = "mse"
    stop_loss: float | None = None
    schedule: Schedule = "cosine"
    polish: bool = False

    def __post_init__(self) -> None:
        _check(lr=self.lr, stop_loss=self.stop_loss)

    def build(self, parameters: Iterable[Parameter], current: Current) -> Optimizer:
        return PerTensorAdam(parameters, self.lr)

    def initial_share(self, steps: int) -> float:
        return 1.0


@dataclass(frozen=True)
class GaussNewton(Optim):
    """Damped Gauss-Newton steps on all weights, for few samples; keeps the span property.

    A step is the smallest change of the weights that makes the outputs of the linearised network
    the targets, in float64 (:mod:`lit_recon.modules.gauss_newton`). Twenty images need three to
    five steps for a mean squared error of 1e-22 with --trainer.precision 64-true; float32 weights
    end at about 1e-15. For networks of dense layers, and without noisy copies.

    >>> GaussNewton().full_batch, GaussNewton().keeps_span
    (True, True)

    Args:
        damping: of the first step, relative to the mean diagonal of the Gram matrix, above 0; later
            steps find their own.
        stop_loss: training ends after a step whose loss, taken before it, is not above this, 0 or
            more; null: never.
    """

    full_batch: ClassVar[bool] = True

    damping: float = 1e-4
    stop_loss: float | None = None

    def __post_init__(self) -> None:
        _check(damping=self.damping, stop_loss=self.stop_loss)
        if self.damping == 0:
            raise InputError("--optim.damping", self.damping, "give a number above 0")

    def build(self, parameters: Iterable[Parameter], current: Current) -> Optimizer:
        return GaussNewtonSteps(parameters, self.damping, current.problem)

    def check(self, model: Model, task: Task, n: int, k: int) -> None:
        if task.denoising is not None:
            remedy = "GaussNewton trains on the inputs themselves; give 0"
            raise InputError("--task.noise", task.denoising.size, remedy)
        check_size(model, n, k)

    def initial_share(self, steps: int) -> float:
        return 1.0


@dataclass(frozen=True)
class LBFGS(Optim):
    """Limited-memory BFGS with strong Wolfe line search; keeps the span property.

    >>> LBFGS(max_iter=5).keeps_span
    True

    Args:
        lr: first step length, 0 or more.
        max_iter: inner iterations of one training step, at least 1.
        loss: mse or huber for any targets; logistic for classes; cross_entropy for three or more
            classes.
        stop_loss: training ends after an epoch whose mean loss is not above this, 0 or more; the
            loss of each batch is taken before its step; null: never.
    """

    lr: float = 1.0
    max_iter: int = 20
    loss: Loss = "mse"
    stop_loss: float | None = None

    def __post_init__(self) -> None:
        _check(lr=self.lr, stop_loss=self.stop_loss)
        if self.max_iter < 1:
            raise InputError("--optim.max_iter", self.max_iter, "give at least 1")

    def build(self, parameters: Iterable[Parameter], current: Current) -> Optimizer:
        return torch.optim.LBFGS(
            parameters, lr=self.lr, max_iter=self.max_iter, line_search_fn="strong_wolfe"
        )

    def initial_share(self, steps: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Margin(Optim):
    """Gradient descent to the margin of a classifier, in minutes; keeps the span property.

    Every step goes along the gradient of the log of the loss, whose temperature follows the
    smallest margin (:mod:`lit_recon.modules.margin`), and lowers it. The training loss that is
    logged is that of the weights as they are; it is 0 once it is below 1e-300, and the margins go
    on growing. Haim et al. (2022, arXiv 2206.07758) stop at a loss of 1e-40.

    >>> Margin(stop_loss=1e-40).full_batch
    True

    Args:
        lr: length of the first step, as a share of the norm of the weights, above 0; later steps
            find their own.
        loss: logistic for classes; cross_entropy for three or more classes.
        stop_loss: training ends after a step whose loss, taken before it, is not above this, 0 or
            more; null: never.
    """

    full_batch: ClassVar[bool] = True

    lr: float = 0.01
    loss: MarginLoss = "logistic"
    stop_loss: float | None = None

    def __post_init__(self) -> None:
        _check(lr=self.lr, stop_loss=self.stop_loss)
        if self.lr == 0:
            raise InputError("--optim.lr", self.lr, "give a number above 0")
        if self.loss not in ("logistic", "cross_entropy"):
            remedy = "has no margin; give logistic or cross_entropy"
            raise InputError("--optim.loss", self.loss, remedy)

    def build(self, parameters: Iterable[Parameter], current: Current) -> Optimizer:
        return MarginDescent(parameters, self.lr, self.loss, current.outputs)

    def losses(self, output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The log of the loss at the temperature, and the loss itself, in float64."""
        output, y = output.double(), y.double()
        heat = temperature(self.loss, output, y)
        minimised = log_loss(scores(self.loss, output / heat, y))
        return minimised, log_loss(scores(self.loss, output.detach(), y)).exp()

    def initial_share(self, steps: int) -> float:
        return 1.0
