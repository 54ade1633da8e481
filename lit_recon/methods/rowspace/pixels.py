"""From integer differences to integer pixels, by what the row space says about constants.

A row-space vector is ``v = u - k offset`` with u integer pixels, k = 1 for an image and 0 for a
difference of two, and the offset (255 times the mean) known to the attacker. Differences of pixels
leave a constant for each colour open; the noisy v gives it to within far less than a level, and
the smallest k that makes it an integer is the right one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_recon.methods.rowspace.differences import Differences
from lit_recon.methods.rowspace.lattice import Lattice
from lit_recon.methods.rowspace.levels import Array, Integers, outside

MOST_MULTIPLES = 60  # largest |k|
FEW_MULTIPLES = 2  # of vectors that are images, or sums and differences of a few
OFFSET_ERROR = 1e-3  # levels; float32 statistics of a training set miss by less
SURE_ERROR = 0.05  # levels, where the multiple is known and only one constant can be right
MULTIPLE_ERROR = 0.1
CONSTANT_ERROR = 0.2  # of a vector's residual: errors of single pixels average out in the constant


@dataclass(frozen=True)
class Vectors:
    """Integer vectors of the row space, pixel by pixel.

    Attributes:
        whole: (k, d) integer pixels; an image's are in 0..255.
        multiples: (k,) how often the offset is in it: 1 for an image, 0 for a difference.
    """

    whole: Integers
    multiples: Integers

    def __len__(self) -> int:
        return len(self.whole)

    def turned(self, turn: Integers) -> Vectors:
        """Integer combinations, by the rows of a matrix (m, k)."""
        return Vectors(turn @ self.whole, turn @ self.multiples)

    def with_images(self, levels: Integers) -> Vectors:
        """The same with known images (m, d) in the place of the first m vectors."""
        m = len(levels)
        if m == 0:
            return self
        ones = np.ones(m, dtype=np.int64)
        return Vectors(
            np.concatenate([levels, self.whole[m:]]), np.concatenate([ones, self.multiples[m:]])
        )


def ambiguous(offset: Array, error: float) -> bool:
    """Whether small multiples of the offset (c,) cannot be told from one another by fractions."""
    multiples = np.arange(1, 2 * FEW_MULTIPLES + 1)[:, None] * offset
    miss = np.abs(_from_integer(multiples)).max(1)
    return bool((miss < 2 * (OFFSET_ERROR + error)).any())


def decoded(
    lattice: Lattice,
    rows: Array,
    differences: Differences,
    offset: Array,
    *,
    images: bool = False,
    multiples: Array | None = None,
) -> tuple[Vectors, NDArray[np.bool_]]:
    """The pixels of a lattice's vectors.

    Args:
        lattice: the vectors, short ones, so that their multiples are small.
        rows: (k, d) the same as they are in the noisy row space, in levels.
        differences: those in which the lattice was found.
        offset: (c,) every pixel of a zero input, in levels.
        images: the vectors are images or their negatives. Of several multiples that make a constant
            an integer, the one that puts the pixels into 0..255 is taken, and not the smallest.
        multiples: (k,) how often the offset is in each vector, integers up to noise; None: told by
            the constants.

    Returns:
        The vectors, and whether each one's constant is the integer that it has to be (k,); with
        `images` the negative may not be an image as well.
    """
    lifted, constant = _lifted(lattice, rows, differences)
    tries = np.array(sorted(range(-MOST_MULTIPLES, MOST_MULTIPLES + 1), key=abs))
    shifted = constant[:, :, None] + tries * offset[:, None]
    miss = np.abs(_from_integer(shifted)).max(1)
    fits = miss < OFFSET_ERROR + CONSTANT_ERROR * lattice.residual[:, None]
    if multiples is not None:
        far = np.abs(tries - multiples[:, None])
        fits, miss = (miss < SURE_ERROR) & (far < MULTIPLE_ERROR), far
    first = np.where(fits.any(1), fits.argmax(1), miss.argmin(1))
    shift = np.rint(shifted).astype(np.int64)
    certain = fits.any(1)
    if images:
        for i in range(len(rows)):
            few = np.flatnonzero(fits[i] & (np.abs(tries) <= FEW_MULTIPLES))
            if len(few):
                whole = _raised(lifted[i : i + 1], shift[i][:, few].T)
                whole = np.where(tries[few, None] < 0, -whole, whole)
                beyond = outside(whole)
                first[i] = few[beyond.argmin()]
                certain[i] = ((beyond == 0) & (np.abs(tries[few]) == 1)).sum() < 2
    whole = _raised(lifted, shift[np.arange(len(rows)), :, first])
    return Vectors(whole, tries[first].astype(np.int64)), certain


def decoded_images(
    lattice: Lattice, rows: Array, differences: Differences, offset: Array
) -> tuple[Vectors, NDArray[np.bool_]]:
    """The same where every vector is an image or the negative of one.

    Returns:
        The vectors, and whether one of the two, and not both, has integer pixels in 0..255 (k,).
    """
    ones = np.ones(len(lattice))
    image, fits = decoded(lattice, rows, differences, offset, multiples=ones)
    negative, other = decoded(lattice, rows, differences, offset, multiples=-ones)
    fits &= outside(image.whole) == 0
    other &= outside(-negative.whole) == 0
    first = (fits | ~other)[:, None]
    multiples = np.where(first[:, 0], 1, -1)
    return Vectors(np.where(first, image.whole, negative.whole), multiples), fits ^ other


def decoded_with_image(
    lattice: Lattice, rows: Array, differences: Differences, length: float
) -> tuple[Vectors, NDArray[np.bool_]]:
    """The same where the offset is an image, which is then the last row of the basis.

    Args:
        lattice: the vectors.
        rows: (k, d) the same as they are in the noisy row space, in levels, offset included.
        differences: those in which the lattice was found.
        length: the offset's norm in levels.
    """
    lifted, constant = _lifted(lattice, rows, differences)
    shift = np.rint(constant)
    miss = np.abs(constant - shift).max(1)
    multiples = lattice.coordinates[:, -1] / length
    whole = _raised(lifted, shift.astype(np.int64))
    fits = miss < SURE_ERROR
    fits &= np.abs(multiples - np.rint(multiples)) < MULTIPLE_ERROR
    return Vectors(whole, np.rint(multiples).astype(np.int64)), fits


def with_common_constant(
    lattice: Lattice, rows: Array, differences: Differences
) -> tuple[Vectors, int]:
    """Images where the offset is not known, up to one common level of brightness and one sign.

    All constants have the same fraction, that of the offset, or its negative where the vector is a
    negated image. Of the brightnesses that all images together can have in 0..255 the middle one is
    taken, and of the two signs the one that makes them darker.

    Args:
        lattice: the images, up to sign.
        rows: (k, d) the same as they are in the noisy row space, in levels.
        differences: those in which the lattice was found.

    Returns:
        The images with multiples of 1 or -1, and how many brightnesses are possible.
    """
    lifted, constant = _lifted(lattice, rows, differences)
    sign = np.ones(len(rows), dtype=np.int64)
    fraction = constant[0, 0]
    for i in range(1, len(rows)):
        miss = [np.abs(_from_integer(s * constant[i] - fraction)).max() for s in (1, -1)]
        sign[i] = 1 if miss[0] <= miss[1] else -1
    shift = np.rint(sign[:, None] * constant - fraction).astype(np.int64)
    whole = _raised(sign[:, None] * lifted, shift)
    if whole.mean() + (255 - whole.max() - whole.min()) / 2 > 127.5:
        whole, sign = -whole, -sign  # most photographs are darker than the middle
    low, high = -int(whole.min()), 255 - int(whole.max())
    whole = whole + (low + high) // 2
    return Vectors(whole * sign[:, None], sign), max(1, high - low + 1)


def _lifted(lattice: Lattice, rows: Array, differences: Differences) -> tuple[Integers, Array]:
    """Images (k, d) with the vectors' differences, and the constants (k, c) that they lack."""
    lifted = differences.lifted(lattice.integers)
    return lifted, (rows - lifted).reshape(len(rows), differences.shape[0], -1).mean(2)


def _raised(images: Integers, constants: Integers) -> Integers:
    """Images (k, d) plus a constant for each channel (k, c)."""
    return images + np.repeat(constants, images.shape[1] // constants.shape[1], axis=1)


def _from_integer(value: NDArray[np.floating[Any]]) -> Array:
    return np.asarray(value - np.rint(value))
