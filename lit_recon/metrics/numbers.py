"""The registry of numbers: what a run records, in which words, and how it is drawn.

The recorder, W&B, results.csv, the reports, the dashboard and docs/numbers.md all draw from it.
The numbers of every method stand here; those of one method stand in its class (`describes`), which
enters them when it is defined.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Scale = Literal["share", "log", "linear", "count", "seconds"]
Place = Literal["page", "sweep", "law"]


@dataclass(frozen=True)
class Number:
    """One number of a reconstruction.

    >>> Number("psnr", "PSNR, dB", "of matched pairs", "linear", "high").better
    'high'

    Attributes:
        name: its public name, the same in metrics.json, metrics.jsonl, W&B and results.csv.
        words: what a report calls it, in few words.
        meaning: what it is, for docs/numbers.md.
        scale: ``share`` in [0, 1]; ``log`` for positive numbers of any size; ``linear``; ``count``
            for whole numbers; ``seconds``.
        better: which end of the scale is a better reconstruction; None: neither.
        floor: on a ``log`` axis smaller values are drawn here; None: where they are.
        null: the same score of something that no attack has found; a chart dots its line.
        panel: the chart over training steps in which it is drawn, with others of the same panel;
            None: it is not drawn.
        shown: where else: in the numbers of a run's ``page``, the table of a ``sweep``, the figure
            of the ``law``.
    """

    name: str
    words: str
    meaning: str
    scale: Scale
    better: Literal["low", "high"] | None = None
    floor: float | None = None
    null: bool = False
    panel: str | None = None
    shown: tuple[Place, ...] = ()


COMMON = (
    Number(
        "matched_error",
        "matched error",
        "mean distance to the Hungarian match, over sqrt(d)",
        "log",
        "low",
    ),
    Number(
        "direction_error",
        "direction error",
        "the same on vectors scaled to norm sqrt(d)",
        "log",
        "low",
        floor=1e-8,
        panel="direction error",
        shown=("page", "sweep", "law"),
    ),
    Number(
        "good_fraction",
        "recognisable",
        "share of training images whose nearest candidate has an `ssim_stretched` above 0.4: a "
        "mild score, so its nulls belong beside it",
        "share",
        "high",
        panel="what came back",
        shown=("page", "sweep"),
    ),
    Number(
        "recovered_fraction",
        "recovered",
        "share of training samples with a direction error below 0.1",
        "share",
        "high",
        panel="what came back",
        shown=("page", "sweep", "law"),
    ),
    Number(
        "exact_fraction",
        "exact",
        "share of training images with every pixel right",
        "share",
        "high",
        panel="what came back",
        shown=("page", "sweep", "law"),
    ),
    Number(
        "certified_fraction",
        "certified",
        "share of candidates that the certificate accepts, without the truth",
        "share",
        "high",
        panel="what came back",
        shown=("page", "sweep"),
    ),
    Number(
        "null_good_fraction",
        "recognisable by chance",
        "`good_fraction` with held-out images in the place of candidates; as many as "
        "`null_held_out` says, and few of them say little",
        "share",
        null=True,
        panel="what came back",
        shown=("page",),
    ),
    Number(
        "null_good_rows",
        "recognisable in weights",
        "`good_fraction` with the rows of the first layer's weights in the place of candidates, if "
        "that layer is dense",
        "share",
        null=True,
        panel="what came back",
        shown=("page",),
    ),
    Number(
        "null_good_mean",
        "recognisable in the mean",
        "`good_fraction` with the mean training image as the only candidate",
        "share",
        null=True,
        shown=("page",),
    ),
    Number("psnr", "PSNR, dB", "of matched pairs, in decibels", "linear", "high", shown=("page",)),
    Number(
        "ssim",
        "SSIM",
        "structural similarity of matched pairs, in [-1, 1]",
        "linear",
        "high",
        shown=("page",),
    ),
    Number(
        "ncc",
        "correlation",
        "normalised cross-correlation with the nearest candidate, in [-1, 1]; it ignores "
        "brightness and contrast of each channel, and the sign if the attack cannot know it",
        "linear",
        "high",
    ),
    Number(
        "ssim_stretched",
        "SSIM, stretched",
        "structural similarity (3x3 window) to the nearest candidate, both stretched to [0, 1]; it "
        "ignores brightness and contrast",
        "linear",
        "high",
        shown=("page",),
    ),
    Number(
        "duplicates",
        "duplicates",
        "recognisable candidates less the training images that they show",
        "count",
    ),
    Number(
        "null_direction_error",
        "error against others",
        "the same candidates against images that were not trained on",
        "log",
        null=True,
        panel="direction error",
        shown=("page",),
    ),
    Number(
        "null_held_out",
        "held-out images",
        "how many held-out images `null_good_fraction` compares: all that there are, at most 1,000",
        "count",
    ),
    Number(
        "candidates",
        "candidates",
        "how many the attack ended with: its estimate of n where it does not know n",
        "count",
    ),
    Number(
        "seconds",
        "time",
        "duration of the attack",
        "seconds",
        "low",
        panel="time",
        shown=("page", "sweep"),
    ),
)
"""The numbers of every method; None where one has no meaning for a run."""

TRAIN_LOSS = Number(
    "train_loss",
    "training loss",
    "training loss of the step's weights",
    "log",
    "low",
    floor=1e-16,
    shown=("sweep", "law"),
)
"""A column of results.csv; it is a number of the training and not of a reconstruction."""

CAPACITY = (
    Number(
        "interpolates",
        "interpolates",
        "whether a constructed network gives every training sample its label; of several networks, "
        "the share that does",
        "share",
        "high",
        panel="interpolates",
        shown=("sweep",),
    ),
    Number(
        "width",
        "second width",
        "units of the second layer of a constructed network, over all classes",
        "count",
        panel="width",
        shown=("sweep",),
    ),
    Number(
        "parameters",
        "parameters",
        "weights and biases of a constructed network",
        "count",
        panel="parameters",
        shown=("sweep",),
    ),
)
"""Numbers of a constructed network, logged in its training and averaged in a study of many."""

TRAINING = (
    Number(
        "margin",
        "smallest margin",
        "smallest margin of a training sample, in units of the output",
        "log",
        "high",
        panel="margin",
    ),
    Number(
        "normalised_margin",
        "normalised margin",
        "smallest margin over ||theta||^L, for a network of degree L in its weights theta",
        "linear",
        "high",
        panel="normalised margin",
    ),
    Number(
        "stationarity",
        "stationarity residual",
        "share of the weights that no combination of the samples' gradients explains",
        "log",
        "low",
        panel="stationarity",
    ),
    Number(
        "start_left",
        "start left in the first layer",
        "<W, W(0)> / ||W(0)||^2 of the first dense layer",
        "log",
        panel="stationarity",
    ),
    *CAPACITY,
)
"""Numbers of the training at its checkpoints, logged as ``train/NAME``."""

TAKEN_NAMES = {
    *("run", "status", "reason", "method", "model", "solver", "n", "d", "k", "p", "seed"),
    *("step", "last", "train_loss", "sure", "empty", "started_from", "knows", "images"),
    "pictures",
}
"""What stands beside the numbers in metrics.json and results.csv."""

_REGISTRY: dict[str, Number] = {number.name: number for number in COMMON}


def register(numbers: Iterable[Number]) -> None:
    """Enter the numbers of a method; several methods may share one that they describe alike.

    Raises:
        ValueError: another number has the name, or a column that is no number.
    """
    for number in numbers:
        if number.name in TAKEN_NAMES:
            raise ValueError(f"the number {number.name} has the name of a column of results.csv")
        if _REGISTRY.setdefault(number.name, number) != number:
            raise ValueError(f"the number {number.name} is described twice")


def registered() -> tuple[Number, ...]:
    """All numbers of reconstructions, those of every method first."""
    return tuple(_REGISTRY.values())


def described(name: str) -> Number:
    """A number by its name; one without a description is called by its name.

    That is a number of a method whose package is not loaded, read from a file.

    >>> described("an_unknown_number").words
    'an unknown number'
    """
    return _REGISTRY.get(name) or Number(name, name.replace("_", " "), "", "linear")


def is_described(name: str) -> bool:
    """Whether the registry has a number."""
    return name in _REGISTRY


def shown_in(place: Place) -> list[Number]:
    """The numbers that belong in a place: shares first, times last.

    >>> [number.name for number in shown_in("law")][:2]
    ['recovered_fraction', 'exact_fraction']
    """
    numbers = [number for number in (*registered(), TRAIN_LOSS, *CAPACITY) if place in number.shown]
    return sorted(numbers, key=_turn)


def panels(numbers: Iterable[Number]) -> dict[str, list[Number]]:
    """Numbers by the chart over training steps that draws them, times last.

    Those that are in no chart are left out. The first number of a chart says which axis it has.

    >>> list(panels(COMMON))
    ['direction error', 'what came back', 'time']
    """
    found: dict[str, list[Number]] = {}
    for number in sorted(numbers, key=lambda number: number.scale == "seconds"):
        if number.panel is not None:
            found.setdefault(number.panel, []).append(number)
    return found


def _turn(number: Number) -> int:
    return {"share": 0, "seconds": 2}.get(number.scale, 1)


def in_order(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The same values in the order of the registry.

    Raises:
        ValueError: one of them is not described.
    """
    unknown = sorted(numbers.keys() - _REGISTRY.keys())
    if unknown:
        raise ValueError(f"numbers that no method describes: {', '.join(unknown)}")
    return {name: numbers[name] for name in _REGISTRY if name in numbers}
