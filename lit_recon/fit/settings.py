"""Makes the complete configuration of a run, and its config.yaml, from flags and files."""

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

EPOCHS = 1000  # of an iterative optimiser, if no flag limits training
LOGGED_ROWS = 200  # approximate number of training rows in metrics.jsonl
OF_NO_WORK = {"run", "wandb"}  # groups of flags that leave the demo what it is
# Flags that a resumed run may change: where the data are and how much of V is stored.
MAY_CHANGE = {"data.root", "data.url", "data.download", "model.stored_rows"}


def read_given(command: CommandLine, argv: list[str]) -> list[Source]:
    """Read files and flags, without the grid of a file, which only `sweep` uses."""
    return [source.without("grid") if source.file else source for source in command.read(argv)]


def or_demo(command: CommandLine, sources: list[Source], demo: str) -> list[Source]:
    """The sources, or the demo's file too where none of them says anything about a run's work."""
    said = {flag.partition(".")[0] for source in sources for flag, _ in source.values}
    return sources if said - OF_NO_WORK else [*command.read([f"--config={demo}"]), *sources]


def read_sources(
    command: CommandLine, argv: list[str], demo: str
) -> tuple[list[Source], Mapping[str, Any]]:
    """Read files and flags; for a resumed run, its own configuration is the weakest source.

    Args:
        command: the parser.
        argv: files and flags.
        demo: the configuration of a new run without flags.

    Returns:
        The sources, weakest first, and the resumed run's own values; empty for a new run.

    Raises:
        InputError: wrong flags, or a run of an earlier version.
    """
    sources = read_given(command, argv)
    # Only --run: only the earlier configuration may say which classes have the other flags.
    flags = command.parse([source.only("run") for source in sources]).run
    place = os.path.join(flags.dir, flags.name or "")
    file = os.path.join(place, "config.yaml")
    if not (flags.resume and flags.name and os.path.exists(file)):
        return or_demo(command, sources, demo), {}
    refuse_older_layout("--run.resume", place)
    earlier = command.read([f"--config={file}"])[0]
    # The run directory may have been moved.
    return [earlier.without("run.dir"), *sources], dict(earlier.values)


def settle(command: CommandLine, sources: Sequence[Source]) -> tuple[Namespace, Any]:
    """Make the configuration, as far as possible without loading data, and the data module.

    Raises:
        InputError: a wrong flag, or flags that contradict each other.
    """
    config = command.parse(sources)
    _settle_seeds(command, config)
    _settle_size(config, sources)
    data = build(config.data)
    _settle_length(config)
    return config, data


def _settle_seeds(command: CommandLine, config: Namespace) -> None:
    """Set every seed that is null to --run.seed."""
    seed = config.run.seed
    if seed < 0:
        raise InputError("--run.seed", seed, "give 0 or more")
    if is_auto(config.recon):
        shared = config.recon["init_args"]
        shared["seed"] = seed if shared.get("seed") is None else shared["seed"]
        methods: list[Namespace] = []
    else:
        methods, _ = command.specs(config, "recon")
    for part in (config.data, config.task, config.model, config.optim, *methods):
        given = part.init_args if "init_args" in part else {}  # a class may have no arguments
        if given.get("seed", 0) is None:
            given["seed"] = seed


def _settle_size(config: Namespace, sources: Sequence[Source]) -> None:
    """Apply only the last source that gives the model's size or p_over_dn; unset the other one."""
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
    """Set the length of training and the logging interval, if they are not given."""
    flags, data = config.trainer, config.data.init_args
    optim = named_class(config.optim.class_path)
    whole = optim.closed_form or optim.full_batch
    if whole and data.batch_size is not None and data.batch_size < data.n:
        remedy = f"{optim.__name__} takes all samples at once; leave it out, or give --optim SGD"
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
    """One line for each flag whose value differs from the resumed run's.

    Raises:
        InputError: data, task, model or optimiser differ.
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
    """The content of config.yaml: all flags, without the run's name, resume and overwrite.

    Without them, ``--config config.yaml`` starts a new run and never replaces this one.
    """
    config = config.clone()
    config.run.name, config.run.resume, config.run.overwrite = None, False, False
    return command.dump(config)
