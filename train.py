"""The command line: `python train.py [fit] --flag value ...`; `--help` tells more."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from jsonargparse import Namespace
    from lightning import Callback, Trainer
    from lightning.pytorch.loggers import WandbLogger

    from datamodules import ReconDataModule
    from lit_recon.flags import CommandLine, Group, Source
    from lit_recon.modules import Training
    from lit_recon.records.directory import RunDirectory

# torch and lightning are imported inside the functions, so that --help answers at once.

HELP = """\
usage: python train.py [command] [--config FILE] [--flag value ...]

Train a small over-parameterised model on a handful of images and, at every checkpoint,
reconstruct the training images from its weights alone.

commands
  fit            train and reconstruct; the default. Without any flag it is the demo's run.
  fit --help     list every flag
  sweep          fit over a grid of flags, and draw the law: --grid.FLAG 1,2,4 --jobs 2
  sweep --help   list its own flags
  reconstruct    attack saved checkpoints: --run runs/NAME --steps all, or --checkpoint FILE
  report         write report.html again: --run runs/NAME or, of a sweep, --sweep runs/NAME
  dashboard      build a W&B workspace: --entity NAME --project lit_recon

groups of flags
  --data         Photos, CIFAR10Subset, ImageFolderSubset or Sphere; --data.n, --data.classes, ...
  --model        RandomFeatures, MLP or ResNet; --model.p, --model.width or --model.p_over_dn
  --optim        LeastSquares, SGD, Adam or LBFGS; --optim.lr, ...
  --recon        ProjectionReconstructor; --recon.solver, --recon.max_seconds, --recon.seed, ...
  --checkpoint.* when checkpoints are saved: every_n_steps, at_steps, keep
  --trainer.*    the arguments of Lightning's Trainer
  --wandb.*      mode auto, online, offline or disabled; project, entity, group, tags
  --run.*        name, dir, seed, resume, overwrite
  --plugin NAME  an importable package of your own, whose classes can be chosen; you trust its code
  --config FILE  flags from YAML, also several times: a later file wins, a flag wins over all files
  --print_config print the whole configuration as YAML and stop

examples
  python train.py
  python train.py --data.n 6 --model.p_over_dn 4
  python train.py --config configs/rf_cifar10.yaml
  python train.py --data ImageFolderSubset --data.root FOLDER --data.classes '[cat, dog]'
  python train.py --data Sphere --data.n 10 --data.d 100 --model.p 2000
  python train.py --run.name NAME --run.resume true
  python train.py reconstruct --run runs/NAME --steps all --recon.max_seconds 60
  python train.py report --run runs/NAME
  python train.py sweep --config configs/law_rf.yaml --jobs 2
"""


PLUGINS: list[ModuleType] = []  # packages of the user's own, whose classes can be chosen
RUN_PATH = "LIT_RECON_RUN_PATH"  # tells the run directory to the ranks that Lightning starts
TRAINING_NUMBERS = ["train/loss", "train/acc", "val/acc"]
# What this file gives to the trainer itself, or what is an object and cannot be typed.
TAKEN = {"logger", "callbacks", "default_root_dir", "enable_checkpointing", "barebones", "plugins"}
# What no run here has: Lightning's loops of validation, test and prediction, its samplers, and
# epochs of other or fewer data than --data says.
ABSENT = {
    "limit_train_batches",
    "val_check_interval",
    "check_val_every_n_epoch",
    "limit_val_batches",
    "limit_test_batches",
    "limit_predict_batches",
    "num_sanity_val_steps",
    "inference_mode",
    "reload_dataloaders_every_n_epochs",
    "overfit_batches",
    "use_distributed_sampler",
}
EPOCHS = 1000  # of an iterative optimiser, where no flag says when to stop
LOGGED_ROWS = 200  # of training in metrics.jsonl, about
DERIVED = {"d", "k", "n", "input_shape"}  # what a model takes from the data
NEVER_ZERO = (  # Lightning would train nothing without a word, or divide by it
    "max_steps",
    "max_epochs",
    "accumulate_grad_batches",
)
# Where data are, and what is stored of V; the rest says which.
PLACES = {"data.root", "data.url", "data.download", "model.stored_rows"}


@dataclass
class WandbFlags:
    """Weights & Biases.

    Args:
        mode: auto is online with a key and a server that answers, else offline.
        project: project name.
        entity: user or team; null for the key's own.
        group: what the dashboard groups by; null for the run's name.
        tags: labels.
    """

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "lit_recon"
    entity: str | None = None
    group: str | None = None
    tags: Sequence[str] = ()


@dataclass
class RunFlags:
    """The run and its directory.

    Args:
        name: name of the run; null makes one from model, data and time.
        dir: folder of the run directories.
        seed: seed of training, and of --data, --model and --recon where they have none; 0 or more.
        resume: go on with the run of that name from its last checkpoint. Its own configuration
            holds where no flag or file says otherwise; data, model and optimiser stay.
        overwrite: replace the run of that name.
    """

    name: str | None = None
    dir: str = "runs"
    seed: int = 0
    resume: bool = False
    overwrite: bool = False


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 1 for a failed run, 2 for bad input."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] in (["-h"], ["--help"], ["help"]):
        print(HELP, end="")
        return 0
    from lit_recon.errors import InputError, RunError

    try:
        word, *rest = argv if argv and not argv[0].startswith("-") else ["fit", *argv]
        if word not in COMMANDS:
            remedy = f"give {' or '.join(COMMANDS)}; python train.py --help tells more"
            raise InputError("command", repr(word), remedy)
        COMMANDS[word](load_plugins(rest))
    except InputError as error:
        return _say(str(error), 2)
    except RunError as error:
        return _say(str(error), 1)
    except KeyboardInterrupt as interruption:
        return _say(f"interrupted{interruption}", 130)
    return 0


def load_plugins(argv: list[str]) -> list[str]:
    """Import the packages that ``--plugin`` names, whose classes can be chosen.

    Returns:
        The other flags.
    """
    from lit_recon.errors import InputError

    rest, left = [], list(argv)
    while left:
        flag, equals, name = left.pop(0).partition("=")
        if flag != "--plugin":
            rest.append(flag + equals + name)
            continue
        if not equals:
            name = left.pop(0) if left and not left[0].startswith("--") else ""
        if not name:
            raise InputError("--plugin", "without a value", "give an importable package")
        try:
            plugin = import_module(name)
        except Exception as error:  # of any kind: it is somebody else's code that runs here
            reason = f"cannot be imported ({type(error).__name__}: {error})"
            remedy = f"{reason}; give a package that is installed, or whose folder is in PYTHONPATH"
            raise InputError("--plugin", name, remedy) from error
        if plugin not in PLUGINS:
            PLUGINS.append(plugin)
    return rest


def _say(line: str, status: int) -> int:
    print("train.py:", " ".join(line.split()), file=sys.stderr)
    return status


def fit(argv: list[str]) -> None:
    """Train, save checkpoints, reconstruct at each, score and log; or tell about the flags."""
    from callbacks import only_our_lines
    from lit_recon.flags import describe

    if {"-h", "--help"} & set(argv):
        print(describe(groups()), end="")
        return
    command = command_line()
    if "--print_config" in argv:
        sources = read_given(command, [flag for flag in argv if flag != "--print_config"])
        print(command.dump(command.parse(sources)), end="")
        return
    with only_our_lines():
        sources, earlier = read_sources(command, argv)
        config, data = settle(command, sources)
        leader = check_trainer(config)
        callbacks = build_callbacks(config)
        module = load(config, data)
        for change in resumed_changes(command.values(config), earlier):
            if leader:
                print(change)
        run(command, config, data, module, callbacks, leader=leader)


def reconstruct(argv: list[str]) -> None:
    """Attack saved checkpoints."""
    from callbacks import only_our_lines
    from callbacks.from_files import reconstruct

    with only_our_lines():
        reconstruct(argv, command_line(), PLUGINS)


def report(argv: list[str]) -> None:
    """Write the page of a run or of a sweep again."""
    from lit_recon.report.command import report

    report(argv)


def dashboard(argv: list[str]) -> None:
    """Build a W&B workspace."""
    from lit_recon.report.dashboard import dashboard

    dashboard(argv)


def sweep(argv: list[str]) -> None:
    """Fit at every point of a grid, and draw what comes of it."""
    from callbacks.recorder import NUMBERS
    from lit_recon.sweeps.command import sweep
    from lit_recon.sweeps.plan import Fit

    plugins = [f"--plugin={plugin.__name__}" for plugin in PLUGINS]
    sweep(argv, Fit(command_line(), resolve, main, NUMBERS, plugins))


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "fit": fit,
    "reconstruct": reconstruct,
    "sweep": sweep,
    "report": report,
    "dashboard": dashboard,
}


# Flags


def groups() -> list[Group]:
    """Every flag of `fit`, taken from the constructors that receive them."""
    from lightning import Trainer

    import datamodules
    from callbacks import StepCheckpoint
    from lit_recon import methods, models, modules, solvers
    from lit_recon.flags import Group, choices

    quiet = {"enable_model_summary": False}  # a summary of one layer says little

    def classes(room: ModuleType, base: type, first: type) -> tuple[type, ...]:
        return choices([room, *PLUGINS], base, first)

    data = classes(datamodules, datamodules.ReconDataModule, datamodules.Photos)
    model = classes(models, models.ReadoutModel, models.RandomFeatures)
    optim = classes(modules, modules.Optim, modules.LeastSquares)
    recon = classes(methods, methods.Reconstructor, methods.ProjectionReconstructor)
    solver = classes(solvers, solvers.Solver, solvers.GaussNewton)
    return [
        Group("data", data, datamodules.ReconDataModule),
        Group("model", model, models.ReadoutModel, hidden=DERIVED),
        Group("optim", optim, modules.Optim),
        Group("recon", recon, methods.Reconstructor),
        Group("recon.solver", solver, solvers.Solver),
        Group("checkpoint", (StepCheckpoint,)),
        Group("trainer", (Trainer,), hidden=TAKEN | ABSENT, defaults=quiet),
        Group("wandb", (WandbFlags,)),
        Group("run", (RunFlags,)),
    ]


def command_line() -> CommandLine:
    """The parser of `fit`."""
    from lit_recon.flags import CommandLine

    packages = ["lit_recon", "datamodules", *(plugin.__name__ for plugin in PLUGINS)]
    return CommandLine("python train.py fit", groups(), packages)


def read_given(command: CommandLine, argv: list[str]) -> list[Source]:
    """Files and flags; a grid in a file is for `sweep`, and without it the file is one run's."""
    return [source.without("grid") if source.file else source for source in command.read(argv)]


def read_sources(command: CommandLine, argv: list[str]) -> tuple[list[Source], Mapping[str, Any]]:
    """Files and flags, and under them all, for a run that goes on, its own configuration.

    Returns:
        The sources, weakest first, and the values of the run that goes on; none for a new one.
    """
    sources = read_given(command, argv)
    # Alone: the other flags may belong to classes that only the earlier configuration names.
    flags = command.parse([source.only("run") for source in sources]).run
    file = os.path.join(flags.dir, flags.name or "", "config.yaml")
    if not (flags.resume and flags.name and os.path.exists(file)):
        return sources, {}
    earlier = command.read([f"--config={file}"])[0]
    # It may have been moved since.
    return [earlier.without("run.dir"), *sources], dict(earlier.values)


def settle(command: CommandLine, sources: Sequence[Source]) -> tuple[Namespace, ReconDataModule]:
    """The configuration as far as it can be told without loading data, and its data module."""
    from lit_recon.flags import build

    config = command.parse(sources)
    settle_seeds(config)
    settle_size(config, sources)
    data = build(config.data)
    settle_length(config)
    return config, data


def resolve(command: CommandLine, sources: Sequence[Source]) -> dict[str, Any]:
    """The same as flags, once the constructors have seen their arguments too."""
    from lit_recon.flags import build

    config, _ = settle(command, sources)
    build(config.optim)
    build_callbacks(config)
    return command.values(config)


def settle_seeds(config: Namespace) -> None:
    """Give --run.seed to every part that has no seed of its own."""
    from lit_recon.errors import InputError

    if config.run.seed < 0:
        raise InputError("--run.seed", config.run.seed, "give 0 or more")
    for part in (config.data, config.model, config.recon):
        if part.init_args.get("seed", 0) is None:  # a class of a plugin may have none
            part.init_args.seed = config.run.seed


def settle_size(config: Namespace, sources: Sequence[Source]) -> None:
    """Let the last source that gives the model's size in either way overrule the others."""
    from lit_recon.flags import named_class

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


def settle_length(config: Namespace) -> None:
    """Say when training stops, and how often it is logged."""
    from lit_recon.errors import InputError

    flags, data = config.trainer, config.data.init_args
    closed_form = config.optim.class_path.endswith(".LeastSquares")
    if closed_form and data.batch_size is not None and data.batch_size < data.n:
        remedy = "LeastSquares fits all samples at once; leave it out, or give --optim SGD"
        raise InputError("--data.batch_size", data.batch_size, remedy)
    if flags.max_steps == -1 and closed_form:
        flags.max_steps = 1
    elif flags.max_steps == -1 and flags.max_epochs is None and flags.max_time is None:
        flags.max_epochs = EPOCHS
    batches = math.ceil(data.n / (data.batch_size or data.n))
    steps = flags.max_steps if flags.max_steps != -1 else (flags.max_epochs or 0) * batches
    if flags.log_every_n_steps is None:
        flags.log_every_n_steps = max(1, steps // LOGGED_ROWS)


def check_trainer(config: Namespace) -> bool:
    """Refuse what no trainer takes, before anything is written.

    Returns:
        Whether this process is rank 0.
    """
    from lightning import Trainer

    from lit_recon.errors import InputError

    for name in NEVER_ZERO:
        if config.trainer[name] == 0:
            raise InputError(f"--trainer.{name}", 0, "give more than 0")
    try:
        trainer = Trainer(**trainer_settings(config), logger=False, enable_checkpointing=False)
    except Exception as error:  # of many kinds; all that has run is Lightning on its own flags
        raise trainer_error(error, config) from error
    data, ranks = config.data.init_args, trainer.world_size
    # With these two the last batch of an epoch, which may be smaller, divides as well.
    for name, size in (("n", data.n), ("batch_size", min(data.batch_size or data.n, data.n))):
        if size % ranks:
            remedy = f"does not divide among {ranks} processes; give a multiple"
            raise InputError(f"--data.{name}", size, f"{remedy}, or --trainer.devices 1")
    return trainer.is_global_zero


def trainer_settings(config: Namespace) -> dict[str, Any]:
    settings = config.trainer.as_dict()
    if settings["enable_progress_bar"] is None:
        settings["enable_progress_bar"] = sys.stdout.isatty()
    return settings


def trainer_error(error: Exception, config: Namespace) -> Exception:
    """One line from what Lightning says about a flag, with the flag that it seems to be about."""
    from lit_recon.errors import InputError

    message = str(error) or type(error).__name__
    settings = config.trainer.as_dict()
    named = [word for word in re.findall(r"\w+", message) if word in settings]
    for name, value in settings.items():
        if isinstance(value, str) and value != "auto" and value.lower() in message.lower():
            named.append(name)
    if not named:
        return InputError("--trainer.*", "as given", message)
    return InputError(f"--trainer.{named[0]}", settings[named[0]], message)


def resumed_changes(values: Mapping[str, Any], earlier: Mapping[str, Any]) -> Iterator[str]:
    """One line for each flag with another value than in the run that goes on.

    Raises:
        InputError: it would go on with other data, another model or another optimiser.
    """
    from lit_recon.errors import InputError

    for flag, before in earlier.items():
        now = values.get(flag)
        group = flag.partition(".")[0]
        if now == before or group in ("run", "wandb"):
            continue
        if group in ("data", "model", "optim") and flag not in PLACES:
            remedy = f"the run to go on with has {before}; give that, or another --run.name"
            raise InputError(f"--{flag}", now, remedy)
        yield f"resumed with --{flag} {now} instead of {before}"


# Assembling


def build_callbacks(config: Namespace) -> Callable[[RunDirectory], list[Callback]]:
    """When checkpoints are saved and what is done at each, once there is a run directory."""
    from callbacks import ReconstructionCallback, StepCheckpoint
    from lit_recon.flags import build

    reconstructor = build(config.recon)
    checkpoint = StepCheckpoint(**config.checkpoint.as_dict())

    def callbacks(directory: RunDirectory) -> list[Callback]:
        if not reconstructor.enabled:
            return [checkpoint]
        return [checkpoint, ReconstructionCallback(reconstructor, checkpoint, directory)]

    return callbacks


def load(config: Namespace, data: ReconDataModule) -> Training:
    """The data, and sized by them the model in its LightningModule; the config gets the size."""
    from lightning import seed_everything

    from lit_recon.errors import InputError
    from lit_recon.flags import build, build_fitting
    from lit_recon.modules import LeastSquares, Training, check_loss

    seed_everything(config.run.seed, workers=True, verbose=False)
    data.setup()
    optim = build(config.optim)
    check_loss(optim.loss, data.y)
    model = build_fitting(config.model, **{name: getattr(data, name) for name in DERIVED})
    if isinstance(optim, LeastSquares) and not model.frozen:
        remedy = f"fits the readout alone, and {type(model).__name__} trains all; give --optim SGD"
        raise InputError("--optim", "LeastSquares", remedy)
    if config.recon.init_args.enabled:
        build(config.recon).check(model)
    size, arguments = model.size_flag, config.model.init_args
    if size is not None:
        arguments[size], arguments.p_over_dn = getattr(model, size), None
    return Training(model, optim)


def run(
    command: CommandLine,
    config: Namespace,
    data: ReconDataModule,
    module: Training,
    callbacks: Callable[[RunDirectory], list[Callback]],
    *,
    leader: bool,
) -> None:
    """Everything that leaves files; bad flags are found before, as far as they can be."""
    from callbacks import saved_checkpoints, wandb_run
    from callbacks.recorder import named_numbers
    from lit_recon.errors import InputError
    from lit_recon.flags import build
    from lit_recon.records.provenance import finish
    from lit_recon.records.tracking import choose_wandb_mode

    mode, reason = choose_wandb_mode(config.wandb.mode)
    directory = open_directory(config, leader)
    record = configuration(command, config)
    if leader:
        print(reason)
        directory.write_text("config.yaml", record)
    try:
        metrics = [*TRAINING_NUMBERS, *named_numbers(f"recon/{build(config.recon).name}")]
        with wandb_run(config.wandb, record, directory, mode, metrics) as logger:
            trainer = build_trainer(config, directory, callbacks(directory), logger)
            train(trainer, module, data, directory, config)
    except InputError:
        if leader and not saved_checkpoints(directory.path):
            shutil.rmtree(directory.path, ignore_errors=True)  # nothing was trained
        raise
    if leader:
        finish(directory)
        conclude(directory, trainer.global_step)


def configuration(command: CommandLine, config: Namespace) -> str:
    """config.yaml: everything that the run computes from, and not where it does.

    Given with --config it starts a run of its own, and never replaces the one that it is from.
    """
    config = config.clone()
    config.run.name, config.run.resume, config.run.overwrite = None, False, False
    return command.dump(config)


def open_directory(config: Namespace, leader: bool) -> RunDirectory:
    """The run directory; ranks that Lightning starts get it from rank 0's environment."""
    from lit_recon.errors import InputError
    from lit_recon.records.directory import RunDirectory

    flags = config.run
    if leader:
        names = (config.model.class_path, config.data.class_path)
        stem = "-".join(name.rpartition(".")[2].lower() for name in names)
        directory = RunDirectory.create(
            flags.dir, flags.name, stem=stem, resume=flags.resume, overwrite=flags.overwrite
        )
        os.environ[RUN_PATH] = str(directory.path)
        return directory
    if RUN_PATH in os.environ:
        return RunDirectory(os.environ[RUN_PATH])
    if flags.name is None:
        raise InputError("--run.name", "missing", "give one, for ranks started by another launcher")
    return RunDirectory(os.path.join(flags.dir, flags.name))


def build_trainer(
    config: Namespace,
    directory: RunDirectory,
    callbacks: Sequence[Callback],
    wandb_logger: WandbLogger | None,
) -> Trainer:
    """The trainer with its loggers and a progress bar; writes provenance.json."""
    from lightning import Trainer
    from lightning.fabric.plugins.environments import SLURMEnvironment

    from callbacks import NoProfiler, StepProgressBar, WholeCheckpoints
    from lit_recon.records.jsonl import JsonlLogger
    from lit_recon.records.provenance import provenance

    settings = trainer_settings(config)
    settings["profiler"] = settings["profiler"] or NoProfiler()
    bars = [StepProgressBar()] if settings["enable_progress_bar"] else []
    # Lightning would answer Slurm's warnings by a checkpoint and a job of its own making.
    cluster = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
    trainer = Trainer(
        **settings,
        logger=[logger for logger in (JsonlLogger(directory), wandb_logger) if logger is not None],
        callbacks=[*callbacks, *bars],
        plugins=[WholeCheckpoints(), *cluster],
        default_root_dir=directory.path,
    )
    if trainer.is_global_zero:
        facts = provenance(sys.argv, config.run.seed, trainer.strategy.root_device)
        directory.write_json("provenance.json", facts)
    return trainer


def train(
    trainer: Trainer,
    module: Training,
    data: ReconDataModule,
    directory: RunDirectory,
    config: Namespace,
) -> None:
    """Fit, from the last checkpoint in the directory where there is one."""
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    from callbacks import saved_checkpoints, step_of
    from lit_recon.distributed import is_lost, lost
    from lit_recon.records.jsonl import rewind

    saved = saved_checkpoints(directory.path)
    if saved and trainer.is_global_zero:
        rewind(directory, step_of(saved[-1]))
    last = saved[-1] if saved else None
    try:
        trainer.fit(module, data, ckpt_path=last, weights_only=True)
    except RuntimeError as error:
        # The other ranks end as well. Lightning watches them, and kills rank 0 seconds after the
        # first one, in the middle of its last words.
        getattr(trainer.strategy.launcher, "procs", []).clear()
        if is_lost(error):
            raise lost(error) from error
        raise
    except SystemExit:  # Lightning's answer to an interruption, after which it is deaf to a second
        signal.signal(signal.SIGINT, signal.default_int_handler)
        path = directory.path
        again = f"python train.py --run.dir {path.parent} --run.name {path.name} --run.resume true"
        raise KeyboardInterrupt(f"; what is finished is in {path}; {again} goes on") from None
    except (MisconfigurationException, ValueError, TypeError) as error:
        if saved_checkpoints(directory.path) or not raised_by_lightning(error):
            raise
        raise trainer_error(error, config) from error


def raised_by_lightning(error: Exception) -> bool:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{os.sep}lightning{os.sep}" in frame.filename


def conclude(directory: RunDirectory, step: int) -> None:
    """The last lines: what came back at the last step, and where to look at it.

    The report comes last: whatever is wrong with it, the run is complete and has said so.
    """
    from callbacks.recorder import read_results, tally
    from lit_recon.errors import InputError, RunError
    from lit_recon.records.tracking import view_command
    from lit_recon.report.page import write_run_report

    results = read_results(directory, step)
    print()
    if results:
        print(tally(results))
        print(f"picture        {directory.step_path(step) / 'grid.png'}")
    print(f"run directory  {directory.path}")
    command = view_command(directory.path)
    if command:
        print(f"W&B            {command}")
    try:
        print(f"report         {write_run_report(directory.path)}")
    except (InputError, RunError) as error:  # a file of an earlier step, broken since; a full disk
        raise RunError(f"the run is complete, and only its report is missing: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
