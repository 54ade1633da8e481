"""Many constructed networks of the same data: how often they fit, and how large they get."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import pandas as pd
from torch import Tensor

from lit_recon.capacity.codes import Activation
from lit_recon.capacity.construction import construct

WIDTH, BIAS, SEED = "model.width", "model.max_bias", "run.seed"
CELL = (WIDTH, BIAS)
MEANS = ("width", "parameters", "seconds")


@dataclass(frozen=True)
class Draw:
    """One network.

    Attributes:
        interpolates: whether it gives every sample its label.
        width: units of the second layer.
        parameters: weights and biases.
        seconds: CPU time of the construction.
    """

    interpolates: bool
    width: int
    parameters: int
    seconds: float


def draw(
    x: Tensor, labels: Tensor, width: int, max_bias: float, activation: Activation, seed: int
) -> Draw:
    """Build one network and keep its size; see :func:`construct` for the arguments."""
    begin = time.process_time()
    made = construct(x, labels, width=width, max_bias=max_bias, activation=activation, seed=seed)
    return Draw(made.interpolates, made.width, made.parameters, time.process_time() - begin)


def draws(
    x: Tensor,
    labels: Tensor,
    width: int,
    biases: Iterable[float],
    seeds: Sequence[int],
    activation: Activation,
) -> Iterator[dict[str, Any]]:
    """One row for every bias and seed, with the names of the columns of results.csv."""
    for max_bias in biases:
        for seed in seeds:
            found = draw(x, labels, width, max_bias, activation, seed)
            yield {WIDTH: width, BIAS: max_bias, SEED: seed, **vars(found)}


def wilson(successes: int, runs: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a probability (1927); 95 % with the default z.

    >>> [round(end, 3) for end in wilson(50, 50)]
    [0.929, 1.0]
    """
    share, spread = successes / runs, z * z / runs
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * sqrt(share * (1 - share) / runs + spread / (4 * runs))
    return max(0.0, middle - half), min(1.0, middle + half)


def summary(draws: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    """One row for each cell: the probability that a network fits, and the means of its sizes.

    Args:
        draws: one row for each network.
        axes: the columns that say which cell a network belongs to.

    Returns:
        The axes, `runs`, `interpolates` (a share), `least` and `most` (Wilson's interval of it),
        and means over all runs of the cell, also of those that do not fit.
    """
    groups = draws.groupby(list(axes), sort=False, dropna=False)
    table = groups.agg(
        runs=("interpolates", "size"),
        successes=("interpolates", "sum"),
        **{name: (name, "mean") for name in MEANS},
    ).reset_index()
    ends = [wilson(int(s), int(n)) for s, n in zip(table["successes"], table["runs"], strict=True)]
    table["interpolates"] = table["successes"] / table["runs"]
    table["least"], table["most"] = ([end[i] for end in ends] for i in (0, 1))
    return table[[*axes, "runs", "interpolates", "least", "most", *MEANS]]
