"""What may be done to weights before they are released, so that they give away less.

Pure functions from weights to weights, by name as in a state dict. Tensors that are not floating
point, such as counters of batch normalisation, stay as they are. The results have the dtypes of the
inputs and share no storage with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Literal

import torch
from torch import Tensor

from lit_recon.errors import InputError

Weights = Mapping[str, Tensor]
Grid = Literal["bf16", "int8", "int4"]
LEVELS: dict[Grid, int] = {"int8": 127, "int4": 7}  # largest whole number of a symmetric grid
FEW = 100  # samples below which an epsilon is reported with a warning


def noisy(weights: Weights, sigma: float, random: torch.Generator) -> dict[str, Tensor]:
    """Add Gaussian noise to every weight.

    >>> random = torch.Generator().manual_seed(0)
    >>> moved = noisy({"w": torch.full((1000,), 2.0)}, 0.1, random)["w"]
    >>> round(float(moved.std()), 1)
    0.2

    Args:
        weights: by name, on the CPU.
        sigma: standard deviation over the root mean square of each tensor, 0 or more.
        random: draws the noise, in the order of the names.

    Raises:
        InputError: sigma is outside its range.
    """
    if not (isfinite(sigma) and sigma >= 0):
        raise InputError("sigma", sigma, "give a finite number, 0 or more")

    def add(weight: Tensor) -> Tensor:
        noise = torch.randn(weight.shape, generator=random, dtype=torch.float64)
        return weight.double() + sigma * weight.double().square().mean().sqrt() * noise

    return _changed(weights, add)


def rounded(weights: Weights, grid: Grid) -> dict[str, Tensor]:
    """Round every weight to fewer bits.

    `int8` and `int4` are whole numbers from -127 to 127 or from -7 to 7, times one number for each
    tensor: that at which the largest weight is 127 or 7 (symmetric quantisation per tensor).

    >>> rounded({"w": torch.tensor([0.0, 0.4, 1.0, -7.0])}, "int4")["w"].tolist()
    [0.0, 0.0, 1.0, -7.0]

    Args:
        weights: by name.
        grid: bf16, int8 or int4.

    Raises:
        InputError: there is no such grid.
    """
    if grid == "bf16":
        return _changed(weights, lambda weight: weight.to(torch.bfloat16))
    if grid not in LEVELS:
        raise InputError("grid", grid, "give bf16, int8 or int4")

    def to_grid(weight: Tensor) -> Tensor:
        largest = weight.double().abs().max()
        if not largest > 0:
            return weight
        unit = largest / LEVELS[grid]
        return (weight.double() / unit).round() * unit

    return _changed(weights, to_grid)


def pruned(weights: Weights, share: float) -> dict[str, Tensor]:
    """Set the smallest weights of every tensor to 0 (magnitude pruning).

    >>> pruned({"w": torch.tensor([0.1, -3.0, 2.0, -0.2])}, 0.5)["w"].tolist()
    [0.0, -3.0, 2.0, 0.0]

    Args:
        weights: by name.
        share: of the weights of each tensor that become 0, rounded down to whole weights; 0 to 1.

    Raises:
        InputError: the share is outside its range.
    """
    if not 0 <= share <= 1:
        raise InputError("share", share, "give a number from 0 to 1")

    def cut(weight: Tensor) -> Tensor:
        flat = weight.flatten().clone()
        smallest = flat.abs().argsort(stable=True)[: int(share * len(flat))]
        flat[smallest] = 0
        return flat.view(weight.shape)

    return _changed(weights, cut)


def _changed(weights: Weights, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    return {
        name: change(weight).to(weight.dtype, copy=True)
        if weight.is_floating_point() and weight.numel()
        else weight.clone()
        for name, weight in weights.items()
    }


def privacy_warning(n: int, delta: float) -> str | None:
    """Why the epsilon of differentially private training says little here; None: it may be used.

    >>> print(privacy_warning(8, 0.01))
    only 8 training samples: epsilon means little below 100, judge by what an attack finds
    >>> print(privacy_warning(1000, 0.01))
    delta 0.01 is not below 1/n = 0.001: epsilon would allow to publish a whole sample

    Args:
        n: training samples, 1 or more.
        delta: of (epsilon, delta) differential privacy.
    """
    if n < FEW:
        return (
            f"only {n} training samples: epsilon means little below {FEW},"
            " judge by what an attack finds"
        )
    if delta >= 1 / n:
        return (
            f"delta {delta:g} is not below 1/n = {1 / n:g}:"
            " epsilon would allow to publish a whole sample"
        )
    return None
