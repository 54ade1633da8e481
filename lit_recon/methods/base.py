"""The contract of a method: what every reconstruction takes and gives; README.md adds one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lit_recon.errors import InputError
from lit_recon.knowledge import Knowledge
from lit_recon.metrics.certificate import Certificates
from lit_recon.metrics.numbers import Number, register
from lit_recon.randomness import generator as make_generator
from lit_recon.solvers import OnStep, SolverStep


@dataclass(frozen=True)
class Outcome:
    """How an attack ended: a value with a sentence, and what it is evidence of.

    >>> Outcome("stalled", "restarts no longer lower the loss").sure
    False

    Attributes:
        status: one word, for tables.
        reason: one sentence for people, without a capital and a full stop.
        sure: there is evidence of success, without the truth.
        empty: there was nothing to find, so that the candidates are noise.
    """

    status: str
    reason: str
    sure: bool = False
    empty: bool = False


@dataclass(frozen=True)
class Earlier:
    """What the attack on an earlier checkpoint of the same run gave.

    >>> Earlier(torch.zeros(3, 8), sure=True).candidates.shape
    torch.Size([3, 8])

    Attributes:
        candidates: (m, d).
        sure: that attack ended with evidence of success.
    """

    candidates: Tensor
    sure: bool


def _nothing(x: Tensor) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True)
class Reconstruction:
    """What one attack gave.

    >>> found = Reconstruction(torch.zeros(3, 8), Outcome("stalled", "the loss no longer falls"))
    >>> found.status, found.certificates
    ('stalled', None)

    Attributes:
        candidates: (m, d) reconstructed inputs on the CPU; m may be 0.
        outcome: how the attack ended.
        certificates: which candidates are right, by evidence without the truth; None: the method
            has no such evidence here.
        numbers: the method's own numbers by name, each described in its `describes`; NaN or None
            where one has no meaning for a run.
        at_truth: ``x (n, d) -> numbers`` that need the true inputs. Only scoring calls it, all
            ranks together; no method does.
        curve: the inner curve, one entry for each step of a solver.
        sign_blind: candidates are known up to sign only.
        warm: the attack began at the candidates of an earlier checkpoint.
        seconds: what it took.
        knows: what was given to the attack, in words; set by `Reconstructor.reconstruct`.
    """

    candidates: Tensor
    outcome: Outcome
    certificates: Certificates | None = None
    numbers: Mapping[str, Any] = field(default_factory=dict)
    at_truth: Callable[[Tensor], Mapping[str, Any]] = _nothing
    curve: Sequence[SolverStep] = ()
    sign_blind: bool = False
    warm: bool = False
    seconds: float = 0.0
    knows: Sequence[str] = ()

    @property
    def status(self) -> str:
        """The outcome in one word."""
        return self.outcome.status


class Reconstructor(ABC):
    """A method of reconstruction; its constructor arguments are the flags of ``--recon``.

    A subclass says what it is called, what it asks for and what it cannot attack, and writes
    `attack`. lit_recon/methods/README.md shows one in forty lines.

    Attributes:
        citation: whose method it is.
        cost: where it stands in ``--recon auto``, the cheapest first; any number.
        describes: its own numbers.
        max_seconds: time budget of one reconstruction in seconds.
        seed: seed of the attack's own generator, 0 or more.
        warm_start: whether it begins at an earlier checkpoint's candidates.
        enabled: false trains and saves checkpoints without this attack.
    """

    citation: ClassVar[str]
    cost: ClassVar[float] = 100.0
    describes: ClassVar[tuple[Number, ...]] = ()

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
        """The short name, in folders and in the names of numbers: letters, digits, underscores."""

    @property
    @abstractmethod
    def asks(self) -> frozenset[str]:
        """The facts of `Knowledge` that the method takes where they are known; others are blank."""

    @abstractmethod
    def check(self, model: nn.Module) -> None:
        """Refuse a model that these settings cannot attack, before it is trained.

        Raises:
            InputError: the flag that does not fit the model.
        """

    @abstractmethod
    def attack(
        self,
        knowledge: Knowledge,
        generator: torch.Generator,
        on_step: OnStep | None,
        earlier: Earlier | None,
    ) -> Reconstruction:
        """The attack itself; `reconstruct` describes the arguments, and has blanked other facts."""

    def applies(self, model: nn.Module) -> bool:
        """Whether `check` lets a model pass."""
        try:
            self.check(model)
        except InputError:
            return False
        return True

    def reconstruct(
        self,
        knowledge: Knowledge,
        generator: torch.Generator | None = None,
        on_step: OnStep | None = None,
        earlier: Earlier | None = None,
    ) -> Reconstruction:
        """Reconstruct the training inputs from what the attacker knows.

        All ranks of the process group, where there is one, call this together; each gets the same
        candidates, outcome and numbers.

        Args:
            knowledge: the threat model; facts that the method does not ask for are blanked here.
            generator: the only source of randomness; None: a new one from the seed.
            on_step: called with every step of the inner curve and its candidates (m, d), which in a
                coarse phase are coordinates in its subspace.
            earlier: where to begin, if anywhere.

        Raises:
            InputError: the model is one that the method cannot attack.
        """
        self.check(knowledge.model)
        given = knowledge.only(self.asks)
        random = make_generator(self.seed, "candidates") if generator is None else generator
        found = self.attack(given, random, on_step, earlier if self.warm_start else None)
        return replace(found, knows=given.facts)
