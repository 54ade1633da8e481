"""Numbers that say whether trained weights solve the equations that attacks on them assume."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan

import torch
from torch import Tensor, nn

from lit_recon.errors import InputError
from lit_recon.metrics.numbers import TRAINING
from lit_recon.models.first_layer import first_dense_layer
from lit_recon.modules.losses import LOSSES, are_classes
from lit_recon.modules.optimisers import Optim
from lit_recon.objectives.stationarity import (
    Stationarity,
    decay_stationarity,
    margin_products,
    margin_stationarity,
    normalised_margin,
)

MOST_SAMPLES = 2000  # above it, the Gram matrix of all gradients takes longer than the training


class Optimality:
    """Measures weights while they train; it keeps the start of the first layer.

    A margin has a meaning for classes that are trained by `cross_entropy`, or by `logistic` with
    one output. What weights are stationary for is the margin, or with weight decay the loss.

    >>> from lit_recon.models import MLP
    >>> from lit_recon.modules.optimisers import SGD
    >>> meter = Optimality(MLP(d=2, k=1, n=2, width=3), SGD(loss="logistic"))
    >>> list(meter.measured(MLP(d=2, k=1, n=2, width=3), torch.eye(2), torch.ones(2, 1)))
    ['train/margin', 'train/normalised_margin', 'train/stationarity', 'train/start_left']

    Args:
        model: the network before its first step.
        optim: how it is trained.
    """

    def __init__(self, model: nn.Module, optim: Optim) -> None:
        self._optim = optim
        self._weight_decay = float(getattr(optim, "weight_decay", 0.0))
        self._of_classes = optim.loss in ("logistic", "cross_entropy")
        self._start: Tensor | None = None
        if self._of_classes or self._weight_decay:
            first = _first_weight(model)
            self._start = None if first is None else first.detach().cpu().clone()

    def measured(self, model: nn.Module, x: Tensor, y: Tensor) -> Mapping[str, float]:
        """Numbers of the present weights by their logged names; empty if none has a meaning.

        `start_left` is <W, W(0)> / ||W(0)||^2 of the first dense layer W: 1 at the start, and near
        0 once training has forgotten it. A start so small that it is forgotten at once, as that of
        Haim et al., can also grow along itself to more than 1 and be no part of W that matters.

        A number without a meaning here is NaN.

        Args:
            model: the network.
            x: (n, *input shape) all training inputs.
            y: (n, k) their targets.
        """
        has_margin = self._of_classes and are_classes(y)
        has_margin &= self._optim.loss == "cross_entropy" or y.shape[1] == 1
        if not (has_margin or self._weight_decay) or len(x) > MOST_SAMPLES:
            return {}
        found = {"start_left": self._start_left(model)}
        stationarity: Stationarity | None = None
        if has_margin:
            products = margin_products(model, x, y)
            found["margin"] = float(products.values.min())
            found["normalised_margin"] = _or_nan(normalised_margin(products))
            stationarity = margin_stationarity(products)
        if self._weight_decay:
            loss = LOSSES[self._optim.loss]
            stationarity = decay_stationarity(model, x, y, loss, self._weight_decay)
        assert stationarity is not None
        found["stationarity"] = stationarity.residual
        names = [number.name for number in TRAINING if number.name in found]
        return {f"train/{name}": found[name] for name in names}

    @torch.no_grad()
    def _start_left(self, model: nn.Module) -> float:
        weight, start = _first_weight(model), self._start
        if weight is None or start is None:
            return nan
        start = start.double()
        return float((weight.detach().cpu().double() * start).sum() / start.square().sum())


def _or_nan(value: float | None) -> float:
    return nan if value is None else value


def _first_weight(model: nn.Module) -> Tensor | None:
    """The weight of the first dense layer; None: the first layer is another, or not trained."""
    try:
        return first_dense_layer(model)[1].weight
    except InputError:
        return None
