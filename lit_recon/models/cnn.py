"""Convolutional networks without normalisation layers: a perceptron behind convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn.utils import skip_init

from lit_recon.activations import ACTIVATIONS, Name
from lit_recon.errors import InputError
from lit_recon.models.base import ReadoutModel, seed_of, small_start, uniform_start
from lit_recon.randomness import generator


class SmallCNN(ReadoutModel):
    """One convolution in front of a multi-layer perceptron, or two.

    Buzaglo et al. (2023, arXiv 2307.01827) attack such a network; their code and its sizes are not
    public. As in their perceptrons, only the first layer has biases, so with ReLU the network is
    homogeneous in its parameters. Every layer starts as in PyTorch, uniform between
    -1 / sqrt(fan-in) and 1 / sqrt(fan-in); with `first_layer_std` the first one starts with weights
    N(0, std^2) and biases 0.

    >>> model = SmallCNN((3, 8, 8), k=1, channels=4, stride=2, widths=[16])
    >>> [(name, tuple(value.shape)) for name, value in model.named_parameters()][:2]
    [('first_layer.weight', (4, 3, 3, 3)), ('first_layer.bias', (4,))]
    >>> import torch
    >>> model(torch.zeros(5, 3, 8, 8)).shape
    torch.Size([5, 1])

    Args:
        input_shape: channels, height and width of an image.
        k: outputs.
        convolutions: how many, 1 or 2.
        channels: of every convolution, at least 1.
        kernel: side of a convolution's kernel in pixels, odd, so that padding keeps the image's
            size.
        stride: of every convolution, at least 1.
        widths: units of each dense hidden layer, at least one layer and one unit.
        bias: which layers have biases: none, or only the first.
        activation: the activation function.
        first_layer_std: standard deviation of the first layer's initial weights, above 0; null:
            uniform weights as in the other layers.
        seed: seed of the initial weights, 0 or more; null: --run.seed.

    Raises:
        InputError: an argument is outside its range, or the inputs are no images.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        k: int,
        convolutions: int = 1,
        channels: int = 16,
        kernel: int = 3,
        stride: int = 1,
        widths: Sequence[int] = (256,),
        bias: Literal["none", "first"] = "first",
        activation: Name = "relu",
        first_layer_std: float | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if len(input_shape) != 3:
            raise InputError("--model", "SmallCNN", "needs images; give --data with images, or MLP")
        if convolutions not in (1, 2):
            raise InputError("--model.convolutions", convolutions, "give 1 or 2")
        for flag, value in (("channels", channels), ("stride", stride)):
            if value < 1:
                raise InputError(f"--model.{flag}", value, "give at least 1")
        if kernel < 1 or kernel % 2 == 0:
            raise InputError("--model.kernel", kernel, "give an odd number of at least 1")
        if not widths or min(widths) < 1:
            remedy = "give a list of numbers of 1 or more, such as '[512, 256]'"
            raise InputError("--model.widths", list(widths), remedy)
        random = generator(seed_of(seed), "initial weights")
        self.activation = ACTIVATIONS[activation]

        def convolution(incoming: int, *, biased: bool) -> nn.Conv2d:
            padding = kernel // 2
            layer = skip_init(
                nn.Conv2d, incoming, channels, kernel, stride, padding=padding, bias=biased
            )
            uniform_start(layer, random)
            return layer

        def dense(incoming: int, units: int) -> nn.Linear:
            layer = skip_init(nn.Linear, incoming, units, bias=False)
            uniform_start(layer, random)
            return layer

        self.first_layer = convolution(input_shape[0], biased=bias == "first")
        self.convolutions = nn.ModuleList(
            convolution(channels, biased=False) for _ in range(convolutions - 1)
        )
        h, w = input_shape[1:]
        for _ in range(convolutions):
            h, w = -(-h // stride), -(-w // stride)
        sizes = [channels * h * w, *widths]
        self.layers = nn.ModuleList(dense(a, b) for a, b in pairwise(sizes))
        self.readout = dense(widths[-1], k)
        if first_layer_std is not None:
            small_start(self.first_layer, first_layer_std, random)

    def features(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) to (n, p), the last hidden layer."""
        z = self.activation.value(self.first_layer(x))  # (n, channels, h / stride, w / stride)
        for layer in self.convolutions:
            z = self.activation.value(layer(z))
        z = z.flatten(1)
        for layer in self.layers:
            z = self.activation.value(layer(z))  # (n, width)
        return z
