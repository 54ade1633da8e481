"""A first layer from files, as `reconstruct` attacks it: its change, or its final weights alone.

The class of the network is not needed: of its weights only the first dense layer is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
from jsonargparse import Namespace
from torch import Tensor, nn
from torch.nn.utils import skip_init

from lit_recon.audit.choice import chosen, settle
from lit_recon.audit.job import Job, device_of
from lit_recon.audit.own_module import job_of_files
from lit_recon.errors import InputError, RunError
from lit_recon.flags import CommandLine, build
from lit_recon.knowledge import ChannelScale, DenseLayer, Knowledge, MeanImageScale, PixelScale
from lit_recon.methods.base import Reconstructor
from lit_recon.methods.rowspace import Frame, best_pair
from lit_recon.models.base import PartOfNetwork
from lit_recon.records.checkpoints import SavedWeights, load_any_weights
from lit_recon.records.truth import Truth


@dataclass
class PixelFlags:
    """How pixels became inputs, where --data is not given.

    Args:
        shape: channels, height and width of an image; null: the inputs are no images.
        mean: subtracted from pixels in [0, 1]; one number, or one for each channel; null: not
            known.
        std: pixels were then divided by it; one number above 0, or one for each channel; null: not
            known.
        mean_image: instead of a mean, a NumPy file (.npy) with the mean image of the training set
            in [0, 1], of the given shape; then the std is one number, 1 if it is null.
    """

    shape: Sequence[int] | None = None
    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    mean_image: str | None = None


def of_change(command: CommandLine, flags: Namespace) -> Job:
    """The job for ``--before`` and ``--after``, for ``--update``, or for ``--weights``.

    Args:
        command: the flags of `reconstruct`, either with the group ``data`` or with ``pixels``.
        flags: their values.

    Raises:
        InputError: a wrong flag, or a wrong file.
    """
    held = of_layer(flags)
    choice = chosen(command, flags).for_model(held.knowledge.model, disabled=True)
    settle(flags, choice)
    at = (held.step, held.epoch, held.knowledge)
    return job_of_files(command, flags, held.stem, choice, at, held.truth, held.device)


@dataclass(frozen=True)
class Held:
    """What an attacker holds of one checkpoint from files.

    Attributes:
        knowledge: every fact.
        truth: the training data, for scoring; None: not known.
        step, epoch: of the checkpoint; 0 where they are not recorded.
        stem: the start of the name of a new directory.
        device: where attacks run.
        patches: the same for methods that look at the first layer alone, where it reads patches of
            an image; None: it does not.
    """

    knowledge: Knowledge
    truth: Truth | None
    step: int
    epoch: int
    stem: str
    device: torch.device
    patches: Held | None = None

    def seen_by(self, method: Reconstructor) -> Held:
        """What a method attacks: the network, or its first layer as one that reads patches."""
        return self.patches if self.patches is not None and method.first_layer_alone else self


def of_layer(flags: Namespace) -> Held:
    """A first dense layer from files, without the class of its network.

    Args:
        flags: ``before``, ``after``, ``update``, ``weights``, ``layer``, ``device``, and either the
            group ``data`` or ``pixels``.

    Raises:
        InputError: a wrong flag, or a wrong file.
    """
    # `flags.update` is a method
    use = next((name for name in ("weights", "update") if flags[name] is not None), "after")
    for one, other in (("before", "after"), ("after", "before")):
        if use == "after" and flags[one] is None:
            raise InputError(f"--{one}", "missing", f"give a checkpoint to compare with --{other}")
    flag, file = f"--{use}", flags[use]
    device, saved = device_of(flags.device), _weights(flag, file)
    truth, shape, pixels = inputs_of(flags)
    name = first_layer_name(saved, flag, file, flags.layer, shape)
    layer = _layer(saved, flag, file, name)
    if shape is not None and prod(shape) != layer.d:
        fault = f"has {prod(shape)} values in an input, and the layer {name} takes {layer.d}"
        raise InputError("--pixels.shape" if truth is None else "--data", list(shape), fault)
    earlier = _earlier(flags, layer, shape, pixels) if use == "after" else _zeros(layer)
    if torch.equal(layer.weight, earlier.weight):
        same = "is the same in --before, so nothing of the data is in it"
        raise InputError(flag, file, f"its layer {name} {same if use == 'after' else 'is 0'}")
    known = Knowledge(
        module_of(layer).eval().to(device),
        earlier_first_layer=None if use == "weights" else earlier,
        n=None if truth is None else truth.n,
        pixels=pixels,
        radius=None if truth is None else truth.radius,
        shape=None if pixels is not None else shape or (layer.d,),
    )
    stem = {"weights": "final", "update": "update", "after": "change"}[use]
    return Held(known, truth, saved.step or 0, saved.epoch or 0, stem, device)


def first_layer_name(
    saved: SavedWeights, flag: str, file: str, name: str | None, shape: tuple[int, ...] | None
) -> str:
    """The dotted name of the dense layer that the inputs meet, by names and shapes of weights.

    A convolution whose kernel has the shape of an input is a dense layer: the inputs are patches.

    Args:
        saved: the weights of the file.
        flag, file: where they are from, for messages.
        name: the layer's name; None: that of the first weight with two axes or more.
        shape: of an input; None: not known.

    Raises:
        InputError: there is no such layer, it is not dense, or it is not clear which one it is.
    """
    weights = {
        key: tuple(value.shape)
        for key, value in saved.weights.items()
        if value.is_floating_point() and value.dim() > 1
    }
    dense = {
        _layer_of(key): prod(sizes[1:])
        for key, sizes in weights.items()
        if (len(sizes) == 2 or sizes[1:] == shape) and key.rpartition(".")[2] == "weight"
    }
    there = f"its dense layers are {', '.join(dense) or 'none'}"
    if name in dense:
        return name
    if name is not None:
        sizes = weights.get(f"{name}.weight")
        fault = f"is not dense, its weight has the shape {sizes}, in" if sizes else "is not in"
        raise InputError("--layer", name, f"{fault} {file}; {there}{_as_patches(sizes)}")
    if not dense:
        raise InputError(flag, file, "has no dense layer")
    if saved.in_order:
        first, layer = next(iter(weights)), next(iter(dense))
        if _layer_of(first) == layer:
            return layer
        fault = f"the first weight of {file}, {first}, has the shape {weights[first]}"
        remedy = f"{fault} and is of no dense layer; {there}{_as_patches(weights[first])}"
        raise InputError("--layer", "missing", remedy)
    d = None if shape is None else prod(shape)
    fitting = [layer for layer, columns in dense.items() if d in (None, columns)]
    if len(fitting) != 1 or len(dense) != len(weights):
        raise InputError("--layer", "missing", f"{file} has no order of layers; {there}")
    return fitting[0]


def _as_patches(sizes: tuple[int, ...] | None) -> str:
    """What to do where a convolution reads patches; empty: it reads none that are images."""
    if sizes is None or len(sizes) != 4 or prod(sizes[2:]) == 1:
        return ""
    return f"; if its patches do not overlap, --pixels.shape '{list(sizes[1:])}' attacks these"


def _layer_of(weight: str) -> str:
    """The name of the layer of a weight; empty for a network that is one layer."""
    return weight.rpartition(".")[0]


def module_of(layer: DenseLayer) -> nn.Module:
    """A module that holds one dense layer under its dotted name.

    >>> module_of(DenseLayer("body.0", torch.zeros(4, 3)))
    PartOfNetwork(
      (body): PartOfNetwork(
        (0): Linear(in_features=3, out_features=4, bias=False)
      )
    )
    """
    h, d = layer.weight.shape
    dense = skip_init(nn.Linear, d, h, bias=layer.bias is not None, dtype=layer.weight.dtype)
    values = {"weight": layer.weight, "bias": layer.bias}
    dense.load_state_dict({key: value for key, value in values.items() if value is not None})
    module: nn.Module = dense
    for part in reversed(layer.name.split(".") if layer.name else []):
        outer = PartOfNetwork()
        outer.add_module(part, module)
        module = outer
    return module


def pixel_scale(given: Namespace) -> tuple[tuple[int, ...] | None, PixelScale | None]:
    """The shape of an input and the pixel scale from ``--pixels``, each None if it is not known.

    Raises:
        InputError: a number out of its range, or one without the others.
    """
    shape = None if given.shape is None else tuple(given.shape)
    if shape is not None and (len(shape) != 3 or min(shape) < 1):
        remedy = "give channels, height and width, such as '[3, 32, 32]'"
        raise InputError("--pixels.shape", list(shape), remedy)
    numbers = {"mean": given.mean, "std": given.std}
    missing = [name for name, value in numbers.items() if value is None]
    if len(missing) == 2 and given.mean_image is None:
        return shape, None
    if shape is None:
        raise InputError("--pixels.shape", "missing", "give channels, height and width")
    if given.mean_image is not None:
        return shape, _mean_image_scale(given, shape)
    if missing:
        remedy = "give --pixels.mean and --pixels.std, or neither of them"
        raise InputError(f"--pixels.{missing[0]}", "missing", remedy)
    mean, std = (_per_channel(f"--pixels.{name}", v, shape[0]) for name, v in numbers.items())
    if not all(0 <= value <= 1 for value in mean):
        raise InputError("--pixels.mean", given.mean, "give numbers in [0, 1], the units of pixels")
    if not all(0 < value < float("inf") for value in std):
        raise InputError("--pixels.std", given.std, "give numbers above 0, in units of [0, 1]")
    if len(set(mean)) == len(set(std)) == 1:
        return shape, PixelScale(shape, mean[0], std[0])
    return shape, ChannelScale.of(shape, mean, std)


def _mean_image_scale(given: Namespace, shape: tuple[int, int, int]) -> MeanImageScale:
    """The scale from ``--pixels.mean_image``."""
    flag, file = "--pixels.mean_image", given.mean_image
    if given.mean is not None:
        raise InputError("--pixels.mean", given.mean, f"leave it out, or {flag}")
    std = 1.0 if given.std is None else given.std
    if not isinstance(std, int | float) or not 0 < std < float("inf"):
        raise InputError("--pixels.std", std, f"give one number above 0 with {flag}")
    try:
        values = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(flag, file, "give an array that numpy.save has written") from error
    if not isinstance(values, np.ndarray) or values.shape != shape:
        given_shape = list(values.shape) if isinstance(values, np.ndarray) else "several arrays"
        raise InputError(flag, file, f"holds {given_shape}, and --pixels.shape is {list(shape)}")
    if not (
        np.issubdtype(values.dtype, np.floating) and bool(np.all((values >= 0) & (values <= 1)))
    ):
        raise InputError(flag, file, "give floating-point numbers in [0, 1], the units of pixels")
    mean = torch.tensor(values, dtype=torch.float64)
    return MeanImageScale(shape, mean, float(std))


def _per_channel(flag: str, value: float | Sequence[float], channels: int) -> list[float]:
    values = [value] * channels if isinstance(value, int | float) else list(value)
    if len(values) != channels:
        remedy = f"give one number, or one for each of {channels} channels"
        raise InputError(flag, values, remedy)
    return values


def inputs_of(
    flags: Namespace,
) -> tuple[Truth | None, tuple[int, ...] | None, PixelScale | None]:
    """The training data, the shape of an input and the pixel scale, as far as they are known.

    Where both groups of flags are there, the data are images and ``pixels`` may say in which other
    way they became inputs.

    Args:
        flags: the group ``data``, the group ``pixels``, or both.

    Raises:
        InputError: data and pixel scale do not fit, or a wrong flag.
    """
    if "data" not in flags:
        return None, *pixel_scale(flags.pixels)
    data = build(flags.data)
    data.setup()
    truth = Truth.of(data)
    if "pixels" in flags:
        given = flags.pixels.clone()
        if given.shape is not None and tuple(given.shape) != truth.shape:
            remedy = f"the data have the shape {list(truth.shape)}; leave it out"
            raise InputError("--pixels.shape", list(given.shape), remedy)
        given.shape = truth.shape
        _, scale = pixel_scale(given)
        truth = truth if scale is None else truth.scaled(scale)
    return truth, truth.shape, truth.pixels


def _weights(flag: str, file: str) -> SavedWeights:
    try:
        return load_any_weights(file)
    except RunError as error:
        raise InputError(flag, file, str(error)) from error


def _layer(saved: SavedWeights, flag: str, file: str, name: str) -> DenseLayer:
    """A layer of a file, in float32 or float64."""
    layer = DenseLayer.of(saved.weights, name, saved.step)
    if not all(bool(torch.isfinite(v).all()) for v in (layer.weight, layer.bias) if v is not None):
        raise InputError(flag, file, f"its layer {name} has values that are not finite")
    return replace(
        layer,
        weight=_wide(layer.weight.flatten(1)),
        bias=None if layer.bias is None else _wide(layer.bias),
    )


def _wide(values: Tensor) -> Tensor:
    """The same values in float32, or in float64 if they are; half precision is for storage only."""
    return values if values.dtype == torch.float64 else values.float()


def _earlier(
    flags: Namespace, later: DenseLayer, shape: tuple[int, ...] | None, pixels: PixelScale | None
) -> DenseLayer:
    """The same layer in ``--before``: of several files, in that with which most can be had back."""
    files = [file for file in flags.before.split(",") if file]
    if not files:
        raise InputError("--before", repr(flags.before), "give one file or more")
    layers = [_earlier_in(file, later) for file in files]
    if len(files) == 1:
        return layers[0]
    if shape is None or len(shape) != 3:
        raise InputError("--pixels.shape", "missing", "to choose one of several --before, give it")
    befores = [layer.weight for layer in layers]
    random = torch.Generator().manual_seed(0)
    best = best_pair(later.weight, befores, Frame.of(shape, pixels), random)
    flags.before = files[best]  # for the record
    print(f"before         {files[best]}, chosen of {len(files)} by singular values")
    return layers[best]


def _earlier_in(file: str, later: DenseLayer) -> DenseLayer:
    """The same layer in one file."""
    saved = _weights("--before", file)
    try:
        layer = _layer(saved, "--before", file, later.name)
    except KeyError as error:
        raise InputError("--before", file, f"has no layer {later.name}, as --after has") from error
    if layer.weight.shape != later.weight.shape:
        shapes = f"{tuple(layer.weight.shape)}, not {tuple(later.weight.shape)} as in --after"
        raise InputError("--before", file, f"the weight of {layer.name} has the shape {shapes}")
    return layer


def _zeros(layer: DenseLayer) -> DenseLayer:
    """The layer before an update, which is a difference."""
    bias = None if layer.bias is None else torch.zeros_like(layer.bias)
    return replace(layer, weight=torch.zeros_like(layer.weight), bias=bias, step=None)
