"""Integer features of images, and images in which they are whole.

Shapes: images ``(d,)`` or ``(n, d)`` in levels, ``directions (m, d)`` as well; a *feature* is an
integer combination of an image's pixels, so that it is whole where the image is.

Differences of neighbouring pixels, or of two colours of a pixel, are three to four times smaller
than pixels. Colours change together from one pixel to the next, so the change of such a colour
difference is three times smaller once more (rms of CIFAR-10 at 32x32: 25 levels and 7). The smaller
a feature is in other images, the less their unknown share in this one changes it.

With shares t of the directions, features have the phases ``phi + t M``, of which the *coherence* is
the sum of cosines, in standard deviations of a sum of random ones (the ambiguity function of phase
measurements: Counselman, Gourevitch 1981). It tells nothing until all large shares are nearly
right. So it is raised one share at a time, over a grid, always by the share that helps most: a few
wrong shares are found, many are not. Once it stands out, all shares are fitted at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, prod

import torch
from torch import Tensor

HELD_OUT = 0.2  # share of the pixels that no feature reads
POOL = 3000  # features of each kind at most, drawn at random
SCANNED = 1500  # of them, for the grid
LARGEST_SHARE, SHARE_STEP = 0.08, 0.004  # of a direction, in units of the image's contrast
FINE_STEPS = 41  # within one step of the grid
LEAST_GAIN = 1.0  # of coherence by one share
MOST_SHARES = 30  # one after the other, before all are fitted
STANDS_OUT = 8.0  # coherence from which on all shares are fitted
TURNS = 8
FITTED_SHARE = 0.003  # standard deviation of a share in the fit
FIRST_SIGMA, FALL, FITS = 0.2, 0.7, 8  # levels; deviation of a pixel in the fit, from step to step
LAST_SIGMA = 0.05


@dataclass(frozen=True)
class Features:
    """Which pixels features are made of.

    >>> features = Features.drawn((3, 8, 8), torch.Generator().manual_seed(0))
    >>> images = torch.arange(2 * 3 * 64.0).reshape(2, -1)
    >>> features.of(images).shape == (2, len(features.count)), len(features.held)
    (True, 39)

    Attributes:
        index: (4, f) pixels: the first and the last count as they are, the others negatively.
            Pixels of simple differences cancel in pairs.
        count: (f,) float64, how many pixels a feature reads.
        free: (p,) the pixels that features may read.
        held: (q,) the others, in all channels of a place.
    """

    index: Tensor
    count: Tensor
    free: Tensor
    held: Tensor

    @classmethod
    def drawn(cls, shape: tuple[int, int, int], generator: torch.Generator) -> Features:
        """Features of images of ``shape (c, h, w)``."""
        index = torch.arange(prod(shape)).reshape(shape)
        places = torch.randperm(prod(shape[1:]), generator=generator)
        most = max(1, round(HELD_OUT * len(places)))
        held, free = (index.flatten(1)[:, part].flatten() for part in places.tensor_split([most]))
        beside = [(index[:, :, 1:], index[:, :, :-1]), (index[:, 1:], index[:, :-1])]
        colours = [(index[channel], index[channel + 1]) for channel in range(shape[0] - 1)]
        simple = [torch.stack([a, b, a, a]).flatten(1) for a, b in beside + colours]
        mixed = [
            torch.stack([a[1:], b[1:], a[:-1], b[:-1]]).flatten(1)
            for pair in colours
            for a, b in (pair, (pair[0].T, pair[1].T))
        ]
        pools = [torch.cat(kind, 1) for kind in (simple, mixed) if kind]
        pools = [pool[:, torch.isin(pool, free).all(0)] for pool in pools]
        chosen = torch.cat(
            [pool[:, torch.randperm(pool.shape[1], generator=generator)[:POOL]] for pool in pools],
            1,
        )
        count = torch.where(chosen[0] == chosen[2], 2.0, 4.0).double()
        return cls(chosen, count, free, held)

    def of(self, images: Tensor) -> Tensor:
        """(..., f) the features of images (..., d)."""
        first, second, third, last = (images[..., part] for part in self.index)
        return first - second - third + last

    def whole_near(self, image: Tensor, directions: Tensor) -> Tensor:
        """The image (d,) near a given one whose features are most nearly whole.

        Args:
            image: (d,) float64 to begin with.
            directions: (m, d) that it may hold a share of, with the norm of its contrast.
        """
        maps, phase = self.of(directions), self.of(image)
        some = torch.linspace(0, len(phase) - 1, min(SCANNED, len(phase))).long()
        for _ in range(TURNS):
            for _ in range(MOST_SHARES):
                found = _best_share(phase[some], maps[:, some])
                if found is None:
                    break
                row, share = found
                image, phase = image + share * directions[row], phase + share * maps[row]
            reached = coherence(phase)
            if reached < STANDS_OUT:
                return image
            fitted = self._fitted(image, directions, maps)
            if coherence(self.of(fitted)) < reached + LEAST_GAIN:
                break
            image, phase = fitted, self.of(fitted)
        # The pixels themselves fix a constant that is added to all of them.
        return self._fitted(image, directions, torch.cat([maps, directions[:, self.free]], 1))

    def _fitted(self, image: Tensor, directions: Tensor, maps: Tensor) -> Tensor:
        """The image with the shares that make its features whole, by robust least squares.

        Args:
            image: (d,).
            directions: (m, d).
            maps: (m, f) features of the directions, or (m, f + p) with their free pixels.
        """
        free = self.free[: maps.shape[1] - len(self.count)]
        noise = torch.cat([self.count, torch.ones(len(free)).to(self.count)])
        for step in range(FITS):
            phase = torch.cat([self.of(image), image[free]])
            rest = phase.round() - phase
            variance = max(LAST_SIGMA, FIRST_SIGMA * FALL**step) ** 2 * noise / 2
            weighted = maps / (variance + rest.square())
            precision = weighted @ maps.T
            precision.diagonal().add_(FITTED_SHARE**-2)
            image = image + torch.linalg.solve(precision, weighted @ rest) @ directions
        return image


def coherence(phase: Tensor) -> float:
    """How nearly whole features (f,) are, in standard deviations of the same at random."""
    return float(torch.cos(2 * pi * phase).sum()) / (len(phase) / 2) ** 0.5


def _best_share(phase: Tensor, maps: Tensor) -> tuple[int, float] | None:
    """The direction and its share that raise the coherence most; None: none does so enough.

    Args:
        phase: (f,) features.
        maps: (m, f) those of the directions.
    """
    steps, unit = round(LARGEST_SHARE / SHARE_STEP), (len(phase) / 2) ** 0.5
    turn = torch.polar(torch.ones_like(maps), 2 * pi * SHARE_STEP * maps).to(torch.complex64)
    begin = torch.polar(torch.ones_like(phase), 2 * pi * phase).to(torch.complex64)
    best, place = coherence(phase) + LEAST_GAIN, None
    for sign, each in ((1, turn), (-1, turn.conj().resolve_conj())):
        moved = begin.expand_as(each)
        for step in range(1, steps + 1):
            moved = moved * each
            value, row = (moved.real.sum(1) / unit).max(0)
            if value > best:
                best, place = float(value), (int(row), sign * step * SHARE_STEP)
    if place is None:
        return None
    row, share = place
    fine = share + torch.linspace(-SHARE_STEP, SHARE_STEP, FINE_STEPS).to(phase)
    total = torch.cos(2 * pi * (phase + fine[:, None] * maps[row])).sum(1)
    return row, float(fine[total.argmax()])
