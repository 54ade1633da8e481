"""What a network must offer to be trained and attacked."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from lit_recon.activations import Activation
from lit_recon.linalg import times_rows
from lit_recon.rows import Rows


class ReadoutModel(nn.Module, ABC):
    """A network that ends in a linear readout.

    Attributes:
        readout: the last linear layer, weight (k, p).
    """

    readout: nn.Linear

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """(n, *input shape) to the readout's input (n, p)."""

    @property
    def frozen(self) -> bool:
        """Whether the readout alone is trained, so that the features of an input never change."""
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

    @property
    def p(self) -> int:
        """The number of features."""
        return self.readout.in_features

    @abstractmethod
    def rows(self, share: range) -> Rows:
        """These rows of V (p, d), which any rank can read without the help of another."""

    def features(self, x: Tensor) -> Tensor:
        """(n, *input shape) to (n, p)."""
        return self.activation.value(times_rows(x.flatten(1), self.rows(range(self.p))))
