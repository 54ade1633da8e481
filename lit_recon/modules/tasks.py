"""Tasks: the targets that a network is trained on; the flags of ``--task``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_recon.errors import InputError


class Task(ABC):
    """A map from the data to training targets."""

    @abstractmethod
    def targets(self, x: Tensor, y: Tensor) -> Tensor:
        """Training targets (n, k).

        Args:
            x: (n, *input shape) inputs.
            y: (n, k') targets of the data module: classes, or numbers.

        Raises:
            InputError: the task does not fit the data.
        """


@dataclass(frozen=True)
class Labels(Task):
    """The targets of the data: classes, or numbers.

    >>> Labels().targets(torch.zeros(2, 3), torch.tensor([[-1.0], [1.0]])).tolist()
    [[-1.0], [1.0]]
    """

    def targets(self, x: Tensor, y: Tensor) -> Tensor:
        return y


@dataclass(frozen=True)
class Autoencode(Task):
    """The target is the input itself: k = d.

    >>> Autoencode().targets(torch.ones(2, 1, 2, 2), torch.zeros(2, 1)).shape
    torch.Size([2, 4])
    """

    def targets(self, x: Tensor, y: Tensor) -> Tensor:
        return x.flatten(1)


@dataclass(frozen=True)
class Next(Task):
    """The target is the next input of a sequence, and the first input after the last: k = d.

    >>> Next(period=2).targets(torch.arange(4.0)[:, None], torch.zeros(4, 1)).flatten().tolist()
    [1.0, 0.0, 3.0, 2.0]

    Args:
        period: length of each sequence, at least 2, a divisor of the number of samples; null: all
            samples are one sequence, in the order of the data.
    """

    period: int | None = None

    def __post_init__(self) -> None:
        if self.period is not None and self.period < 2:
            raise InputError("--task.period", self.period, "give at least 2")

    def targets(self, x: Tensor, y: Tensor) -> Tensor:
        n = len(x)
        if n == 0:
            return x.flatten(1)
        period = self.period or n
        if n % period:
            raise InputError("--task.period", period, f"does not divide {n} samples")
        index = torch.arange(n)
        return x.flatten(1)[index - index % period + (index + 1) % period]
