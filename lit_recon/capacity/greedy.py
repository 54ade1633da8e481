"""The greedy second layer, fast: scores by popcounts of packed bits, or by matrix products.

All scores are exact, so that both give the same bits as the algorithm line by line
(:mod:`lit_recon.capacity.literal`) for the same order of candidates. What makes it fast:

- Of few samples, the least scores of many candidates ahead are computed in one go. Of many, a
  candidate is rejected by one sample of the other class with score 0: the samples that have
  rejected others are tried first, on many candidates in one go, and a scan ends at a score of 0.
- Scores of the own class are computed for uncovered samples only, and for accepted candidates only.
- Threshold units are packed into 64-bit words, and a score is a popcount.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lit_recon.capacity.codes import (
    BitCodes,
    Bools,
    Codes,
    Indices,
    PackedScores,
    ProductScores,
    RealCodes,
)

Scores = PackedScores | ProductScores

# Up to so many first-layer outputs, one product for all candidates beats a popcount for each.
AT_ONCE = 50_000


@dataclass(frozen=True)
class SecondLayer:
    """The units of a class.

    Attributes:
        centres: (n2,) the sample of the class that each unit was made from.
        masks: (n2, n1) bool, U.
        thresholds: (n2,) float64, m.
        covered: (n-,) bool, for which samples of the class some unit fires.
    """

    centres: Indices
    masks: Bools
    thresholds: NDArray[np.float64]
    covered: Bools


def second_layer(minus: Codes, plus: Codes, order: Indices, at_once: int = AT_ONCE) -> SecondLayer:
    """The second layer of a class.

    >>> minus, plus = np.array([[1, 0], [1, 1]], bool), np.array([[0, 1]], bool)
    >>> second_layer(BitCodes.of(minus), BitCodes.of(plus), np.array([1, 0])).masks.tolist()
    [[False, True]]

    Args:
        minus: codes of the class that must fire.
        plus: codes of all other samples; at least one.
        order: a permutation of the samples of ``minus``: the candidates.
        at_once: up to so many first-layer outputs, all scores are one product.
    """
    scores = scores_of(minus, plus, at_once)
    left = np.arange(len(minus))  # uncovered
    covered = np.zeros(len(minus), dtype=bool)
    centres, thresholds = [], []
    for i in _candidates(order, covered, scores):
        threshold = scores.least(i)
        if threshold <= 0:
            continue
        inside = scores.below(i, threshold, left)
        covered[left[inside]] = True
        left = left[~inside]
        centres.append(i)
        thresholds.append(threshold)
        if not len(left):
            break
    chosen = np.array(centres, dtype=np.int64)
    return SecondLayer(chosen, minus.masks(chosen), np.array(thresholds, np.float64), covered)


def _candidates(order: Indices, covered: Bools, scores: Scores) -> Iterator[int]:
    """Uncovered samples that may become units, in order; `covered` changes meanwhile."""
    while len(order):
        block, order = order[: scores.ahead], order[scores.ahead :]
        for i in scores.promising(block):
            if not covered[i]:
                yield i
        order = order[~covered[order]]


def scores_of(minus: Codes, plus: Codes, at_once: int) -> Scores:
    """The faster way to the scores of two classes."""
    small = (len(minus) + len(plus)) * minus.units <= at_once
    if isinstance(minus, BitCodes) and isinstance(plus, BitCodes):
        if not small:
            return PackedScores(minus, plus)
        dense = (codes.outputs().astype(np.float32) for codes in (minus, plus))
        return ProductScores(*dense, at_once=True)
    assert isinstance(minus, RealCodes) and isinstance(plus, RealCodes)
    return ProductScores(minus.values, plus.values, at_once=small)
