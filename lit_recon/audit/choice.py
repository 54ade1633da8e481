"""Which methods attack a model: those that were named, or all that apply."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jsonargparse import Namespace
from torch import nn

from lit_recon.errors import InputError
from lit_recon.flags import CommandLine, build
from lit_recon.methods import Reconstructor


@dataclass(frozen=True)
class Choice:
    """The methods of ``--recon``, in the order in which they run.

    Attributes:
        specs: class path and constructor arguments of each.
        methods: the methods themselves.
        auto: whether those that do not apply to a model are left out, instead of refused.
    """

    specs: Sequence[Namespace]
    methods: Sequence[Reconstructor]
    auto: bool

    def for_model(self, model: nn.Module, *, disabled: bool = False) -> Choice:
        """The methods that attack this model.

        Args:
            model: the network.
            disabled: those that are switched off for training too.

        Raises:
            InputError: one that was named does not apply, or none does.
        """
        kept = [i for i, method in enumerate(self.methods) if method.enabled or disabled]
        for i in list(kept):
            try:
                self.methods[i].check(model)
            except InputError:
                if not self.auto or len(kept) == 1:
                    raise
                kept.remove(i)
        return Choice([self.specs[i] for i in kept], [self.methods[i] for i in kept], False)

    def in_words(self) -> Iterator[str]:
        """A line for each method: its name, and the time that it may take."""
        for method in self.methods:
            yield f"{method.name}, at most {method.max_seconds:g} s at a checkpoint"


def chosen(command: CommandLine, config: Namespace) -> Choice:
    """What a configuration says of ``--recon``, with the settings of each method checked.

    Raises:
        InputError: a setting out of its range.
    """
    specs, auto = command.specs(config, "recon")
    methods: list[Reconstructor] = [build(spec) for spec in specs]
    order = list(range(len(methods)))
    if auto:
        order.sort(key=lambda i: methods[i].cost)
    return Choice([specs[i] for i in order], [methods[i] for i in order], auto)


def settle(config: Namespace, choice: Choice) -> None:
    """Write the methods that were chosen into the configuration, for config.yaml."""
    if choice.specs:
        config.recon = choice.specs[0] if len(choice.specs) == 1 else list(choice.specs)
