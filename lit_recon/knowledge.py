"""The threat model as a type: everything that an attack may look at, and nothing else.

Shapes, here and in the whole package: ``n`` training samples, ``m`` candidates, ``d`` input
dimension, ``p`` features, ``k`` outputs; ``x (n, d)``, ``candidates (m, d)``, ``phi (m, p)``,
``target (k, p)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from torch import Tensor, nn


@dataclass(frozen=True)
class PixelScale:
    """How integer pixels became inputs: ``x = (u / 255 - mean) / std`` with ``u`` in 0..255.

    ``mean`` and ``std`` are two numbers for the whole training set, in pixel units of [0, 1]. They
    are public constants of a training pipeline, so the attacker may know them; no pixel is implied.
    With ``--data.normalize sphere`` every image was afterwards scaled to norm ``sqrt(d)``, which
    loses one number for each image that the integer pixels give back.
    """

    shape: tuple[int, int, int]  # channels, height, width
    mean: float
    std: float

    @property
    def d(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Knowledge:
    """What the attacker holds: the released model, its start, and constants of the pipeline.

    Attributes:
        model: the trained network in eval mode with its final parameters; shares storage with no
            parameter that training still changes.
        readout: (k, p) final readout weight.
        initial_readout: (k, p) readout weight at step 0; where weight decay has shrunk it since,
            what is left of it.
        n: the number of training samples.
        pixels: the pixel scale for images, None for other data.
        radius: the norm that every training input has, None where it is unknown.
        initial_first_layer: (p, d) first-layer weight at step 0, or what weight decay has left of
            it; None where it is unknown.
        shape: of an input, None where it is that of ``pixels`` or where inputs are vectors.
    """

    model: nn.Module
    readout: Tensor
    initial_readout: Tensor
    n: int
    pixels: PixelScale | None = None
    radius: float | None = None
    initial_first_layer: Tensor | None = None
    shape: tuple[int, ...] | None = None

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """Of one input, if it is known."""
        return self.pixels.shape if self.shape is None and self.pixels else self.shape

    @property
    def facts(self) -> list[str]:
        """What the attacker holds, in words."""
        held = {
            "final weights": True,
            "initial readout": True,
            "initial first layer": self.initial_first_layer is not None,
            "number of training samples": True,
            "image shape and normalisation": self.pixels is not None,
            "norm of the inputs": self.radius is not None,
        }
        return [fact for fact, known in held.items() if known]

    @property
    def target(self) -> Tensor:
        """(k, p) final minus initial readout: a combination of the training samples' features."""
        return self.readout - self.initial_readout
