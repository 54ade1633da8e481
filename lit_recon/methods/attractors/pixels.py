"""Which points are images of whole pixels: a certificate that needs no truth.

A point where an autoencoder comes to rest is a training image, or it is not. Training images are
integers in every pixel, and nothing in a network makes other points so. The levels of a point are
255 times its pixels in [0, 1]; it is certified if all its levels are within `WORST` of integers in
0..255, and if the chance of that is small for levels that are uniform between integers:

    chance = (2 worst)^k      for k distinct levels in 1..254, and the worst distance to an integer.

Each level counts once, since pixels of one value have one error, and 0 and 255 do not count, since
a network whose outputs are clamped or saturate gives them anyway. So a flat image is never
certified, nor one of black and white. The zero input is none either: networks without biases leave
it in place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_recon.knowledge import PixelScale
from lit_recon.metrics import images_from_inputs
from lit_recon.metrics.certificate import Certificates

WORST = 0.1  # levels
ROUNDING = 1e-6  # levels to which a limit is known at best
FALSE_ALARM = 1e-9  # chance for one point
LEAST_LOG = -300.0  # of the chance; 10 to the power of less is no double
ZERO = 1e-3  # rms in levels, up to which a point is the zero input


def negatives_are_images(pixels: PixelScale) -> bool:
    """Whether the negative of every input has whole levels, as with a mean of one half."""
    twice = 2 * torch.as_tensor(pixels.offset, dtype=torch.float64)
    return bool(((twice - twice.round()).abs() < WORST).all())


@dataclass(frozen=True)
class WholePixels:
    """The levels of points, beside the nearest integers.

    Attributes:
        certificates: of the points; a residual is an rms distance to integers.
        worst: (m,) the largest distance of a level to an integer, at most 0.5; inf if the integer
            is not in 0..255.
        log_chance: (m,) log10 of the chance above.
    """

    certificates: Certificates
    worst: Tensor
    log_chance: Tensor

    @property
    def accepted(self) -> Tensor:
        """(m,) which points are certainly images."""
        return self.certificates.accepted


def whole_pixels(x: Tensor, pixels: PixelScale) -> WholePixels:
    """Compare points with images of whole pixels.

    >>> image = torch.arange(48.0).reshape(1, 48)
    >>> scale = PixelScale((3, 4, 4), mean=0.0, std=1 / 255)
    >>> whole_pixels(torch.cat([image + 1e-3, image + 0.5]), scale).accepted
    tensor([ True, False])

    Args:
        x: (m, d) inputs.
        pixels: the pixel scale.
    """
    x = x.detach().to("cpu", torch.float64)
    levels = 255 * pixels.values(x).flatten(1)  # (m, d)
    whole = levels.round()
    error = (levels - whole).abs()
    inside = ((whole >= 0) & (whole <= 255)).all(1)
    worst = torch.where(inside, error.amax(1), torch.inf)
    counts = torch.zeros(len(x), 256).scatter_(1, whole.nan_to_num().clamp(0, 255).long(), 1.0)
    distinct = counts[:, 1:255].sum(1).double()
    log_chance = (distinct * (2 * worst.clamp(ROUNDING, 0.5)).log10()).clamp_min(LEAST_LOG)
    away = (levels - pixels.offset).square().mean(1).sqrt() > ZERO
    accepted = (worst <= WORST) & (log_chance <= torch.tensor(FALSE_ALARM).log10()) & away
    images = images_from_inputs(x, pixels)
    certificates = Certificates(
        accepted=accepted,
        residual=error.square().mean(1).sqrt(),
        scale=x.norm(dim=1),
        images=images,
        sign=torch.ones(len(x), dtype=torch.float64),
    )
    return WholePixels(certificates, worst, log_chance)
