"""Autoencoders: networks whose outputs are images, of dense or of convolutional layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isfinite, prod
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from lit_recon.activations import ACTIVATIONS, Name
from lit_recon.errors import InputError
from lit_recon.models.base import Model, seed_of, uniform_start
from lit_recon.models.deep_mlp import DenseLayers
from lit_recon.randomness import generator

Init = Literal["normal", "xavier", "pytorch"]
# Weights of variance 1.4^2 / fan-in: five layers of tanh then map points of norm 16 to 32 far from
# each other, and training makes the images attractors.
NORMAL_GAIN = 1.4
SMALLEST_MAP = 4  # side in pixels: a stride of 2 does not go below


class Autoencoder(DenseLayers):
    """A fully connected autoencoder, d -> widths -> d, with biases in every layer.

    Radhakrishnan, Yang, Belkin and Uhler (2018, arXiv 1810.10333) and Radhakrishnan, Belkin and
    Uhler (2020, arXiv 1909.12362) train such networks until f(x) = x, and find the training images
    again as attractors of x -> f(x). `--task Next` trains a sequence x1 -> x2 -> ... instead, which
    becomes a limit cycle.

    A readout at zero, as with `init normal`, keeps all outputs in the span of the targets while an
    optimiser trains that scales no weight on its own, such as SGD (see
    `lit_recon.modules.TensorAdam`).

    >>> model = Autoencoder(d=12, k=12, widths=[8, 8])
    >>> bool(model.readout.weight.any()), model.features(model.readout.bias[None]).shape
    (False, torch.Size([1, 8]))

    Args:
        d: input dimension.
        k: outputs, as many as inputs.
        widths: units of each hidden layer, at least one layer and one unit.
        activation: the activation function.
        init: initial weights; `normal`: hidden weights N(0, gain^2 / fan-in), readout and biases 0;
            `xavier`: all weights uniform with variance 2 gain^2 / (fan-in + fan-out), biases 0;
            `pytorch`: all weights and biases uniform within 1 / sqrt(fan-in).
        gain: factor of the initial weights, above 0; null: 1.4 for `normal` and 1 for `xavier`;
            `pytorch` has none.
        readout_std: standard deviation of the readout's initial weights, which are then normal, 0
            or more; null: as `init` says.
        seed: seed of the initial weights, 0 or more; null: --run.seed.

    Raises:
        InputError: an argument is outside its range, or the targets are no images.
    """

    def __init__(
        self,
        d: int,
        k: int,
        widths: Sequence[int] = (512,) * 5,
        activation: Name = "tanh",
        init: Init = "normal",
        gain: float | None = None,
        readout_std: float | None = None,
        seed: int | None = None,
    ) -> None:
        _check_outputs(k, d)
        random = generator(seed_of(seed), "initial weights")
        super().__init__(d, k, widths, "all", activation, random)
        if init == "pytorch" and gain is not None:
            raise InputError("--model.gain", gain, "pytorch has none; give --model.init normal")
        if gain is not None and not 0 < gain < float("inf"):
            raise InputError("--model.gain", gain, "give a number above 0")
        if readout_std is not None and not (isfinite(readout_std) and readout_std >= 0):
            raise InputError("--model.readout_std", readout_std, "give 0 or more")
        layers = [*self.hidden, self.readout]
        if init == "normal":
            for layer in self.hidden:
                std = (NORMAL_GAIN if gain is None else gain) * layer.in_features**-0.5
                nn.init.normal_(layer.weight, 0, std, generator=random)
            nn.init.zeros_(self.readout.weight)
        elif init == "xavier":
            for layer in layers:
                nn.init.xavier_uniform_(layer.weight, gain or 1.0, generator=random)
        if init != "pytorch":
            for layer in layers:
                nn.init.zeros_(layer.bias)
        if readout_std is not None:
            nn.init.normal_(self.readout.weight, 0, readout_std, generator=random)


class ConvAutoencoder(Model):
    """A convolutional autoencoder: `depth` convolutions with an activation after all but the last.

    Without a stride every layer keeps the image's size. With `stride 2` the first layers, at most
    half of them, halve it down to 4 pixels, and as many of the last layers double it by repeating
    pixels before they convolve. Radhakrishnan et al. (arXiv 1810.10333) found that such networks
    memorise when they are deep; version 1 of the paper blames the stride.

    Every layer starts as in PyTorch, weights and biases uniform within 1 / sqrt(fan-in).

    >>> model = ConvAutoencoder((3, 8, 8), k=192, depth=4, stride=2, channels=5)
    >>> [layer.stride for layer in model.convolutions]
    [(2, 2), (1, 1), (1, 1), (1, 1)]
    >>> import torch
    >>> model(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 192])

    Args:
        input_shape: channels, height and width of an image.
        k: outputs, as many as inputs.
        depth: number of convolutions, 2 to 20.
        channels: of every hidden layer, at least 1.
        kernel: side of a convolution's kernel in pixels, odd.
        stride: 1, or 2 for an encoder that halves the image and a decoder that doubles it.
        activation: the activation function.
        seed: seed of the initial weights, 0 or more; null: --run.seed.

    Raises:
        InputError: an argument is outside its range, or inputs or targets are no images.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        k: int,
        depth: int = 6,
        channels: int = 32,
        kernel: int = 3,
        stride: Literal[1, 2] = 1,
        activation: Name = "leaky_relu",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if len(input_shape) != 3:
            remedy = "needs images; give --data with images, or Autoencoder"
            raise InputError("--model", "ConvAutoencoder", remedy)
        _check_outputs(k, prod(input_shape))
        if not 2 <= depth <= 20:
            raise InputError("--model.depth", depth, "give 2 to 20")
        if channels < 1:
            raise InputError("--model.channels", channels, "give at least 1")
        if kernel < 1 or kernel % 2 == 0:
            raise InputError("--model.kernel", kernel, "give an odd number of at least 1")
        if stride not in (1, 2):
            raise InputError("--model.stride", stride, "give 1 or 2")
        self.activation = ACTIVATIONS[activation]
        self.input_shape = tuple(input_shape)
        sides = input_shape[1:]
        self.halvings = 0
        while stride == 2 and self.halvings < depth // 2 and _can_halve(sides, self.halvings):
            self.halvings += 1
        if stride == 2 and self.halvings == 0:
            remedy = f"needs images of an even side above {SMALLEST_MAP} pixels; give 1"
            raise InputError("--model.stride", stride, remedy)
        random = generator(seed_of(seed), "initial weights")
        sizes = [input_shape[0], *[channels] * (depth - 1), input_shape[0]]
        self.convolutions = nn.ModuleList()
        for i, (incoming, outgoing) in enumerate(pairwise(sizes)):
            step = 2 if i < self.halvings else 1
            layer = skip_init(nn.Conv2d, incoming, outgoing, kernel, step, padding=kernel // 2)
            uniform_start(layer, random)
            self.convolutions.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w), or the same flat, to (n, d)."""
        z = x.reshape(-1, *self.input_shape)
        depth = len(self.convolutions)
        for i, layer in enumerate(self.convolutions):
            if i:
                z = self.activation.value(z)
            if i >= depth - self.halvings:
                z = F.interpolate(z, scale_factor=2.0)
            z = layer(z)
        return z.flatten(1)


def _can_halve(sides: Sequence[int], halvings: int) -> bool:
    """Whether a map of these sides, halved so often, can be halved once more."""
    factor = 2 ** (halvings + 1)
    return all(side % factor == 0 and side // factor >= SMALLEST_MAP for side in sides)


def _check_outputs(k: int, d: int) -> None:
    if k != d:
        remedy = f"an autoencoder has {d} outputs, not {k}; give Autoencode or Next"
        raise InputError("--task", "Labels", remedy)
