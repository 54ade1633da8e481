"""Descriptions of the attractor attack's own numbers."""

from __future__ import annotations

from lit_recon.metrics.numbers import Number

DESCRIBED = (
    Number(
        "recall",
        "recalled from noise",
        "share of training inputs to which the network leads random starts when it is iterated",
        "share",
        "high",
        panel="memory",
        shown=("page", "sweep", "law"),
    ),
    Number(
        "precision",
        "starts that recall",
        "share of random starts that end in a training input or in a cycle of them",
        "share",
        "high",
        panel="memory",
        shown=("page",),
    ),
    Number(
        "fixed_fraction",
        "fixed points",
        "share of training inputs that the network moves by at most 1 % of their norm",
        "share",
        panel="memory",
        shown=("page", "sweep"),
    ),
    Number(
        "attractor_fraction",
        "attractors",
        "share of training inputs that are fixed, or in a cycle of training inputs, with a "
        "spectral radius below 1",
        "share",
        panel="memory",
        shown=("page", "sweep", "law"),
    ),
    Number(
        "spectral_radius_max",
        "largest spectral radius",
        "of the network's derivative at the fixed training inputs, over a whole turn in cycles; "
        "below 1 all of them attract",
        "log",
        "low",
        panel="spectral radius",
        shown=("page", "sweep", "law"),
    ),
    Number(
        "spectral_radius_median",
        "median spectral radius",
        "the same, median",
        "log",
        "low",
        panel="spectral radius",
    ),
    Number(
        "noise_tolerance",
        "noise tolerance",
        "largest noise, relative to the norm of a training input, from which at least 90 % of "
        "starts return to it",
        "linear",
        "high",
        shown=("page",),
    ),
    Number(
        "outside_span",
        "outside the span of the data",
        "share of the energy of the network's output for noise that is outside the span of the "
        "training inputs, mean over 100 inputs of noise of their norm",
        "log",
        floor=1e-16,
        shown=("page", "sweep"),
    ),
    Number(
        "fixed_points",
        "fixed points found",
        "how many points the attack found that the network leaves in place, attracting or not",
        "count",
        shown=("page",),
    ),
    Number(
        "attractors",
        "attractors found",
        "fixed points and cycles that attract, of those that are images or that random starts "
        "came to",
        "count",
    ),
    Number(
        "spurious_limits",
        "limits that are no images",
        "fixed points and cycles found without certified images",
        "count",
        "low",
        shown=("page",),
    ),
    Number("cycles", "cycles found", "how many limits are cycles of two points or more", "count"),
    Number("longest_cycle", "longest cycle", "how many points the longest cycle has", "count"),
    Number(
        "settled_fraction",
        "starts at rest",
        "share of random starts that come to a fixed point or a cycle",
        "share",
    ),
    Number("starts", "random starts", "how many random starts were iterated", "count"),
    Number(
        "basin_min",
        "smallest basin",
        "share of random starts that end in the certified limit with the fewest",
        "log",
        "high",
    ),
    Number(
        "basin_median",
        "median basin",
        "median share of random starts of a certified limit",
        "log",
        "high",
    ),
    Number(
        "false_chance",
        "chance of a false image",
        "that one of the points tested is no image and has whole pixels by accident",
        "log",
        "low",
    ),
)
