"""Descriptions of the KKT attack's own numbers."""

from __future__ import annotations

from lit_recon.metrics.numbers import Number

DESCRIBED = (
    Number(
        "kkt_loss",
        "KKT loss",
        "the objective at the candidates, prior included; its value is no measure of success",
        "log",
        panel="KKT loss",
        shown=("page",),
    ),
    Number(
        "stationarity",
        "stationarity",
        "share of the weights' norm that no combination of the candidates' gradients explains",
        "log",
        "low",
        panel="stationarity",
        shown=("page",),
    ),
    Number(
        "oracle_stationarity",
        "stationarity at the true data",
        "the same for the training inputs, which is what training leaves of it",
        "log",
        panel="stationarity",
        shown=("page",),
    ),
    Number(
        "imbalance",
        "imbalance",
        "lower bound of the stationarity at any inputs, from the norms of each neuron's weights",
        "log",
        panel="stationarity",
        shown=("page",),
    ),
    Number("steps", "steps", "steps of the solver", "count"),
)
