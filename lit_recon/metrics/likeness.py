"""How alike images look: the scores of Haim et al. and Buzaglo et al., for any attack.

Shapes: inputs of training images ``x (n, c, h, w)``, inputs ``candidates (m, c, h, w)``, uint8
``images (n, c, h, w)``. Scoring only: no attack imports what sees training images here.

Sources: Haim, Vardi, Yehudai, Shamir & Irani (2022, arXiv 2206.07758), Buzaglo et al. (2023, arXiv
2307.01827) and their code; "good" as in Oz et al. (2024, arXiv 2407.15845). Every training image
takes its nearest candidate, and a candidate may serve several, where `match` pairs one to one.

These scores are milder than a direction error:

- NCC ignores brightness and contrast, in each channel on its own. It sees the sign, unless the
  attack is sign-blind; then its absolute value counts.
- The stretched SSIM ignores brightness and contrast of the whole image. It sees the sign.
- More candidates give every image a better nearest one. So the nulls stand beside the scores.

Measured share of good images, n = 500 of CIFAR-10 and m candidates:

    candidates                                       m    good
    other CIFAR-10 images                        1,000    5.0 %
    other CIFAR-10 images                          500    4.0 %
    the mean training image                          1    0.6 %
    noise of 0.1                                 1,000    0.0 %
    training images, noise 0.05 / 0.1 / 0.2        500    98.8 / 79.4 / 4.2 %

The noise is Gaussian, in units of the range of pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, sqrt

import torch
from torch import Tensor
from torch.nn import functional as F

GOOD_ABOVE = 0.4  # stretched SSIM
MOST_HELD_OUT = 1_000  # held-out images that are compared with the training images
HALVED_FROM = 8  # pixels of the shorter side; below it, half the size shows too little
FLAT = 1e-6  # a channel's spread over its norm; rounding of float32 inputs leaves less
WINDOW = 3  # pixels
SIGMA = 1.5  # pixels; the standard deviation that kornia fixes
C1, C2 = 0.01**2, 0.03**2  # as Wang et al. (2004), for a range of 1
CHUNK = 100_000  # values of a block of images; blocks of this size stay in the processor's cache

Pixels = Callable[[Tensor], Tensor]
"""Maps inputs (r, c, h, w) to pixels (r, c, h, w) in any unit."""


@dataclass(frozen=True)
class Likeness:
    """The nearest candidate of each training image, and how alike the two look.

    Attributes:
        index: (n,) int64, the candidate with the highest NCC; -1 where there is none.
        sign: (n,) float64, -1 where a sign-blind comparison negates it, else 1.
        ncc: (n,) float64 in [-1, 1]; NaN where there is none.
        ssim: (n,) float64 in [-1, 1], the stretched SSIM; NaN where there is none. None for images
            with a side below 3.
    """

    index: Tensor
    sign: Tensor
    ncc: Tensor
    ssim: Tensor | None

    @property
    def good(self) -> Tensor | None:
        """(n,) bool: the stretched SSIM is above 0.4."""
        return None if self.ssim is None else self.ssim > GOOD_ABOVE


def ncc(x: Tensor, candidates: Tensor) -> Tensor:
    """Normalised cross-correlation: the correlation of each channel, averaged over channels.

    It does not change with a channel's offset and positive scale; a negated candidate has the
    opposite value. The squared distance of Haim et al. is ``2 (h w - 1) c (1 - ncc)``. A channel
    without contrast has a correlation of 0.

    >>> ramp = torch.arange(9.0).reshape(1, 1, 3, 3)
    >>> [round(value, 6) for value in ncc(ramp, torch.cat([5 * ramp + 2, -ramp]))[0].tolist()]
    [1.0, -1.0]

    Args:
        x: (n, c, h, w).
        candidates: (m, c, h, w).

    Returns:
        (n, m) float64 in [-1, 1] on the CPU.
    """
    return _standardised(x) @ _standardised(candidates).T


def _standardised(x: Tensor) -> Tensor:
    """(n, d) of x (n, c, h, w), whose inner products are the NCC."""
    x = x.detach().to("cpu", torch.float64).flatten(2)
    centred = x - x.mean(2, keepdim=True)
    norm = centred.norm(dim=2, keepdim=True)
    flat = norm <= FLAT * x.norm(dim=2, keepdim=True)
    return torch.where(flat, 0.0, centred / norm).flatten(1) / sqrt(x.shape[1])


def ssim_stretched(images: Tensor, found: Tensor) -> Tensor | None:
    """(n,) structural similarity of pairs of images, each stretched to [0, 1] by its own range.

    Every pixel of a 3x3 Gaussian window of standard deviation 1.5, as kornia computes it, averaged
    over pixels and channels. The code of Haim et al. stretches the candidate only; here an exact
    candidate has 1, also of an image without full contrast. That changes few counts: the shares of
    the table above are then 5.8, 4.8, 2.0, 0.0 and 98.2 / 79.0 / 4.4 %. None for sides below 3.

    >>> image = torch.arange(0, 144, 4).reshape(1, 1, 6, 6)
    >>> round(ssim_stretched(image, 0.01 * image + 7).item(), 6)
    1.0

    Args:
        images: (n, c, h, w) pixels in any unit.
        found: (n, c, h, w), in any unit.
    """
    if min(images.shape[2:]) < WINDOW:
        return None
    block = max(1, CHUNK // images[:1].numel()) if len(images) else 1
    pairs = zip(images.split(block), found.split(block), strict=True)
    return torch.cat([_mean_ssim(stretched(a), stretched(b)) for a, b in pairs])


def stretched(images: Tensor) -> Tensor:
    """Images (n, c, h, w), each with its own lowest pixel moved to 0 and its highest to 1.

    >>> stretched(torch.tensor([2, 4, 6, 3]).reshape(1, 1, 2, 2)).flatten().tolist()
    [0.0, 0.5, 1.0, 0.25]

    Returns:
        (n, c, h, w) float64 on the CPU; an image without contrast is 0 everywhere.
    """
    images = images.detach().to("cpu", torch.float64)
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - low) / torch.where(high > low, high - low, 1.0)


def _mean_ssim(a: Tensor, b: Tensor) -> Tensor:
    """(n,) for pixels (n, c, h, w) in [0, 1]."""
    mean_a, mean_b = _blurred(a), _blurred(b)
    variance_a = _blurred(a.square()) - mean_a.square()
    variance_b = _blurred(b.square()) - mean_b.square()
    covariance = _blurred(a * b) - mean_a * mean_b
    like = (2 * mean_a * mean_b + C1) * (2 * covariance + C2)
    most = (mean_a.square() + mean_b.square() + C1) * (variance_a + variance_b + C2)
    return (like / most).mean((1, 2, 3))


def _blurred(images: Tensor) -> Tensor:
    """Gaussian means over 3x3 pixels; beyond its edge an image is mirrored."""
    centre = 1 / (1 + 2 * exp(-0.5 / SIGMA**2))
    side = (1 - centre) / 2
    wide = F.pad(images, (1, 1, 1, 1), mode="reflect")
    tall = centre * wide[..., 1:-1] + side * (wide[..., :-2] + wide[..., 2:])
    return centre * tall[..., 1:-1, :] + side * (tall[..., :-2, :] + tall[..., 2:, :])


def nearest(
    x: Tensor, candidates: Tensor, images: Tensor, pixels: Pixels, *, sign_blind: bool = False
) -> Likeness:
    """Compare every training image with its nearest candidate.

    The nearest candidate has the highest NCC. Colour images with sides of 8 and more are searched
    at half their size, as Haim et al. do; what is reported is of the full size.

    >>> images = torch.eye(16)[:3].reshape(3, 1, 4, 4)
    >>> found = nearest(images, images.flip(0) / 2, images, lambda x: x)
    >>> found.index.tolist(), found.good.tolist()
    ([2, 1, 0], [True, True, True])

    Args:
        x: (n, c, h, w) inputs of the training images.
        candidates: (m, c, h, w); those that are not finite are nobody's nearest.
        images: (n, c, h, w) pixels of the training images in any unit.
        pixels: turns candidates into pixels, for the SSIM.
        sign_blind: a candidate and its negative are the same.
    """
    usable = _finite(candidates)
    index, sign = torch.full((len(x),), -1), torch.ones(len(x), dtype=torch.float64)
    if not len(usable):
        none = torch.full((len(x),), torch.nan, dtype=torch.float64)
        return Likeness(index, sign, none, None if min(images.shape[2:]) < WINDOW else none)
    index = usable[_searched(x, candidates[usable], sign_blind).argmax(1)]
    correlation = (_standardised(x) * _standardised(candidates[index])).sum(1)
    if sign_blind:
        sign[correlation < 0] = -1
    chosen = _times(sign, candidates[index])
    return Likeness(index, sign, sign * correlation, ssim_stretched(images, pixels(chosen)))


def duplicates(
    x: Tensor, candidates: Tensor, images: Tensor, pixels: Pixels, *, sign_blind: bool = False
) -> int | None:
    """How many candidates are good and show a training image that another one shows already.

    Every candidate takes its nearest training image; those with a stretched SSIM above 0.4 are
    counted, less the number of distinct images among them. None for images with a side below 3. The
    arguments are those of `nearest`.
    """
    usable = candidates[_finite(candidates)]
    owner = _searched(x, usable, sign_blind).argmax(0)  # (m,)
    sign = torch.ones(len(usable), dtype=torch.float64)
    if sign_blind:
        sign[(_standardised(x)[owner] * _standardised(usable)).sum(1) < 0] = -1
    values = ssim_stretched(images[owner], pixels(_times(sign, usable)))
    if values is None:
        return None
    shown = owner[values > GOOD_ABOVE]
    return len(shown) - len(shown.unique())


def null_good(
    x: Tensor, others: Tensor | None, images: Tensor, pixels: Pixels, *, sign_blind: bool = False
) -> float | None:
    """Share of training images that look good though no attack has found them.

    The arguments `x`, `images` and `sign_blind` are those of `nearest`.

    Args:
        others: (m, c, h, w), in the place of candidates; None, or none of them: there is no null.
        pixels: turns them into pixels.
    """
    if others is None or not len(others):
        return None
    good = nearest(x, others, images, pixels, sign_blind=sign_blind).good
    return None if good is None else good.double().mean().item()


def _finite(candidates: Tensor) -> Tensor:
    """The indices of the candidates that are finite."""
    largest = torch.linalg.vector_norm(candidates.detach().flatten(1), torch.inf, dim=1)
    return largest.isfinite().nonzero()[:, 0].cpu()


def _times(sign: Tensor, candidates: Tensor) -> Tensor:
    """Each candidate (m, c, h, w) times its sign (m,)."""
    return sign[:, None, None, None] * candidates.detach().to("cpu", torch.float64)


def _searched(x: Tensor, candidates: Tensor, sign_blind: bool) -> Tensor:
    """(n, m) the values by which nearest ones are chosen."""
    values = ncc(_search_size(x), _search_size(candidates))
    return values.abs() if sign_blind else values


def _search_size(x: Tensor) -> Tensor:
    """Colour images at half their size."""
    if x.shape[1] != 3 or min(x.shape[2:]) < HALVED_FROM:
        return x
    x = x.detach().to("cpu", torch.float64)
    return F.interpolate(x, scale_factor=0.5, mode="bicubic")
