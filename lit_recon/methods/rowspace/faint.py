"""Pictures of images that are faint in the weights, in the noise that a start has left there.

Shapes: ``candidates (m, d)`` are approximate images at any scale, in one linear space;
``noise (m,)`` is the variance of their errors in one pixel. The errors are white in space, as a
start is.

An image that training has hardly used is a row of the space with as much noise as image in its
differences of pixels. Their independent components are then those of noise as well, so that
components share such images out among each other. Two linear steps help, which need no more than
the size of the noise:

1. The faint candidates are separated once more, on images that a small blur has made coarser. It
   takes more of the noise than of an image. Candidates that are clear take part, and stay.
2. Each is filtered as Wiener (1949) does, with the spectrum of the clear candidates for that of a
   photograph. Nothing is known about the image itself.
"""

from __future__ import annotations

from math import inf, prod

import torch
from scipy.fft import dctn, idctn
from torch import Tensor
from torch.nn import functional as F

from lit_recon.methods.rowspace.components import equalised, maps_of, opponent, refined

FAINT = 0.1  # share of noise in the energy of a candidate's differences
BLURS = 2  # of two by two pixels: three by three, with weights 1, 2, 1
LEAST_SIGNAL = 0.02  # of a candidate's energy that is taken for the image in any case


def noise_shares(candidates: Tensor, noise: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """(m,) the share of noise in the energy of each candidate's differences of pixels."""
    white = torch.randn(1, prod(shape), generator=torch.Generator().manual_seed(0))
    energies = [
        maps_of(x.reshape(-1, *shape)).square().sum((1, 2, 3, 4)) for x in (white, candidates)
    ]
    return noise * energies[0] / energies[1]


def separated_again(
    candidates: Tensor, faint: Tensor, shape: tuple[int, int, int], deadline: float = inf
) -> Tensor:
    """Step 1: the mixture that separates faint candidates.

    Args:
        candidates: (m, d) float64 approximate images.
        faint: (m,) bool, those that are faint.
        shape: (c, h, w) of an image, of at least 4x4 pixels.
        deadline: value of ``time.perf_counter()`` after which no further step begins.

    Returns:
        (m, m) matrix A: rows of ``A @ candidates`` are the images. Clear candidates stay as they
        are, and faint ones keep their norm.
    """
    coarse = candidates.reshape(-1, *shape)
    for _ in range(BLURS):
        coarse = F.avg_pool2d(coarse, 2, 1)
    same = torch.eye(len(candidates), dtype=candidates.dtype)
    mixed = refined(equalised(maps_of(coarse)), same, deadline, held=~faint)
    mixed *= (candidates.norm(dim=1) / (mixed @ candidates).norm(dim=1))[:, None]
    return torch.where(faint[:, None], mixed, same)


def filtered(
    candidates: Tensor, noise: Tensor, clear: Tensor, shape: tuple[int, int, int]
) -> Tensor:
    """Step 2: candidates with less noise.

    Args:
        candidates: (m, d) float64 at any scale.
        noise: (m,) variance of each pixel's error.
        clear: (k, d) pictures without noise, at any scale, from which the spectrum is taken.
        shape: (c, h, w) of an image.

    Returns:
        (m, d) with the same means.
    """
    energy = _spectra(clear, shape).square()
    energy[:, :, 0, 0] = 0  # means are kept
    density = (energy / energy.sum((1, 2, 3), keepdim=True)).mean(0)  # of unit energy
    spectra = _spectra(candidates, shape)
    whole = spectra.square().sum((1, 2, 3)) - spectra[:, :, 0, 0].square().sum(1)
    signal = (whole - noise * prod(shape)).clamp_min(LEAST_SIGNAL * whole)
    expected = signal[:, None, None, None] * density
    gain = expected / (expected + noise[:, None, None, None])
    gain[:, :, 0, 0] = 1
    images = torch.from_numpy(idctn((gain * spectra).numpy(), axes=(2, 3), norm="ortho"))
    return opponent(images, back=True).flatten(1)


def _spectra(images: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """(m, c, h, w) cosine transforms of images (m, d) in brightness and colour contrasts."""
    mixed = opponent(images.reshape(-1, *shape)).numpy()
    return torch.from_numpy(dctn(mixed, axes=(2, 3), norm="ortho"))
