"""`python train.py reconstruct`: attack saved checkpoints, from files alone."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from jsonargparse import Namespace
from lightning import LightningModule
from torch import Tensor, nn

from callbacks.checkpoints import (
    checkpoint_path,
    load_checkpoint,
    saved_checkpoints,
    step_of,
    weights_of,
)
from callbacks.loggers import wandb_run
from callbacks.recorder import Recorder, named_numbers, read_results, sentence
from lit_recon.errors import InputError, RunError
from lit_recon.flags import CommandLine, Group, Source, build, build_fitting, describe
from lit_recon.methods import Reconstructor
from lit_recon.models import ReadoutModel
from lit_recon.models.wrapped import Wrapped
from lit_recon.records.directory import RunDirectory
from lit_recon.records.jsonl import JsonlLogger
from lit_recon.records.provenance import FILE as PROVENANCE
from lit_recon.records.provenance import provenance
from lit_recon.records.tracking import choose_wandb_mode
from lit_recon.records.truth import Truth
from lit_recon.report.page import write_run_report

INTRODUCTION = """\
usage: python train.py reconstruct --run runs/NAME [--steps last|all|0,100] [--recon.FLAG value ...]
       python train.py reconstruct --checkpoint FILE --initial FILE --plugin PACKAGE --data ...

Attacks the saved checkpoints of a run, with its own settings or with others, and puts the results
where they would have been, or beside them. Or attacks a checkpoint of a LightningModule of your
own, from an importable package that you trust.

"""
LONGEST = 60  # characters of a name that is made of settings
OWN_RESULTS = "recon"  # the folder of the run's own attack
NAME = re.compile(r"[A-Za-z0-9_=.,+-]+")
OWN = ("data", "recon", "recon.solver", "wandb")  # groups of `fit` that this command has too
APART = ("data", "recon", "wandb")
# Flags that only one of the two uses has.
OF_RUNS = ("steps", "name")
OF_FILES = ("initial", "module", "readout", "features", "out")
PASSING = ("checkpoint", "device")  # flags that may differ between results in one directory


@dataclass
class ReconstructFlags:
    """What is attacked.

    Args:
        run: directory of a run, as runs/NAME.
        steps: last, all, or training steps such as 0,100.
        name: of results of other settings, which go to runs/NAME/recon-NAME; null: what differs.
        device: cpu, cuda, cuda:1 and so on; auto takes a GPU where there is one.
        checkpoint: instead of --run, a checkpoint of a LightningModule of your own; --data tells
            what it was trained on.
        initial: the same module's checkpoint before training.
        module: its class in --plugin; null: the only one there is.
        readout: dotted name of its last linear layer; null: the one that gives its output.
        features: its method that gives that layer's input; null: whatever goes into the layer.
        out: directory for the results of --checkpoint, also of several of one training; null: a new
            one in runs.
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
class Attack:
    """What to attack, and where the results go.

    Attributes:
        config: with ``recon`` and ``wandb``.
        record: the same as YAML.
        directory: of the run.
        truth: for scoring.
        checkpoints: step, epoch, model, initial weights, and the share of the initial readout that
            is left, for each checkpoint.
    """

    config: Namespace
    record: str
    directory: RunDirectory
    truth: Truth
    checkpoints: Iterator[tuple[int, int, ReadoutModel, Mapping[str, Tensor], float | None]]


def reconstruct(argv: Sequence[str], fit: CommandLine, plugins: Sequence[ModuleType]) -> None:
    """Run the command, or tell about its flags.

    Args:
        argv: the flags.
        fit: the command line that wrote the runs' configurations.
        plugins: packages of the user's own.

    Raises:
        InputError: a wrong flag, or a file that is not what it should be.
        RunError: results cannot be written.
    """
    own = Group("", (ReconstructFlags,))
    if {"-h", "--help"} & set(argv):
        print(INTRODUCTION + describe([own, *(fit.groups[name] for name in OWN)]), end="")
        return
    groups = [own, *(fit.groups[name] for name in OWN)]
    command = CommandLine("python train.py reconstruct", groups, fit.packages)
    sources = command.read(argv)
    # Alone: the others may belong to classes that only the run's configuration names.
    flags = command.parse([source.without(*APART) for source in sources])
    if (flags.run is None) == (flags.checkpoint is None):
        given = flags.run or "missing"
        raise InputError("--run", given, "give either --run runs/NAME or --checkpoint FILE")
    use, others = ("--run", OF_FILES) if flags.checkpoint is None else ("--checkpoint", OF_RUNS)
    for name in others:
        if flags[name] != getattr(ReconstructFlags(), name):
            raise InputError(f"--{name}", flags[name], f"is not for {use}; leave it out")
    if flags.run is not None:
        settings = [source.without(*vars(ReconstructFlags())) for source in sources]
        attack(of_run(fit, settings, flags))
    else:
        attack(of_file(command, command.parse(sources), plugins))


def attack(what: Attack) -> None:
    """Attack what has not been attacked yet, score it, and log it."""
    reconstructor: Reconstructor = build(what.config.recon)
    directory, wandb = what.directory, what.config.wandb
    mode, reason = choose_wandb_mode(wandb.mode)
    print(reason)
    numbers = named_numbers(f"{directory.results}/{reconstructor.name}")
    with wandb_run(wandb, what.record, directory, mode, numbers) as logger:
        loggers = [entry for entry in (JsonlLogger(directory), logger) if entry is not None]
        recorder = Recorder(reconstructor, directory, what.truth, loggers)
        for step, epoch, model, initial, share in what.checkpoints:
            if recorder.done(step):
                print(f"{sentence(step, read_results(directory, step))}, done before")
            else:
                recorder.attack(step, epoch, model, initial, share)
    print(f"\nresults        {directory.path / directory.results}")
    print(f"report         {write_run_report(directory.path)}")


# A run of ours


def of_run(fit: CommandLine, given: Sequence[Source], flags: Namespace) -> Attack:
    """Saved checkpoints of a run."""
    path = Path(flags.run)
    file = path / "config.yaml"
    if not file.is_file():
        raise InputError("--run", flags.run, "is no run directory; give one, as runs/NAME")
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
    directory = results_of(fit, path, flags.name, before, config)
    truth, device = Truth.read(path), device_of(flags.device)
    steps = chosen_steps(flags.steps, [step_of(file) for file in saved_checkpoints(path)], path)
    record, optim = fit.dump(config), build(config.optim)
    saved = {step: load("--run", flags.run, checkpoint_path(directory, step)) for step in steps}
    start = checkpoint_path(directory, 0)
    initial = weights_of(load("--run", flags.run, start))
    facts = {"d": truth.x.shape[1], "n": truth.n, "input_shape": truth.shape}
    if "readout.weight" not in initial:
        raise InputError("--run", start, "holds no weights of a run")
    k = len(initial["readout.weight"])
    model: ReadoutModel = build_fitting(config.model, k=k, **facts)
    fill(model, initial, "--run", start)
    reconstructor: Reconstructor = build(config.recon)
    reconstructor.check(model)
    origin = provenance(sys.argv, reconstructor.seed, device)

    def checkpoints() -> Iterator[Any]:
        for step, checkpoint in saved.items():
            fill(model, weights_of(checkpoint), "--run", checkpoint_path(directory, step))
            if directory.results != OWN_RESULTS and not directory.has_step(step):
                directory.write_text(f"{directory.results}/config.yaml", record)
                directory.write_json(f"{directory.results}/{PROVENANCE}", origin)
            epoch = int(checkpoint.get("epoch", 0))
            yield step, epoch, model.eval().to(device), initial, optim.initial_share(step)

    return Attack(config, record, directory, truth, checkpoints())


def results_of(
    fit: CommandLine, path: Path, name: str | None, before: Namespace, config: Namespace
) -> RunDirectory:
    """The run directory with the folder for results of these settings.

    Args:
        name: of the folder; None: what differs.
        before: the run's own settings.
        config: those of the attack.

    Raises:
        InputError: the name cannot be one, or has results of other settings.
    """
    now = fit.values(config)
    if name is not None and not (NAME.fullmatch(name) and len(name) <= 100):
        remedy = "give letters, digits and any of _ = . , + -, at most 100"
        raise InputError("--name", repr(name), remedy)
    name = name or difference(fit.values(before), now)
    if not name:
        return RunDirectory(path)
    directory = RunDirectory(path, f"{OWN_RESULTS}-{name}")
    record = path / directory.results / "config.yaml"
    earlier = fit.read([f"--config={record}"]) if record.exists() else []
    if earlier and difference(fit.values(fit.parse(earlier)), now):
        raise InputError("--name", name, "has results of other settings; give another name")
    return directory


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs in the attack's settings, as a name for files; empty where nothing does."""
    changed = [
        f"{flag.removeprefix('recon.')}={str(value).removeprefix('lit_recon.solvers.')}"
        for flag, value in now.items()
        if flag.startswith("recon") and before.get(flag) != value
    ]
    name = re.sub(r"[^A-Za-z0-9=.,_+-]", "_", ",".join(changed))
    if len(name) <= LONGEST:
        return name
    return f"{name[:LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def chosen_steps(wanted: str, saved: Sequence[int], path: Path) -> list[int]:
    """The training steps that ``--steps`` names, of those saved."""
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
    """The device of that name, if it is there and can do what attacks need."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        one = torch.ones((), device=name, dtype=torch.float64)
        float(one)
    except Exception as error:  # of many kinds, each device has its own
        reason = re.split(r"\n|\. ", str(error))[0]
        remedy = f"cannot be used here ({reason}); give cpu, cuda or auto"
        raise InputError("--device", name, remedy) from error
    return one.device


def load(flag: str, given: str, file: Path) -> dict[str, Any]:
    """A checkpoint; what is wrong with it is said of the flag that led to it."""
    try:
        return load_checkpoint(file)
    except RunError as error:
        raise InputError(flag, given, str(error)) from error


def fill(model: nn.Module, weights: Mapping[str, Tensor], flag: str, file: str | Path) -> None:
    """Load weights that must be those of this very model."""
    try:
        model.load_state_dict(dict(weights))
    except RuntimeError as error:
        reason = " ".join(str(error).partition(":")[2].split()[:40])
        remedy = f"does not fit {type(model).__name__}: {reason}"
        raise InputError(flag, file, remedy) from error


# Somebody's own module


def of_file(command: CommandLine, flags: Namespace, plugins: Sequence[ModuleType]) -> Attack:
    """A checkpoint of a LightningModule that is not ours."""
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
    reconstructor: Reconstructor = build(flags.recon)
    reconstructor.check(model)
    step, epoch = int(saved.get("global_step", 0)), int(saved.get("epoch", 0))
    directory = place_for(command, flags, cls.__name__.lower(), step)
    record = command.dump(flags)
    directory.write_text("config.yaml", record)  # first: by it the next command knows the directory
    directory.write_json(PROVENANCE, provenance(sys.argv, reconstructor.seed, device))
    truth.write(directory)
    attacked = (step, epoch, model.to(device), initial, 1.0)
    return Attack(flags, record, directory, truth, iter([attacked]))


def place_for(command: CommandLine, flags: Namespace, stem: str, step: int) -> RunDirectory:
    """The directory for results: a new one, or one with other checkpoints of the same training.

    Raises:
        InputError: it has something else.
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
            if flag not in PASSING and not flag.startswith("wandb") and earlier[flag] != value:
                raise InputError("--out", out, f"has results of another --{flag}; give another")
        done = RunDirectory(out).has_step(step)
        if done and earlier["checkpoint"] != flags.checkpoint:
            raise InputError("--out", out, f"has other results of step {step}; give another")
    try:
        return RunDirectory.create(out.parent, out.name, resume=True)
    except InputError as error:
        raise InputError("--out", out, error.remedy) from error


def module_class(plugins: Sequence[ModuleType], name: str | None) -> type[LightningModule]:
    """The LightningModule of that name in a plugin, or the only one."""
    found = {
        value.__name__: value
        for plugin in plugins
        for value in vars(plugin).values()
        if isinstance(value, type) and issubclass(value, LightningModule)
    }
    found.pop("LightningModule", None)
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if name not in found:
        there = ", ".join(found) or "none; give the package with --plugin"
        raise InputError("--module", name or "missing", f"the LightningModules are: {there}")
    return found[name]


def own_module(
    cls: type[LightningModule], flag: str, file: str
) -> tuple[LightningModule, dict[str, Any]]:
    """The module with the weights of a checkpoint, and the checkpoint."""
    saved = load(flag, file, Path(file))
    try:
        module = cls(**saved.get("hyper_parameters", {}))
    except Exception as error:  # of any kind: it is somebody else's code that runs here
        reason = f"({type(error).__name__}: {error})"
        remedy = f"its hyper_parameters do not make a {cls.__name__} {reason}"
        raise InputError(flag, file, remedy) from error
    fill(module, saved["state_dict"], flag, file)
    return module.eval(), saved
