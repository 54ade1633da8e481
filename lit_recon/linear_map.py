"""Feature maps phi(x) = s(V x) and the subspaces in which candidates are searched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_recon.distributed import Ranks
from lit_recon.linalg import times_rows, weigh_rows
from lit_recon.tall_matrix import TallMatrix

CACHE_ROWS = 2048


@dataclass(frozen=True)
class LinearMap:
    """z = V x for V (p, d): the part of a feature map that costs time.

    The rows of V are shared among ranks. `apply` gives this rank's columns, without an exchange.
    `transpose` takes this rank's columns and gives the sum over all ranks. ``p`` and
    ``mean_square`` are those of the whole V.

    >>> map = LinearMap(TallMatrix.of(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])))
    >>> map.p, map.d
    (3, 2)
    >>> map.apply(torch.tensor([[1.0, 2.0]]))
    tensor([[1., 3., 4.]])
    >>> map.transpose(torch.tensor([[1.0, 0.0, 1.0]]))
    tensor([[1., 2.]])

    Attributes:
        rows: this rank's rows of V.
        ranks: the processes that share V.
        dtype: of the blocks; None for that of V.
    """

    rows: TallMatrix
    ranks: Ranks = field(default_factory=Ranks)
    dtype: torch.dtype | None = None

    @property
    def d(self) -> int:
        """The dimension of an input."""
        return self.rows.d

    @cached_property
    def p(self) -> int:
        """The number of rows of V, over all ranks."""
        return int(self.ranks.total(torch.tensor(len(self.rows), device=self.rows.like.device)))

    @cached_property
    def mean_square(self) -> float:
        """The mean of V's squared entries, the scale of the preconditioner."""
        squares = sum(torch.linalg.vector_norm(part).square() for part in self.rows)
        assert isinstance(squares, Tensor)
        return float(self.ranks.total(squares) / (self.p * self.d))

    def head(self, count: int) -> LinearMap:
        """The map of the first ``count`` rows of every rank."""
        return LinearMap(self.rows.head(count), self.ranks)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """This rank's rows of V, block by block, each with its place among these rows.

        On CPU a block is so small that its products stay in the cache: with 100 candidates an
        application takes a quarter of the time (measured). A GPU takes all rows at once.
        """
        for rows, block in self.rows.blocks(CACHE_ROWS if self.rows.like.is_cpu else None):
            yield rows, block.to(self.dtype or block.dtype)

    def apply(self, x: Tensor) -> Tensor:
        """(m, d) inputs to (m, r), this rank's columns of the preactivations."""
        return times_rows(x, self.rows)

    def transpose(self, w: Tensor) -> Tensor:
        """(m, r), this rank's columns of weights, to (m, d), the sum over all."""
        return self.ranks.total(weigh_rows(w, self.rows))


@dataclass(frozen=True)
class BlockAverages:
    """The subspace of images that are constant on blocks of ``factor`` x ``factor`` pixels.

    Natural images have most of their energy there. Coordinates are orthonormal.

    Attributes:
        shape: (c, h, w) of an image.
        factor: the side of a block in pixels; it divides h and w.
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
