"""ReLU with a smooth slope, in any network and without changing it.

The gradients of a ReLU network by its weights change with the inputs in jumps, so their own
derivative hides most of what a step would change. Haim et al. (2022, arXiv 2206.07758) keep ReLU in
the forward pass and put ``sigmoid(a z)`` in the place of its slope ``1[z > 0]`` in the backward
pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

RELU = {F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}


class _Smooth(torch.autograd.Function):
    """max(0, z), whose slope is sigmoid(a z); the slope has a derivative of its own."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, a: Tensor) -> Tensor:
        ctx.save_for_backward(z, a)
        return z.relu()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        z, a = ctx.saved_tensors
        return slopes[0] * torch.sigmoid(a * z), None


class SurrogateReLU(TorchFunctionMode):
    """A context in which every ReLU has the slope sigmoid(a z).

    >>> z = torch.zeros(1, requires_grad=True)
    >>> with SurrogateReLU(10.0):
    ...     z.relu().backward()
    >>> z.grad
    tensor([0.5000])

    Args:
        slope: a, above 0; the larger it is, the closer to ReLU's own slope.
        relative: a is in units of 1 / rms(z), with the rms over the tensor that ReLU gets, so that
            the scale of the weights does not matter.
    """

    def __init__(self, slope: float, *, relative: bool = False) -> None:
        super().__init__()
        self.slope, self.relative = slope, relative

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func not in RELU:
            return func(*args, **(kwargs or {}))
        z: Tensor = args[0]
        unit = z.detach().square().mean().sqrt() if self.relative else z.new_ones(())
        tiny = torch.finfo(z.dtype).tiny
        return _Smooth.apply(z, self.slope / unit.clamp_min(tiny))
