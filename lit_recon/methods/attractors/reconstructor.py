"""Training inputs as limits of an autoencoder (Radhakrishnan et al. 2018, 2020)."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from math import inf, isqrt, prod, sqrt
from typing import ClassVar

import torch
from torch import nn

from lit_recon.errors import InputError
from lit_recon.knowledge import Knowledge, PixelScale
from lit_recon.methods.attractors import outcomes
from lit_recon.methods.attractors.components import components, predicted_seconds
from lit_recon.methods.attractors.limits import Limits
from lit_recon.methods.attractors.maps import ReducedMap
from lit_recon.methods.attractors.numbers import DESCRIBED
from lit_recon.methods.attractors.pictures import pictures
from lit_recon.methods.attractors.pixels import negatives_are_images, whole_pixels
from lit_recon.methods.attractors.results import in_order, numbers_of
from lit_recon.methods.attractors.search import Search
from lit_recon.methods.attractors.starts import Starts
from lit_recon.methods.attractors.truth import at_truth
from lit_recon.methods.base import Earlier, Outcome, Reconstruction, Reconstructor, check_numbers
from lit_recon.metrics.numbers import Number
from lit_recon.models import OneHiddenLayer, ReadoutModel
from lit_recon.models.base import class_name
from lit_recon.models.first_layer import FIRST_LAYER, has_weights
from lit_recon.solvers import Monitor, OnStep

PROBES = 64  # noise inputs whose images give the norm of a typical point
UNIFORM = 1 / sqrt(12)  # standard deviation of uniform pixels in [0, 1]
OWN_LIMITS = 0.9  # share of the starts that end in limits of their own, for the identity
SIDES = (32, 28, 16, 8, 64)  # of images, on which a network without a readout is tried


class AttractorReconstructor(Reconstructor):
    """Training inputs as limits of a network that is applied to its own output again and again.

    An autoencoder that is trained far enough leaves its training inputs in place, and often they
    attract; one that is trained to give the next input of a sequence has a cycle. The attack
    iterates the network from noise, then from places near what was found, solves for fixed points
    that do not attract, and certifies limits that are integers in every pixel.

    >>> from lit_recon.models import DeepMLP
    >>> model = DeepMLP(d=12, k=12, widths=[8])
    >>> AttractorReconstructor().reconstruct(Knowledge(model)).status  # it is not trained
    'one_limit'

    Args:
        starts: random starts of each round, at least 2.
        newton: also solve for fixed points that do not attract.
        max_seconds: time budget of one reconstruction in seconds, above 0.
        warm_start: begin at the limits of the checkpoint before.
        seed: seed of the attack's own generator, 0 or more; null: --run.seed.
        enabled: false trains and saves checkpoints without reconstructing.

    Raises:
        InputError: a number is out of its range.
    """

    citation: ClassVar[str] = (
        "Radhakrishnan, Yang, Belkin, Uhler 2018, arXiv 1810.10333; Radhakrishnan, Belkin, Uhler"
        " 2020, arXiv 1909.12362"
    )
    cost: ClassVar[float] = 20.0
    describes: ClassVar[tuple[Number, ...]] = DESCRIBED
    draws: ClassVar[tuple[str, ...]] = ("iterations", "iterating", "basins", "spectrum")

    def __init__(
        self,
        starts: int = 250,
        newton: bool = True,
        max_seconds: float = 60.0,
        warm_start: bool = True,
        seed: int | None = None,
        enabled: bool = True,
    ) -> None:
        check_numbers(max_seconds, seed, starts=(starts, 2))
        self.starts, self.newton = starts, newton
        self.max_seconds, self.warm_start = max_seconds, warm_start
        self.seed, self.enabled = seed or 0, enabled

    @property
    def name(self) -> str:
        return "attractors"

    @property
    def asks(self) -> frozenset[str]:
        return frozenset({"pixels", "shape"})

    def check(self, model: nn.Module) -> None:
        """Refuse a network whose outputs are not as large as its inputs.

        Raises:
            InputError: the network cannot be attacked.
        """
        if _input_shape(model) is None:
            remedy = "needs a network whose output is as large as its input, and"
            remedy += f" {class_name(model)} is none"
            raise InputError("--recon", type(self).__name__, remedy)

    @torch.no_grad()
    def attack(
        self,
        knowledge: Knowledge,
        generator: torch.Generator,
        on_step: OnStep | None,
        earlier: Earlier | None,
    ) -> Reconstruction:
        monitor = Monitor(self.max_seconds, on_step)
        shape = knowledge.input_shape or _input_shape(knowledge.model)
        assert shape is not None  # `check` has found one
        pixels = knowledge.pixels
        weights = [*knowledge.model.parameters(), *knowledge.model.buffers()]
        if not all(bool(weight.isfinite().all()) for weight in weights):
            return _nothing_found(shape, outcomes.NONFINITE, monitor)
        if _output_size(knowledge.model, shape) != prod(shape):
            return _nothing_found(shape, outcomes.other_size(prod(shape)), monitor)
        map = ReducedMap.of(knowledge.model, shape)
        if not map.r:
            return _nothing_found(shape, outcomes.NO_SIGNAL, monitor)
        search = self._search(map, pixels, generator, monitor)
        if earlier is not None and len(earlier.candidates):
            search.from_points(map.lower(earlier.candidates.to(map.offset)), "earlier limits")
        search.begin()
        against = _against(search)
        if against is None:
            search.widen()
            against = _ending(search)
        blind = pixels is not None and negatives_are_images(pixels) and map.is_odd()
        images = int(search.limits.certified.sum())
        if blind and images:
            against = outcomes.mirrored(images)
        radii = search.limits.radii()
        candidates, certificates = in_order(search.limits, radii, pixels, complete=search.spans_all)
        if blind and certificates is not None:
            accepted = torch.zeros_like(certificates.accepted)
            certificates = replace(certificates, accepted=accepted)
        return Reconstruction(
            candidates=candidates,
            outcome=against,
            sign_blind=blind,
            certificates=certificates,
            numbers=numbers_of(search, radii),
            at_truth=partial(at_truth, map, search.limits, search.random_starts),
            curve=monitor.rows,
            warm=earlier is not None,
            pictures=partial(pictures, search, pixels),
            seconds=monitor.seconds,
        )

    def _search(
        self,
        map: ReducedMap,
        pixels: PixelScale | None,
        generator: torch.Generator,
        monitor: Monitor,
    ) -> Search:
        std = 1.0 if pixels is None else float(torch.as_tensor(UNIFORM / pixels.std).mean())
        starts = Starts(map, std, generator, 1.0)
        typical = float(starts.noise(PROBES, map.offset).norm(dim=1).nanmedian())
        unit = typical if 0 < typical < inf else 1.0
        starts = replace(starts, unit=unit)
        judge = None if pixels is None else partial(whole_pixels, pixels=pixels)
        limits = Limits.none(map, unit, judge)
        approximate = None
        if predicted_seconds(map) < monitor.max_seconds - monitor.seconds:
            approximate = partial(components, map, map.shape, pixels, unit, generator)
        return Search(
            map, map.single(), starts, limits, monitor, self.starts, self.newton, approximate
        )


def _nothing_found(shape: tuple[int, ...], outcome: Outcome, monitor: Monitor) -> Reconstruction:
    """The end of an attack that had no map to iterate."""
    return Reconstruction(
        candidates=torch.zeros(0, prod(shape)),
        outcome=outcome,
        numbers={number.name: None for number in DESCRIBED},
        seconds=monitor.seconds,
    )


def _against(search: Search) -> Outcome | None:
    """The outcome if random starts say that more of them are in vain; None: they do not."""
    limits = search.limits
    if search.diverged == search.random_starts:
        return outcomes.DIVERGED
    if bool(limits.certified.any()):
        return None
    own = int((limits.hits == 1).sum())
    if own >= OWN_LIMITS * search.random_starts:
        return outcomes.IDENTITY
    if len(limits) == 1 and search.settled == search.random_starts:
        return outcomes.one_limit(search.random_starts)
    return None


def _ending(search: Search) -> Outcome:
    """How a search ended."""
    limits = search.limits
    if not len(limits):
        return outcomes.NO_LIMITS
    return outcomes.ended(
        int(limits.certified.sum()),
        int((~limits.certain).sum()),
        complete=search.spans_all,
        late=search.monitor.late,
    )


def _input_shape(model: nn.Module) -> tuple[int, ...] | None:
    """The shape of an input, of a network whose outputs are as large; None: it is no such network.

    A convolutional network takes images of any size, and is tried on square ones.
    """
    if isinstance(model, OneHiddenLayer):
        first: nn.Module | None = None
        shapes: list[tuple[int, ...]] = [(model.rows(range(1)).d,)]
    else:
        named = getattr(model, FIRST_LAYER, None)
        first = named or next((part for part in model.modules() if has_weights(part)), None)
        shapes = _shapes_for(first)
    if isinstance(model, ReadoutModel):
        outputs = model.readout.out_features
        if isinstance(first, nn.Conv2d) and outputs % first.in_channels == 0:
            side = isqrt(outputs // first.in_channels)
            shapes = [(first.in_channels, side, side)]
        return next((shape for shape in shapes if prod(shape) == outputs), None)
    trial = copy.deepcopy(model).eval() if shapes else model
    return next((shape for shape in shapes if _output_size(trial, shape) == prod(shape)), None)


def _shapes_for(first: nn.Module | None) -> list[tuple[int, ...]]:
    """Shapes of inputs that a first layer can take."""
    if isinstance(first, nn.Linear):
        return [(first.in_features,)]
    if isinstance(first, nn.Conv2d):
        return [(first.in_channels, side, side) for side in SIDES]
    return []


@torch.no_grad()
def _output_size(model: nn.Module, shape: tuple[int, ...]) -> int | None:
    """The number of values in the output for one input of zeros; None: the network takes none."""
    parameter = next(model.parameters())
    try:
        return int(model(torch.zeros(1, *shape).to(parameter)).numel())
    except Exception:  # a user's code can raise anything
        return None
