"""Residual networks without normalisation layers and biases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from lit_recon.errors import InputError
from lit_recon.models.base import ReadoutModel, feature_count, seed_of
from lit_recon.randomness import generator

STEM_OUT = 7  # height and width of the output of the paper's stem
STAGES = 3


class ResidualBlock(nn.Module):
    """``relu(shortcut(x) + conv(relu(conv(x))))`` with 3x3 convolutions."""

    def __init__(self, width_in: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.first = skip_init(nn.Conv2d, width_in, width, 3, stride, padding=1, bias=False)
        self.second = skip_init(nn.Conv2d, width, width, 3, padding=1, bias=False)
        same = stride == 1 and width_in == width
        self.shortcut = (
            None if same else skip_init(nn.Conv2d, width_in, width, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, width_in, h, w) to (n, width, h / stride, w / stride)."""
        kept = x if self.shortcut is None else self.shortcut(x)
        return F.relu(kept + self.second(F.relu(self.first(x))))


class ResNet(ReadoutModel):
    """A residual network with a linear head, every weight N(0, 1 / fan-in) at the start.

    ``stem: whole`` is the network of Iurada, Bombari, Tommasi, Mondelli 2025 (arXiv 2509.22214):
    the first convolution has a kernel 4 pixels smaller than the image (28x28 for 32x32) and an
    output of 7x7 positions, all blocks have the same width, and the head takes all positions. The
    stem's weights are N(0, 1 / d). ``stem: 3x3`` is the usual network for small images (He, Zhang,
    Ren, Sun 2016, arXiv 1512.03385, section 4.2): three stages; the second and the third halve the
    resolution and double the width.

    >>> ResNet((3, 8, 8), k=1, n=2, width=4, blocks=1).p  # 7x7 positions of 4 channels
    196

    Args:
        input_shape: channels, height and width of an image.
        k: outputs.
        n: training samples.
        width: channels of the first block, at least 1; null: p_over_dn decides.
        p_over_dn: number of the head's inputs p as k p / (n d), above 0, rounded to a whole width;
            null: 3, unless width is given.
        blocks: residual blocks, at least 1; with ``stem: 3x3`` at least 3.
        stem: the first convolution: ``whole`` is the paper's, ``3x3`` the usual one.
        pool: the head's input: ``flatten`` is all positions, ``mean`` their average.
        seed: seed of the initial weights, 0 or more; null: --run.seed.

    Raises:
        InputError: an argument outside its range, or inputs that are not images or are too small.
    """

    size_flag: ClassVar[str] = "width"

    def __init__(
        self,
        input_shape: Sequence[int],
        k: int,
        n: int,
        width: int | None = None,
        p_over_dn: float | None = None,
        blocks: int = 4,
        stem: Literal["whole", "3x3"] = "whole",
        pool: Literal["flatten", "mean"] = "flatten",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if len(input_shape) != 3:
            raise InputError("--model", "ResNet", "needs images; give --data with images, or MLP")
        c, h, w = input_shape
        stages = 1 if stem == "whole" else STAGES
        least = STEM_OUT - 2 if stem == "whole" else 2 ** (STAGES - 1)
        if h != w or h < least or (stem == "3x3" and h % least):
            remedy = f"ResNet with stem {stem} needs squares of "
            remedy += f"{least} or more pixels on a side" + f", a multiple of {least}" * (
                stages > 1
            )
            raise InputError("--data.image_size", f"{h}x{w}", remedy)
        if blocks < stages:
            raise InputError("--model.blocks", blocks, f"give at least {stages}")
        seed = seed_of(seed)
        side = STEM_OUT if stem == "whole" else h // 2 ** (STAGES - 1)
        seen = 2 ** (stages - 1) * (side**2 if pool == "flatten" else 1)  # p per unit of width
        self.width = feature_count("width", width, p_over_dn, n * c * h * w / k / seen)
        self.pool = pool
        kernel = h + 2 - (STEM_OUT - 1) if stem == "whole" else 3
        self.stem = skip_init(nn.Conv2d, c, self.width, kernel, padding=1, bias=False)
        self.blocks = nn.Sequential()
        channels = self.width
        for block in range(blocks):
            wide = self.width * 2 ** (block * stages // blocks)
            self.blocks.append(ResidualBlock(channels, wide, stride=1 if wide == channels else 2))
            channels = wide
        self.readout = skip_init(nn.Linear, self.width * seen, k, bias=False)
        random = generator(seed, "initial weights")
        for weight in self.parameters():
            nn.init.normal_(weight, 0, weight[0].numel() ** -0.5, generator=random)
        if stem == "whole":
            with torch.no_grad():
                self.stem.weight *= (self.stem.weight[0].numel() / (c * h * w)) ** 0.5

    def features(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) to (n, p)."""
        x = self.blocks(F.relu(self.stem(x)))
        return x.flatten(1) if self.pool == "flatten" else x.mean((2, 3))
