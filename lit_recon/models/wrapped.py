"""A user's network as attacks need it: finds its readout, and the layer that inputs meet first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lit_recon.errors import InputError
from lit_recon.models.base import ReadoutModel, Wrapper
from lit_recon.models.first_layer import has_weights


class Wrapped(Wrapper, ReadoutModel):
    """Any module whose output is the output of its last linear layer.

    Attributes:
        first_layer: the layer with weights that `example` meets first, of any type.

    Args:
        module: the network, in eval mode.
        readout: dotted name of the last linear layer; None: the layer whose output is the network's
            output on `example`.
        features: name of a method of the module that computes the layer's input (n, p) from an
            input of the network; None: a hook reads the layer's input in a forward pass.
        example: (1, *input shape) an input.

    Raises:
        InputError: there is no such layer or method, or its output has the wrong shape.
    """

    @torch.no_grad()
    def __init__(
        self, module: nn.Module, readout: str | None, features: str | None, example: Tensor
    ) -> None:
        super().__init__()
        self.module = module
        self.readout = _readout(module, readout, example)
        self._method = features
        if features is not None and not callable(getattr(module, features, None)):
            raise InputError("--features", features, f"{type(module).__name__} has no such method")
        given = features or "null"
        try:
            with _meeting(module) as met:
                phi = self.features(example)
        except _NotReached as error:
            raise InputError("--readout", readout, "has no part in the output") from error
        except Exception as error:  # the user's code can raise anything
            remedy = f"does not take an input of shape {tuple(example.shape)} ({_line(error)})"
            raise InputError("--features", given, remedy) from error
        self.first_layer = met[0] if met else self.readout
        shape = tuple(getattr(phi, "shape", ()))
        if shape != (1, self.p):
            remedy = f"gives the shape {shape} for one input; the readout takes (n, {self.p})"
            raise InputError("--features", given, remedy)

    @property
    def frozen(self) -> bool:
        readout = {id(parameter) for parameter in self.readout.parameters()}
        return not any(p.requires_grad and id(p) not in readout for p in self.module.parameters())

    def features(self, x: Tensor) -> Tensor:
        """(n, *input shape) to (n, p)."""
        if self._method is not None:
            phi: Tensor = getattr(self.module, self._method)(x)
            return phi
        return _passing(self.module, self.readout, x)[0]


class Observed(Wrapper, nn.Module):
    """Any module, with the layer that an input meets first.

    >>> inner = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Softmax(1))
    >>> Observed(inner, torch.zeros(1, 1, 2, 2)).first_layer
    Linear(in_features=4, out_features=3, bias=True)

    Attributes:
        first_layer: of any type; missing if no layer with weights was met.

    Args:
        module: the network, in eval mode.
        example: (1, *input shape) an input.

    Raises:
        InputError: the module does not take the input.
    """

    @torch.no_grad()
    def __init__(self, module: nn.Module, example: Tensor) -> None:
        super().__init__()
        self.module = module
        try:
            with _meeting(module) as met:
                module(example)
        except Exception as error:  # the user's code can raise anything
            shape = tuple(example.shape)
            remedy = f"does not take an input of shape {shape} ({_line(error)})"
            raise InputError("--module", type(module).__name__, remedy) from error
        if met:
            self.first_layer = met[0]

    def forward(self, x: Tensor) -> Any:
        """What the module makes of x (n, *input shape)."""
        return self.module(x)


def as_attacked(module: nn.Module, example: Tensor) -> nn.Module:
    """A user's network for all methods: with its readout if it has one that is linear.

    >>> type(as_attacked(nn.Linear(4, 3), torch.zeros(1, 4))).__name__
    'Wrapped'

    Args:
        module: the network, in eval mode.
        example: (1, *input shape) an input.

    Raises:
        InputError: the module does not take the input.
    """
    try:
        return Wrapped(module, None, None, example)
    except InputError:
        return Observed(module, example)


def as_named(
    network: nn.Module, module: nn.Module, values: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Values of a module's parameters under the names that a network around it has for them.

    >>> module = nn.Linear(4, 3)
    >>> network = as_attacked(module, torch.zeros(1, 4))
    >>> sorted(as_named(network, module, dict(module.named_parameters())))[-2:]
    ['readout.bias', 'readout.weight']

    Args:
        network: the module itself, or what `as_attacked` has made of it.
        module: the module.
        values: by the module's own names.
    """
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    aliases = network.named_parameters(remove_duplicate=False)
    return {alias: values[names[id(parameter)]] for alias, parameter in aliases}


@contextmanager
def _meeting(module: nn.Module) -> Iterator[list[nn.Module]]:
    """Yield a list to which every layer with weights is added when an input meets it."""
    met: list[nn.Module] = []
    handles = [
        layer.register_forward_pre_hook(lambda layer, _: met.append(layer))
        for layer in module.modules()
        if has_weights(layer)
    ]
    try:
        yield met
    finally:
        for handle in handles:
            handle.remove()


def _readout(module: nn.Module, name: str | None, example: Tensor) -> nn.Linear:
    named = {n: layer for n, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    if name is not None:
        if name not in named:
            remedy = f"is no linear layer; there are {', '.join(named) or 'none'}"
            raise InputError("--readout", name, remedy)
        return named[name]
    for layer in reversed(named.values()):
        try:
            _, given, output = _passing(module, layer, example)
        except _NotReached:
            continue
        except Exception as error:  # the user's code can raise anything
            remedy = f"{type(module).__name__} does not take them ({_line(error)})"
            shape = f"gives inputs of shape {tuple(example.shape)}"
            raise InputError("--data", shape, remedy) from error
        if isinstance(output, Tensor) and torch.equal(given, output):
            return layer
    remedy = f"none of the linear layers ({', '.join(named) or 'there are none'}) gives the output"
    raise InputError("--readout", "missing", remedy)


class _NotReached(Exception):
    pass


def _passing(module: nn.Module, layer: nn.Linear, x: Tensor) -> tuple[Tensor, Tensor, Any]:
    """The layer's input, the layer's output and the network's output for an input x."""
    seen: list[tuple[Tensor, Tensor]] = []

    def look(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        seen.append((inputs[0], output))

    handle = layer.register_forward_hook(look)
    try:
        output = module(x)
    finally:
        handle.remove()
    if not seen:
        raise _NotReached
    return (*seen[-1], output)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]
