"""Scores of a reconstruction against the true training set. Scoring only: no attack imports this.

Shapes: ``x (n, d)`` training samples as the network saw them, ``candidates (m, d)``, images
``(n, c, h, w)`` uint8. Errors are Euclidean distances over sqrt(d). metrics.json, metrics.jsonl and
W&B use the same names.

Every error has its own matching, by its own cost; psnr, ssim, exact pixels and the rows use the
matching by direction. NCC and what follows from it use the nearest candidate, which may be that of
several samples. Means of errors, psnr and ssim are taken over the matched pairs, shares over
all n training samples. So a missing candidate lowers a share and does not change a mean.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from math import log10, sqrt
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from lit_recon.knowledge import PixelScale
from lit_recon.metrics.certificate import images_from_inputs
from lit_recon.metrics.likeness import (
    MOST_HELD_OUT,
    Likeness,
    Pixels,
    duplicates,
    nearest,
    null_good,
)
from lit_recon.metrics.matching import (
    ABSOLUTE,
    DIRECTION,
    EUCLIDEAN,
    SIGN_BLIND_DIRECTION,
    Matching,
    match,
)

RECOVERED_BELOW = 0.1  # direction error; a cosine of 0.995, where independent vectors have sqrt(2)
SSIM_RADIUS = 5  # window 11 and standard deviation 1.5, as Wang et al. (2004)


@dataclass(frozen=True)
class SampleScore:
    """One training sample and its candidate; None is a number without meaning here.

    Attributes:
        index: the training sample.
        candidate: the matched candidate, None if there is none.
        sign: -1 if the candidate was negated to agree with the truth (sign-blind scoring), else 1.
        direction_error: distance of the directions, in [0, 2].
        matched_error: distance of this pair as it stands.
        psnr: dB. ssim: in [-1, 1].
        exact: every uint8 pixel is right.
        certified: the certificate accepted the candidate.
        recovered: the direction error is below 0.1.
        nearest: the candidate with the highest NCC, which several samples may share.
        ncc: normalised cross-correlation with it, in [-1, 1].
        ssim_stretched: structural similarity to it, both stretched to [0, 1], in [-1, 1].
    """

    index: int
    candidate: int | None
    sign: int
    direction_error: float | None
    matched_error: float | None
    psnr: float | None
    ssim: float | None
    exact: bool | None
    certified: bool | None
    recovered: bool
    nearest: int | None = None
    ncc: float | None = None
    ssim_stretched: float | None = None


@dataclass(frozen=True)
class Metrics:
    """The numbers of one reconstruction by their public names; None has no meaning for this run."""

    matched_error: float | None
    direction_error: float | None
    recovered_fraction: float | None
    exact_fraction: float | None
    certified_fraction: float | None
    psnr: float | None
    ssim: float | None
    null_direction_error: float | None
    ncc: float | None = None
    ssim_stretched: float | None = None
    good_fraction: float | None = None
    duplicates: int | None = None
    null_good_fraction: float | None = None
    null_held_out: int | None = None
    null_good_rows: float | None = None
    null_good_mean: float | None = None

    def as_dict(self) -> dict[str, float | None]:
        return asdict(self)


@dataclass(frozen=True)
class Scores:
    """What `score` returns.

    Attributes:
        metrics: the numbers.
        rows: one for each training sample, in training order; none where these are not known.
        reconstructions: (n, c, h, w) uint8, the images that psnr, ssim and exact pixels were
            computed from, in training order, black where a sample has no candidate; None without
            images.
    """

    metrics: Metrics
    rows: tuple[SampleScore, ...]
    reconstructions: Tensor | None


def matched_error(x: Tensor, candidates: Tensor) -> float | None:
    """Mean distance of x (n, d) to its Hungarian match in candidates (m, d), over sqrt(d)."""
    return match(x, candidates, EUCLIDEAN).mean_error()


def direction_error(x: Tensor, candidates: Tensor, *, sign_blind: bool = False) -> float | None:
    """The same on vectors scaled to norm sqrt(d); sqrt(2) for independent vectors.

    Args:
        x: (n, d).
        candidates: (m, d).
        sign_blind: the smaller of the errors of a candidate and its negative.
    """
    return match(x, candidates, SIGN_BLIND_DIRECTION if sign_blind else DIRECTION).mean_error()


def matched_error_abs(x: Tensor, candidates: Tensor) -> float | None:
    """The same on element-wise absolute values of x (n, d) and candidates (m, d).

    The error of Iurada et al. (2025, arXiv 2509.22214), for comparison only: it is blind to the
    sign of every single coordinate, and independent Gaussian vectors have 0.853 instead of sqrt(2).
    """
    return match(x, candidates, ABSOLUTE).mean_error()


def recovered_fraction(matching: Matching) -> float:
    """Share of all n samples with an error below 0.1 in a matching by direction."""
    return (matching.error < RECOVERED_BELOW).double().mean().item()


def exact(images: Tensor, reconstructions: Tensor) -> Tensor:
    """(n,) bool: every pixel of two (n, c, h, w) uint8 images agrees."""
    return (images == reconstructions).flatten(1).all(1)


def psnr(images: Tensor, reconstructions: Tensor) -> Tensor:
    """(n,) peak signal-to-noise ratio in dB of (n, c, h, w) uint8 images, on [0, 1] pixels.

    An exact image has no finite value. It gets the largest that an inexact one can have, one value
    off by one level (83 dB at 3x32x32), so that means stay finite.
    """
    best = 10 * log10(255**2 * images[0].numel())
    values = peak_signal_noise_ratio(
        reconstructions.double() / 255,
        images.double() / 255,
        data_range=1.0,
        reduction="none",
        dim=(1, 2, 3),
    )
    return values.clamp_max(best)


def ssim(images: Tensor, reconstructions: Tensor) -> Tensor | None:
    """(n,) structural similarity of (n, c, h, w) uint8 images, on [0, 1] pixels.

    Wang, Bovik, Sheikh & Simoncelli (2004), Gaussian window of 11 pixels and standard deviation
    1.5. Images with a side below 11 get the largest odd window that fits, its standard deviation
    shrunk alike; their values do not compare with those of larger images. None for sides below 3.
    """
    radius = min(SSIM_RADIUS, (min(images.shape[2:]) - 1) // 2)
    if radius < 1:
        return None
    values = structural_similarity_index_measure(
        reconstructions.double() / 255,  # float32 loses 5e-6 on flat images
        images.double() / 255,
        sigma=1.5 * radius / SSIM_RADIUS,  # torchmetrics derives a Gaussian window's size from it
        data_range=1.0,
        reduction="none",
    )
    assert isinstance(values, Tensor)
    return values.reshape(-1)


def null_direction_error(
    candidates: Tensor, held_out: Tensor, n: int, *, sign_blind: bool = False
) -> float | None:
    """The direction error of the same candidates against samples that were not trained on.

    What any set of plausible images would score. The first min(n, n_held) held-out samples are
    matched, so that the matching has no more to choose from than the one against the truth.

    Args:
        candidates: (m, d).
        held_out: (n_held, d) from the same source, normalised alike.
        n: the number of training samples.
        sign_blind: as in `direction_error`.
    """
    return direction_error(held_out[:n], candidates, sign_blind=sign_blind)


def score(
    x: Tensor,
    candidates: Tensor,
    held_out: Tensor | None = None,
    pixels: PixelScale | None = None,
    images: Tensor | None = None,
    decoded: Tensor | None = None,
    certified: Tensor | None = None,
    sign_blind: bool = False,
    first_layer: Tensor | None = None,
) -> Scores:
    """All numbers that compare candidates with the true training set.

    Args:
        x: (n, d) training samples.
        candidates: (m, d).
        held_out: (n_held, d) samples of the same source, for the null.
        pixels: the pixel scale; None for data that are no images.
        images: (n, c, h, w) uint8 training images; None for data that are no images.
        decoded: (m, c, h, w) uint8, the images that the attack says the candidates are; None to
            de-normalise the candidates as they stand.
        certified: (m,) bool, which of them the certificate accepts.
        sign_blind: the activation leaves the sign unknown: direction errors are the smaller of
            both signs, and each matched candidate is negated where that agrees better **with the
            truth** before raw errors and pixels are computed. That knowledge exists in scoring
            only. A certified image keeps the sign that the certificate chose without the truth.
        first_layer: (h, d) weights of the network's first dense layer, for a null; None without.
    """
    candidates = candidates.detach().to("cpu", torch.float64)
    matching = match(x, candidates, SIGN_BLIND_DIRECTION if sign_blind else DIRECTION)
    matched = matching.matched
    sign = torch.ones(len(candidates), dtype=torch.float64)
    sign[matching.index[matched]] = matching.sign[matched]
    aligned = candidates * sign[:, None]
    pair_error = _pair_error(x, aligned, matching)

    reconstructions = is_exact = psnrs = ssims = None
    alike, alike_numbers = None, dict[str, Any]()
    if images is not None and pixels is not None:
        images = images.cpu()
        shown = shown_images(aligned, sign, pixels, decoded, certified)
        reconstructions = torch.zeros_like(images)
        reconstructions[matched] = shown[matching.index[matched]]
        is_exact = exact(images, reconstructions) & matched
        psnrs = psnr(images, reconstructions)
        ssims = ssim(images, reconstructions)
        alike, alike_numbers = _alike(
            x, candidates, images, pixels, held_out, first_layer, sign_blind
        )

    rows = tuple(
        SampleScore(
            index=i,
            candidate=int(matching.index[i]) if matched[i] else None,
            sign=int(matching.sign[i]),
            direction_error=float(matching.error[i]) if matched[i] else None,
            matched_error=float(pair_error[i]) if matched[i] else None,
            psnr=float(psnrs[i]) if psnrs is not None and matched[i] else None,
            ssim=float(ssims[i]) if ssims is not None and matched[i] else None,
            exact=bool(is_exact[i]) if is_exact is not None else None,
            certified=_certified(certified, matching, i),
            recovered=bool(matching.error[i] < RECOVERED_BELOW),
            **_nearest_row(alike, i),
        )
        for i in range(len(x))
    )
    metrics = Metrics(
        matched_error=matched_error(x, aligned),
        direction_error=matching.mean_error(),
        recovered_fraction=recovered_fraction(matching),
        exact_fraction=_mean(is_exact),
        certified_fraction=_mean(certified),
        psnr=_mean(None if psnrs is None else psnrs[matched]),
        ssim=_mean(None if ssims is None else ssims[matched]),
        null_direction_error=None
        if held_out is None
        else null_direction_error(candidates, held_out, len(x), sign_blind=sign_blind),
        **alike_numbers,
    )
    return Scores(metrics, rows, reconstructions)


def unscored(certified: Tensor | None = None) -> Scores:
    """The scores where the true training set is not known: only the certificates' share.

    >>> unscored(torch.tensor([True, False])).metrics.certified_fraction
    0.5

    Args:
        certified: (m,) bool, which candidates the certificate accepts; None without certificates.
    """
    numbers: dict[str, Any] = dict.fromkeys(field.name for field in fields(Metrics))
    return Scores(Metrics(**numbers | {"certified_fraction": _mean(certified)}), (), None)


def _pair_error(x: Tensor, aligned: Tensor, matching: Matching) -> Tensor:
    """(n,) raw error of each sample's own pair; meaningless where a sample has no candidate."""
    partner = aligned[matching.index] if len(aligned) else torch.zeros_like(x)
    return (x.detach().to("cpu", torch.float64) - partner).norm(dim=1) / sqrt(x.shape[1])


def shown_images(
    aligned: Tensor,
    sign: Tensor,
    pixels: PixelScale,
    decoded: Tensor | None,
    certified: Tensor | None,
) -> Tensor:
    """(m, c, h, w) uint8: the decoded images, but those negated here from the candidates anew.

    Args:
        aligned: (m, d) candidates, each times its sign.
        sign: (m,) -1 where scoring has negated a candidate to agree with the truth, else 1.
        pixels: the pixel scale.
        decoded: (m, c, h, w) uint8, what the attack says that the candidates are; None for the
            candidates as they stand.
        certified: (m,) bool, accepted by the certificate, which chose the sign without the truth.
    """
    as_it_stands = images_from_inputs(aligned, pixels)
    if decoded is None:
        return as_it_stands
    keep = sign > 0
    if certified is not None:
        keep = keep | certified.cpu()
    return torch.where(keep[:, None, None, None], decoded.cpu(), as_it_stands)


def _alike(
    x: Tensor,
    candidates: Tensor,
    images: Tensor,
    pixels: PixelScale,
    held_out: Tensor | None,
    first_layer: Tensor | None,
    sign_blind: bool,
) -> tuple[Likeness, dict[str, Any]]:
    """The nearest candidates, and all numbers that rest on them; the arguments are `score`'s."""

    def shaped(inputs: Tensor) -> Tensor:
        return inputs.reshape(-1, *pixels.shape)

    def null(others: Tensor | None, shown: Pixels) -> float | None:
        given = None if others is None else shaped(others)
        return null_good(shaped(x), given, images, shown, sign_blind=sign_blind)

    compared = shaped(x), shaped(candidates), images, pixels.values
    alike = nearest(*compared, sign_blind=sign_blind)
    others = None if held_out is None else held_out[:MOST_HELD_OUT]
    found = alike.index >= 0
    return alike, {
        "ncc": _mean(alike.ncc[found]),
        "ssim_stretched": None if alike.ssim is None else _mean(alike.ssim[found]),
        "good_fraction": _mean(alike.good),
        "duplicates": duplicates(*compared, sign_blind=sign_blind),
        "null_good_fraction": null(others, pixels.values),
        "null_held_out": None if others is None else len(others),
        "null_good_rows": null(first_layer, shaped),  # the paper adds no mean to them
        "null_good_mean": null(x.mean(0, keepdim=True), pixels.values),
    }


def _nearest_row(alike: Likeness | None, i: int) -> dict[str, Any]:
    """What a row says of the nearest candidate; nothing where there is none."""
    if alike is None or alike.index[i] < 0:
        return {}
    similarity = None if alike.ssim is None else float(alike.ssim[i])
    return {
        "nearest": int(alike.index[i]),
        "ncc": float(alike.ncc[i]),
        "ssim_stretched": similarity,
    }


def _certified(certified: Tensor | None, matching: Matching, i: int) -> bool | None:
    """None without certificates; a sample without a candidate has none."""
    if certified is None:
        return None
    return bool(matching.matched[i]) and bool(certified[matching.index[i]])


def _mean(values: Tensor | None) -> float | None:
    return None if values is None or not len(values) else values.double().mean().item()
