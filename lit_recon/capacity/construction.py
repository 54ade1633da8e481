"""The network of some samples: a first layer drawn at random, and a second one for each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lit_recon.capacity.codes import (
    Activation,
    BitCodes,
    Codes,
    Indices,
    RealCodes,
    codes_at,
    draw_first_layer,
    draw_order,
)
from lit_recon.capacity.greedy import SecondLayer, second_layer


@dataclass(frozen=True)
class Construction:
    """A constructed network, as far as its size and its fit go.

    Attributes:
        weight: (n1, d) float32, W.
        bias: (n1,) float32, b.
        layers: the second layer of each detected class: the second of two classes, or all of more.
        samples: of each detected class, the positions of its samples.
    """

    weight: Tensor
    bias: Tensor
    layers: Sequence[SecondLayer]
    samples: Sequence[Indices]

    @property
    def interpolates(self) -> bool:
        """Whether every sample gets its label.

        By construction no unit fires for a sample of another class.
        """
        return all(bool(layer.covered.all()) for layer in self.layers)

    @property
    def width(self) -> int:
        """n2, the units of the second layer over all classes."""
        return sum(len(layer.centres) for layer in self.layers)

    @property
    def parameters(self) -> int:
        """The number of weights and biases."""
        return parameter_count(self.weight.shape[1], len(self.bias), self.width)


def parameter_count(d: int, n1: int, n2: int) -> int:
    """Weights and biases of two layers, and one weight that links each unit to its class.

    >>> parameter_count(d=2, n1=10, n2=3)
    66
    """
    return n1 * (d + 1) + n2 * (n1 + 2)


def construct(
    x: Tensor, labels: Tensor, *, width: int, max_bias: float, activation: Activation, seed: int
) -> Construction:
    """Build the network of inputs (n, d) and their classes (n,), from 0 on.

    >>> import torch
    >>> x, labels = torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1])
    >>> network = construct(x, labels, width=8, max_bias=1.0, activation="threshold", seed=0)
    >>> network.interpolates, network.width, network.parameters
    (True, 1, 26)

    Args:
        x: (n, d).
        labels: (n,) int64; at least two classes.
        width: n1.
        max_bias: lambda, the largest bias of the first layer.
        activation: s.
        seed: of the first layer and of the orders of candidates.
    """
    flat = x.flatten(1)
    weight, bias = draw_first_layer(width, flat.shape[1], max_bias, seed)
    by_class = labels.argsort(stable=True)  # so that the codes of a class need no copy
    codes = codes_at(flat[by_class], weight, bias, activation)
    layers, samples = second_layers(codes, labels[by_class].numpy(), seed)
    return Construction(weight, bias, layers, [by_class.numpy()[own] for own in samples])


def second_layers(
    codes: Codes, labels: NDArray[np.int64], seed: int
) -> tuple[list[SecondLayer], list[Indices]]:
    """One-vs-rest: the second layer of each detected class, and the class's samples."""
    classes = int(labels.max()) + 1
    layers, samples = [], []
    for label in range(1, classes) if classes == 2 else range(classes):
        own, others = np.flatnonzero(labels == label), np.flatnonzero(labels != label)
        order = draw_order(len(own), seed, label)
        layers.append(second_layer(codes.take(own), codes.take(others), order))
        samples.append(own)
    return layers, samples


def codes_of(features: Tensor) -> Codes:
    """Codes from first-layer outputs (n, n1): bool of threshold units, float64 of ReLU units."""
    values = features.cpu().numpy()
    return BitCodes.of(values) if values.dtype == bool else RealCodes(values)


def twins(x: Tensor, labels: Tensor) -> tuple[int, int] | None:
    """The positions of two equal inputs with different classes; None: there are none.

    No network fits them.

    >>> import torch
    >>> twins(torch.tensor([[1.0], [2.0], [1.0]]), torch.tensor([0, 0, 1]))
    (0, 2)
    """
    rows = np.ascontiguousarray(x.flatten(1).numpy() + 0.0)  # -0.0 equals 0.0
    keys = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel()
    _, first, place = np.unique(keys, return_index=True, return_inverse=True)
    differ = np.flatnonzero(labels.numpy() != labels.numpy()[first[place]])
    return (int(first[place[differ[0]]]), int(differ[0])) if len(differ) else None
