"""Descriptions of the row-space attack's own numbers."""

from __future__ import annotations

from lit_recon.metrics.numbers import Number

DESCRIBED = (
    Number(
        "rank",
        "rank of the change",
        "directions of the first layer's change above the noise, one for each training image seen",
        "linear",
        shown=("page",),
    ),
    Number(
        "noise_floor",
        "noise floor",
        "predicted error of a pixel in the row space, in levels of 0..255",
        "log",
        "low",
        shown=("page",),
    ),
    Number(
        "precision_bits",
        "bits of precision",
        "bits behind the point to which a pixel is known, -log2(noise floor)",
        "linear",
        "high",
    ),
    Number(
        "lattice_dimension",
        "dimension of the lattice",
        "the largest lattice that was reduced, 0 if none was",
        "linear",
    ),
    Number(
        "lattice_rank",
        "integer vectors",
        "independent integer vectors found in the row space; all of them if it equals the rank",
        "linear",
        "high",
    ),
    Number(
        "expected_false",
        "expected false vectors",
        "how many wrong integer vectors would pass by chance, at the largest residual accepted",
        "log",
        "low",
    ),
    Number(
        "forgotten",
        "forgotten start",
        "share of the earlier weights that weight decay has taken, 0 without it",
        "linear",
    ),
    Number(
        "exact_differences",
        "exact differences",
        "share of the integer vectors found that are differences of two training images",
        "linear",
        "high",
    ),
)
