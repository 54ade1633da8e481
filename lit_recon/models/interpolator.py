"""The constructed three-layer network that fits labels without any training."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from lit_recon.capacity.codes import Activation, draw_first_layer, on_grid
from lit_recon.capacity.construction import parameter_count
from lit_recon.capacity.greedy import SecondLayer
from lit_recon.errors import InputError
from lit_recon.models.base import FeatureModel, seed_of

ROWS = 4096  # samples whose first-layer outputs are held at a time


class Interpolator(FeatureModel):
    """The interpolating network of Genzel, Finke and Dirksen (2023, arXiv 2310.00327).

    A random first layer, a second layer that is made from the data, and an output that says whether
    a second-layer unit of a class fires. `--optim Construct` builds it; it has no gradients. For
    two classes the output is -1 or 1 and units stand for the second class; for more it is 0 or 1
    for each class, one-vs-rest over one first layer. How many units the second layer has depends on
    the data, so that the number is a part of the checkpoint.

    >>> model = Interpolator(d=3, k=1, width=10)
    >>> model(torch.zeros(2, 3)).tolist(), model.second_width
    ([[-1.0], [-1.0]], 0)

    Args:
        d: input dimension.
        k: outputs.
        width: units of the first layer, n1, at least 1.
        max_bias: largest bias of a first-layer unit, lambda, 0 or more; weights are normal with
            variance 1, so it compares with the norms of the inputs: 1 for inputs of norm 1.
        activation: the units of both hidden layers; outputs of `relu` are rounded to multiples of
            2^-20, which makes sums exact.
        seed: seed of the first layer, 0 or more; null: --run.seed.

    Raises:
        InputError: an argument is outside its range.
    """

    def __init__(
        self,
        d: int,
        k: int,
        width: int = 500,
        max_bias: float = 1.0,
        activation: Activation = "threshold",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        check_size(width, max_bias)
        if activation not in ("threshold", "relu"):
            raise InputError("--model.activation", activation, "give threshold or relu")
        self.activation: Activation = activation
        self.first_layer = skip_init(nn.Linear, d, width)
        weight, bias = draw_first_layer(width, d, max_bias, seed_of(seed))
        self.first_layer.weight.data, self.first_layer.bias.data = weight, bias
        self.masks = nn.Parameter(torch.empty(0, width))  # (n2, n1) of 0 and 1
        self.thresholds = nn.Parameter(torch.empty(0, dtype=torch.float64))  # (n2,)
        self.third_layer = nn.Parameter(torch.empty(k, 0))  # (k, n2) of 0 and 1

    @property
    def second_width(self) -> int:
        """n2, the units of the second layer over all classes."""
        return len(self.thresholds)

    @property
    def size(self) -> int:
        """The number of weights and biases."""
        layer = self.first_layer
        return parameter_count(layer.in_features, layer.out_features, self.second_width)

    def features(self, x: Tensor) -> Tensor:
        """(n, *input shape) to first-layer outputs (n, n1): bool, or float64 of ReLU units."""
        layer = self.first_layer
        z = F.linear(x.flatten(1).double(), layer.weight.double(), layer.bias.double())
        return z > 0 if self.activation == "threshold" else on_grid(z)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """(n, *input shape) to (n, k): -1 or 1 for k = 1, else 0 or 1."""
        fires = torch.cat([self._fires(part) for part in x.split(ROWS)])
        output = fires.to(self.first_layer.weight.dtype)
        return 2 * output - 1 if len(self.third_layer) == 1 else output

    def _fires(self, x: Tensor) -> Tensor:
        """(n, k) bool: whether a unit of the class is active."""
        scores = self.features(x).double() @ self.masks.double().T  # (n, n2)
        active = (scores < self.thresholds).to(self.third_layer.dtype)
        return active @ self.third_layer.T > 0

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take over the width of the second layer, which only the checkpoint knows."""
        saved = state_dict.get(f"{prefix}thresholds")
        if saved is not None:
            width = len(saved)
            self.masks.data = self.masks.new_empty(width, self.masks.shape[1])
            self.thresholds.data = self.thresholds.new_empty(width)
            self.third_layer.data = self.third_layer.new_empty(len(self.third_layer), width)
        super()._load_from_state_dict(state_dict, prefix, *args)


def second_weights(layers: Sequence[SecondLayer]) -> tuple[Tensor, Tensor, Tensor]:
    """Masks (n2, n1), thresholds (n2,) and third layer (k, n2) of the classes' second layers."""
    masks = torch.cat([torch.from_numpy(layer.masks) for layer in layers])
    thresholds = torch.cat([torch.from_numpy(layer.thresholds) for layer in layers])
    links = torch.block_diag(*(torch.ones(1, len(layer.centres)) for layer in layers))
    return masks, thresholds, links


def check_size(width: int, max_bias: float) -> None:
    """Refuse a first layer that cannot be.

    Raises:
        InputError: no units, or a negative bias.
    """
    if width < 1:
        raise InputError("--model.width", width, "give at least 1")
    if not (isfinite(max_bias) and max_bias >= 0):
        raise InputError("--model.max_bias", max_bias, "give a finite number, 0 or more")
