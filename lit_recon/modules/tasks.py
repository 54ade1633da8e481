"""Tasks: the targets that a network is trained on; the flags of ``--task``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import isfinite
from typing import ClassVar

import torch
from torch import Tensor

from lit_recon.errors import InputError
from lit_recon.modules.noise import Geometry, Noise
from lit_recon.randomness import generator


class Task(ABC):
    """A map from the data to training targets.

    Attributes:
        gives_inputs: targets are inputs, k = d.
    """

    gives_inputs: ClassVar[bool] = False

    @abstractmethod
    def targets(self, x: Tensor, y: Tensor) -> Tensor:
        """Training targets (n, k).

        Args:
            x: (n, *input shape) inputs.
            y: (n, k') targets of the data module: classes, or numbers.

        Raises:
            InputError: the task does not fit the data.
        """

    @property
    def denoising(self) -> Noise | None:
        """What noisy copies of the inputs are trained on too; None: none."""
        return None


@dataclass(frozen=True)
class Labels(Task):
    """The targets of the data: classes, or numbers.

    >>> Labels().targets(torch.zeros(2, 3), torch.tensor([[-1.0], [1.0]])).tolist()
    [[-1.0], [1.0]]
    """

    def targets(self, x: Tensor, y: Tensor) -> Tensor:
        return y


@dataclass(frozen=True)
class RandomLabels(Task):
    """The targets of the data in a random order: what it takes to memorise labels without a rule.

    Held-out samples have no targets then.

    >>> RandomLabels(seed=1).targets(torch.zeros(3, 2), torch.eye(3)).sum(0).tolist()
    [1.0, 1.0, 1.0]

    Args:
        seed: seed of the order, 0 or more; null: --run.seed.
    """

    seed: int | None = None

    def __post_init__(self) -> None:
        if self.seed is not None and self.seed < 0:
            raise InputError("--task.seed", self.seed, "give 0 or more")

    def targets(self, x: Tensor, y: Tensor) -> Tensor:
        return y[torch.randperm(len(y), generator=generator(self.seed or 0, "random labels"))]


@dataclass(frozen=True)
class InputTask(Task):
    """A task whose targets are inputs, with the noise that both such tasks can have.

    With `noise` every batch holds noisy copies x + e of its inputs too, with the targets of x (a
    denoising autoencoder, Vincent et al. 2008). The length of e is uniform between 0 and `noise`
    times a length of the data. `Autoencode` documents the arguments.
    """

    gives_inputs: ClassVar[bool] = True

    noise: float = 0.0
    noise_geometry: Geometry = "isotropic"
    copies: int = 2
    clean_share: float = 0.2
    seed: int | None = None

    def __post_init__(self) -> None:
        if not (isfinite(self.noise) and self.noise >= 0):
            raise InputError("--task.noise", self.noise, "give a finite number, 0 or more")
        if self.copies < 1:
            raise InputError("--task.copies", self.copies, "give at least 1")
        if not 0 <= self.clean_share <= 1:
            raise InputError("--task.clean_share", self.clean_share, "give a number from 0 to 1")
        if self.seed is not None and self.seed < 0:
            raise InputError("--task.seed", self.seed, "give 0 or more")

    @property
    def denoising(self) -> Noise | None:
        if self.noise == 0:
            return None
        return Noise(self.noise, self.noise_geometry, self.copies, self.clean_share, self.seed or 0)


@dataclass(frozen=True)
class Autoencode(InputTask):
    """The target is the input itself: k = d.

    >>> Autoencode().targets(torch.ones(2, 1, 2, 2), torch.zeros(2, 1)).shape
    torch.Size([2, 4])

    Args:
        noise: largest length of the noise as a share, 0 or more; 0: no noisy copies.
        noise_geometry: what the noise knows of the data; `isotropic`: any direction, the share is
            of the rms norm of the inputs; `neighbours`: any direction, the share is of the distance
            to the nearest other input; `span`: directions in the span of the inputs, the share as
            with `neighbours`.
        copies: noisy copies of every input in a step, at least 1.
        clean_share: the share of the steps, at the end, that are trained without noise, 0 to 1.
        seed: seed of the noise, 0 or more; null: --run.seed.
    """

    def targets(self, x: Tensor, y: Tensor) -> Tensor:
        return x.flatten(1)


@dataclass(frozen=True)
class Next(InputTask):
    """The target is the next input of a sequence, and the first input after the last: k = d.

    >>> Next(period=2).targets(torch.arange(4.0)[:, None], torch.zeros(4, 1)).flatten().tolist()
    [1.0, 0.0, 3.0, 2.0]

    Args:
        noise: largest length of the noise as a share, 0 or more; 0: no noisy copies.
        noise_geometry: what the noise knows of the data; `isotropic`: any direction, the share is
            of the rms norm of the inputs; `neighbours`: any direction, the share is of the distance
            to the nearest other input; `span`: directions in the span of the inputs, the share as
            with `neighbours`.
        copies: noisy copies of every input in a step, at least 1.
        clean_share: the share of the steps, at the end, that are trained without noise, 0 to 1.
        seed: seed of the noise, 0 or more; null: --run.seed.
        period: length of each sequence, at least 2, a divisor of the number of samples; null: all
            samples are one sequence, in the order of the data.
    """

    period: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.period is not None and self.period < 2:
            raise InputError("--task.period", self.period, "give at least 2")

    def targets(self, x: Tensor, y: Tensor) -> Tensor:
        n = len(x)
        if n == 0:
            return x.flatten(1)
        period = self.period or n
        if n % period:
            raise InputError("--task.period", period, f"does not divide {n} samples")
        if period < 2:
            raise InputError("--data.n", n, "a sequence needs two inputs or more")
        index = torch.arange(n)
        return x.flatten(1)[index - index % period + (index + 1) % period]
