"""The training losses, and which targets each loss accepts.

Shapes: outputs and targets (n, k). Class targets are -1 and 1 for k = 1, and one-hot for k > 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_recon.errors import InputError

Loss = Literal["mse", "huber", "cross_entropy", "logistic"]


def logistic(output: Tensor, y: Tensor) -> Tensor:
    """Mean of log(1 + exp(-s f)) over samples and outputs; s = 1 for the true class, else -1."""
    sign = y if y.shape[1] == 1 else 2 * y - 1
    return F.softplus(-sign * output).mean()


LOSSES: dict[Loss, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "huber": F.smooth_l1_loss,  # z^2 / 2 up to |z| = 1, then |z| - 1/2
    "cross_entropy": F.cross_entropy,
    "logistic": logistic,
}
"""Functions of outputs and targets: means over samples; all but cross_entropy also over outputs."""


def check_loss(loss: Loss, y: Tensor) -> None:
    """Refuse a loss that does not accept targets y (n, k).

    Raises:
        InputError: the targets are not classes, or there are too few classes.
    """
    if loss in ("mse", "huber"):
        return
    if not are_classes(y):
        raise InputError(
            "--optim.loss", loss, "needs classes, and these targets are none; give mse or huber"
        )
    if loss == "cross_entropy" and y.shape[1] == 1:
        remedy = "needs an output for every class, and two classes share one; give logistic"
        raise InputError("--optim.loss", loss, remedy)


def evaluated(closure: Callable[[], Tensor] | None) -> Tensor | None:
    """The loss at the start of a step of an optimiser, with gradients; None: without a closure.

    >>> evaluated(lambda: torch.tensor(2.0)), evaluated(None)
    (tensor(2.), None)
    """
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def are_classes(y: Tensor) -> bool:
    """Whether targets (n, k) are classes: -1 and 1 for k = 1, one-hot for k > 1."""
    if y.shape[1] == 1:
        return bool((y.abs() == 1).all())
    return torch.equal(y, F.one_hot(y.argmax(1), y.shape[1]).to(y))


def accuracy(output: Tensor, y: Tensor) -> Tensor:
    """Fraction of samples in the right class, in [0, 1], from outputs and targets (n, k)."""
    if y.shape[1] == 1:
        return ((output > 0) == (y > 0)).float().mean()
    return (output.argmax(1) == y.argmax(1)).float().mean()
