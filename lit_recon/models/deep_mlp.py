"""Networks of several dense layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from lit_recon.activations import ACTIVATIONS, Name
from lit_recon.errors import InputError
from lit_recon.models.base import ReadoutModel, seed_of, small_start, uniform_start
from lit_recon.randomness import generator

Bias = Literal["none", "first", "all"]


class DenseLayers(ReadoutModel):
    """Dense layers of any widths, then a readout; subclasses say how they start.

    Here weights and biases are uniform between -1 / sqrt(fan-in) and 1 / sqrt(fan-in), as in
    ``nn.Linear``.

    >>> model = DenseLayers(12, 3, [8, 4], "first", "relu", generator(0, "initial weights"))
    >>> [name for name, _ in model.named_parameters()]
    ['first_layer.weight', 'first_layer.bias', 'layers.0.weight', 'readout.weight']

    Args:
        d: input dimension.
        k: outputs.
        widths: units of each hidden layer, at least one layer and one unit.
        bias: which dense layers have biases: none, only the first, or all with the readout.
        activation: the activation function.
        random: draws the initial weights.

    Raises:
        InputError: there is no layer, or one without units.
    """

    def __init__(
        self,
        d: int,
        k: int,
        widths: Sequence[int],
        bias: Bias,
        activation: Name,
        random: torch.Generator,
    ) -> None:
        super().__init__()
        if not widths or min(widths) < 1:
            remedy = "give a list of numbers of 1 or more, such as '[512, 256]'"
            raise InputError("--model.widths", list(widths), remedy)
        self.activation = ACTIVATIONS[activation]

        def dense(fan_in: int, units: int, *, biased: bool) -> nn.Linear:
            layer = skip_init(nn.Linear, fan_in, units, bias=biased)
            uniform_start(layer, random)
            return layer

        self.first_layer = dense(d, widths[0], biased=bias != "none")
        pairs = pairwise(widths)
        self.layers = nn.ModuleList(dense(a, b, biased=bias == "all") for a, b in pairs)
        self.readout = dense(widths[-1], k, biased=bias == "all")

    @property
    def hidden(self) -> list[nn.Linear]:
        """The layers before the readout, in the order in which an input meets them."""
        return [self.first_layer, *(cast(nn.Linear, layer) for layer in self.layers)]

    def features(self, x: Tensor) -> Tensor:
        """(n, *input shape) to (n, p), the last hidden layer."""
        z = x.flatten(1)
        for layer in self.hidden:
            z = self.activation.value(layer(z))  # (n, width)
        return z


class DeepMLP(DenseLayers):
    """A multi-layer perceptron as users of PyTorch write it: dense layers, then a readout.

    Weights and biases start as in ``nn.Linear``: uniform between -1 / sqrt(fan-in) and
    1 / sqrt(fan-in). With `first_layer_std` the first layer starts with weights N(0, std^2) and
    biases 0: the smaller they are, the more of the trained first layer is its change. Haim et al.
    (2022, arXiv 2206.07758) train such networks, with biases in the first layer only.

    With `batch_norm`, training normalises by each batch, and an attack gets the network in eval
    mode with the running statistics of its checkpoint. A batch then needs two samples at least.

    >>> model = DeepMLP(d=12, k=3, widths=[8, 4], bias="first", batch_norm=True)
    >>> [name for name, _ in model.named_parameters() if "norms" not in name]
    ['first_layer.weight', 'first_layer.bias', 'layers.0.weight', 'readout.weight']

    Args:
        d: input dimension.
        k: outputs.
        widths: units of each hidden layer, at least one layer and one unit.
        bias: which dense layers have biases: none, only the first, or all with the readout.
        activation: the activation function.
        batch_norm: batch normalisation between every hidden layer and its activation.
        first_layer_std: standard deviation of the first layer's initial weights, above 0; null:
            uniform weights as in the other layers.
        seed: seed of the initial weights, 0 or more; null: --run.seed.

    Raises:
        InputError: an argument is outside its range.
    """

    def __init__(
        self,
        d: int,
        k: int,
        widths: Sequence[int] = (512, 256),
        bias: Bias = "none",
        activation: Name = "relu",
        batch_norm: bool = False,
        first_layer_std: float | None = None,
        seed: int | None = None,
    ) -> None:
        random = generator(seed_of(seed), "initial weights")
        super().__init__(d, k, widths, bias, activation, random)
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(w) if batch_norm else nn.Identity() for w in widths
        )
        if first_layer_std is not None:
            small_start(self.first_layer, first_layer_std, random)

    def features(self, x: Tensor) -> Tensor:
        """(n, *input shape) to (n, p), the last hidden layer."""
        z = x.flatten(1)
        for layer, norm in zip(self.hidden, self.norms, strict=True):
            z = self.activation.value(norm(layer(z)))  # (n, width)
        return z
