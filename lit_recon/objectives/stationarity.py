"""How nearly trained weights solve the equations that tie them to their training samples.

Gradient descent on a logistic loss ends, in direction, at a point of the margin problem: the
weights are a combination of the gradients of the samples' margins, with multipliers of 0 or more
(Lyu and Li 2020, arXiv 1906.05890; Haim et al. 2022, arXiv 2206.07758, equation 5). Training with
weight decay ends where the weights are a combination of the gradients of the outputs (Buzaglo et
al. 2023, arXiv 2307.01827). What is left of the weights after the best such combination is the
stationarity residual.

theta are the trained parameters, and o_i a scalar of sample i, such as its margin. The gradient of
o_i by the weight of a dense or convolutional layer is a sum of outer products of what flows back
and what flows in. So inner products of gradients need no gradient as a vector of all parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from scipy.optimize import nnls
from torch import Tensor, nn
from torch.nn import functional as F

BLOCK_NUMBERS = 2**25  # of gradients that are kept at a time, where they are formed: 256 MiB
EXPLAINED = 1e-3  # relative error up to which layers explain the gradient, and a degree is whole


@dataclass(frozen=True)
class GradientProducts:
    """Inner products of the gradients of n scalars o_i by the trained parameters theta.

    Attributes:
        values: (n,) the scalars o_i.
        gram: (n, n) <grad o_i, grad o_j>.
        with_weights: (n,) <grad o_i, theta>.
        energy: ||theta||^2.
    """

    values: Tensor
    gram: Tensor
    with_weights: Tensor
    energy: float

    @property
    def degree(self) -> int | None:
        """The degree L of o(c theta) = c^L o(theta) for c > 0; None: the network has none.

        By Euler's theorem, <grad o_i, theta> = L o_i. A network of L dense layers with a
        homogeneous activation, and with biases in its first layer only, has degree L. None too
        where all o_i are zero.
        """
        square = float(self.values.square().sum())
        if not 0 < square < float("inf"):
            return None
        degree = round(float(self.values @ self.with_weights) / square)
        rest = (self.with_weights - degree * self.values).norm()
        return degree if degree > 0 and float(rest) <= EXPLAINED * square**0.5 else None


@dataclass(frozen=True)
class Stationarity:
    """How nearly the weights are a combination of gradients.

    Attributes:
        residual: norm of what is left of theta, over the norm of theta; 0: stationary.
        multipliers: the combination: (n,) of a margin problem, (n, k) with weight decay.
    """

    residual: float
    multipliers: Tensor


def margins(output: Tensor, y: Tensor) -> Tensor:
    """(n,) margins of outputs (n, k) with class targets (n, k).

    y f for one output and targets -1 and 1; for one-hot targets the output of the true class less
    the largest of the others. Above 0: in the right class.

    >>> margins(torch.tensor([[3.0, 1.0, 2.5]]), torch.tensor([[1.0, 0.0, 0.0]])).tolist()
    [0.5]
    """
    if y.shape[1] == 1:
        return (y * output)[:, 0]
    true = y > 0.5
    return output[true] - output.masked_fill(true, float("-inf")).amax(1)


def normalised_margin(products: GradientProducts) -> float | None:
    """The smallest margin over ||theta||^L, whose limit is a point of the margin problem.

    Args:
        products: of the margins.

    Returns:
        The number; None: the network is not homogeneous, so there is no L.
    """
    degree = products.degree
    if degree is None:
        return None
    return float(products.values.min()) / products.energy ** (degree / 2)


def margin_products(model: nn.Module, x: Tensor, y: Tensor) -> GradientProducts:
    """Inner products of the gradients of the margins, for inputs x and class targets y (n, k)."""
    return gradient_products(model, x, lambda output: margins(output, y))


def margin_stationarity(products: GradientProducts) -> Stationarity:
    """The smallest ||theta - sum_i lambda_i grad o_i|| / ||theta|| over lambda_i >= 0.

    With several outputs, the gradient of a margin is that of the true class less that of its first
    rival, as in Buzaglo et al.; where a sample has rivals of one margin, the residual stays above
    0. That lambda is 0 away from the margin is not asked for; see the multipliers.

    Args:
        products: of the margins o_i.
    """
    scale = products.energy
    if scale == 0:
        return Stationarity(0.0, torch.zeros_like(products.with_weights))
    # ||theta - G^T lambda||^2 = ||b - A lambda||^2 + (||theta||^2 - ||b||^2) for gram = A^T A and
    # A^T b = G theta. Eigenvectors and not Cholesky: equal samples make the Gram matrix singular.
    values, vectors = torch.linalg.eigh(products.gram / scale)
    kept = values > values[-1].clamp_min(0) * len(values) * torch.finfo(values.dtype).eps
    if not bool(kept.any()):
        return Stationarity(1.0, torch.zeros_like(products.with_weights))
    root, basis = values[kept].sqrt(), vectors[:, kept]
    a = root[:, None] * basis.T  # (r, n)
    b = basis.T @ (products.with_weights / scale) / root  # (r,)
    multipliers, distance = nnls(a.cpu().numpy(), b.cpu().numpy(), maxiter=30 * len(values))
    square = distance**2 + max(0.0, 1 - float(b.square().sum()))
    return Stationarity(square**0.5, torch.from_numpy(multipliers).to(values))


def decay_stationarity(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    weight_decay: float,
) -> Stationarity:
    """||theta + grad loss / weight_decay|| / ||theta||: 0 at the end of training with weight decay.

    Args:
        model: the network; it is evaluated in eval mode.
        x: (n, *input shape) all training inputs.
        y: (n, k) their targets.
        loss: the training loss of outputs and targets, a mean over samples.
        weight_decay: factor of theta in the gradient, above 0.

    Returns:
        The residual, and the multipliers of the gradients of the outputs: -(d loss / d output_i) /
        weight_decay.
    """
    trained = trained_parameters(model)
    with _evaluated(model):
        output = model(x)
        slopes, *gradients = torch.autograd.grad(
            loss(output, y), [output, *trained], materialize_grads=True
        )
    parts = zip(trained, gradients, strict=True)
    left = sum(
        float((p.detach().double() + g.double() / weight_decay).square().sum()) for p, g in parts
    )
    energy = energy_of(trained)
    return Stationarity((left / energy) ** 0.5 if energy else 0.0, -slopes.double() / weight_decay)


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters theta: those that training changes."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def gradient_products(
    model: nn.Module, x: Tensor, scalars: Callable[[Tensor], Tensor]
) -> GradientProducts:
    """Inner products of per-sample gradients, exact, in float64.

    Where all trained parameters are those of ``nn.Linear`` and ``nn.Conv2d`` layers, this takes one
    pass forward and back. Otherwise there is one pass back for every sample.

    >>> products = gradient_products(nn.Linear(2, 1, bias=False), torch.eye(2), lambda f: f[:, 0])
    >>> products.gram.tolist(), products.degree
    ([[1.0, 0.0], [0.0, 1.0]], 1)

    Args:
        model: the network; it is evaluated in eval mode, where samples do not affect each other.
        x: (n, *input shape), of the model's dtype and device.
        scalars: outputs (n, k) to scalars o (n,), sample by sample.
    """
    trained = trained_parameters(model)
    layers = [layer for layer in model.modules() if _is_plain(layer)]
    with _evaluated(model), _recorded(layers) as calls:
        o = scalars(model(x))  # (n,)
        outputs = [call.output for call in calls]
        slopes = torch.autograd.grad(
            o.sum(), [*outputs, *trained], retain_graph=True, materialize_grads=True
        )
        found = _by_layers(calls, slopes[: len(calls)], len(x))
        inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
        whole = all(id(parameter) in inside for parameter in trained)
        if not (whole and found and _explains(found, trained, slopes[len(calls) :])):
            found = _by_samples(o, trained)
    return GradientProducts(o.detach().double(), *found, energy_of(trained))


Products = tuple[Tensor, Tensor]  # Gram matrix (n, n), and inner products with the weights (n,)


@dataclass(frozen=True)
class _Call:
    """One use of a layer: what went in and came out, each (n, ...)."""

    layer: nn.Linear | nn.Conv2d
    given: Tensor
    output: Tensor

    def positions(self) -> Tensor:
        """(n, l, i) what the weight is applied to at each of l positions."""
        if isinstance(self.layer, nn.Linear):
            return self.given.reshape(len(self.given), -1, self.given.shape[-1])
        layer = self.layer
        assert not isinstance(layer.padding, str)
        unfolded = F.unfold(
            self.given, layer.kernel_size, layer.dilation, layer.padding, layer.stride
        )
        return unfolded.mT

    def at_positions(self, values: Tensor) -> Tensor:
        """(n, l, o) values of the shape of the output."""
        if isinstance(self.layer, nn.Linear):
            return values.reshape(len(values), -1, values.shape[-1])
        return values.flatten(2).mT


def _is_plain(layer: nn.Module) -> bool:
    """Whether a layer is a dense or convolutional one whose gradient is known."""
    if type(layer) is nn.Conv2d:
        known = layer.groups == 1 and layer.padding_mode == "zeros"
        return known and not isinstance(layer.padding, str) and _is_trained(layer)
    return type(layer) is nn.Linear and _is_trained(layer)


def _is_trained(layer: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in layer.parameters())


@contextmanager
def _recorded(layers: list[nn.Module]) -> Iterator[list[_Call]]:
    """Records every use of the layers."""
    calls: list[_Call] = []

    def record(layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        calls.append(_Call(layer, given[0].detach(), output))  # type: ignore[arg-type]
        return output.clone()  # an activation in place must not change what is recorded

    handles = [layer.register_forward_hook(record) for layer in layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, with gradients; every module gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.enable_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@torch.no_grad()
def _by_layers(calls: list[_Call], slopes: tuple[Tensor, ...], n: int) -> Products | None:
    """From what flowed in and back at each layer; None: a layer does not see sample by sample."""
    if not calls or any(len(call.given) != n for call in calls):
        return None
    gram = torch.zeros(n, n, dtype=torch.float64, device=slopes[0].device)
    with_weights = torch.zeros(n, dtype=torch.float64, device=slopes[0].device)
    used: dict[nn.Module, list[tuple[_Call, Tensor]]] = {}
    for call, slope in zip(calls, slopes, strict=True):
        used.setdefault(call.layer, []).append((call, slope))
    for layer, uses in used.items():
        a = torch.cat([call.positions() for call, _ in uses], 1).double()  # (n, l, i)
        back = torch.cat(
            [call.at_positions(slope) for call, slope in uses], 1
        ).double()  # (n, l, o)
        out = torch.cat([call.at_positions(call.output) for call, _ in uses], 1).double()
        bias = layer.bias if isinstance(layer.bias, Tensor) else None
        shift = torch.zeros_like(out) if bias is None else bias.double().expand_as(out)
        if layer.weight.requires_grad:
            with_weights += (back * (out - shift)).sum((1, 2))
            if a.shape[1] == 1:
                gram += (back[:, 0] @ back[:, 0].T) * (a[:, 0] @ a[:, 0].T)
            else:
                gradients = (back.mT @ a).flatten(1)  # (n, o i)
                gram += gradients @ gradients.T
        if bias is not None and bias.requires_grad:
            with_weights += (back * shift).sum((1, 2))
            gram += back.sum(1) @ back.sum(1).T
    return gram, with_weights


def _explains(found: Products, trained: list[nn.Parameter], total: tuple[Tensor, ...]) -> bool:
    """Whether products agree with the gradient of the sum of all scalars.

    They do not where a weight is also used outside its layer, as with tied weights.
    """
    square = sum(float(gradient.double().square().sum()) for gradient in total)
    product = sum(
        float((g.double() * p.detach().double()).sum()) for g, p in zip(total, trained, strict=True)
    )
    gram, with_weights = found
    close = abs(float(gram.sum()) - square) <= EXPLAINED * float(gram.abs().sum())
    return close and abs(float(with_weights.sum()) - product) <= EXPLAINED * float(
        with_weights.abs().sum()
    )


def _by_samples(o: Tensor, trained: list[nn.Parameter]) -> Products:
    """By one pass back for every sample, some gradients at a time."""
    weights = _flat([parameter.detach() for parameter in trained])  # (P,)
    block = max(1, BLOCK_NUMBERS // len(weights))
    blocks = [range(i, min(i + block, len(o))) for i in range(0, len(o), block)]

    def gradients(samples: range) -> Tensor:
        """(b, P)."""
        rows = []
        for i in samples:
            gradient = torch.autograd.grad(o[i], trained, retain_graph=True, materialize_grads=True)
            rows.append(_flat(gradient))
        return torch.stack(rows)

    gram = weights.new_zeros(len(o), len(o))
    with_weights = weights.new_zeros(len(o))
    for rows in blocks:
        left = gradients(rows)
        with_weights[rows.start : rows.stop] = left @ weights
        for columns in blocks[: blocks.index(rows) + 1]:
            right = left if columns is rows else gradients(columns)
            part = left @ right.T
            gram[rows.start : rows.stop, columns.start : columns.stop] = part
            gram[columns.start : columns.stop, rows.start : rows.stop] = part.T
    return gram, with_weights


def _flat(tensors: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    """(P,) all numbers of some tensors, in float64."""
    return torch.cat([tensor.flatten().double() for tensor in tensors])


def energy_of(parameters: Iterable[nn.Parameter]) -> float:
    """The sum of the squares of all numbers, in float64."""
    return sum(float(parameter.detach().double().square().sum()) for parameter in parameters)
