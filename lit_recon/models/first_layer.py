"""Finds the dense layer that the input of a network meets first."""

from __future__ import annotations

from torch import Tensor, nn

from lit_recon.errors import InputError
from lit_recon.models.base import OneHiddenLayer, class_name

FIRST_LAYER = "first_layer"
"""The attribute with the first layer with weights, of any type, of a network that knows it."""


def first_dense_layer(
    model: nn.Module,
    name: str | None = None,
    flag: str = "--recon.layer",
    given: str = "null",
) -> tuple[str, nn.Linear]:
    """The dotted name of the first layer with weights, and the layer, which must be dense.

    Without a name it is the attribute `FIRST_LAYER` or, in a network without it, the layer that was
    registered first: modules do not say in which order an input meets them.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> first_dense_layer(model)[0]
    '1'

    Args:
        model: the network.
        name: the layer's dotted name; None: find it.
        flag: the flag that names the layer, for messages.
        given: its value where there is no name, for messages.

    Raises:
        InputError: there is no such layer, it is not dense, or it is not trained.
    """
    kind, modules = class_name(model), dict(model.named_modules(remove_duplicate=False))
    if name is not None:
        if name not in modules:
            dense = [key for key, layer in modules.items() if isinstance(layer, nn.Linear)]
            remedy = f"{kind} has no such layer; its dense ones are {', '.join(dense) or 'none'}"
            raise InputError(flag, name, remedy)
        return name, _dense(kind, name, modules[name], flag, name)
    if isinstance(model, OneHiddenLayer) and model.frozen:
        raise InputError(flag, given, f"the first layer of {kind} is fixed, so it never changes")
    inside = (key for key in (FIRST_LAYER, *modules) if key in modules)
    found = next((key for key in inside if has_weights(modules[key])), None)
    if found is None:
        raise InputError(flag, given, f"{kind} has no layer with weights")
    return found, _dense(kind, found, modules[found], flag, given)


def whole_input_layer(model: nn.Module, d: int) -> tuple[str, nn.Linear] | None:
    """The same; None where there is no such layer, or it does not take whole inputs (n, d).

    >>> whole_input_layer(nn.Sequential(nn.Conv2d(3, 8, 3)), d=12) is None
    True
    """
    try:
        name, layer = first_dense_layer(model)
    except InputError:
        return None
    return (name, layer) if layer.in_features == d else None


def read_coordinates(network: nn.Module, basis: Tensor, offset: Tensor | None = None) -> None:
    """Make a network, in place, read coordinates y where it has read x = offset + basis y.

    The first dense layer takes basis and offset into its weight and bias, in float64.

    >>> import torch
    >>> network = nn.Linear(3, 2)
    >>> read_coordinates(network, torch.eye(3)[:, :2], offset=torch.ones(3))
    >>> network
    Linear(in_features=2, out_features=2, bias=True)

    Args:
        network: the network.
        basis: (d, r).
        offset: (d,); None: zero.

    Raises:
        InputError: its first layer with weights is not dense, or not trained.
    """
    _, layer = first_dense_layer(network)
    weight = layer.weight.detach().double()
    if offset is not None:
        bias = weight @ offset.to(weight)
        if layer.bias is not None:
            bias = layer.bias.detach() + bias
        layer.bias = nn.Parameter(bias.to(layer.weight))
    layer.weight = nn.Parameter((weight @ basis.to(weight)).to(layer.weight))
    layer.in_features = basis.shape[1]


def _dense(kind: str, name: str, layer: nn.Module, flag: str, given: str) -> nn.Linear:
    """The layer, which must be a dense one that is trained."""
    what = f"{name} of {kind}" if name else kind
    if not isinstance(layer, nn.Linear):
        remedy = f"{what} is a {type(layer).__name__}, and a dense layer (nn.Linear) is needed"
        raise InputError(flag, given, remedy)
    if not layer.weight.requires_grad:
        raise InputError(flag, given, f"{what} is not trained, so it never changes")
    return layer


def has_weights(module: nn.Module) -> bool:
    """Whether a module is a layer with parameters of its own.

    Numbers and vectors beside other modules, such as a temperature, do not make a layer.
    """
    own = list(module.parameters(recurse=False))
    alone = not any(True for _ in module.children())
    return any(alone or parameter.dim() > 1 for parameter in own)
