"""A bound on the stationarity of weights that needs no data.

Let theta be a combination g of the gradients of a network's outputs, at any inputs, plus an error
e. For a hidden ReLU unit i, with a_i = relu(z_i), the gradients by its incoming weights w_in (with
its bias) and by its outgoing weights w_out fulfil for every input

    <w_in, grad_in> = z_i ds/dz_i = a_i ds/da_i = <w_out, grad_out>,

so the same holds for g, and ||w_in||^2 - ||w_out||^2 = <w_in, e_in> - <w_out, e_out>. With
Cauchy and Schwarz

    (||w_in||^2 - ||w_out||^2)^2 / (||w_in||^2 + ||w_out||^2) <= ||e_in||^2 + ||e_out||^2.

The e of different units of one layer have no weight in common, nor have those of every second
layer, so the left sides add up to a lower bound of ||e||^2. A channel of a convolution is a unit.
The layers' version is in Du, Hu and Lee 2018 (arXiv 1806.00900) and Lyu and Li 2020 (arXiv
1906.05890).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from lit_recon.objectives.stationarity import energy_of

Layer = nn.Linear | nn.Conv2d


@torch.no_grad()
def relu_chain(model: nn.Module, x: Tensor) -> list[Layer] | None:
    """The layers of a network in which each gets the ReLU of the one before and nothing else.

    Args:
        model: the network, in eval mode.
        x: (m, *input shape) any inputs.

    Returns:
        At least two layers, the last of which gives the output; None: the network is no such chain.
    """
    calls: list[tuple[Layer, Tensor, Tensor]] = []

    def look(layer: Layer, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        calls.append((layer, given[0].clone(), output.clone()))
        return output

    layers = [layer for layer in model.modules() if isinstance(layer, Layer)]
    handles = [layer.register_forward_hook(look) for layer in layers]
    try:
        result = model(x)
    finally:
        for handle in handles:
            handle.remove()
    if len(calls) < 2 or len({id(layer) for layer, *_ in calls}) < len(calls):
        return None
    steps = pairwise(calls)
    linked = all(torch.equal(b[1].flatten(1), a[2].relu().flatten(1)) for a, b in steps)
    return [layer for layer, *_ in calls] if linked and torch.equal(result, calls[-1][2]) else None


@torch.no_grad()
def imbalance(layers: Sequence[Layer]) -> float:
    """A lower bound of ||theta - g|| / ||theta|| over all combinations g of gradients.

    >>> layers = [nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)]
    >>> for layer, value in zip(layers, (3.0, 4.0)):
    ...     _ = layer.weight.data.fill_(value)
    >>> round(imbalance(layers), 3)  # sqrt((9 - 16)^2 / (9 + 16)^2)
    0.28

    Args:
        layers: a chain of `relu_chain`, all trained.
    """
    energy = energy_of(p for layer in layers for p in layer.parameters())
    parts = []
    for layer, following in pairwise(layers):
        incoming = layer.weight.double().square().flatten(1).sum(1)  # (units,)
        if layer.bias is not None:
            incoming = incoming + layer.bias.double().square()
        # A dense layer behind a convolution reads all positions of a channel.
        outgoing = following.weight.double().square().transpose(0, 1)
        outgoing = outgoing.reshape(len(incoming), -1).sum(1)
        whole = incoming + outgoing
        parts.append(float(((incoming - outgoing).square() / whole)[whole > 0].sum()))
    return (max(sum(parts[::2]), sum(parts[1::2])) / energy) ** 0.5 if energy else 0.0
