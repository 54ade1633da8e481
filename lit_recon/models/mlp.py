"""The two-layer network."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn.utils import skip_init

from lit_recon.activations import ACTIVATIONS, Name
from lit_recon.models.base import OneHiddenLayer, feature_count, seed_of
from lit_recon.randomness import generator
from lit_recon.tall_matrix import TallMatrix


class MLP(OneHiddenLayer):
    """Two linear layers without biases, both trained: ``f(x) = W2 s(W1 x)``.

    The setting of Iurada, Bombari, Tommasi, Mondelli 2025 (arXiv 2509.22214): W1 ~ N(0, 1 / d) and
    W2 ~ N(0, 1 / width) at the start.

    >>> model = MLP(d=12, k=1, n=4, p_over_dn=5.0)
    >>> model.width, model.first_layer.weight.shape
    (240, torch.Size([240, 12]))

    Args:
        d: input dimension.
        k: outputs.
        n: training samples.
        width: hidden units, at least 1; null: p_over_dn decides.
        p_over_dn: width as k width / (n d), above 0; null: 3, unless width is given.
        activation: the activation function s.
        seed: seed of the initial weights, 0 or more; null: --run.seed.

    Raises:
        InputError: width below 1, p_over_dn not above 0, or both given.
    """

    size_flag: ClassVar[str] = "width"

    def __init__(
        self,
        d: int,
        k: int,
        n: int,
        width: int | None = None,
        p_over_dn: float | None = None,
        activation: Name = "relu",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.width = feature_count("width", width, p_over_dn, n * d / k)
        seed = seed_of(seed)
        self.activation = ACTIVATIONS[activation]
        self.first_layer = skip_init(nn.Linear, d, self.width, bias=False)
        self.readout = skip_init(nn.Linear, self.width, k, bias=False)
        random = generator(seed, "initial weights")
        nn.init.normal_(self.first_layer.weight, 0, d**-0.5, generator=random)
        nn.init.normal_(self.readout.weight, 0, self.width**-0.5, generator=random)

    def rows(self, share: range) -> TallMatrix:
        weight = self.first_layer.weight.detach()
        return TallMatrix(weight, share, weight)

    def features(self, x: Tensor) -> Tensor:
        return self.activation.value(self.first_layer(x.flatten(1)))
