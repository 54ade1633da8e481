"""Adam with one second moment for each tensor, and a readout in closed form after the last step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from lit_recon.models import ReadoutModel
from lit_recon.modules.losses import evaluated

BETAS = (0.9, 0.999)  # decay of the first and the second moment, as in Adam
EPSILON = 1e-12  # added to the root of the second moment: a gradient of 0 makes no step
ROUNDS = 3  # of the closed form: each removes what rounding has left of the residuals


class PerTensorAdam(Optimizer):
    """Adam whose second moment is one number for each tensor, the mean square of its gradient norm.

    m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) ||g||^2, and the step is lr m' / sqrt(v') with the
    usual corrections m' and v' of the start at 0. A first step has the length lr in every tensor.

    Args:
        parameters: the trained parameters.
        lr: length of a first step, 0 or more.
    """

    def __init__(self, parameters: Iterable[Parameter], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        loss = evaluated(closure)
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            gradients = [p.grad for p in weights if p.grad is not None]
            if not weights:
                continue
            states = [self._state(p) for p in weights]
            means = [state["mean"] for state in states]
            for state, norm in zip(states, torch._foreach_norm(gradients), strict=True):
                state["step"] += 1
                state["square"].lerp_(norm.square(), 1 - BETAS[1])
            torch._foreach_lerp_(means, gradients, 1 - BETAS[0])
            for p, state in zip(weights, states, strict=True):
                corrections = [1 - beta ** state["step"] for beta in BETAS]
                scale = (state["square"] / corrections[1]).sqrt() + EPSILON
                p.addcdiv_(state["mean"], scale, value=-group["lr"] / corrections[0])
        return loss

    def _state(self, p: Parameter) -> dict[str, Any]:
        state: dict[str, Any] = self.state[p]
        if not state:
            state["step"] = 0
            state["mean"] = torch.zeros_like(p)
            # Of the weight's dtype, to which torch casts what it loads from a checkpoint.
            state["square"] = p.new_zeros(())
        return state


@torch.no_grad()
def polish_readout(model: ReadoutModel, x: Tensor, y: Tensor) -> None:
    """Change the readout by the smallest matrix that makes all outputs the targets.

    The residuals Y - f(X) = [h, 1] [dW, db]^T are solved for in float64, with features h (n, p) of
    the weights as they are stored. The result has the precision of the weights: for inputs of norm
    32, mean squared errors of about 1e-31 in float64. Weights that are rounded to float32 leave
    1e-17, and a network that also computes in float32 gives 1e-14.

    >>> from lit_recon.models import Autoencoder
    >>> x = torch.eye(4, dtype=torch.float64)
    >>> model = Autoencoder(d=4, k=4, widths=[8]).double()
    >>> polish_readout(model, x, x)
    >>> bool((model(x) - x).abs().max() < 1e-12)
    True

    Args:
        model: the network, changed in place.
        x: (n, *input shape), at most as many as features.
        y: (n, k).
    """
    exact = deepcopy(model).double()
    readout = exact.readout
    h = exact.features(x.double())  # (n, p)
    design = h if readout.bias is None else torch.cat([h, torch.ones_like(h[:, :1])], 1)
    inverse = torch.linalg.pinv(design)  # (p, n), or (p + 1, n) with a bias
    for _ in range(ROUNDS):
        change = (inverse @ (y.double() - readout(h))).T  # (k, p + 1)
        readout.weight.add_(change[:, : h.shape[1]])
        if readout.bias is not None:
            readout.bias.add_(change[:, -1])
    model.readout.load_state_dict(readout.state_dict())
