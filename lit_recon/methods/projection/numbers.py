"""Descriptions of the projection attack's own numbers."""

from __future__ import annotations

from lit_recon.metrics.numbers import Number

DESCRIBED = (
    Number(
        "projection_loss",
        "projection loss",
        "the loss at the candidates",
        "log",
        "low",
        panel="projection loss",
        shown=("page",),
    ),
    Number(
        "oracle_loss",
        "loss at the true data",
        "the same loss at the true data, which is what training leaves of it",
        "log",
        panel="projection loss",
        shown=("page",),
    ),
    Number(
        "matched_error_abs",
        "matched error of absolute values (the paper's)",
        "error of element-wise absolute values, as in the paper; for comparison",
        "log",
        "low",
        floor=1e-8,
        shown=("law",),
    ),
    Number(
        "p_over_dn",
        "p / (d n)",
        "k p / (n d), equations over unknowns",
        "log",
        shown=("sweep",),
    ),
    Number("steps", "steps", "steps of the solver", "count"),
    Number("applications", "applications", "applications of the solver's normal operator", "count"),
    Number("restarts", "restarts", "restarts of the search", "count"),
)
