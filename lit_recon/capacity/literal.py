"""The algorithm as it is published, line by line: what the fast version is tested against."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lit_recon.capacity.greedy import SecondLayer


def literal_second_layer(
    minus: NDArray[np.float64], plus: NDArray[np.float64], order: NDArray[np.int64]
) -> SecondLayer:
    """Lines 2 to 11 of Algorithm 2 of Genzel, Finke and Dirksen (2023, arXiv 2310.00327).

    The paper draws candidates uniformly without putting them back. Here a permutation `order` is
    drawn first, and samples that are no longer candidates are skipped: the same distribution, and
    an order that another implementation can share.

    >>> minus, plus = np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 1.0]])
    >>> literal_second_layer(minus, plus, np.array([1, 0])).centres.tolist()
    [0]

    Args:
        minus: (n-, n1) first-layer outputs of the class that must fire.
        plus: (n+, n1) those of all other samples; at least one.
        order: a permutation of the n- samples.
    """
    candidates = np.ones(len(minus), dtype=bool)  # C, line 2
    uncovered = np.ones(len(minus), dtype=bool)  # U, line 2
    centres, thresholds = [], []
    for i in order:
        if not uncovered.any():  # line 3
            break
        if not candidates[i]:
            continue
        candidates[i] = False  # line 4
        mask = (minus[i] <= 0).astype(minus.dtype)  # line 5
        threshold = (plus @ mask).min()
        if threshold > 0:  # line 6
            outside = minus @ mask >= threshold
            candidates &= outside  # line 7
            uncovered &= outside  # line 8
            centres.append(i)
            thresholds.append(threshold)
    chosen = np.array(centres, dtype=np.int64)
    return SecondLayer(chosen, minus[chosen] <= 0, np.array(thresholds, np.float64), ~uncovered)
