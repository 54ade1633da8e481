"""Tall matrices V (p, d) that are read part by part: stored, or drawn anew in every pass."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

from lit_recon.randomness import generator

BLOCK_ROWS = 4096
MAX_THREADS = 8  # that draw ahead, one block of BLOCK_ROWS x d numbers each


def gaussian_rows(seed: int, p: int, d: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """(p, d) matrix of independent N(0, 1 / d) entries, block by block from (seed, block index).

    Row j depends on the seed and on j alone. So a part of the matrix can be made without the rest,
    on any device and by any number of processes.
    """
    return _copied(_drawn(seed, d, range(p), dtype), torch.empty(p, d, dtype=dtype))


def _copied(parts: Iterator[Tensor], into: Tensor) -> Tensor:
    """A matrix (r, d), filled with the parts from the top."""
    start = 0
    for part in parts:
        into[start : start + len(part)].copy_(part)
        start += len(part)
    return into


def _drawn(seed: int, d: int, share: range, dtype: torch.dtype) -> Iterator[Tensor]:
    """Rows of the matrix on the CPU, a block or a part of one at a time."""

    def draw(block: int) -> Tensor:
        # A shorter draw has other numbers at its end, so a block is drawn whole and then cut.
        rows = torch.empty(BLOCK_ROWS, d, dtype=dtype)
        rows.normal_(0, d**-0.5, generator=generator(seed, "first layer", block))
        start = block * BLOCK_ROWS
        return rows[max(share.start - start, 0) : share.stop - start]

    if not share:
        return
    blocks = range(share.start // BLOCK_ROWS, -(-share.stop // BLOCK_ROWS))
    threads = min(torch.get_num_threads(), len(blocks), MAX_THREADS)
    if threads == 1:
        yield from map(draw, blocks)
        return
    with ThreadPoolExecutor(threads) as pool:  # one draw keeps one core busy
        ahead: deque[Future[Tensor]] = deque()
        for block in blocks:
            ahead.append(pool.submit(draw, block))
            if len(ahead) > threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


class SeededMatrix:
    """The matrix of `gaussian_rows`. One stretch of it is stored; other rows are drawn when read.

    The choice of the stretch changes time and memory, and no number. Copies share the stretch.

    Args:
        seed: seed of the matrix, 0 or more.
        p, d: its shape.
    """

    def __init__(self, seed: int, p: int, d: int) -> None:
        self.seed = seed
        self.shape = (p, d)
        self.stored = torch.empty(0, d)
        self.stretch = range(0)

    def __deepcopy__(self, memo: object) -> SeededMatrix:
        return self

    def store(self, stretch: range, like: Tensor) -> None:
        """Store these rows and no others, with the dtype and device of ``like``."""
        as_wanted = (self.stored.dtype, self.stored.device) == (like.dtype, like.device)
        if stretch == self.stretch and as_wanted:
            return
        self.stored = like.new_empty(0, self.shape[1])  # never two stretches at once
        self.stretch = range(0)
        rows = _drawn(self.seed, self.shape[1], stretch, torch.float32)
        self.stored = _copied(rows, like.new_empty(len(stretch), self.shape[1]))
        self.stretch = stretch

    def parts(self, share: range, like: Tensor) -> Iterator[Tensor]:
        """The rows of a share, in order, with the dtype and device of ``like``."""
        if not share:
            return iter((like.new_empty(0, self.shape[1]),))
        start, stop = (min(max(i, share.start), share.stop) for i in _ends(self.stretch))
        offset = self.stretch.start
        before = self._draw(range(share.start, start), like)
        stored = (self.stored[start - offset : stop - offset].to(like),)
        after = self._draw(range(stop, share.stop), like)
        return chain(before, stored if start < stop else (), after)

    def _draw(self, share: range, like: Tensor) -> Iterator[Tensor]:
        for rows in _drawn(self.seed, self.shape[1], share, torch.float32):
            yield rows.to(like)


def _ends(stretch: range) -> tuple[int, int]:
    return stretch.start, stretch.stop


@dataclass(frozen=True)
class TallMatrix:
    """Consecutive rows (r, d) of a tall matrix; iterating reads them part by part, from the top.

    >>> rows = TallMatrix.of(torch.arange(10.0).view(5, 2)).head(3)
    >>> len(rows), rows.d
    (3, 2)
    >>> [(place, len(block)) for place, block in rows.blocks(2)]
    [(slice(0, 2, None), 2), (slice(2, 3, None), 1)]

    Attributes:
        matrix: (p, d).
        share: which rows of the matrix.
        like: a tensor with the dtype and device in which they are read.
    """

    matrix: Tensor | SeededMatrix
    share: range
    like: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> TallMatrix:
        """All rows of a stored matrix."""
        return cls(matrix, range(len(matrix)), matrix)

    def __len__(self) -> int:
        return len(self.share)

    @property
    def d(self) -> int:
        """The number of columns."""
        return self.matrix.shape[1]

    def head(self, count: int) -> TallMatrix:
        """The first ``count`` rows, or all if there are fewer."""
        return replace(self, share=self.share[:count])

    def blocks(self, most: int | None = None) -> Iterator[tuple[slice, Tensor]]:
        """The rows in blocks of at most ``most`` rows, each with its place among these rows."""
        start = 0
        for block in (block for part in self for block in part.split(most or max(len(part), 1))):
            yield slice(start, start + len(block)), block
            start += len(block)

    def __iter__(self) -> Iterator[Tensor]:
        if isinstance(self.matrix, Tensor):
            yield self.matrix[self.share.start : self.share.stop]
        else:
            yield from self.matrix.parts(self.share, self.like)
