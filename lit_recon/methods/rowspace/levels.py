"""What several stages need of images in levels of 0..255."""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

# Brightness and two colour contrasts of (red, green, blue), as orthonormal rows.
OPPONENT = (
    (1 / sqrt(3), 1 / sqrt(3), 1 / sqrt(3)),
    (1 / sqrt(2), 0.0, -1 / sqrt(2)),
    (1 / sqrt(6), -2 / sqrt(6), 1 / sqrt(6)),
)


def outside(images: Array | Integers) -> Array:
    """(m,) levels by which the pixels of images (m, d) lie outside of 0..255, in sum."""
    over, under = (images - 255).clip(min=0), (-images).clip(min=0)
    return np.asarray((over + under).sum(1), dtype=float)
