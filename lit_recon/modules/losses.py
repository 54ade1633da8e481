"""What training minimises, and which targets each loss is made for.

Shapes: outputs and targets (n, k). Classes are targets of -1 and 1 for k = 1, and one-hot for more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_recon.errors import InputError

Loss = Literal["mse", "cross_entropy", "logistic"]


def logistic(output: Tensor, y: Tensor) -> Tensor:
    """Mean of log(1 + exp(-s f)) over samples and outputs, with s = 1 for its class and -1 else."""
    sign = y if y.shape[1] == 1 else 2 * y - 1
    return F.softplus(-sign * output).mean()


LOSSES: dict[Loss, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "cross_entropy": F.cross_entropy,
    "logistic": logistic,
}
"""From outputs and targets to a mean over samples; squared error and logistic also over outputs."""


def check_loss(loss: Loss, y: Tensor) -> None:
    """Refuse a loss that is not made for targets y (n, k).

    Raises:
        InputError: the targets are no classes, or the classes are too few.
    """
    if loss == "mse":
        return
    if not are_classes(y):
        raise InputError(
            "--optim.loss", loss, "needs classes, and these targets are none; give mse"
        )
    if loss == "cross_entropy" and y.shape[1] == 1:
        remedy = "needs an output for every class, and two classes share one; give logistic or mse"
        raise InputError("--optim.loss", loss, remedy)


def are_classes(y: Tensor) -> bool:
    """Whether targets (n, k) are classes."""
    if y.shape[1] == 1:
        return bool((y.abs() == 1).all())
    return torch.equal(y, F.one_hot(y.argmax(1), y.shape[1]).to(y))


def accuracy(output: Tensor, y: Tensor) -> Tensor:
    """Share of samples in their class."""
    if y.shape[1] == 1:
        return ((output > 0) == (y > 0)).float().mean()
    return (output.argmax(1) == y.argmax(1)).float().mean()
