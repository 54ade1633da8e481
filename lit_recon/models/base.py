"""Base classes of networks: what training and attacks need from a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from lit_recon.activations import Activation
from lit_recon.errors import InputError
from lit_recon.linalg import times_rows
from lit_recon.tall_matrix import TallMatrix

DEFAULT_P_OVER_DN = 3.0


class Model(nn.Module, ABC):
    """A network from (n, *input shape) to (n, k) that `Training` can train.

    Attributes:
        size_flag: name of the constructor argument, and of the attribute, with the network's size,
            an alternative to p_over_dn; None: the network has neither argument.
    """

    size_flag: ClassVar[str | None] = None

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(n, *input shape) to (n, k)."""


class PartOfNetwork(nn.Module):
    """A network of which one layer is known."""


class Wrapper:
    """What lit_recon puts around a user's network.

    Attributes:
        module: the network.
    """

    module: nn.Module


def class_name(model: nn.Module) -> str:
    """What messages call a network: its class, that of a user's network where it is wrapped.

    >>> class_name(nn.Linear(4, 3))
    'Linear'
    """
    if isinstance(model, PartOfNetwork):
        return "the one layer that is known"
    return type(model.module if isinstance(model, Wrapper) else model).__name__


class FeatureModel(Model):
    """A network with features, from which a closed form finds its last layers."""

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """(n, *input shape) to features (n, p)."""


class ReadoutModel(FeatureModel):
    """A network that ends in a linear readout.

    Attributes:
        readout: the last linear layer, weight (k, p).
    """

    readout: nn.Linear

    @property
    def p(self) -> int:
        """The number of features."""
        return self.readout.in_features

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """(n, *input shape) to the readout's input (n, p)."""

    @property
    def frozen(self) -> bool:
        """Whether only the readout is trained, so that the features of an input never change."""
        trained = [name for name, value in self.named_parameters() if value.requires_grad]
        return all(name.startswith("readout.") for name in trained)

    def forward(self, x: Tensor) -> Tensor:
        """(n, *input shape) to (n, k)."""
        return self.readout(self.features(x))


class OneHiddenLayer(ReadoutModel):
    """A network ``f(x) = theta s(V x)`` without biases.

    Attributes:
        activation: s.
    """

    activation: Activation

    @abstractmethod
    def rows(self, share: range) -> TallMatrix:
        """The rows `share` of V (p, d); every rank can read any rows without communication."""

    def features(self, x: Tensor) -> Tensor:
        """(n, *input shape) to (n, p)."""
        return self.activation.value(times_rows(x.flatten(1), self.rows(range(self.p))))


def feature_count(flag: str, size: int | None, p_over_dn: float | None, per_unit: float) -> int:
    """The number of units of a model, from one of two flags: the size itself or p_over_dn.

    Args:
        flag: the name of the size flag.
        size: the number of units, at least 1.
        p_over_dn: k p / (n d), above 0; if both are None, DEFAULT_P_OVER_DN.
        per_unit: the number of units at which p_over_dn is 1.

    Raises:
        InputError: both are given, or one is out of its range.
    """
    if size is not None and p_over_dn is not None:
        remedy = f"give either this or --model.{flag}, not both"
        raise InputError("--model.p_over_dn", p_over_dn, remedy)
    if size is None:
        p_over_dn = DEFAULT_P_OVER_DN if p_over_dn is None else p_over_dn
        if not 0 < p_over_dn < float("inf"):
            raise InputError("--model.p_over_dn", p_over_dn, "give a finite number above 0")
        return max(1, round(p_over_dn * per_unit))
    if size < 1:
        raise InputError(f"--model.{flag}", size, "give at least 1")
    return size


def seed_of(seed: int | None) -> int:
    """The seed of a network; None: 0.

    Raises:
        InputError: it is below 0.
    """
    if seed is not None and seed < 0:
        raise InputError("--model.seed", seed, "give 0 or more")
    return seed or 0


def uniform_start(layer: nn.Module, random: torch.Generator) -> None:
    """Set weights and biases as PyTorch does: uniform within 1 / sqrt(fan-in)."""
    weight = layer.get_parameter("weight")
    bound = weight[0].numel() ** -0.5
    for values in layer.parameters():
        nn.init.uniform_(values, -bound, bound, generator=random)


def small_start(layer: nn.Module, std: float, random: torch.Generator) -> None:
    """Set a first layer's weights to N(0, std^2) and its biases to 0.

    Raises:
        InputError: the standard deviation is not a number above 0.
    """
    if not 0 < std < float("inf"):
        raise InputError("--model.first_layer_std", std, "give a number above 0")
    nn.init.normal_(layer.get_parameter("weight"), 0, std, generator=random)
    bias = dict(layer.named_parameters()).get("bias")
    if bias is not None:
        nn.init.zeros_(bias)
