"""Feature maps phi(x) = s(V x) and the subspaces in which candidates are searched."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_recon.linalg import times_rows, weigh_rows


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

    @cached_property
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

    Natural images have most of their energy there. Coordinates are orthonormal.
    """

    shape: tuple[int, int, int]
    factor: int

    @property
    def dimension(self) -> int:
        """Number of coordinates."""
        return prod(self.shape) // self.factor**2

    def down(self, x: Tensor) -> Tensor:
        """(rows, d) to coordinates (rows, d / factor^2)."""
        blocks = x.view(-1, *self.shape)
        return F.avg_pool2d(blocks, self.factor).flatten(1) * self.factor

    def up(self, z: Tensor) -> Tensor:
        """Coordinates (rows, d / factor^2) to (rows, d)."""
        c, h, w = self.shape
        image = z.view(-1, c, h // self.factor, w // self.factor) / self.factor
        return image.repeat_interleave(self.factor, 2).repeat_interleave(self.factor, 3).flatten(1)
