"""The optimiser that builds an `Interpolator` instead of training it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from lit_recon.capacity.construction import codes_of, second_layers, twins
from lit_recon.errors import InputError
from lit_recon.models import Interpolator, Model
from lit_recon.models.interpolator import second_weights
from lit_recon.modules.losses import are_classes, evaluated
from lit_recon.modules.optimisers import Current, Design, Optim


@dataclass(frozen=True)
class Construct(Optim):
    """The second layer of an `Interpolator` from all samples, in one greedy pass and one step.

    >>> Construct().closed_form, Construct().full_batch
    (True, True)

    Args:
        seed: seed of the order in which samples are made into units, 0 or more; null: --run.seed.
    """

    closed_form: ClassVar[bool] = True
    full_batch: ClassVar[bool] = True
    span_warning: ClassVar[str | None] = None

    seed: int | None = None

    def __post_init__(self) -> None:
        if self.seed is not None and self.seed < 0:
            raise InputError("--optim.seed", self.seed, "give 0 or more")

    def check_data(self, model: Model, x: Tensor, y: Tensor) -> None:
        if not isinstance(model, Interpolator):
            remedy = f"builds an Interpolator, and {type(model).__name__} is trained; give SGD"
            raise InputError("--optim", "Construct", remedy)
        check_labels(x, y)

    def build(self, parameters: Iterable[Parameter], current: Current) -> Optimizer:
        return _Construction(parameters, current.design, self.seed or 0)

    def initial_share(self, steps: int) -> float:
        return 0.0 if steps else 1.0


class _Construction(Optimizer):
    """A torch optimiser whose step replaces the second and the third layer."""

    def __init__(self, parameters: Iterable[Parameter], design: Design, seed: int) -> None:
        super().__init__(parameters, {})
        self.design = design
        self.seed = seed

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        loss = evaluated(closure)
        features, y = self.design()
        layers, _ = second_layers(codes_of(features), labels_of(y).numpy(), self.seed)
        masks, thresholds, third_layer, *_ = self.param_groups[0]["params"]
        for weights, found in zip(
            (masks, thresholds, third_layer), second_weights(layers), strict=True
        ):
            weights.data, weights.grad = found.to(weights), None
        return loss


def labels_of(y: Tensor) -> Tensor:
    """Classes (n,) int64 from targets (n, k).

    >>> labels_of(torch.tensor([[-1.0], [1.0]])).tolist()
    [0, 1]
    """
    return (y[:, 0] > 0).long().cpu() if y.shape[1] == 1 else y.argmax(1).cpu()


def check_labels(x: Tensor, y: Tensor) -> None:
    """Refuse data that no network fits, or that have no classes.

    Raises:
        InputError: targets that are no classes, one class alone, or two equal inputs that differ in
            their class.
    """
    if not are_classes(y):
        raise InputError("--optim", "Construct", "fits classes, and these targets are none")
    labels = labels_of(y)
    if len(labels.unique()) < 2:
        raise InputError("--data", "of one class", "there is nothing to tell apart; give two")
    pair = twins(x, labels)
    if pair is not None:
        remedy = "are equal and of different classes; no network can fit both"
        raise InputError("--data", f"samples {pair[0]} and {pair[1]}", remedy)


@torch.no_grad()
def network_numbers(model: Model, x: Tensor, y: Tensor) -> dict[str, float]:
    """The size and the fit of a constructed network by their logged names; empty of any other.

    >>> model = Interpolator(d=1, k=1, width=4)
    >>> network_numbers(model, torch.zeros(2, 1), -torch.ones(2, 1))["train/interpolates"]
    1.0

    Args:
        model: the network.
        x: (n, *input shape) training inputs.
        y: (n, k) their targets.
    """
    if not isinstance(model, Interpolator):
        return {}
    return {
        "train/interpolates": float(torch.equal(model(x), y.to(x))),
        "train/width": float(model.second_width),
        "train/parameters": float(model.size),
    }
