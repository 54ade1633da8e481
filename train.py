"""The command line: `python train.py [fit] --flag value ...`; `--help` says more."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import Namespace
    from lightning import Trainer
    from lightning.pytorch.loggers import WandbLogger

    from callbacks import StepCheckpoint
    from datamodules import ReconDataModule
    from lit_recon.audit.choice import Choice
    from lit_recon.flags import CommandLine, Group, Source
    from lit_recon.modules import Training
    from lit_recon.records.directory import RunDirectory

# torch and lightning are imported inside the functions, so that --help answers at once.

PLUGINS: list[ModuleType] = []  # packages of the user's own, whose classes can be chosen
TRAINING_NUMBERS = ["train/loss", "train/mse", "train/acc", "val/acc"]
DEMO = str(Path(__file__).parent / "configs" / "demo.yaml")  # a run without flags
DERIVED = {"d", "k", "n", "input_shape"}  # what a model takes from the data


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit status.

    It is 0, 1 for a failed run, 2 for bad input; of `audit` also 3, if something came back.
    """
    from lit_recon.processor import prefer_fast_kernels

    prefer_fast_kernels()  # before torch is imported
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] in (["-h"], ["--help"], ["help"]):
        from lit_recon.fit.introduction import HELP

        print(HELP, end="")
        return 0
    from lit_recon.errors import InputError, RunError
    from lit_recon.flags.plugins import take_plugins

    try:
        word, *rest = argv if argv and not argv[0].startswith("-") else ["fit", *argv]
        if word not in COMMANDS:
            remedy = f"give {' or '.join(COMMANDS)}; python train.py --help tells more"
            raise InputError("command", repr(word), remedy)
        return COMMANDS[word](take_plugins(rest, PLUGINS)) or 0
    except InputError as error:
        return _say(str(error), 2)
    except RunError as error:
        return _say(str(error), 1)
    except KeyboardInterrupt as interruption:
        return _say(f"interrupted{interruption}", 130)


def _say(line: str, status: int) -> int:
    print("train.py:", " ".join(line.split()), file=sys.stderr)
    return status


def fit(argv: list[str]) -> None:
    """Train, save checkpoints, reconstruct at each, score and log; or list the flags."""
    from callbacks import only_our_lines
    from lit_recon.audit.choice import chosen
    from lit_recon.fit.settings import or_demo, read_given, read_sources, resumed_changes, settle
    from lit_recon.fit.trainer import check_trainer
    from lit_recon.flags import describe

    if {"-h", "--help"} & set(argv):
        print(describe(groups()), end="")
        return
    command = command_line()
    if "--print_config" in argv:
        sources = read_given(command, [flag for flag in argv if flag != "--print_config"])
        sources = or_demo(command, sources, DEMO)
        print(command.dump(command.parse(sources)), end="")
        return
    with only_our_lines():
        sources, earlier = read_sources(command, argv, DEMO)
        config, data = settle(command, sources)
        leader = check_trainer(config)
        choice, checkpoint = chosen(command, config), make_checkpoint(config)
        module, choice = load(config, data, choice)
        for change in resumed_changes(command.values(config), earlier):
            if leader:
                print(change)
        run(command, config, data, module, choice, checkpoint, leader=leader)


def reconstruct(argv: list[str]) -> None:
    """Attack saved checkpoints."""
    from callbacks import only_our_lines
    from lit_recon.audit.reconstruct import reconstruct

    with only_our_lines():
        reconstruct(argv, command_line(), PLUGINS)


def audit(argv: list[str]) -> int:
    """Try every attack on a network from files, or on a run; 3: something came back."""
    from callbacks import only_our_lines
    from lit_recon.audit.audit import audit
    from lit_recon.audit.saved_run import last_checkpoint

    command = command_line()
    with only_our_lines():
        data = command.groups["data"]
        return audit(
            argv, PLUGINS, data, lambda path, device: last_checkpoint(command, path, device)
        )


def report(argv: list[str]) -> None:
    """Write the page of a run or of a sweep again."""
    from lit_recon.report.command import report

    report(argv)


def dashboard(argv: list[str]) -> None:
    """Build a W&B workspace."""
    from lit_recon.report.dashboard import dashboard

    dashboard(argv, PLUGINS)


def sweep(argv: list[str]) -> None:
    """Fit at every point of a grid, and draw what comes of it."""
    from lit_recon.sweeps.command import sweep
    from lit_recon.sweeps.plan import Fit

    plugins = [f"--plugin={plugin.__name__}" for plugin in PLUGINS]
    sweep(argv, Fit(command_line(), resolve, main, plugins))


COMMANDS: dict[str, Callable[[list[str]], int | None]] = {
    "fit": fit,
    "reconstruct": reconstruct,
    "audit": audit,
    "sweep": sweep,
    "report": report,
    "dashboard": dashboard,
}


def groups() -> list[Group]:
    """Every flag of `fit`, taken from the constructors that receive them."""
    from lightning import Trainer

    import datamodules
    from callbacks import StepCheckpoint
    from lit_recon import methods, models, modules, solvers
    from lit_recon.fit.flags import RunFlags, WandbFlags
    from lit_recon.fit.trainer import GIVEN_HERE, WITHOUT_MEANING
    from lit_recon.flags import Group, choices

    quiet = {"enable_model_summary": False}  # a summary of one layer says little

    def classes(room: ModuleType, base: type, first: type) -> tuple[type, ...]:
        return choices([room, *PLUGINS], base, first)

    data = classes(datamodules, datamodules.ReconDataModule, datamodules.Photos)
    task = classes(modules, modules.Task, modules.Labels)
    model = classes(models, models.Model, models.RandomFeatures)
    optim = classes(modules, modules.Optim, modules.LeastSquares)
    recon = classes(methods, methods.Reconstructor, methods.ProjectionReconstructor)
    solver = classes(solvers, solvers.Solver, solvers.GaussNewton)
    return [
        Group("data", data, datamodules.ReconDataModule),
        Group("task", task, modules.Task),
        Group("model", model, models.Model, hidden=DERIVED),
        Group("optim", optim, modules.Optim),
        Group("recon", recon, methods.Reconstructor, several=True),
        Group("recon.solver", solver, solvers.Solver),
        Group("checkpoint", (StepCheckpoint,)),
        Group("trainer", (Trainer,), hidden=GIVEN_HERE | WITHOUT_MEANING, defaults=quiet),
        Group("wandb", (WandbFlags,)),
        Group("run", (RunFlags,)),
    ]


def command_line() -> CommandLine:
    """The parser of `fit`."""
    from lit_recon.flags import CommandLine

    packages = ["lit_recon", "datamodules", *(plugin.__name__ for plugin in PLUGINS)]
    return CommandLine("python train.py fit", groups(), packages)


def resolve(command: CommandLine, sources: Sequence[Source]) -> dict[str, Any]:
    """The complete configuration as flags, once the constructors have seen their arguments too."""
    from lit_recon.audit.choice import chosen
    from lit_recon.fit.settings import settle
    from lit_recon.flags import build

    config, _ = settle(command, sources)
    for part in (config.task, config.optim):
        build(part)
    chosen(command, config)
    make_checkpoint(config)
    return command.values(config)


def make_checkpoint(config: Namespace) -> StepCheckpoint:
    """When checkpoints are saved."""
    from callbacks import StepCheckpoint

    return StepCheckpoint(**config.checkpoint.as_dict())


def load(config: Namespace, data: ReconDataModule, choice: Choice) -> tuple[Training, Choice]:
    """The data, and sized by them the model in its LightningModule; the config gets the size.

    Returns:
        The module, and the methods that attack its model.
    """
    from lightning import seed_everything

    from lit_recon.audit.choice import settle
    from lit_recon.audit.models import make_model
    from lit_recon.flags import build
    from lit_recon.modules import Training, check_loss

    seed_everything(config.run.seed, workers=True, verbose=False)
    data.setup()
    task = build(config.task)
    data.retarget(task.targets)
    optim = build(config.optim)
    check_loss(optim.loss, data.y)
    model = make_model(config.model, {name: getattr(data, name) for name in DERIVED})
    optim.check_data(model, data.x, data.y)
    choice = choice.for_model(model)
    settle(config, choice)
    size, arguments = model.size_flag, config.model.init_args
    if size is not None:
        arguments[size], arguments.p_over_dn = getattr(model, size), None
    return Training(model, optim, task), choice


def run(
    command: CommandLine,
    config: Namespace,
    data: ReconDataModule,
    module: Training,
    choice: Choice,
    checkpoint: StepCheckpoint,
    *,
    leader: bool,
) -> None:
    """Everything that leaves files; bad flags are found before, as far as they can be."""
    from callbacks import ReconstructionCallback
    from lit_recon.audit.loggers import wandb_run
    from lit_recon.audit.recorder import named_numbers
    from lit_recon.errors import InputError
    from lit_recon.fit.run import conclude, open_directory
    from lit_recon.fit.settings import record_of
    from lit_recon.fit.trainer import train
    from lit_recon.metrics.numbers import TRAINING
    from lit_recon.records.checkpoints import saved_checkpoints
    from lit_recon.records.provenance import finish
    from lit_recon.records.tracking import choose_wandb_mode

    mode, reason = choose_wandb_mode(config.wandb.mode)
    directory = open_directory(config, leader)
    record = record_of(command, config)
    if leader:
        print(reason, *(f"attack by {words}" for words in choice.in_words()), sep="\n")
        directory.write_text("config.yaml", record)
    # Without methods it keeps the data for later attacks.
    callbacks = [checkpoint, ReconstructionCallback(choice.methods, checkpoint, directory)]
    try:
        trained = [f"train/{number.name}" for number in TRAINING]
        metrics = [*TRAINING_NUMBERS, *trained, *named_numbers(directory, choice.methods)]
        with wandb_run(config.wandb, record, directory, mode, metrics) as logger:
            trainer = build_trainer(config, directory, callbacks, logger)
            train(trainer, module, data, directory, config)
    except InputError:
        if leader and not saved_checkpoints(directory.path):
            shutil.rmtree(directory.path, ignore_errors=True)  # nothing was trained
        raise
    if leader:
        finish(directory)
        conclude(directory, trainer.global_step, [method.name for method in choice.methods])


def build_trainer(
    config: Namespace,
    directory: RunDirectory,
    callbacks: Sequence[Any],
    wandb_logger: WandbLogger | None,
) -> Trainer:
    """The trainer with its loggers and a progress bar; writes provenance.json."""
    from lightning import Trainer
    from lightning.fabric.plugins.environments import SLURMEnvironment

    from callbacks import NoProfiler, StepProgressBar, WholeCheckpoints
    from lit_recon.fit.trainer import trainer_settings
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


if __name__ == "__main__":
    sys.exit(main())
