"""Stages 3 and 4 together: from integer vectors to images, and how sure each of them is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf, prod

import numpy as np
import torch
from numpy.typing import NDArray

from lit_recon.knowledge import PixelScale
from lit_recon.methods.rowspace.components import independent_components
from lit_recon.methods.rowspace.differences import Differences
from lit_recon.methods.rowspace.faint import FAINT, filtered, noise_shares, separated_again
from lit_recon.methods.rowspace.lattice import Lattice, Space, lll_transform
from lit_recon.methods.rowspace.levels import Array, Integers, outside
from lit_recon.methods.rowspace.pixels import (
    CONSTANT_ERROR,
    Vectors,
    ambiguous,
    decoded,
    decoded_images,
    decoded_with_image,
    with_common_constant,
)
from lit_recon.methods.rowspace.separation import (
    TRIPLES,
    basis_of,
    cost_of,
    descend,
    gradients,
    rounded,
    shortened,
    sparsest,
)
from lit_recon.methods.rowspace.span import Span

Guesses = Callable[[], Array | None]

PHOTOGRAPH = 0.25  # standard deviation of a photograph's pixels, where it is not known
COMPONENTS_FROM = 8  # smallest image side with enough pixels for independent components
SURE_GAP = 10.0  # nats; other combinations are less likely by a factor of e^10
MIRROR = 0.01  # levels from an integer at which twice the offset counts as one
DOMINANT = 0.6  # squared cosine of a vector with one independent component; a sum of two has 0.5
FLAT = 1e-6  # levels by which the offset of a channel may vary and still be one number


@dataclass(frozen=True)
class Frame:
    """How the row space lies in pixels: levels of 0..255 for each unit, and the offset.

    Attributes:
        shape: (c, h, w).
        unit: (d,) levels for each unit of an input, 255 std; None: not known.
        offset: (d,) the image of a zero input in levels; None: not known.
    """

    shape: tuple[int, int, int]
    unit: Array | None
    offset: Array | None

    @classmethod
    def of(cls, shape: tuple[int, int, int], pixels: PixelScale | None) -> Frame:
        """The frame of an attacker who knows the pixel scale, or only the shape."""
        if pixels is None:
            return cls(shape, None, None)
        offset = torch.as_tensor(pixels.offset, dtype=torch.float64).expand(pixels.d)
        std = torch.as_tensor(pixels.std, dtype=torch.float64).expand(shape).flatten()
        return cls(shape, (255 * std).numpy(), offset.numpy())

    @property
    def level(self) -> float:
        """Levels for each unit of an input, the mean over pixels; a guess where it is not known."""
        return 255 * PHOTOGRAPH if self.unit is None else float(self.unit.mean())

    @property
    def weights(self) -> Array:
        """(d,) by which an input's pixels are multiplied to have the same unit; their mean is 1."""
        return np.ones(prod(self.shape)) if self.unit is None else self.unit / self.level

    @property
    def constants(self) -> Array | None:
        """(c,) the offset of each channel; None if it is not known or an image."""
        if self.offset is None or self.image:
            return None
        return self.offset.reshape(self.shape[0], -1)[:, 0]

    @property
    def image(self) -> bool:
        """Whether the offset is an image, and thus a further direction of the lattice."""
        if self.offset is None:
            return False
        return float(np.ptp(self.offset.reshape(self.shape[0], -1), axis=1).max()) > FLAT


@dataclass(frozen=True)
class PixelSpace:
    """The row space as it lies in pixels.

    Attributes:
        frame: levels and offset. The offset is zero where the rows hold it already.
        rows: (r, d) unit rows that the lattice lies in: the span, and the offset if it is an image.
        differences: those of pixels in which the lattice is looked for.
        space: the rows in these differences, and how precise they are.
        tags: (r,) how many images a level of each row holds; None: not known.
        shift: (d,) the offset that the rows hold already.
    """

    frame: Frame
    rows: Array
    differences: Differences
    space: Space
    tags: Array | None
    shift: Array

    @classmethod
    def of(
        cls, frame: Frame, span: Span, tags: Array | None = None, *, raised: bool = False
    ) -> PixelSpace:
        """The row space of a change, in a frame of as many pixels.

        Args:
            frame: how inputs lie in pixels.
            span: the row space.
            tags: (r,) how many images each of its rows holds, for inputs in the frame's unit; None:
                not known.
            raised: the span is that of inputs with the offset in them, which are images.
        """
        rows, offset = span.basis.numpy(), frame.offset
        noise, shift = span.noise.numpy(), np.zeros(rows.shape[1])
        tags = None if tags is None else tags / frame.level
        if raised:
            assert offset is not None
            frame, shift = replace(frame, offset=np.zeros_like(offset)), offset
        elif frame.image:
            assert offset is not None
            rows = np.vstack([rows, offset / np.linalg.norm(offset)])
            noise = np.pad(noise, (0, 1))
        differences = Differences(rows, frame.shape)
        # Inputs that are divided by their standard deviation have a mean square of 1.
        contrast = 255 * PHOTOGRAPH if frame.image or shift.any() else frame.level
        norm = contrast * rows.shape[1] ** 0.5
        space = Space(differences(rows), noise, differences.pixels, norm, span.noisy)
        return cls(frame, rows, differences, space, tags, shift)

    def components(self, random: torch.Generator, deadline: float = inf) -> Array | None:
        """(m, r) approximate images in the rows' coordinates, up to scale and sign.

        Args:
            random: source of the random start.
            deadline: value of ``time.perf_counter()`` by which they should be there.
        """
        if min(self.frame.shape[1:]) < COMPONENTS_FROM or len(self.rows) < 2:
            return None
        rows, shape = torch.tensor(self.rows), self.frame.shape
        return independent_components(rows, shape, random, deadline).numpy()


@dataclass(frozen=True)
class Images:
    """What was separated.

    Attributes:
        vectors: the integer vectors, images where they could be told apart.
        sure: (k,) whether each is certainly a training image.
        gap: (k,) nats by which the likeliest other combination is less likely than each.
        brightnesses: how many brightnesses all images together can have, where the pixel scale is
            not known; 0 where it is.
        complete: there is a vector for every direction of the row space.
    """

    vectors: Vectors
    sure: NDArray[np.bool_]
    gap: Array
    brightnesses: int = 0
    complete: bool = True

    @property
    def only_differences(self) -> bool:
        """Whether the row space holds differences of images alone."""
        return self.complete and len(self.vectors) > 0 and not self.vectors.multiples.any()


def separated(
    lattice: Lattice, pixels: PixelSpace, guesses: Guesses, coefficients: Array | None = None
) -> Images:
    """The images among the integer combinations of a lattice's vectors.

    Args:
        lattice: at least one vector.
        pixels: the row space.
        guesses: computes approximate images (m, r) in the rows' coordinates, None without any.
        coefficients: (h, r) of the layer's change in the rows; None: not known.
    """
    frame, rows, differences, space = pixels.frame, pixels.rows, pixels.differences, pixels.space
    offset = frame.constants
    lattice = lattice.turned(_short(lattice))
    whole, multiples = differences.lifted(lattice.integers), None
    if frame.image:
        assert frame.offset is not None
        length = float(np.linalg.norm(frame.offset))
        vectors, fits = decoded_with_image(lattice, lattice.coordinates @ rows, differences, length)
        whole, multiples = vectors.whole, vectors.multiples
    elif offset is not None and (
        pixels.tags is not None or not ambiguous(offset, CONSTANT_ERROR * lattice.error)
    ):
        tags = None if pixels.tags is None else lattice.coordinates @ pixels.tags
        vectors, fits = decoded(
            lattice, lattice.coordinates @ rows, differences, offset, multiples=tags
        )
        vectors = vectors.with_images(lattice.levels)
        whole, multiples = vectors.whole, vectors.multiples
    boxed = multiples is not None and bool(multiples.any())
    apart = False
    turn, gap = _likeliest(whole, multiples, lattice, space, guesses, frame.shape, boxed)
    if coefficients is not None and len(lattice) == space.rank and not lattice.images:
        likely = coefficients @ np.linalg.inv(turn @ lattice.coordinates)
        sparse, apart = sparsest(likely)
        if apart:
            turn, gap = sparse @ turn, np.full(len(lattice), np.inf)
    lattice, brightnesses = lattice.turned(turn), 0
    noisy = lattice.coordinates @ rows
    if offset is None and not frame.image:
        vectors, brightnesses = with_common_constant(lattice, noisy, differences)
        fits = np.ones(len(vectors), dtype=bool)
    elif apart and offset is not None and pixels.tags is None:
        vectors, fits = decoded_images(lattice, noisy, differences, offset)
    elif multiples is None and offset is not None:
        vectors, fits = decoded(lattice, noisy, differences, offset, images=True)
        vectors = vectors.with_images(lattice.levels)
    else:
        vectors = vectors.turned(turn)
    vectors = vectors.turned(np.diag(np.where(vectors.multiples < 0, -1, 1)))
    sure = (gap > SURE_GAP) & fits
    # A wrong mean lets some vectors pass for images, but hardly all of them.
    if pixels.tags is None:
        sure &= bool(fits.all() and (vectors.multiples == 1).all())
    if lattice.images < len(lattice) < space.rank:
        sure &= _alike(vectors.whole, guesses(), rows, frame.shape).max(1, initial=0) > DOMINANT
    sure |= np.arange(len(lattice)) < lattice.images  # these have a certificate of their own
    sure &= (vectors.multiples == 1) & (outside(vectors.whole) == 0)
    # Where twice the offset is an integer, a negative in 0..255 is an image just as well.
    twice = None if offset is None or pixels.tags is not None else 2 * offset
    if twice is not None and np.abs(twice - np.rint(twice)).max() < MIRROR:
        assert frame.offset is not None
        negative = np.rint(2 * frame.offset).astype(np.int64) - vectors.whole
        sure &= (negative.min(1) < 0) | (negative.max(1) > 255)
    sure &= frame.offset is not None  # without it a negative is an image as well
    return Images(vectors, sure, gap, brightnesses, len(lattice) == space.rank)


def _likeliest(
    whole: Integers,
    multiples: Integers | None,
    lattice: Lattice,
    space: Space,
    guesses: Guesses,
    shape: tuple[int, int, int],
    boxed: bool,
) -> tuple[Integers, Array]:
    """The basis that looks most like images: its transform, and the gap to the next (k,)."""
    if lattice.images:
        start = np.eye(len(lattice), dtype=np.int64)
        return _descended(start, whole, shape, boxed, lattice.images)[1:]
    found = []
    if len(whole) <= TRIPLES:
        found.append(_descended(shortened(whole, multiples, shape), whole, shape, boxed))
        if found[0][2].min() > SURE_GAP:
            return found[0][1:]
    approximate = guesses()
    if approximate is not None and len(approximate) == len(lattice):
        looks = approximate @ space.values
        real = np.linalg.lstsq(lattice.integers.T.astype(float), looks.T, rcond=None)[0].T
        combinations = rounded(real, multiples)
        if basis_of(combinations):
            found.append(_descended(combinations, whole, shape, boxed))
    if not found:
        found.append(_descended(shortened(whole, multiples, shape), whole, shape, boxed))
    return min(found, key=lambda one: one[0])[1:]


def _short(lattice: Lattice) -> Integers:
    """The transform (k, k) to short vectors, in which those stay that are known to be images."""
    known, rest = np.split(lattice.integers.astype(float), [lattice.images])
    turn = np.eye(len(lattice), dtype=np.int64)
    if len(rest):
        explained = np.linalg.lstsq(known.T, rest.T, rcond=None)[0].T
        turn[len(known) :, : len(known)] = -np.rint(explained)
        shorter = turn[len(known) :]
        turn[len(known) :] = lll_transform((shorter @ lattice.integers).astype(float)) @ shorter
    return turn


def _descended(
    start: Integers, whole: Integers, shape: tuple[int, int, int], boxed: bool, known: int = 0
) -> tuple[float, Integers, Array]:
    """The unlikeliness, the transform and the gaps of a basis that begins at `start`."""
    moved, gap = descend(start @ whole, shape, boxed=boxed, known=known)
    turn = moved @ start
    return float(cost_of(turn @ whole, shape, boxed=boxed).sum()), turn, gap


def _alike(
    images: Array | Integers, guesses: Array | None, rows: Array, shape: tuple[int, int, int]
) -> Array:
    """(k, m) squared cosines between images (k, d) and guesses (m, r), in their gradients."""
    if guesses is None or not len(guesses) or not len(images):
        return np.zeros((len(images), 0 if guesses is None else len(guesses)))
    parts = [gradients(part, shape) for part in (images, guesses @ rows)]
    units = [part / np.linalg.norm(part, axis=1, keepdims=True).clip(1e-300) for part in parts]
    return (units[0] @ units[1].T) ** 2


def pictures(
    images: Images | None, guesses: Guesses, pixels: PixelSpace, deadline: float = inf
) -> Array:
    """Approximate images for what was not found, (m, d) in levels without the offset.

    Args:
        images: what was found; None: nothing.
        guesses: computes approximate images (m, r), up to scale and sign.
        pixels: the row space.
        deadline: value of ``time.perf_counter()`` after which those that are faint in the weights
            are not separated any further.
    """
    frame, rows = pixels.frame, pixels.rows
    known = np.zeros((0, rows.shape[1]))
    if images is not None:
        known = images.vectors.whole[images.vectors.multiples != 0]
    candidates = None if len(known) >= len(rows) else guesses()
    if candidates is None or (images is not None and images.only_differences):
        return np.zeros((0, rows.shape[1]))
    candidates, found = _sharper(candidates, pixels, deadline)
    alike = _alike(known, candidates, rows, frame.shape).max(0, initial=0)
    missing = np.argsort(alike, kind="stable")[: max(0, len(candidates) - len(known))]
    candidates, found = candidates[missing], found[missing]
    if frame.image:
        assert frame.offset is not None  # its share in an image is 1
        share = candidates[:, -1:] / np.linalg.norm(frame.offset)
        return found / np.where(np.abs(share) > 1e-9, share, 1) - frame.offset
    if pixels.tags is not None:
        tags = candidates @ pixels.tags
        return found / np.where(np.abs(tags) > 1e-9, tags, 1)[:, None] - pixels.shift
    length = frame.level * found.shape[1] ** 0.5
    found = found / np.linalg.norm(found, axis=1, keepdims=True) * length
    if frame.offset is None:
        return found
    right = outside(found + frame.offset) <= outside(frame.offset - found)
    return np.where(right[:, None], found, -found)


def _sharper(candidates: Array, pixels: PixelSpace, deadline: float) -> tuple[Array, Array]:
    """Coordinates (m, r) and pixels (m, d) of approximate images, with less noise in faint ones."""
    shape, rows = pixels.frame.shape, torch.tensor(pixels.rows)
    found, noise = torch.tensor(candidates), torch.tensor(pixels.space.noise)
    levels = torch.tensor(candidates @ pixels.rows)
    faint = noise_shares(levels, (found @ noise * found).sum(1), shape) > FAINT
    if faint.any() and not faint.all() and min(shape[1:]) >= COMPONENTS_FROM:
        found = separated_again(levels, faint, shape, deadline) @ found
        levels, variance = found @ rows, (found @ noise * found).sum(1)
        levels[faint] = filtered(levels[faint], variance[faint], levels[~faint], shape)
    return found.numpy(), levels.numpy()
