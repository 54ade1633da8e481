"""A checkpoint of a LightningModule of the user's own, as `reconstruct --checkpoint` attacks it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch
from jsonargparse import Namespace

from lit_recon.audit.choice import Choice, chosen, settle
from lit_recon.audit.job import Job, Target, device_of
from lit_recon.audit.models import module_class, own_module
from lit_recon.audit.recorder import of_method
from lit_recon.audit.threat import TrainingFacts, knowledge_of
from lit_recon.errors import InputError
from lit_recon.flags import CommandLine, build
from lit_recon.knowledge import Knowledge
from lit_recon.models.wrapped import Wrapped
from lit_recon.records.directory import RunDirectory
from lit_recon.records.provenance import FILE as PROVENANCE
from lit_recon.records.provenance import provenance
from lit_recon.records.truth import Truth

# Flags that name the attacked weights.
WEIGHTS = ("checkpoint", "before", "after", "update", "weights")


def of_file(command: CommandLine, flags: Namespace, plugins: Sequence[ModuleType]) -> Job:
    """The job for ``--checkpoint``: a checkpoint of the user's own LightningModule.

    Raises:
        InputError: a wrong flag, or a wrong file.
    """
    if flags.initial is None:
        raise InputError("--initial", "missing", "give the module's checkpoint before training")
    cls = module_class(plugins, flags.module)
    device = device_of(flags.device)
    trained, saved = own_module(cls, "--checkpoint", flags.checkpoint)
    untrained, _ = own_module(cls, "--initial", flags.initial)
    data = build(flags.data)
    data.setup()
    truth, example = Truth.of(data), data.x[:1]
    model = Wrapped(trained, flags.readout, flags.features, example)
    initial = Wrapped(untrained, flags.readout, flags.features, example).state_dict()
    shapes = [tuple(weights["readout.weight"].shape) for weights in (initial, model.state_dict())]
    if shapes[0] != shapes[1]:
        remedy = f"is of another network: its readout is {shapes[0]}, not {shapes[1]}"
        raise InputError("--initial", flags.initial, remedy)
    choice = chosen(command, flags).for_model(model, disabled=True)
    settle(flags, choice)
    known = knowledge_of(model.to(device), initial, TrainingFacts(), truth)
    at = (int(saved.get("global_step", 0)), int(saved.get("epoch", 0)), known)
    return job_of_files(command, flags, cls.__name__.lower(), choice, at, truth, device)


def job_of_files(
    command: CommandLine,
    flags: Namespace,
    stem: str,
    choice: Choice,
    at: tuple[int, int, Knowledge],
    truth: Truth | None,
    device: torch.device,
) -> Job:
    """The job for weights that are in no run, with a directory for their results.

    Args:
        command: the flags of `reconstruct`.
        flags: their values.
        stem: the start of the name of a new directory.
        choice: the methods.
        at: step, epoch and knowledge of the checkpoint.
        truth: the training data; None: not known.
        device: where attacks run.

    Raises:
        InputError: as in `place_for`.
    """
    directory = place_for(command, flags, stem, at[0], choice)
    record = command.dump(flags)
    directory.write_text("config.yaml", record)  # first: `place_for` needs it in the next command
    seed = choice.methods[0].seed
    directory.write_json(PROVENANCE, provenance(sys.argv, seed, device))
    if truth is not None:
        truth.write(directory)
    targets = [Target(method, of_method(directory, method.name)) for method in choice.methods]
    return Job(flags.wandb, record, directory, truth, targets, iter([at]), device)


def place_for(
    command: CommandLine, flags: Namespace, stem: str, step: int, choice: Choice
) -> RunDirectory:
    """The directory for results: a new one, or one with other checkpoints of the same training.

    Raises:
        InputError: ``--out`` has other content, or results of other flags.
    """
    if flags.out is None:
        return RunDirectory.create("runs", stem=stem)
    out = Path(flags.out)
    record = out / "config.yaml"
    if record.exists():
        now = command.values(flags)
        try:
            earlier = command.values(command.parse(command.read([f"--config={record}"])))
        except InputError as error:
            remedy = "is there and has something else; give another"
            raise InputError("--out", out, remedy) from error
        for flag, value in now.items():
            if (
                flag not in (*WEIGHTS, "device")
                and not flag.startswith("wandb")
                and earlier.get(flag) != value
            ):
                raise InputError("--out", out, f"has results of another --{flag}; give another")
        done = any(
            of_method(RunDirectory(out), method.name).has_step(step) for method in choice.methods
        )
        if done and any(earlier.get(flag) != flags[flag] for flag in WEIGHTS):
            raise InputError("--out", out, f"has other results of step {step}; give another")
    try:
        return RunDirectory.create(out.parent, out.name, resume=True)
    except InputError as error:
        raise InputError("--out", out, error.remedy) from error
