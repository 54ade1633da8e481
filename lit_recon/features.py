"""Feature maps phi(x) = s(V x) and the subspaces in which candidates are searched."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_recon.activations import Activation
from lit_recon.linalg import BLOCK_ROWS, times_rows, weigh_rows


@dataclass(frozen=True)
class LinearMap:
    """z = V x for a stored V (p, d): the part of a feature map that costs time.

    ``mean_square`` is the mean of V's squared entries, the scale of the preconditioner.
    """

    weight: Tensor

    @property
    def p(self) -> int:
        return self.weight.shape[0]

    @property
    def d(self) -> int:
        return self.weight.shape[1]

    @property
    def mean_square(self) -> float:
        return float(torch.linalg.vector_norm(self.weight).square() / self.weight.numel())

    def apply(self, x: Tensor) -> Tensor:
        """(m, d) inputs to (m, p) preactivations."""
        return times_rows(x, self.weight)

    def transpose(self, w: Tensor) -> Tensor:
        """(m, p) weights to (m, d)."""
        return weigh_rows(w, self.weight)


@dataclass(frozen=True)
class BlockAverages:
    """The subspace of images that are constant on blocks of ``factor`` x ``factor`` pixels.

    Natural images have most of their energy there, and V restricted to it is ``factor``^2 times
    smaller. Coordinates are orthonormal.
    """

    shape: tuple[int, int, int]
    factor: int

    def down(self, x: Tensor) -> Tensor:
        """(rows, d) to coordinates (rows, d / factor^2)."""
        blocks = x.view(-1, *self.shape)
        return F.avg_pool2d(blocks, self.factor).flatten(1) * self.factor

    def up(self, z: Tensor) -> Tensor:
        """Coordinates (rows, d / factor^2) to (rows, d)."""
        c, h, w = self.shape
        image = z.view(-1, c, h // self.factor, w // self.factor) / self.factor
        return image.repeat_interleave(self.factor, 2).repeat_interleave(self.factor, 3).flatten(1)

    def restrict(self, weight: Tensor) -> Tensor:
        """(p, d) to (p, d / factor^2), a block of rows at a time."""
        return torch.cat([self.down(rows) for rows in weight.split(BLOCK_ROWS)])


def features(x: Tensor, weight: Tensor, activation: Activation) -> Tensor:
    """(m, p) features s(V x) of (m, d) inputs."""
    return activation.value(times_rows(x, weight))
