"""The synthetic regression data of Iurada et al. (arXiv 2509.22214, code data/cifar10.py)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from datamodules.base import ReconDataModule, check_at_least
from lit_recon.errors import InputError
from lit_recon.randomness import generator


class Sphere(ReconDataModule):
    """Uniform points on the sphere of radius sqrt(d) with noisy linear targets.

    ``x = sqrt(d) g / ||g||`` with g ~ N(0, I_d), and ``y = <x, G> + noise * N(0, 1)`` with one
    direction G ~ N(0, I_d / d) for training and held-out points. G does not depend on n, and the
    training points do not depend on n_val.

    Args:
        n: number of training points, at least 1.
        d: input dimension, at least 1.
        noise: standard deviation of the targets' noise, at least 0; without noise, targets have a
            standard deviation of about 1.
        seed: seed of the points, of G, of the noise and of the order of mini-batches, at least 0;
            null: --run.seed.
        n_val: number of held-out points, at least 0; null: as many as n.
        batch_size: points in a training batch, at least 1; null: all of them in one batch.

    Raises:
        InputError: an argument is outside its range.
    """

    def __init__(
        self,
        n: int = 10,
        d: int = 100,
        noise: float = 0.5,
        seed: int | None = None,
        n_val: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(n=n, n_val=n_val, seed=seed, batch_size=batch_size)
        check_at_least("--data.d", d, 1)
        if not 0 <= noise < math.inf:
            raise InputError("--data.noise", noise, "give a number of at least 0")
        self.input_shape = (d,)
        self.noise = noise

    def load(self) -> None:
        """Draw G, then the training points, then the held-out points."""
        random = generator(self.seed, "sphere")
        direction = torch.randn(self.d, generator=random, dtype=torch.float64) / self.d**0.5
        self.x, self.y = self._draw(self.n, direction, random)
        n_val = self.n if self.n_val is None else self.n_val
        self.val_x, self.val_y = self._draw(n_val, direction, random)
        self.k = 1
        self.radius = self.d**0.5
        self.pixels = self.images = self.val_images = None
        self.labels, self.class_names = torch.empty(0, dtype=torch.int64), []
        self.indices = list(range(self.n))

    def _draw(self, m: int, direction: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw points (m, d) and targets (m, 1), both float32, computed in float64."""
        gauss = torch.randn(m, self.d, generator=random, dtype=torch.float64)
        x = self.d**0.5 * gauss / gauss.norm(dim=1, keepdim=True)
        noise = torch.randn(m, 1, generator=random, dtype=torch.float64)
        return x.float(), (x @ direction[:, None] + self.noise * noise).float()
