"""Matching, scores and certificates: pure functions."""

from lit_recon.metrics.certificate import (
    Certificates,
    certify,
    images_from_inputs,
    inputs_from_images,
)
from lit_recon.metrics.matching import (
    ABSOLUTE,
    DIRECTION,
    EUCLIDEAN,
    SIGN_BLIND_DIRECTION,
    Cost,
    Matching,
    match,
)
from lit_recon.metrics.scores import (
    Metrics,
    SampleScore,
    Scores,
    direction_error,
    exact,
    matched_error,
    matched_error_abs,
    null_direction_error,
    psnr,
    recovered_fraction,
    score,
    ssim,
    unscored,
)

__all__ = [
    "ABSOLUTE",
    "DIRECTION",
    "EUCLIDEAN",
    "SIGN_BLIND_DIRECTION",
    "Certificates",
    "Cost",
    "Matching",
    "Metrics",
    "SampleScore",
    "Scores",
    "certify",
    "direction_error",
    "exact",
    "images_from_inputs",
    "inputs_from_images",
    "match",
    "matched_error",
    "matched_error_abs",
    "null_direction_error",
    "psnr",
    "recovered_fraction",
    "score",
    "ssim",
    "unscored",
]
