"""`python train.py reconstruct`: attacks saved checkpoints; needs only their files."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from jsonargparse import Namespace

from lit_recon.audit.choice import Choice, chosen, settle
from lit_recon.audit.loggers import wandb_run
from lit_recon.audit.models import checkpoint_at, fill, make_model, module_class, own_module
from lit_recon.audit.recorder import Recorder, named_numbers, of_method, read_results, sentence
from lit_recon.audit.threat import TrainingFacts, knowledge_of
from lit_recon.audit.variants import variant_name
from lit_recon.errors import InputError
from lit_recon.flags import CommandLine, Group, Source, build, describe
from lit_recon.knowledge import Knowledge
from lit_recon.methods import Reconstructor
from lit_recon.models.wrapped import Wrapped
from lit_recon.modules import Optim
from lit_recon.records.checkpoints import checkpoint_path, saved_checkpoints, step_of, weights_of
from lit_recon.records.directory import RESULTS, RunDirectory, refuse_older_layout
from lit_recon.records.jsonl import JsonlLogger
from lit_recon.records.provenance import FILE as PROVENANCE
from lit_recon.records.provenance import provenance
from lit_recon.records.tracking import choose_wandb_mode
from lit_recon.records.truth import Truth
from lit_recon.report.page import write_run_report

INTRODUCTION = """\
usage: python train.py reconstruct --run runs/NAME [--steps last|all|0,100] [--recon.FLAG value ...]
       python train.py reconstruct --checkpoint FILE --initial FILE --plugin PACKAGE --data ...

Attacks the saved checkpoints of a run. With the run's own settings the results go to
runs/NAME/recon, with other settings to runs/NAME/recon-NAME. Or attacks a checkpoint of your own
LightningModule, from an importable package that you trust.

"""
NAME = re.compile(r"[A-Za-z0-9_=.,+-]+")
GROUPS_OF_FIT = ("data", "recon", "recon.solver", "wandb")  # this command has them too
CLASS_GROUPS = ("data", "recon", "wandb")
RUN_FLAGS = ("steps", "name")  # only with --run
FILE_FLAGS = ("initial", "module", "readout", "features", "out")  # only with --checkpoint
CHECKPOINT_FLAGS = ("checkpoint", "device")  # may differ between results in one directory


@dataclass
class ReconstructFlags:
    """What is attacked, and where the results go.

    Args:
        run: directory of a run, such as runs/NAME.
        steps: last, all, or training steps such as 0,100.
        name: name for results with other settings than the run's; they go to recon-NAME in the
            run's directory; null: made from the settings that differ.
        device: cpu, cuda, cuda:1 and so on; auto uses a GPU if there is one.
        checkpoint: a checkpoint of your own LightningModule, instead of --run; --data describes its
            training data.
        initial: a checkpoint of the same module before training.
        module: the module's class in --plugin; null: the only LightningModule there.
        readout: dotted name of its last linear layer; null: the layer whose output is the module's.
        features: its method that computes the readout's input; null: the input is recorded in a
            forward pass.
        out: directory for the results of --checkpoint; several checkpoints of one training can
            share it; null: a new one in runs.
    """

    run: str | None = None
    steps: str = "last"
    name: str | None = None
    device: str = "auto"
    checkpoint: str | None = None
    initial: str | None = None
    module: str | None = None
    readout: str | None = None
    features: str | None = None
    out: str | None = None


@dataclass(frozen=True)
class Target:
    """One method and where its results go.

    Attributes:
        method: the method.
        directory: the run directory, with the method's folder of results.
        record: content of a config.yaml for the folder, if its settings differ from the run's; None
            if they do not.
    """

    method: Reconstructor
    directory: RunDirectory
    record: str | None = None

    @property
    def folder(self) -> str:
        """The folder of these settings, ``recon`` or ``recon-VARIANT``."""
        return self.directory.results.rpartition("/")[0]


@dataclass(frozen=True)
class Job:
    """What to attack, and where the results go.

    Attributes:
        wandb: the flags of W&B.
        record: the configuration as YAML.
        directory: the run directory.
        truth: the training data, for scoring.
        targets: the methods.
        checkpoints: (step, epoch, knowledge) of each checkpoint.
        device: where attacks run.
    """

    wandb: Namespace
    record: str
    directory: RunDirectory
    truth: Truth
    targets: Sequence[Target]
    checkpoints: Iterator[tuple[int, int, Knowledge]]
    device: torch.device


def reconstruct(argv: Sequence[str], fit: CommandLine, plugins: Sequence[ModuleType]) -> None:
    """Run the command; ``--help`` prints its flags.

    Args:
        argv: the arguments after the command.
        fit: the flags of `fit`, with which the runs' configurations were written.
        plugins: the user's own packages.

    Raises:
        InputError: a wrong flag, or a wrong file.
        RunError: results cannot be written.
    """
    own = Group("", (ReconstructFlags,))
    groups = [own, *(fit.groups[name] for name in GROUPS_OF_FIT)]
    if {"-h", "--help"} & set(argv):
        print(INTRODUCTION + describe(groups), end="")
        return
    command = CommandLine("python train.py reconstruct", groups, fit.packages)
    sources = command.read(argv)
    # Without the flags of classes: only the run's configuration may say which classes have them.
    flags = command.parse([source.without(*CLASS_GROUPS) for source in sources])
    if (flags.run is None) == (flags.checkpoint is None):
        given = flags.run or "missing"
        raise InputError("--run", given, "give either --run runs/NAME or --checkpoint FILE")
    use, others = ("--run", FILE_FLAGS) if flags.checkpoint is None else ("--checkpoint", RUN_FLAGS)
    for name in others:
        if flags[name] != getattr(ReconstructFlags(), name):
            raise InputError(f"--{name}", flags[name], f"is not for {use}; leave it out")
    if flags.run is not None:
        settings = [source.without(*vars(ReconstructFlags())) for source in sources]
        attack(of_run(fit, settings, flags))
    else:
        attack(of_file(command, command.parse(sources), plugins))


def attack(job: Job) -> None:
    """Attack every checkpoint that has no results yet; score and log the results."""
    mode, reason = choose_wandb_mode(job.wandb.mode)
    print(reason)
    numbers = [
        name
        for target in job.targets
        for name in named_numbers(RunDirectory(job.directory.path, target.folder), [target.method])
    ]
    with wandb_run(job.wandb, job.record, job.directory, mode, numbers) as logger:
        loggers = [entry for entry in (JsonlLogger(job.directory), logger) if entry is not None]
        recorders = [
            Recorder(target.method, target.directory, job.truth, loggers) for target in job.targets
        ]
        for step, epoch, knowledge in job.checkpoints:
            for target, recorder in zip(job.targets, recorders, strict=True):
                if recorder.done(step):
                    print(f"{sentence(step, read_results(target.directory, step))}, done before")
                    continue
                if target.record is not None:
                    origin = provenance(sys.argv, target.method.seed, job.device)
                    job.directory.write_text(f"{target.folder}/config.yaml", target.record)
                    job.directory.write_json(f"{target.folder}/{PROVENANCE}", origin)
                recorder.attack(step, epoch, knowledge)
    print()
    for folder in dict.fromkeys(target.folder for target in job.targets):
        print(f"results        {job.directory.path / folder}")
    print(f"report         {write_run_report(job.directory.path)}")


# Checkpoints of a run


def of_run(fit: CommandLine, given: Sequence[Source], flags: Namespace) -> Job:
    """The job for ``--run``: saved checkpoints of a run.

    Raises:
        InputError: no run directory, a wrong flag, or wrong files.
    """
    path = Path(flags.run)
    file = path / "config.yaml"
    if not file.is_file():
        raise InputError("--run", flags.run, "is no run directory; give one, as runs/NAME")
    refuse_older_layout("--run", path)
    for source in given:
        for flag, value in source.only("data").values:
            raise InputError(
                f"--{flag}", source.given(value), "is for --checkpoint; the run has data"
            )
    own = fit.read([f"--config={file}"])[0]
    if "checkpoint" in dict(own.values):
        remedy = "has results of --checkpoint; give that and --out"
        raise InputError("--run", flags.run, remedy)
    before, config = fit.parse([own]), fit.parse([own, *given])
    config.run.name = path.name
    if flags.name is not None and not (NAME.fullmatch(flags.name) and len(flags.name) <= 100):
        remedy = "give letters, digits and any of _ = . , + -, at most 100"
        raise InputError("--name", repr(flags.name), remedy)
    directory, choice = RunDirectory(path), chosen(fit, config)
    truth, device = Truth.read(path), device_of(flags.device)
    steps = chosen_steps(flags.steps, [step_of(file) for file in saved_checkpoints(path)], path)
    optim: Optim = build(config.optim)
    saved = {
        step: checkpoint_at("--run", flags.run, checkpoint_path(directory, step)) for step in steps
    }
    start = checkpoint_path(directory, 0)
    initial = weights_of(checkpoint_at("--run", flags.run, start))
    if not initial:
        raise InputError("--run", start, "holds no weights of a run")
    k = len(initial["readout.weight"]) if "readout.weight" in initial else truth.k
    facts = {"d": truth.x.shape[1], "n": truth.n, "input_shape": truth.shape, "k": k}
    model = make_model(config.model, facts)
    fill(model, initial, "--run", start)
    choice = choice.for_model(model, disabled=True)
    targets = list(targets_of(fit, path, flags.name, before, config, choice))
    settle(config, choice)

    def checkpoints() -> Iterator[tuple[int, int, Knowledge]]:
        for step, checkpoint in saved.items():
            fill(model, weights_of(checkpoint), "--run", checkpoint_path(directory, step))
            training = TrainingFacts(optim.initial_share(step), optim.keeps_span)
            known = knowledge_of(model.eval().to(device), initial, training, truth)
            yield step, int(checkpoint.get("epoch", 0)), known

    return Job(config.wandb, fit.dump(config), directory, truth, targets, checkpoints(), device)


def targets_of(
    fit: CommandLine,
    path: Path,
    name: str | None,
    before: Namespace,
    config: Namespace,
    choice: Choice,
) -> Iterator[Target]:
    """Find the folder of results for every method and its settings.

    Args:
        fit: the flags of `fit`.
        path: the run directory.
        name: name of the folder if settings differ from the run's; None: made from the differences.
        before: the run's own configuration.
        config: the configuration of this attack.
        choice: the methods.

    Raises:
        InputError: the folder has results of other settings.
    """
    own = {spec.class_path: spec for spec in chosen(fit, before).specs}

    def settings(base: Namespace, spec: Namespace | None) -> dict[str, Any]:
        """The flags of one method alone; empty if the run does not have the method."""
        if spec is None:
            return {}
        alone = base.clone()
        alone.recon = spec
        values = fit.values(alone)
        own = {flag: value for flag, value in values.items() if flag.startswith("recon")}
        own.pop("recon.enabled", None)  # has no effect here
        return own

    for spec, method in zip(choice.specs, choice.methods, strict=True):
        now = settings(config, spec)
        variant = name or variant_name(settings(before, own.get(spec.class_path)), now, method.name)
        if not variant:
            yield Target(method, of_method(RunDirectory(path), method.name))
            continue
        folder = f"{RESULTS}-{variant}"
        record = path / folder / "config.yaml"
        if record.exists():
            earlier = fit.parse(fit.read([f"--config={record}"]))
            (there, *_), _ = fit.specs(earlier, "recon")
            if settings(earlier, there) != now:
                remedy = "has results of other settings; give another name"
                raise InputError("--name", variant, remedy)
        alone = config.clone()
        alone.recon = spec
        directory = of_method(RunDirectory(path, folder), method.name)
        yield Target(method, directory, fit.dump(alone))


def chosen_steps(wanted: str, saved: Sequence[int], path: Path) -> list[int]:
    """The saved training steps that ``--steps`` names.

    Raises:
        InputError: there are no checkpoints, or none at a named step.
    """
    if not saved:
        raise InputError("--run", path, "has no checkpoints")
    if wanted in ("last", "all"):
        return list(saved) if wanted == "all" else [saved[-1]]
    there = ", ".join(str(step) for step in saved)
    if not re.fullmatch(r"\d+(,\d+)*", wanted):
        raise InputError("--steps", wanted, f"give last, all, or some of {there}")
    steps = sorted({int(step) for step in wanted.split(",")})
    for step in set(steps) - set(saved):
        raise InputError("--steps", step, f"has no checkpoint; there are {there}")
    return steps


def device_of(name: str) -> torch.device:
    """The device of that name; ``auto`` is a GPU if there is one.

    Raises:
        InputError: the device is missing or has no float64, which attacks need.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        one = torch.ones((), device=name, dtype=torch.float64)
        float(one)
    except Exception as error:  # every backend has its own types
        reason = re.split(r"\n|\. ", str(error))[0]
        remedy = f"cannot be used here ({reason}); give cpu, cuda or auto"
        raise InputError("--device", name, remedy) from error
    return one.device


# A checkpoint of the user's own module


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
    step, epoch = int(saved.get("global_step", 0)), int(saved.get("epoch", 0))
    directory = place_for(command, flags, cls.__name__.lower(), step, choice)
    record = command.dump(flags)
    directory.write_text("config.yaml", record)  # first: `place_for` needs it in the next command
    seed = choice.methods[0].seed
    directory.write_json(PROVENANCE, provenance(sys.argv, seed, device))
    truth.write(directory)
    known = knowledge_of(model.to(device), initial, TrainingFacts(), truth)
    targets = [Target(method, of_method(directory, method.name)) for method in choice.methods]
    attacked = iter([(step, epoch, known)])
    return Job(flags.wandb, record, directory, truth, targets, attacked, device)


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
                flag not in CHECKPOINT_FLAGS
                and not flag.startswith("wandb")
                and earlier.get(flag) != value
            ):
                raise InputError("--out", out, f"has results of another --{flag}; give another")
        done = any(
            of_method(RunDirectory(out), method.name).has_step(step) for method in choice.methods
        )
        if done and earlier["checkpoint"] != flags.checkpoint:
            raise InputError("--out", out, f"has other results of step {step}; give another")
    try:
        return RunDirectory.create(out.parent, out.name, resume=True)
    except InputError as error:
        raise InputError("--out", out, error.remedy) from error
