"""Images as independent components of the space that they span.

Shapes: ``basis (r, d)`` rows that span r images of ``shape (c, h, w)``; a *map* is one linear
picture of an image, here a difference of neighbouring pixels in one colour; ``maps (r, c, 3, h,
w)`` are three kinds of differences in c colours, and ``k`` is their rank.

Differences of neighbouring pixels are sparse and nearly independent from one image to the next,
and the large ones of an image lie close together. So the images are the independent components of
their span, and one local energy serves all differences around a pixel (group ICA with overlapping
groups: Hyvarinen, Hoyer & Inki 2001). The features decide whether this works: on pixels, and on one
kind of difference, FastICA fails with 200 images.

1. A symmetric fixed point (Hyvarinen 1999) over orthogonal matrices finds all images from a random
   start. It maximises the mean of ``-log(E + e)`` with E the mean energy of 27 differences. It
   begins with the first rows of the basis, 60 to 120, and takes twice as many each time, from what
   it has found.
2. Images are not exactly uncorrelated. Quasi-Newton steps on the likelihood without the
   constraint (relative steps: Amari 1998, Cardoso & Laheld 1996) remove most of the remaining
   error. Here the energy is that of three differences at one pixel.

Measured on the span of CIFAR-10 images at 32x32, one core: direction error (median), images with
SSIM > .4 when scaled to [0, 1], seconds.

    n       60         100        200
    step 1  .16, 60    .21, 100   .31, 200
    both    .09, 60    .13, 100   .20, 200
    seconds 1.1        2.5        8.3
"""

from __future__ import annotations

from math import inf, sqrt
from time import perf_counter

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_recon.methods.rowspace.levels import OPPONENT

KINDS = 3  # of differences: horizontal, vertical, and the difference of two differences
WINDOW = 3  # side of the neighbourhood in pixels that shares one energy in step 1
SEARCH_FLOOR = 0.03  # e above, in units of the mean energy
REFINE_FLOOR = 0.005  # the same in step 2; .05 leaves an error of .11 instead of .085 at n = 60
SEARCH_STEPS = 220
MOMENTUM = 0.9
FIRST_STAGE, STAGE_STEPS = 60, 60  # the fewest rows of a search that is not the last
SEARCH_TOLERANCE = 2e-4  # 1 - cosine between steps; more of them change nothing after step 2
REFINE_STEPS = 20
REFINE_RATE = 0.7  # full steps oscillate at n = 100
LARGEST_STEP = 0.5  # norm of a row of one relative step
LEAST_CURVATURE = 1.3  # of two images against each other; 1 would be Gaussian sources
RANK_TOLERANCE = 1e-6  # singular values of the maps below this share of the largest are no images
SPREAD = 0.15  # standard deviation of a coefficient times its curvature; see component_spread


def independent_components(
    basis: Tensor,
    shape: tuple[int, int, int],
    generator: torch.Generator,
    deadline: float = inf,
) -> Tensor:
    """Find the images in their span, up to order, scale, sign and a constant image.

    Args:
        basis: (r, d) float64 rows in pixel space, up to a constant image each: ``x`` itself where
            one mean is subtracted from all pixels, ``x + mean image`` else. Where there are many,
            those that hold most of the images should come first.
        shape: (c, h, w) of an image; three channels are mixed to opponent colours.
        generator: source of the random start.
        deadline: value of ``time.perf_counter()`` after which stages are left out and no further
            step begins.

    Returns:
        (k, r) float64 unmixing matrix A: rows of ``A @ basis`` are the images. Their differences
        have unit rms. k is r, or less where differences of the basis have a lower rank.

    >>> generator = torch.Generator().manual_seed(0)
    >>> images = torch.randn(2, 64, dtype=torch.float64, generator=generator) ** 3
    >>> mixed = torch.tensor([[1.0, 0.5], [-0.7, 1.0]], dtype=torch.float64) @ images
    >>> found = independent_components(mixed, (1, 8, 8), generator) @ mixed
    >>> cosines = torch.corrcoef(torch.cat([images, found]))[:2, 2:].abs()
    >>> bool((cosines.amax(1) > 0.9).all())
    True
    """
    maps, found = maps_of(basis.reshape(-1, *shape)), None
    for rank in _stages(len(basis)):
        if perf_counter() > deadline and rank != len(basis):
            continue
        white, to_basis = _whiten(maps[:rank])
        k = len(to_basis)
        random = torch.randn(k, k, dtype=torch.float64, generator=generator)
        start = random if found is None else _extended(found, to_basis, random)
        steps = SEARCH_STEPS if rank == len(basis) else STAGE_STEPS
        unmixed = _search(white, _orthogonal(start), steps, deadline)
        found = unmixed @ to_basis
    return refined(white, unmixed, deadline) @ to_basis


def component_spread(candidates: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The expected share of one image in the component of another.

    The components are ``(I + E) images``. The likelihood is steep against a coefficient E_ki where
    image i has edges and image k is flat, so E_ki is small there. With the curvature H of
    `_score`, the standard deviation of E_ki is 0.15 / H_ki from the lowest to the highest
    tenth of H (0.002 to 0.024), measured on CIFAR-10 at n = 60 and 100.

    Args:
        candidates: (k, d) components in pixel space, at any scale.
        shape: (c, h, w) of an image.

    Returns:
        (k, k) standard deviations of E, zero on the diagonal.
    """
    maps = equalised(maps_of(candidates.reshape(-1, *shape)))
    rms = maps.square().mean((1, 2, 3, 4)).sqrt()
    _, curvature = _score(maps / rms[:, None, None, None, None])
    return (SPREAD / curvature * rms[:, None] / rms).fill_diagonal_(0)


def opponent(images: Tensor, *, back: bool = False) -> Tensor:
    """Images (r, c, h, w) in brightness and two colour contrasts, or back from these.

    They have unit length and are orthogonal. Images without three channels stay as they are.
    """
    if images.shape[1] != len(OPPONENT):
        return images
    colours = torch.tensor(OPPONENT, dtype=images.dtype)
    return torch.einsum("ab,rbij->raij", colours.T if back else colours, images)


def maps_of(images: Tensor) -> Tensor:
    """Maps (r, c, 3, h, w) of images (r, c, h, w), zero where the neighbour is missing."""
    images = opponent(images)
    right, down = images.diff(dim=3), images.diff(dim=2)
    both = right.diff(dim=2)
    return torch.stack(
        [F.pad(right, (0, 1)), F.pad(down, (0, 0, 0, 1)), F.pad(both, (0, 1, 0, 1))], dim=2
    )


def equalised(maps: Tensor) -> Tensor:
    """Maps with the same energy in each kind and colour, so that faint colours count too."""
    energy = maps.square().mean((0, 3, 4), keepdim=True)
    return maps / energy.clamp_min(torch.finfo(maps.dtype).tiny).sqrt()


def _whiten(maps: Tensor) -> tuple[Tensor, Tensor]:
    """White maps (k, c, 3, h, w) and the matrix (k, r) that makes them of the basis."""
    maps = equalised(maps)
    flat = maps.flatten(1)
    values, vectors = torch.linalg.eigh(flat @ flat.T)
    kept = values > RANK_TOLERANCE**2 * values[-1]
    matrix = (vectors[:, kept] / values[kept].sqrt()).T * sqrt(flat.shape[1])
    return (matrix @ flat).reshape(-1, *maps.shape[1:]), matrix


def _orthogonal(matrix: Tensor) -> Tensor:
    """The orthonormal rows closest to given ones, by the eigenvectors of their Gram matrix."""
    values, vectors = torch.linalg.eigh((matrix @ matrix.T).double())
    tiny = torch.finfo(values.dtype).eps * values[-1]
    root = (vectors / values.clamp_min(tiny).sqrt()) @ vectors.T
    return root.to(matrix.dtype) @ matrix


def _local_mean(energy: Tensor) -> Tensor:
    """Mean over the neighbourhood of each pixel, of (k, c, h, w)."""
    return F.avg_pool2d(energy, WINDOW, 1, WINDOW // 2, count_include_pad=False)


def _stages(rank: int) -> list[int]:
    """How many rows of the basis each search takes."""
    stages = [rank]
    while stages[0] > 2 * FIRST_STAGE:
        stages.insert(0, stages[0] // 2)
    return stages


def _extended(found: Tensor, to_basis: Tensor, random: Tensor) -> Tensor:
    """Unmixing of a larger space (k, k), of which the first rows are those of a smaller one.

    Args:
        found: (j, i) unmixing of the first i rows of a basis.
        to_basis: (k, r) from white maps of r rows to the basis.
        random: (k, k) the remaining rows.
    """
    padded = torch.zeros(len(found), to_basis.shape[1], dtype=found.dtype)
    padded[:, : found.shape[1]] = found
    rows = _orthogonal(padded @ torch.linalg.pinv(to_basis))
    rest = random[len(rows) :]
    return torch.cat([rows, rest - rest @ rows.T @ rows])


def _search(white: Tensor, start: Tensor, steps: int, deadline: float) -> Tensor:
    """Step 1: the fixed point over orthogonal matrices (k, k).

    Each step goes on in the direction of the one before (heavy ball: Polyak 1964). Images that look
    alike part slowly: of 500, 344 are near after 150 steps without this, and 474 after 140 with it.

    Products are in float32: the statistical error is far above its rounding.
    """
    flat, found = white.flatten(1).float(), start.float()
    members, before = KINDS * WINDOW**2, found
    for _ in range(steps):
        if perf_counter() > deadline:
            break
        sources = (found @ flat).reshape(white.shape)
        energy = _local_mean(sources.square().mean(2))
        weight = 1 / (energy + SEARCH_FLOOR)
        slope = (weight - 2 / members * weight.square() * energy).mean((1, 2, 3))
        score = (sources * _local_mean(weight)[:, :, None]).flatten(1)
        new = _orthogonal(score @ flat.T / flat.shape[1] - slope[:, None] * found)
        turned = (new * found).sum(1, keepdim=True) < 0  # it is a fixed point up to signs
        new = torch.where(turned, -new, new)
        new = _orthogonal(new + MOMENTUM * (found - before))
        before, found = found, new
        if (found * before).sum(1).min() > 1 - SEARCH_TOLERANCE:
            break
    return found.double()


def refined(maps: Tensor, start: Tensor, deadline: float, held: Tensor | None = None) -> Tensor:
    """Step 2: quasi-Newton steps ``A <- (I - D) A`` on the likelihood, A (k, k).

    With gradient G and curvature H of `_score`, only D_ij and D_ji are coupled.

    Args:
        maps: (k, c, 3, h, w) maps of the basis.
        start: (k, k) unmixing to begin with.
        deadline: value of ``time.perf_counter()`` after which no further step begins.
        held: (k,) bool, rows that only change their scale; None: none of them.
    """
    flat, found = maps.flatten(1).float(), start.float()
    for _ in range(REFINE_STEPS):
        if perf_counter() > deadline:
            break
        sources = found @ flat
        rms = sources.square().mean(1, keepdim=True).sqrt()
        sources, found = sources / rms, found / rms
        gradient, curvature = _score(sources.reshape(maps.shape))
        pair = (curvature * curvature.T).clamp_min(LEAST_CURVATURE) - 1
        step = (curvature.T * gradient - gradient.T) / pair
        if held is not None:  # D_ji is 0 where j is held
            step = torch.where(held, gradient / curvature.clamp_min(1), step)
            step[held] = 0
        step.fill_diagonal_(0)
        step *= REFINE_RATE * min(1.0, LARGEST_STEP / float(step.norm(dim=1).max()))
        found = found - step @ found
    return found.double()


def _score(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient and curvature (k, k) of the likelihood of maps (k, c, 3, h, w) with unit rms.

    With weights ``w = 1 / (E + e)`` the gradient is ``G_ij = mean(w_i s_i s_j)`` and the curvature
    ``H_ij = mean(w_i s_j^2)``, both relative to G_ii.
    """
    weight = 1 / (maps.square().mean(2, keepdim=True) + REFINE_FLOOR)
    weight = weight.expand_as(maps).flatten(1)
    flat = maps.flatten(1)
    scale = (weight * flat.square()).sum(1, keepdim=True)
    return (weight * flat) @ flat.T / scale, weight @ flat.square().T / scale
