"""Other processors' rounding on this one: the same sums, in another order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lit_recon.metrics.matching import EUCLIDEAN, match

# How far candidates of an attack that succeeds may be apart in two orders of summation, in units of
# a typical input; wrong ones are about 1 apart. Measured in 30 orders: 6e-7 where the loss has a
# floor, 4e-5 where the features have drifted, so that the fit ends where it gets slow.
TOLERANCE = 1e-3

aten = torch.ops.aten

# Which dimensions of which arguments are summed over: (place of the argument, dimension).
PRODUCTS = {
    aten.mm.default: ((0, 1), (1, 0)),
    aten.bmm.default: ((0, 2), (1, 1)),
    aten.mv.default: ((0, 1), (1, 0)),
    aten.dot.default: ((0, 0), (1, 0)),
    aten.addmm.default: ((1, 1), (2, 0)),
    aten.addmm_.default: ((1, 1), (2, 0)),
    aten.convolution.default: ((0, 1), (1, 1)),
}
SUMS = {
    aten.sum.default,
    aten.sum.dim_IntList,
    aten.mean.default,
    aten.mean.dim,
    aten.linalg_vector_norm.default,
}


class OtherOrder(TorchDispatchMode):
    """Within it, every product and sum of this thread adds its terms in a random order.

    Arithmetic libraries choose the order by the processor, the number of threads and where the
    operands lie in memory, so that results differ in their last bits. Here they differ in every
    call, even where the operands are equal.

    >>> row = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    >>> with OtherOrder(0):
    ...     found = {float(row.sum()) for _ in range(20)}
    >>> len(found) > 1
    True

    Args:
        seed: of the orders; torch's own random numbers are left alone.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        arguments = list(args)
        if func in PRODUCTS and not grouped(func, arguments):
            places = PRODUCTS[func]
            order = self._order(arguments[places[0][0]].shape[places[0][1]])
            for place, dim in places:
                arguments[place] = arguments[place].index_select(dim, order)
        elif func in SUMS:
            for dim in summed(func, arguments):
                order = self._order(arguments[0].shape[dim])
                arguments[0] = arguments[0].index_select(dim, order)
        return func(*arguments, **(kwargs or {}))

    def _order(self, count: int) -> Tensor:
        return torch.randperm(count, generator=self.random)


def apart(some: Tensor, others: Tensor) -> float:
    """The largest distance of matched candidates (m, d), over sqrt(d); inf for unequal numbers.

    The order of candidates is no part of a result: it hangs on the last bits where two of them
    explain equally much.
    """
    if some.shape != others.shape:
        return torch.inf
    return float(match(some, others, EUCLIDEAN).error.max())


def grouped(func: Any, arguments: Sequence[Any]) -> bool:
    """Whether this is a convolution in which an output sees a part of the channels only."""
    return func is aten.convolution.default and arguments[-1] != 1


def summed(func: Any, arguments: Sequence[Any]) -> Sequence[int]:
    """The dimensions that a sum or a norm goes over."""
    place = 2 if func is aten.linalg_vector_norm.default else 1
    given = arguments[place] if len(arguments) > place else None
    return given or range(arguments[0].ndim)
