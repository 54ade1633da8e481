"""Activation functions with the properties that the attack uses: slope, parity and even part.

ReLU is ``z / 2 + |z| / 2``: a linear part plus an even part. The linear parts of all samples add up
to one vector, which says nothing about single samples. So the attack starts with the even part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import pi, sqrt
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Name = Literal[
    "relu",
    "relu+tanh",
    "leaky_relu",
    "elu",
    "selu",
    "gelu",
    "softplus",
    "tanh",
    "sigmoid",
    "sin",
    "x+sin",
    "cosid",
]


@dataclass(frozen=True)
class Activation:
    """An element-wise function and its properties.

    Attributes:
        value: ``z -> s(z)``, any shape.
        slope: ``z -> s'(z)``, same shape; the subgradient 0 at a kink.
        homogeneous: ``s(c z) = c s(z)`` for ``c > 0``, so features hide the norm of an input.
        odd: ``s(-z) = -s(z)``, so features hide the sign of an input.
        even_part: ``(s(z) + s(-z)) / 2`` as an activation; None if it is constant or equals ``s``.
    """

    name: str
    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    homogeneous: bool = False
    odd: bool = False
    even_part: Activation | None = None


HALF_ABS = Activation("abs/2", lambda z: z.abs() / 2, lambda z: z.sign() / 2, homogeneous=True)


def _tanh_slope(z: Tensor) -> Tensor:
    return 1 - z.tanh().square()


def _relu_slope(z: Tensor) -> Tensor:
    return (z > 0).to(z.dtype)


def _elu_slope(z: Tensor) -> Tensor:
    return z.clamp_max(0).exp()


_EVEN_ELU = Activation(
    "elu, even part",
    lambda z: (F.elu(z) + F.elu(-z)) / 2,
    lambda z: (_elu_slope(z) - _elu_slope(-z)) / 2,
)


def _even_gelu_slope(z: Tensor) -> Tensor:
    density = torch.exp(-z.square() / 2) / sqrt(2 * pi)
    return torch.erf(z / sqrt(2)) / 2 + z * density


# gelu(z) = z Phi(z) with the normal distribution function Phi: z / 2 plus an even part, as relu.
_EVEN_GELU = Activation(
    "gelu, even part", lambda z: z * torch.erf(z / sqrt(2)) / 2, _even_gelu_slope
)

LEAK = 0.01  # slope of leaky ReLU below 0, as in PyTorch
_EVEN_LEAKY = Activation(
    "leaky_relu, even part",
    lambda z: (1 - LEAK) / 2 * z.abs(),
    lambda z: (1 - LEAK) / 2 * z.sign(),
    homogeneous=True,
)

# Klambauer et al. 2017 (arXiv 1706.02515), as in PyTorch.
SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


def _selu_slope(z: Tensor) -> Tensor:
    return SELU_SCALE * torch.where(z > 0, 1.0, SELU_ALPHA * z.clamp_max(0).exp())


_EVEN_SELU = Activation(
    "selu, even part",
    lambda z: (F.selu(z) + F.selu(-z)) / 2,
    lambda z: (_selu_slope(z) - _selu_slope(-z)) / 2,
)

# softplus(z) = z / 2 plus an even part, as relu.
_EVEN_SOFTPLUS = Activation(
    "softplus, even part", lambda z: F.softplus(z) - z / 2, lambda z: torch.tanh(z / 2) / 2
)

_COS = Activation("cos", torch.cos, lambda z: -z.sin())


def _sigmoid_slope(z: Tensor) -> Tensor:
    return z.sigmoid() * (-z).sigmoid()


ACTIVATIONS: dict[str, Activation] = {
    a.name: a
    for a in (
        Activation("relu", F.relu, _relu_slope, homogeneous=True, even_part=HALF_ABS),
        Activation(
            "relu+tanh",
            lambda z: F.relu(z) + z.tanh(),
            lambda z: _relu_slope(z) + _tanh_slope(z),
            even_part=HALF_ABS,
        ),
        Activation(
            "leaky_relu",
            F.leaky_relu,
            lambda z: torch.where(z > 0, 1.0, LEAK).to(z.dtype),
            homogeneous=True,
            even_part=_EVEN_LEAKY,
        ),
        Activation("elu", F.elu, _elu_slope, even_part=_EVEN_ELU),
        Activation("selu", F.selu, _selu_slope, even_part=_EVEN_SELU),
        Activation("gelu", F.gelu, lambda z: 0.5 + _even_gelu_slope(z), even_part=_EVEN_GELU),
        Activation("softplus", F.softplus, torch.sigmoid, even_part=_EVEN_SOFTPLUS),
        Activation("tanh", torch.tanh, _tanh_slope, odd=True),
        Activation("sigmoid", torch.sigmoid, _sigmoid_slope),
        Activation("sin", torch.sin, torch.cos, odd=True),
        # These two are of Radhakrishnan, Belkin and Uhler (2020, arXiv 1909.12362).
        Activation(
            "x+sin",
            lambda z: z + (10 * z).sin() / 5,
            lambda z: 1 + 2 * (10 * z).cos(),
            odd=True,
        ),
        Activation("cosid", lambda z: z.cos() - z, lambda z: -z.sin() - 1, even_part=_COS),
    )
}
