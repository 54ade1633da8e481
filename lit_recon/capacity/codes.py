"""First-layer outputs of many samples, and the scores of masks on them.

Shapes: ``n`` samples, ``n1`` units, ``w`` words of 64 bits, w = n1 / 64 rounded up.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lit_recon.randomness import generator

Activation = Literal["threshold", "relu"]
Indices = NDArray[np.int64]
Bools = NDArray[np.bool_]
Words = NDArray[np.uint64]
Octets = NDArray[np.uint8]

# Outputs of ReLU units are whole multiples of it, so that float64 sums of them are exact in any
# order, and training, prediction and any batch size give the same bits.
GRID = 2.0**-20
OUTPUTS = 2**18  # of one product: 1 MB in float32; half as many or twice as many take longer
FEW_DIMENSIONS = 16  # up to which products in float32 and a second look are faster
CHUNK = 8192  # samples whose scores are computed before the next look for a 0
BLOCK = 2**17  # words of ``plus``, over all candidates that are scored ahead
LONGEST = 32  # candidates that are scored ahead
LOOKED_THROUGH = 4096  # candidates of large data among which the rejected ones are left out
REMEMBERED = 64  # samples that have rejected a candidate
WORD = 64


def draw_first_layer(units: int, d: int, max_bias: float, seed: int) -> tuple[Tensor, Tensor]:
    """Weights N(0, 1) (units, d) and biases uniform in [-max_bias, max_bias] (units,), float32.

    >>> weight, bias = draw_first_layer(4, 2, max_bias=0.5, seed=0)
    >>> weight.shape, bool((bias.abs() <= 0.5).all())
    (torch.Size([4, 2]), True)
    """
    random = generator(seed, "first layer")
    weight = torch.randn(units, d, generator=random)
    return weight, max_bias * (2 * torch.rand(units, generator=random) - 1)


def draw_order(samples: int, seed: int, label: int) -> Indices:
    """A random order of the samples of a class; every class has a draw of its own."""
    return torch.randperm(samples, generator=generator(seed, "candidates", label)).numpy()


def on_grid(z: Tensor) -> Tensor:
    """ReLU of float64 z, rounded to multiples of GRID.

    >>> on_grid(torch.tensor([-1.0, 0.25], dtype=torch.float64)).tolist()
    [0.0, 0.25]
    """
    return (z.clamp(min=0) / GRID).round() * GRID


class BitCodes:
    """Outputs of threshold units, packed into words.

    >>> codes = BitCodes.of(np.array([[True, False, True]]))
    >>> len(codes), codes.masks(np.array([0])).tolist()
    (1, [[False, True, False]])

    Args:
        words: (w, n); the bits after the last unit are 0.
        units: n1.
    """

    def __init__(self, words: Words, units: int) -> None:
        self.words = words
        self.units = units

    @classmethod
    def of(cls, active: Bools) -> BitCodes:
        """From (n, n1)."""
        octets = np.packbits(active, axis=1, bitorder="little")
        padded = np.pad(octets, ((0, 0), (0, -octets.shape[1] % (WORD // 8))))
        return cls(np.ascontiguousarray(padded.view(np.uint64).T), active.shape[1])

    @classmethod
    def at(cls, x: Tensor, weight: Tensor, bias: Tensor) -> BitCodes:
        """Of inputs (n, d), without ever holding n n1 numbers."""
        return cls(active_words(x, weight, bias), len(bias))

    def __len__(self) -> int:
        return self.words.shape[1]

    def take(self, samples: Indices) -> BitCodes:
        """Some samples, in increasing order; no copy is made of samples without gaps."""
        first, last = int(samples[0]), int(samples[-1])
        if last - first + 1 == len(samples):
            return BitCodes(self.words[:, first : last + 1], self.units)
        return BitCodes(self.words[:, samples], self.units)

    def masks(self, samples: Indices) -> Bools:
        bits = np.unpackbits(
            np.ascontiguousarray(self.words[:, samples].T).view(np.uint8), axis=1, bitorder="little"
        )
        return bits[:, : self.units] == 0

    def outputs(self) -> Bools:
        """(n, n1) bool."""
        return ~self.masks(np.arange(len(self)))

    def mask_words(self, sample: int) -> Words:
        """(w,) the mask of a sample; bits after the last unit may be 1."""
        return ~self.words[:, sample]


class RealCodes:
    """Outputs of ReLU units, multiples of GRID.

    >>> codes = RealCodes(np.array([[0.5, 0.0]]))
    >>> codes.masks(np.array([0])).tolist()
    [[False, True]]

    Args:
        values: (n, n1) float64.
    """

    def __init__(self, values: NDArray[np.float64]) -> None:
        self.values = values
        self.units = values.shape[1]

    @classmethod
    def at(cls, x: Tensor, weight: Tensor, bias: Tensor) -> RealCodes:
        """Of inputs (n, d)."""
        values = np.empty((len(x), len(bias)))
        for rows, z in preactivations(x, weight, bias):
            values[rows] = on_grid(z).numpy()
        return cls(values)

    def __len__(self) -> int:
        return len(self.values)

    def take(self, samples: Indices) -> RealCodes:
        return RealCodes(self.values[samples])

    def masks(self, samples: Indices) -> Bools:
        return self.values[samples] <= 0

    def outputs(self) -> NDArray[np.float64]:
        """(n, n1) float64."""
        return self.values


Codes = BitCodes | RealCodes


def codes_at(x: Tensor, weight: Tensor, bias: Tensor, activation: Activation) -> Codes:
    """First-layer outputs of inputs (n, d)."""
    kind = BitCodes if activation == "threshold" else RealCodes
    return kind.at(x, weight, bias)


def preactivations(x: Tensor, weight: Tensor, bias: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """W x + b in float64, a few samples at a time; the tensor is used again by the next ones.

    In float32 the last bits would depend on the batch, and a sample near a threshold with them.
    """
    ones = torch.ones(len(x), 1, dtype=torch.float64)
    whole = torch.cat([x.flatten(1).double(), ones], 1)
    affine = torch.cat([weight, bias[:, None]], 1).double().T.contiguous()  # (d + 1, n1)
    step = max(1, OUTPUTS // len(bias))
    z = torch.empty(min(step, len(x)), len(bias), dtype=torch.float64)
    for start in range(0, len(x), step):
        rows = whole[start : start + step]
        yield slice(start, start + len(rows)), torch.mm(rows, affine, out=z[: len(rows)])


def active_words(x: Tensor, weight: Tensor, bias: Tensor) -> Words:
    """Which units are active on inputs (n, d): W x + b > 0 in float64, as words (w, n).

    Of inputs of few dimensions, products are made in float32, a few samples at a time. Where one is
    so near 0 that rounding may have changed its sign, its byte is computed again in float64. With
    many dimensions that would be too many, and all products are made in float64.

    A product of d + 1 terms is off by at most (d + 1) u |x| |w| / (1 - (d + 1) u) with u = eps / 2,
    in any order of additions (Higham 2002, section 3.1); twice that is taken.
    """
    spare = -len(bias) % 8  # units that are never active fill the last byte
    weight = F.pad(weight, (0, 0, 0, spare))
    affine = torch.cat([weight, F.pad(bias, (0, spare), value=-1.0)[:, None]], 1)  # (n1, d + 1)
    whole = torch.cat([x.flatten(1), torch.ones(len(x), 1)], 1)  # (n, d + 1)
    reach = float(affine.norm(dim=1).max()) * float(whole.norm(dim=1).max())
    few = affine.shape[1] <= FEW_DIMENSIONS
    dtype = torch.float32 if few else torch.float64
    error = affine.shape[1] * torch.finfo(dtype).eps * reach if few else 0.0
    columns, step = affine.T.to(dtype).contiguous(), max(1, OUTPUTS // len(affine))
    words = np.empty((-(-len(affine) // WORD), len(x)), dtype=np.uint64)
    padded = np.zeros((min(step, len(x)), len(words) * WORD // 8), dtype=np.uint8)
    z = torch.empty(min(step, len(x)), len(affine), dtype=dtype)
    near = []
    for start in range(0, len(x), step):
        rows = whole[start : start + step]
        values = torch.mm(rows.to(dtype), columns, out=z[: len(rows)]).numpy()
        above, perhaps = (_octets(values > limit) for limit in (error, -error))
        if not np.array_equal(above, perhaps):
            near.append(np.argwhere(above != perhaps) + np.array([start, 0]))
        padded[: len(rows), : above.shape[1]] = above
        words[:, start : start + len(rows)] = padded[: len(rows)].view(np.uint64).T
    if near:
        samples, places = np.concatenate(near).T
        units = affine.double().view(-1, 8, affine.shape[1])[places]  # (m, 8, d + 1)
        z64 = (units @ whole[samples].double()[..., None])[..., 0]
        exact = np.packbits(z64.numpy() > 0, axis=1, bitorder="little")[:, 0]
        octets = words.view(np.uint8).reshape(len(words), len(x), WORD // 8)
        octets[places // 8, samples, places % 8] = exact
    return words


def _octets(active: Bools) -> Octets:
    """(n, n1) to (n, n1 / 8), for a multiple of 8; faster than packing row by row."""
    return np.packbits(active.ravel(), bitorder="little").reshape(len(active), -1)


class PackedScores:
    """Scores by popcounts: of several candidates ahead where these are few numbers, else of one.

    Args:
        minus: the class that must fire.
        plus: all other samples.
    """

    def __init__(self, minus: BitCodes, plus: BitCodes) -> None:
        self._minus, self._plus = minus, plus
        self._scored = BLOCK // max(1, plus.words.size)  # candidates whose scores fit in a block
        self.ahead = min(LONGEST, self._scored) if self._scored > 1 else LOOKED_THROUGH
        self._known: dict[int, float] = {}
        self._rejecting = np.empty((len(plus.words), 0), dtype=np.uint64)

    def promising(self, candidates: Indices) -> list[int]:
        """The candidates among up to `ahead` ones that no sample rejects, as far as is known."""
        masks = ~self._minus.words[:, candidates]
        if self._rejecting.shape[1]:
            left = _popcounts(self._rejecting, masks).all(1)
            candidates, masks = candidates[left], masks[:, left]
        if self._scored > 1 and len(candidates):
            scores = _popcounts(self._plus.words, masks)
            least = scores.min(1)
            self._remember(np.unique(scores[least == 0].argmin(1)))
            candidates, least = candidates[least > 0], least[least > 0]
            self._known = dict(zip(candidates.tolist(), least.tolist(), strict=True))
        return candidates.tolist()

    def least(self, i: int) -> float:
        """The least score over ``plus`` of a promising candidate."""
        if self._scored > 1:
            return float(self._known[i])
        mask = self._minus.mask_words(i)
        if self._rejecting.shape[1] and not _popcounts(self._rejecting, mask).all():
            return 0.0
        words, least = self._plus.words, np.iinfo(np.int64).max
        for start in range(0, words.shape[1], CHUNK):
            found = _popcounts(words[:, start : start + CHUNK], mask)
            best = int(found.argmin())
            if found[best] == 0:  # no score is smaller
                self._remember(np.array([start + best]))
                return 0.0
            least = min(least, int(found[best]))
        return float(least)

    def _remember(self, samples: Indices) -> None:
        together = np.hstack([self._plus.words[:, samples], self._rejecting])
        self._rejecting = together[:, :REMEMBERED]

    def below(self, i: int, threshold: float, samples: Indices) -> Bools:
        """Which of these samples of ``minus`` have a smaller score."""
        words = self._minus.words
        some = words if len(samples) == words.shape[1] else words[:, samples]
        return _popcounts(some, self._minus.mask_words(i)) < threshold


class ProductScores:
    """Scores by matrix products: those of all candidates at once, or one candidate at a time.

    Args:
        minus: (n-, n1) outputs of the class that must fire.
        plus: (n+, n1) outputs of all other samples.
        at_once: whether to hold all n- (n- + n+) scores.
    """

    def __init__(self, minus: NDArray[Any], plus: NDArray[Any], *, at_once: bool) -> None:
        self._minus, self._plus = minus, plus
        self.ahead = len(minus)
        self._least: NDArray[Any] | None = None
        if at_once:
            masks = (minus <= 0).astype(minus.dtype)
            self._least = (masks @ plus.T).min(1)
            self._own = masks @ minus.T

    def promising(self, candidates: Indices) -> list[int]:
        """The candidates that no sample rejects, as far as is known."""
        if self._least is not None:
            candidates = candidates[self._least[candidates] > 0]
        return candidates.tolist()

    def least(self, i: int) -> float:
        """The least score over ``plus``."""
        if self._least is not None:
            return float(self._least[i])
        return float((self._plus @ self._mask(i)).min())

    def below(self, i: int, threshold: float, samples: Indices) -> Bools:
        """Which of these samples of ``minus`` have a smaller score."""
        if self._least is not None:
            return self._own[i, samples] < threshold
        return self._minus[samples] @ self._mask(i) < threshold

    def _mask(self, i: int) -> NDArray[Any]:
        return (self._minus[i] <= 0).astype(self._minus.dtype)


def _popcounts(words: Words, masks: Words) -> NDArray[np.uint16]:
    """For (w, n) and masks (w,) or (w, m) the scores (n,) or (m, n)."""
    masks = masks[..., None]
    total = np.bitwise_count(words[0] & masks[0]).astype(np.uint16)
    for word, mask in zip(words[1:], masks[1:], strict=True):
        total += np.bitwise_count(word & mask)
    return total
