"""The threat model as a type: everything that an attack may look at, and nothing else.

Shapes, here and in the whole package: ``n`` training samples, ``m`` candidates, ``d`` input
dimension, ``p`` features, ``k`` outputs; ``x (n, d)``, ``candidates (m, d)``, ``phi (m, p)``,
``target (k, p)``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class PixelScale:
    """How integer pixels became inputs: ``x = (u / 255 - mean) / std`` with ``u`` in 0..255.

    ``mean`` and ``std`` are two numbers for the whole training set, in pixel units of [0, 1]. They
    are public constants of a training pipeline, so the attacker may know them; no pixel is implied.
    With ``--data.normalize sphere`` every image was afterwards scaled to norm ``sqrt(d)``, which
    loses one number for each image that the integer pixels give back.

    >>> scale = PixelScale(shape=(3, 32, 32), mean=0.4, std=0.25)
    >>> scale.d, scale.offset
    (3072, 102.0)
    """

    shape: tuple[int, int, int]  # channels, height, width
    mean: float | Tensor  # a number; subclasses have one for each pixel or channel
    std: float | Tensor  # a number; a subclass has one for each channel

    @property
    def d(self) -> int:
        """The number of values in one image."""
        return prod(self.shape)

    @property
    def words(self) -> str:
        """What an attacker knows who is given it."""
        return FACTS["pixels"]

    @property
    def offset(self) -> float | Tensor:
        """The image of a zero input, in levels of 0..255: one number, or (d,) float64."""
        return 255 * self.mean

    def values(self, x: Tensor) -> Tensor:
        """(m, c, h, w) pixels of m inputs in units of [0, 1], neither rounded nor clamped."""
        return self.mean + self.std * x.reshape(-1, *self.shape)

    def __eq__(self, other: object) -> bool:
        """Whether all values are the same; a generated comparison fails on tensors."""
        if type(other) is not type(self):
            return NotImplemented
        assert isinstance(other, PixelScale)
        pairs = ((self.mean, other.mean), (self.std, other.std))
        doubles = [[torch.as_tensor(value, dtype=torch.float64) for value in two] for two in pairs]
        return self.shape == other.shape and all(torch.equal(*two) for two in doubles)

    def __hash__(self) -> int:
        return hash(self.shape)


@dataclass(frozen=True, eq=False)
class MeanImageScale(PixelScale):
    """A scale with one mean for each pixel: ``x = (u / 255 - mean image) / std``.

    Haim et al. (2022, arXiv 2206.07758) subtract the mean image of the training set and do not
    divide, hence the ``std`` of 1. The mean image holds d numbers about the training set, where the
    scale above holds one. An attacker who is given it knows more.

    >>> mean_image = torch.full((1, 1, 2), 0.4, dtype=torch.float64)
    >>> MeanImageScale((1, 1, 2), mean_image).offset.tolist()
    [102.0, 102.0]

    Raises:
        ValueError: the mean image is not float64 of the given shape.
    """

    mean: Tensor  # (c, h, w) float64 on the CPU, in [0, 1]
    std: float = 1.0

    def __post_init__(self) -> None:
        if self.mean.shape != self.shape or self.mean.dtype != torch.float64:
            given = f"{tuple(self.mean.shape)} {self.mean.dtype}"
            raise ValueError(f"the mean image must be {self.shape} float64, not {given}")

    @property
    def words(self) -> str:
        return f"{FACTS['pixels']} with the mean image of the training set"

    @property
    def offset(self) -> Tensor:
        return 255 * self.mean.flatten()


@dataclass(frozen=True, eq=False)
class ChannelScale(PixelScale):
    """A scale with one mean and one standard deviation for each channel, as pipelines often have.

    >>> scale = ChannelScale.of((3, 1, 1), [0.2, 0.4, 0.6], [0.25, 0.25, 0.5])
    >>> [round(level) for level in scale.offset.tolist()]
    [51, 102, 153]
    """

    mean: Tensor  # (c, 1, 1) float64 on the CPU, in [0, 1]
    std: Tensor  # (c, 1, 1) float64 on the CPU, above 0

    @classmethod
    def of(
        cls, shape: tuple[int, int, int], mean: Sequence[float], std: Sequence[float]
    ) -> ChannelScale:
        """The scale of images of that shape (c, h, w), from c means and c standard deviations."""
        tall = (shape[0], 1, 1)
        values = (torch.tensor(list(given), dtype=torch.float64) for given in (mean, std))
        return cls(shape, *(value.reshape(tall) for value in values))

    @property
    def offset(self) -> Tensor:
        return 255 * self.mean.expand(self.shape).flatten()


@dataclass(frozen=True)
class DenseLayer:
    """The weights of a dense layer at one checkpoint.

    >>> layer = DenseLayer("body.0", torch.zeros(4, 3), bias=None, step=0)
    >>> layer.d
    3

    Attributes:
        name: the layer's dotted name in the model.
        weight: (h, d), h units.
        bias: (h,); None: the layer has none.
        step: the training step of the checkpoint; None: not known.
    """

    name: str
    weight: Tensor
    bias: Tensor | None = None
    step: int | None = None

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], name: str, step: int | None = None) -> DenseLayer:
        """The layer of that name in the weights of a network, by their names.

        Raises:
            KeyError: there is no such layer.
        """
        inside = f"{name}." if name else ""  # a network that is one layer
        return cls(name, weights[f"{inside}weight"], weights.get(f"{inside}bias"), step)

    @property
    def d(self) -> int:
        """The number of values in one input of the layer."""
        return self.weight.shape[1]


FACTS = {
    "initial_readout": "initial readout",
    "earlier_first_layer": "first layer at an earlier checkpoint",
    "initial_share": "how much of the initial weights training has left",
    "optimiser_keeps_span": "kind of optimiser",
    "n": "number of training samples",
    "pixels": "image shape and normalisation",
    "radius": "norm of the inputs",
    "shape": "shape of an input",
}
"""The attributes of `Knowledge` that may be blank, in words."""


@dataclass(frozen=True)
class Knowledge:
    """What the attacker holds: the released model, and any further facts. None: not known.

    A method names the facts that it asks for (`Reconstructor.asks`); all others are blank when it
    runs. A fact is never more than the attack uses: one that the weights give away, or that changes
    nothing, stays blank.

    >>> held = Knowledge(nn.Linear(4, 2), n=3, radius=2.0)
    >>> held.facts
    ['final weights', 'number of training samples', 'norm of the inputs']
    >>> held.only({"radius"}).facts
    ['final weights', 'norm of the inputs']

    Attributes:
        model: the trained network in eval mode with its final parameters; shares storage with no
            parameter that training still changes.
        initial_readout: (k, p) readout weight at step 0.
        earlier_first_layer: the first dense layer at a checkpoint before that of `model`; for a
            run that is step 0.
        initial_share: what weight decay or a closed form has left of the initial weights, as a
            factor; None: all of them.
        optimiser_keeps_span: whether an update is a combination of the samples' gradients, as it is
            with SGD and is not with Adam.
        n: the number of training samples.
        pixels: the pixel scale of images.
        radius: the norm that every training input has.
        shape: of an input, where neither ``pixels`` nor the weights give it.
    """

    model: nn.Module
    initial_readout: Tensor | None = None
    earlier_first_layer: DenseLayer | None = None
    initial_share: float | None = None
    optimiser_keeps_span: bool | None = None
    n: int | None = None
    pixels: PixelScale | None = None
    radius: float | None = None
    shape: tuple[int, ...] | None = None

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """The shape of one input, None where it is not known."""
        return self.pixels.shape if self.shape is None and self.pixels else self.shape

    @property
    def facts(self) -> list[str]:
        """What the attacker holds, in words."""
        held = {name: words for name, words in FACTS.items() if getattr(self, name) is not None}
        if self.pixels is not None:
            held["pixels"] = self.pixels.words
        return ["final weights", *held.values()]

    def only(self, asked: Collection[str]) -> Knowledge:
        """The same with every fact blank that is not asked for.

        Args:
            asked: names of attributes other than ``model``.

        Raises:
            ValueError: no such fact.
        """
        unknown = set(asked) - FACTS.keys()
        if unknown:
            raise ValueError(f"no such facts: {sorted(unknown)}")
        blank: dict[str, Any] = dict.fromkeys(FACTS.keys() - set(asked))
        return replace(self, **blank)
