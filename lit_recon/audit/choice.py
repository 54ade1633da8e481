"""Chooses the methods that attack a model: those that the user names, or all that apply."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jsonargparse import Namespace
from torch import nn

from lit_recon.errors import InputError
from lit_recon.flags import CommandLine, build
from lit_recon.methods import (
    AttractorReconstructor,
    KKTReconstructor,
    ProjectionReconstructor,
    Reconstructor,
    RowSpaceReconstructor,
)


@dataclass(frozen=True)
class Choice:
    """The methods of ``--recon``, in the order in which they run.

    Attributes:
        specs: class path and constructor arguments of each method.
        methods: the methods themselves.
        auto: whether methods that do not apply to a model are left out; otherwise they are errors.
    """

    specs: Sequence[Namespace]
    methods: Sequence[Reconstructor]
    auto: bool

    def for_model(self, model: nn.Module, *, disabled: bool = False) -> Choice:
        """Keep the methods that apply to a model.

        Args:
            model: the network.
            disabled: keep methods with ``enabled=False`` too.

        Raises:
            InputError: a named method does not apply, or with `auto` none does; or a setting of a
                method does not fit the model.
        """
        kept = [i for i, method in enumerate(self.methods) if method.enabled or disabled]
        for i in list(kept):
            try:
                self.methods[i].check(model)
            except InputError as error:
                # A setting that does not fit was given by somebody, who must hear of it.
                if not self.auto or len(kept) == 1 or error.flag != "--recon":
                    raise
                kept.remove(i)
        return Choice([self.specs[i] for i in kept], [self.methods[i] for i in kept], False)

    def in_words(self) -> Iterator[str]:
        """One line for each method: its name and its time budget."""
        for method in self.methods:
            yield f"{method.name}, at most {method.max_seconds:g} s at a checkpoint"


def every_method(*, costly: bool = False) -> list[Reconstructor]:
    """The methods for a network of which nothing is known, the cheapest first.

    The row space is tried with and without a start, and no time is spent on problems with fewer
    equations than unknown values.

    >>> [method.name for method in every_method()]
    ['rowspace', 'rowspace_final', 'attractors', 'projection']

    Args:
        costly: also those that `auto` leaves out because of their cost.
    """
    found = [
        RowSpaceReconstructor(),
        RowSpaceReconstructor(evidence="final"),
        AttractorReconstructor(),
        ProjectionReconstructor(evidence_against="strict"),
    ]
    return [*found, KKTReconstructor()] if costly else found


def chosen(command: CommandLine, config: Namespace) -> Choice:
    """Build the methods that a configuration chooses with ``--recon``; `auto` sorts them by cost.

    Raises:
        InputError: a setting is out of its range.
    """
    specs, auto = command.specs(config, "recon")
    methods: list[Reconstructor] = [build(spec) for spec in specs]
    order = list(range(len(methods)))
    if auto:
        order.sort(key=lambda i: methods[i].cost)
    return Choice([specs[i] for i in order], [methods[i] for i in order], auto)


def settle(config: Namespace, choice: Choice) -> None:
    """Write the chosen methods into the configuration, for config.yaml."""
    if choice.specs:
        config.recon = choice.specs[0] if len(choice.specs) == 1 else list(choice.specs)
