"""Training images as integer vectors in the row space of a first layer's change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from math import inf, log2, nan
from time import perf_counter
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lit_recon.errors import InputError
from lit_recon.knowledge import DenseLayer, Knowledge
from lit_recon.methods.base import Earlier, Outcome, Reconstruction, Reconstructor, check_numbers
from lit_recon.methods.rowspace import outcomes
from lit_recon.methods.rowspace.approximate import Change, by_rounding
from lit_recon.methods.rowspace.images import (
    Frame,
    Guesses,
    Images,
    pictures,
    separated,
)
from lit_recon.methods.rowspace.lattice import (
    Lattice,
    Space,
    false_bits,
    integer_vectors,
    nearest_vectors,
)
from lit_recon.methods.rowspace.layer import space_of_images, span_of_inputs
from lit_recon.methods.rowspace.levels import Array
from lit_recon.methods.rowspace.numbers import DESCRIBED
from lit_recon.methods.rowspace.span import Span
from lit_recon.metrics.certificate import Certificates
from lit_recon.metrics.numbers import Number
from lit_recon.models.base import class_name
from lit_recon.models.first_layer import first_dense_layer
from lit_recon.solvers import OnStep

QUICK_SECONDS = 10.0  # predicted duration up to which the plain lattice is tried first
FALSE_BITS = -1000.0, 1000.0  # others are no doubles

Separation = Literal["auto", "lattice", "components"]


class RowSpaceReconstructor(Reconstructor):
    """Images as integer vectors in the row space of a dense first layer's change.

    The change of a dense first layer between two checkpoints is a sum of c_i x_i^T over the
    training inputs that were used in between, whatever lies above the layer. Its row space is their
    span, and images are integer vectors, which lattice reduction finds exactly. Nothing is
    optimised, and no fact about the training set is needed but the normalisation of its pixels.

    >>> from lit_recon.models import DeepMLP
    >>> model = DeepMLP(d=48, k=1, widths=[8])
    >>> RowSpaceReconstructor().reconstruct(Knowledge(model)).status
    'no_start'

    Args:
        evidence: what the attacker has: ``change``, the first layer at two checkpoints; ``final``,
            the final weights alone, whose row space is that of the training inputs once weight
            decay has made the network forget its start.
        separation: what tells the images apart: ``lattice`` reduces the lattice of integer vectors;
            ``components`` takes independent components of the row space, which come back as
            pictures where precision or time does not suffice for the lattice; ``auto`` joins both.
        max_rank: largest number of training inputs that is looked for, at least 1.
        max_seconds: time budget of one reconstruction in seconds, above 0.
        seed: seed of the attack's own generator, 0 or more; null: --run.seed.
        enabled: false trains and saves checkpoints without reconstructing.

    Raises:
        InputError: a number is out of its range.
    """

    citation: ClassVar[str] = (
        "this project; lattices of hidden integer vectors: Nguyen, Stern 1999; span of first-layer"
        " changes: Tansley et al. 2026, arXiv 2605.06519"
    )
    cost: ClassVar[float] = 10.0
    first_layer_alone: ClassVar[bool] = True
    describes: ClassVar[tuple[Number, ...]] = DESCRIBED

    def __init__(
        self,
        evidence: Literal["change", "final"] = "change",
        separation: Separation = "auto",
        max_rank: int = 512,
        max_seconds: float = 60.0,
        seed: int | None = None,
        enabled: bool = True,
    ) -> None:
        check_numbers(max_seconds, seed)
        if max_rank < 1:
            raise InputError("--recon.max_rank", max_rank, "give at least 1")
        self.evidence, self.separation = evidence, separation
        self.max_rank, self.max_seconds = max_rank, max_seconds
        self.seed, self.enabled = seed or 0, enabled

    @property
    def name(self) -> str:
        return "rowspace" if self.evidence == "change" else "rowspace_final"

    @property
    def asks(self) -> frozenset[str]:
        asked = {"pixels", "shape"}
        return frozenset(asked | self.needs)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"earlier_first_layer"} if self.evidence == "change" else ())

    def check(self, model: nn.Module) -> None:
        """Refuse a network whose first layer with weights is not a dense one that is trained.

        Raises:
            InputError: the network cannot be attacked.
        """
        first_dense_layer(model, flag="--recon", given=type(self).__name__)

    def attack(
        self,
        knowledge: Knowledge,
        generator: torch.Generator,
        on_step: OnStep | None,
        earlier: Earlier | None,
    ) -> Reconstruction:
        start = perf_counter()
        after, before = _first_layers(knowledge, self.name)
        weight, earlier_weight = after.weight, None if before is None else before.weight
        span = Span.none(after.d)
        if before is None and self.evidence == "change":
            return _told(outcomes.NO_START, span.basis.numpy(), None, _numbers(span), start)
        shape = knowledge.input_shape
        frame = Frame.of(shape, knowledge.pixels) if shape is not None and len(shape) == 3 else None
        ended = outcomes.at_once(weight, earlier_weight, frame)
        if ended is None:
            assert frame is not None
            span = span_of_inputs(after, before, frame, generator, self.max_rank)
            ended = outcomes.of_span(span, frame, weight if before is None else None)
        if ended is not None:
            return _told(ended, span.basis.numpy()[:0], None, _numbers(span), start)
        assert frame is not None
        pixels = space_of_images(after, before, frame, span)
        space = pixels.space
        deadline = start + self.max_seconds
        guesses = cache(partial(pixels.components, generator, deadline))
        change = cache(partial(Change.of, after, before, span.share, pixels))
        lattice = self._quick(space, deadline)
        if self.separation != "lattice" and len(lattice) < space.rank and span.noisy:
            sharper, exact = by_rounding(change(), pixels, guesses(), generator, deadline)
            guesses = cache(lambda: sharper)
            if len(exact) > len(lattice):
                integers = np.rint(pixels.differences(exact.astype(float))).astype(np.int64)
                lattice = Lattice.of_images(space, integers, exact)
        lattice = self._slow(space, guesses, lattice, deadline)
        found = None
        if len(lattice):
            coefficients = None
            if len(space.values) == span.rank:
                coefficients = change().coefficients(pixels)
            found = separated(lattice, pixels, guesses, coefficients)
        extra = pictures(found, guesses, pixels, deadline)
        scaled = frame.offset is not None
        outcome = outcomes.ending(found, lattice, space, span, len(extra), scaled=scaled)
        candidates, certificates = _candidates(found, extra, frame)
        numbers = _numbers(span, space, lattice)
        return replace(
            _told(outcome, candidates, certificates, numbers, start),
            at_truth=_exact_differences(found, frame),
            sign_blind=frame.offset is None,
        )

    def _quick(self, space: Space, deadline: float) -> Lattice:
        """Integer vectors, if a lattice reduction of a few seconds is enough."""
        nothing = Lattice.empty(space)
        if self.separation == "components":
            return nothing
        return integer_vectors(space, nothing, min(QUICK_SECONDS, deadline - perf_counter()))

    def _slow(self, space: Space, guesses: Guesses, lattice: Lattice, deadline: float) -> Lattice:
        """More integer vectors: near approximate images, and by longer lattice reductions."""
        if self.separation == "auto" and len(lattice) < space.rank:
            approximate = guesses()
            if approximate is not None:
                seconds = deadline - perf_counter()
                lattice = nearest_vectors(space, approximate, lattice, seconds)
        if self.separation != "components" and len(lattice) < space.rank:
            lattice = integer_vectors(space, lattice, deadline - perf_counter())
        return lattice


def _first_layers(knowledge: Knowledge, method: str) -> tuple[DenseLayer, DenseLayer | None]:
    """The first layer at the checkpoint, and at an earlier one if it is known."""
    earlier = knowledge.earlier_first_layer
    name = None if earlier is None else earlier.name
    name, layer = first_dense_layer(knowledge.model, name, flag="--recon")
    bias = None if layer.bias is None else layer.bias.detach()
    later = DenseLayer(name, layer.weight.detach(), bias)
    if earlier is not None and later.weight.shape != earlier.weight.shape:
        sizes = f"{tuple(earlier.weight.shape)} and {tuple(later.weight.shape)}"
        remedy = f"{name} of {class_name(knowledge.model)} has shapes {sizes}"
        raise InputError("--recon", method, remedy)
    return later, earlier


def _told(
    outcome: Outcome,
    candidates: Array,
    certificates: Certificates | None,
    numbers: Mapping[str, Any],
    start: float,
) -> Reconstruction:
    return Reconstruction(
        candidates=torch.tensor(candidates, dtype=torch.float32),
        outcome=outcome,
        certificates=certificates,
        numbers=numbers,
        at_truth=_exact_differences(None, None),
        seconds=perf_counter() - start,
    )


def _numbers(
    span: Span, space: Space | None = None, lattice: Lattice | None = None
) -> dict[str, Any]:
    """The method's own numbers; null where the attack ended before they had a meaning."""
    noise = nan if space is None else space.error()
    found = lattice is not None and len(lattice) > 0
    worst = -inf
    if space is not None and lattice is not None and found:
        worst = float(false_bits(space, lattice.residual).max())
    return {
        "rank": span.rank,
        "noise_floor": noise,
        "precision_bits": -log2(noise) if noise > 0 else nan,
        "lattice_dimension": 0 if lattice is None else lattice.dimension,
        "lattice_rank": 0 if lattice is None else len(lattice),
        "expected_false": 2.0 ** float(np.clip(worst, *FALSE_BITS)) if found else nan,
        "forgotten": 1 - span.share,
    }


def _candidates(
    found: Images | None, extra: Array, frame: Frame
) -> tuple[Array, Certificates | None]:
    """Inputs (m, d), the certain ones first, and what is sure about each."""
    whole = np.zeros((0, extra.shape[1]), dtype=np.int64)
    multiples, sure = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool)
    if found is not None:
        order = np.argsort(~found.sure, kind="stable")
        vectors = found.vectors
        whole, multiples = vectors.whole[order], vectors.multiples[order]
        sure = found.sure[order]
    offset = frame.offset
    if offset is None:  # the inputs have mean 0 over all pixels and images
        offset = np.full(extra.shape[1], whole.mean() if len(whole) else 127.5)
    levels = np.vstack([whole - multiples[:, None] * offset, extra])
    images = np.vstack([whole + (1 - multiples[:, None]) * offset, extra + offset])
    bytes = np.rint(images).clip(0, 255).astype(np.uint8).reshape(-1, *frame.shape)
    inputs = levels / (frame.level * frame.weights)
    m = len(inputs)
    certificates = Certificates(
        accepted=torch.tensor(np.concatenate([sure, np.zeros(len(extra), dtype=bool)])),
        residual=torch.tensor(np.concatenate([np.zeros(len(whole)), np.full(len(extra), inf)])),
        scale=torch.tensor(np.linalg.norm(inputs, axis=1)),
        images=torch.tensor(bytes),
        sign=torch.ones(m, dtype=torch.float64),
    )
    return inputs, certificates


def _exact_differences(
    found: Images | None, frame: Frame | None
) -> Callable[[Tensor], Mapping[str, Any]]:
    """The number that needs the truth: which integer vectors are differences of two images."""

    def at_truth(x: Tensor) -> Mapping[str, Any]:
        if found is None or frame is None or not found.only_differences:
            return {"exact_differences": None}
        if frame.offset is None or frame.unit is None:
            return {"exact_differences": None}
        true = np.rint(x.double().cpu().numpy() * frame.unit + frame.offset).astype(np.int64)
        pairs = {(a - b).tobytes() for a in true for b in true}
        return {
            "exact_differences": float(np.mean([v.tobytes() in pairs for v in found.vectors.whole]))
        }

    return at_truth
