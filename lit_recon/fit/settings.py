"""From flags and files to the complete configuration of a run, and to its config.yaml."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jsonargparse import Namespace

from lit_recon.errors import InputError
from lit_recon.flags import CommandLine, Source, build, named_class
from lit_recon.flags.command import is_auto
from lit_recon.records.directory import refuse_older_layout

EPOCHS = 1000  # of an iterative optimiser, where no flag says when to stop
LOGGED_ROWS = 200  # of training in metrics.jsonl, about
# Flags that a resumed run may change: where the data lie and how much of V is stored.
MAY_CHANGE = {"data.root", "data.url", "data.download", "model.stored_rows"}


def read_given(command: CommandLine, argv: list[str]) -> list[Source]:
    """Files and flags; a grid in a file is for `sweep`, and without it the file is one run's."""
    return [source.without("grid") if source.file else source for source in command.read(argv)]


def read_sources(command: CommandLine, argv: list[str]) -> tuple[list[Source], Mapping[str, Any]]:
    """Files and flags, and under them all, for a run that goes on, its own configuration.

    Returns:
        The sources, weakest first, and the values of the run that goes on; none for a new one.

    Raises:
        InputError: wrong flags, or a run that an earlier version has left.
    """
    sources = read_given(command, argv)
    # Alone: the other flags may belong to classes that only the earlier configuration names.
    flags = command.parse([source.only("run") for source in sources]).run
    place = os.path.join(flags.dir, flags.name or "")
    file = os.path.join(place, "config.yaml")
    if not (flags.resume and flags.name and os.path.exists(file)):
        return sources, {}
    refuse_older_layout("--run.resume", place)
    earlier = command.read([f"--config={file}"])[0]
    # It may have been moved since.
    return [earlier.without("run.dir"), *sources], dict(earlier.values)


def settle(command: CommandLine, sources: Sequence[Source]) -> tuple[Namespace, Any]:
    """The configuration as far as it follows without loading data, and its data module.

    Raises:
        InputError: flags that are wrong, or that contradict each other.
    """
    config = command.parse(sources)
    _settle_seeds(config)
    _settle_size(config, sources)
    data = build(config.data)
    _settle_length(config)
    return config, data


def _settle_seeds(config: Namespace) -> None:
    """Give --run.seed to every part that has no seed of its own."""
    seed = config.run.seed
    if seed < 0:
        raise InputError("--run.seed", seed, "give 0 or more")
    if is_auto(config.recon):
        shared = config.recon["init_args"]
        shared["seed"] = seed if shared.get("seed") is None else shared["seed"]
        methods = []
    else:
        methods = config.recon if isinstance(config.recon, list) else [config.recon]
    for part in (config.data, config.model, *methods):
        given = part.init_args if "init_args" in part else {}  # a plugin's class may have none
        if given.get("seed", 0) is None:
            given["seed"] = seed


def _settle_size(config: Namespace, sources: Sequence[Source]) -> None:
    """Let the last source that gives the model's size in either way overrule the others."""
    size = named_class(config.model.class_path).size_flag
    if size is None:
        return
    ways = {size, "p_over_dn"}
    for source in reversed(sources):
        given = {flag for flag, value in source.values if value not in (None, "null")}
        said = ways & {flag.removeprefix("model.") for flag in given}
        if said:
            for unsaid in ways - said:
                config.model.init_args[unsaid] = None
            return


def _settle_length(config: Namespace) -> None:
    """Say when training stops, and how often it is logged."""
    flags, data = config.trainer, config.data.init_args
    optim = named_class(config.optim.class_path)
    if optim.closed_form and data.batch_size is not None and data.batch_size < data.n:
        remedy = f"{optim.__name__} fits all samples at once; leave it out, or give --optim SGD"
        raise InputError("--data.batch_size", data.batch_size, remedy)
    if flags.max_steps == -1 and optim.closed_form:
        flags.max_steps = 1
    elif flags.max_steps == -1 and flags.max_epochs is None and flags.max_time is None:
        flags.max_epochs = EPOCHS
    batches = math.ceil(data.n / (data.batch_size or data.n))
    steps = flags.max_steps if flags.max_steps != -1 else (flags.max_epochs or 0) * batches
    if flags.log_every_n_steps is None:
        flags.log_every_n_steps = max(1, steps // LOGGED_ROWS)


def resumed_changes(values: Mapping[str, Any], earlier: Mapping[str, Any]) -> Iterator[str]:
    """One line for each flag with another value than in the run that goes on.

    Raises:
        InputError: it would go on with other data, another task, model or optimiser.
    """
    for flag, before in earlier.items():
        now = values.get(flag)
        group = flag.partition(".")[0]
        if now == before or group in ("run", "wandb"):
            continue
        if group in ("data", "task", "model", "optim") and flag not in MAY_CHANGE:
            remedy = f"the run to go on with has {before}; give that, or another --run.name"
            raise InputError(f"--{flag}", now, remedy)
        yield f"resumed with --{flag} {now} instead of {before}"


def record_of(command: CommandLine, config: Namespace) -> str:
    """config.yaml: everything that the run computes from, and not where it does.

    Given with --config it starts a run of its own, and never replaces the one that it is from.
    """
    config = config.clone()
    config.run.name, config.run.resume, config.run.overwrite = None, False, False
    return command.dump(config)
