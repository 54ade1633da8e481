"""What a network must offer to be trained and attacked."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from lit_recon.activations import Activation
from lit_recon.linalg import times_rows


class ReadoutModel(nn.Module, ABC):
    """A network that ends in a linear readout.

    Attributes:
        readout: the last linear layer, weight (k, p).
    """

    readout: nn.Linear

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """(n, *input shape) to the readout's input (n, p)."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, *input shape) to (n, k)."""
        return self.readout(self.features(x))


class OneHiddenLayer(ReadoutModel):
    """A network ``f(x) = theta s(V x)`` without biases.

    Attributes:
        first_layer: (p, d) V.
        activation: s.
    """

    first_layer: Tensor
    activation: Activation

    def features(self, x: Tensor) -> Tensor:
        """(n, *input shape) to (n, p)."""
        return self.activation.value(times_rows(x.flatten(1), self.first_layer))
