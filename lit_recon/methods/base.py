"""The contract of a method of reconstruction; README.md explains how to add one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lit_recon.errors import InputError
from lit_recon.knowledge import FACTS, Knowledge
from lit_recon.metrics.certificate import Certificates
from lit_recon.metrics.numbers import Number, register
from lit_recon.randomness import generator as make_generator
from lit_recon.solvers import OnStep, SolverStep


def check_numbers(max_seconds: float, seed: int | None, **counts: tuple[int, int]) -> None:
    """Refuse flags of a method that are out of their range.

    Args:
        max_seconds: above 0.
        seed: 0 or more; None: none was given.
        counts: by name, the value of any other flag that counts, and the least that it may be.

    Raises:
        InputError: one of them is smaller.
    """
    if not max_seconds > 0:
        raise InputError("--recon.max_seconds", max_seconds, "give seconds above 0")
    for flag, (value, least) in {**counts, "seed": (seed or 0, 0)}.items():
        if value < least:
            raise InputError(f"--recon.{flag}", value, f"give {least} or more")


@dataclass(frozen=True)
class Outcome:
    """How an attack ended, and whether this is evidence of success.

    >>> Outcome("stalled", "restarts no longer lower the loss").sure
    False

    Attributes:
        status: one word, for tables.
        reason: one sentence for people, without capital letter and full stop.
        sure: there is evidence of success that does not use the truth.
        empty: nothing could be found, so the candidates are noise.
    """

    status: str
    reason: str
    sure: bool = False
    empty: bool = False


@dataclass(frozen=True)
class Earlier:
    """The result of the attack on an earlier checkpoint of the same run.

    >>> Earlier(torch.zeros(3, 8), sure=True).candidates.shape
    torch.Size([3, 8])

    Attributes:
        candidates: (m, d) its candidates.
        sure: whether it ended with evidence of success.
    """

    candidates: Tensor
    sure: bool


@dataclass(frozen=True)
class Picture:
    """A picture of what an attack has done, in the step's folder, in the report and in W&B.

    >>> import numpy
    >>> Picture("steps", "From noise to images", numpy.zeros((5, 8, 8, 3), numpy.uint8)).file
    'steps.gif'

    Attributes:
        name: letters, digits and underscores; not ``grid``.
        words: its caption, a sentence without full stop.
        content: (h, w, 3) uint8, or (frames, h, w, 3) uint8 of an animation, or a figure of
            matplotlib that pyplot has not made.
    """

    name: str
    words: str
    content: Any

    @property
    def animated(self) -> bool:
        """Whether it is an animation."""
        return getattr(self.content, "ndim", 3) == 4

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.name}.{'gif' if self.animated else 'png'}"


def _nothing(x: Tensor) -> Mapping[str, Any]:
    return {}


def _no_pictures() -> Sequence[Picture]:
    return ()


@dataclass(frozen=True)
class Reconstruction:
    """The result of one attack.

    >>> found = Reconstruction(torch.zeros(3, 8), Outcome("stalled", "the loss no longer falls"))
    >>> found.status, found.certificates
    ('stalled', None)

    Attributes:
        candidates: (m, d) reconstructed inputs on the CPU; m may be 0.
        outcome: how the attack ended.
        certificates: which candidates are certainly right, by evidence that does not use the truth;
            None: there is no such evidence.
        numbers: the method's own numbers by name, each described in its `describes`; NaN or None
            if a number has no meaning for a run.
        at_truth: function of the true inputs x (n, d) that returns the numbers which need them.
            Only scoring calls it, on all ranks together, after the attack.
        curve: the inner curve, one entry for each step of a solver.
        sign_blind: candidates are known only up to sign.
        warm: the attack began at the candidates of an earlier checkpoint.
        pictures: draws pictures beside that of the candidates; called by one rank, after the
            attack, without any time limit.
        seconds: duration of the attack.
        knows: the facts that were given to the attack, in words; set by
            `Reconstructor.reconstruct`.
    """

    candidates: Tensor
    outcome: Outcome
    certificates: Certificates | None = None
    numbers: Mapping[str, Any] = field(default_factory=dict)
    at_truth: Callable[[Tensor], Mapping[str, Any]] = _nothing
    curve: Sequence[SolverStep] = ()
    sign_blind: bool = False
    warm: bool = False
    pictures: Callable[[], Sequence[Picture]] = _no_pictures
    seconds: float = 0.0
    knows: Sequence[str] = ()

    @property
    def status(self) -> str:
        """The outcome in one word."""
        return self.outcome.status


class Reconstructor(ABC):
    """A method of reconstruction; its constructor arguments are the flags of ``--recon``.

    A subclass defines `name`, `asks`, `check` and `attack`. lit_recon/methods/README.md explains
    them; tests/toy.py is an example in forty lines.

    Attributes:
        citation: authors, year and source of the method.
        cost: sort key of ``--recon auto``, where methods with a lower cost run first; any number.
        automatic: whether ``--recon auto`` runs it; a costly method runs only where it is named.
        first_layer_alone: whether it looks at the first layer alone, so that a layer which reads
            patches of an image is to it a layer that reads small images.
        describes: descriptions of its own numbers.
        draws: names of the pictures that it can draw.
        max_seconds: time budget of one reconstruction in seconds.
        seed: seed of the attack's own generator, 0 or more.
        warm_start: whether it begins at an earlier checkpoint's candidates.
        enabled: whether `fit` runs this attack; `reconstruct` runs it either way.
    """

    citation: ClassVar[str]
    cost: ClassVar[float] = 100.0
    automatic: ClassVar[bool] = True
    first_layer_alone: ClassVar[bool] = False
    describes: ClassVar[tuple[Number, ...]] = ()
    draws: ClassVar[tuple[str, ...]] = ()

    max_seconds: float = 600.0
    seed: int = 0
    warm_start: bool = False
    enabled: bool = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        register(cls.describes)

    @property
    @abstractmethod
    def name(self) -> str:
        """The short name in folders and in names of numbers: letters, digits and underscores."""

    @property
    @abstractmethod
    def asks(self) -> frozenset[str]:
        """The facts of `Knowledge` that the method uses if they are known; it gets no others."""

    @property
    def needs(self) -> frozenset[str]:
        """Those of these facts without which it cannot begin."""
        return frozenset()

    def missing(self, knowledge: Knowledge) -> list[str]:
        """Those of `needs` that are not known, in words."""
        return sorted(FACTS[name] for name in self.needs if getattr(knowledge, name) is None)

    @abstractmethod
    def check(self, model: nn.Module) -> None:
        """Refuse a model that the method cannot attack with these settings; called before training.

        Raises:
            InputError: a flag does not fit the model.
        """

    @abstractmethod
    def attack(
        self,
        knowledge: Knowledge,
        generator: torch.Generator,
        on_step: OnStep | None,
        earlier: Earlier | None,
    ) -> Reconstruction:
        """Attack the model; the arguments are those of `reconstruct`.

        Args:
            knowledge: only the facts in `asks`; all others are None.
            generator: the only source of randomness.
            on_step: to be called with every step of the inner curve and its candidates.
            earlier: where to begin; None: from scratch.
        """

    def reconstruct(
        self,
        knowledge: Knowledge,
        generator: torch.Generator | None = None,
        on_step: OnStep | None = None,
        earlier: Earlier | None = None,
    ) -> Reconstruction:
        """Reconstruct the training inputs from what the attacker knows.

        With several ranks, all ranks call this together, and each gets the same candidates, outcome
        and numbers.

        Args:
            knowledge: the threat model; facts that are not in `asks` are set to None here.
            generator: the only source of randomness; None: a new one from the seed.
            on_step: called with every step of the inner curve and its candidates (m, d); in a
                coarse phase these are coordinates in a subspace.
            earlier: result at an earlier checkpoint, where to begin if `warm_start`.

        Raises:
            InputError: the method cannot attack the model.
        """
        self.check(knowledge.model)
        given = knowledge.only(self.asks)
        random = make_generator(self.seed, "candidates") if generator is None else generator
        found = self.attack(given, random, on_step, earlier if self.warm_start else None)
        return replace(found, knows=given.facts)
