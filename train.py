"""The command line: `python train.py [fit] --flag value ...`; `--help` tells more."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal, NoReturn

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace
    from lightning import Trainer

    from callbacks import ReconstructionCallback
    from datamodules.base import ReconDataModule
    from lit_recon.modules import Regression
    from lit_recon.records.directory import RunDirectory

# torch and lightning are imported inside the functions: --help and a mistyped command answer at once.

HELP = """\
usage: python train.py [fit] [--config FILE] [--flag value ...]

Train a small over-parameterised model on a handful of images and, at every checkpoint,
reconstruct the training images from its weights alone.

commands
  fit            train and reconstruct; the default. Without any flag it is the demo's run.
  fit --help     list every flag

groups of flags
  --data         Photos, CIFAR10Subset, ImageFolderSubset or Sphere; --data.n, --data.classes, ...
  --model        RandomFeatures; --model.p or --model.p_over_dn, --model.activation
  --optim        LeastSquares, SGD, Adam or LBFGS; --optim.lr, ...
  --trainer.*    every argument of Lightning's Trainer
  --checkpoint.* when checkpoints are saved: every_n_steps, at_steps, keep
  --recon        ProjectionReconstructor; --recon.solver, --recon.max_seconds, --recon.seed, ...
  --wandb.*      mode auto, online, offline or disabled; project, entity, group, tags
  --run.*        name, dir, seed, resume, overwrite
  --print_config print the whole configuration as YAML and stop

examples
  python train.py
  python train.py --data.n 6 --model.p_over_dn 4
  python train.py --config configs/rf_cifar10.yaml
  python train.py --data ImageFolderSubset --data.root FOLDER --data.classes '[cat, dog]'
  python train.py --data Sphere --data.n 10 --data.d 100 --model.p 2000
"""


RUN_PATH = "LIT_RECON_RUN_PATH"  # tells the run directory to the ranks that Lightning starts
TRAINING_NUMBERS = ["train/loss", "train/acc", "val/loss", "val/acc"]
HIDDEN_TRAINER_FLAGS = {"logger", "callbacks", "default_root_dir", "enable_checkpointing", "barebones"}


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
    tags: list[str] = field(default_factory=list)


@dataclass
class RunFlags:
    """The run and its directory.

    Args:
        name: name of the run; null makes one from model, data and time.
        dir: folder of the run directories.
        seed: seed of training, and of --data, --model and --recon where they have none; 0 or more.
        resume: go on with the run of that name from its last checkpoint.
        overwrite: replace the run of that name.
    """

    name: str | None = None
    dir: str = "runs"
    seed: int = 0
    resume: bool = False
    overwrite: bool = False


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 1 for a failed run, 2 for bad input."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] in (["-h"], ["--help"], ["help"]):
        print(HELP, end="")
        return 0
    from lit_recon.errors import InputError, RunError

    try:
        command = argv[0] if argv and not argv[0].startswith("-") else "fit"
        if command != "fit":
            raise InputError("command", repr(command), "give fit; python train.py --help tells more")
        fit(argv[1:] if argv[:1] == ["fit"] else argv)
    except InputError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("train.py: interrupted; finished steps are on disk", file=sys.stderr)
        return 130
    return 0


def fit(argv: list[str]) -> None:
    """Train, save checkpoints, reconstruct at each, score and log."""
    from lightning import seed_everything

    parser = fit_parser()
    config = parser.parse_args(argv)
    settle(config, argv)
    seed_everything(config.run.seed, workers=True, verbose=False)
    data = build(config.data)
    data.setup()
    module = build_module(config, data)
    directory = open_directory(config)
    trainer, reconstruction = build_trainer(parser, config, directory, module)
    last = last_checkpoint(directory) if config.run.resume else None
    trainer.fit(module, data, ckpt_path=last, weights_only=True if last else None)
    if trainer.is_global_zero:
        conclude(directory, reconstruction, trainer)


# Parsing


def fit_parser() -> ArgumentParser:
    """Every flag of `fit`, taken from the constructors that receive them."""
    from jsonargparse import ArgumentParser, set_parsing_settings
    from lightning import Trainer

    from callbacks import StepCheckpoint
    from datamodules.base import ReconDataModule
    from lit_recon.methods import Reconstructor
    from lit_recon.models import ReadoutModel
    from lit_recon.modules import Optim

    class Parser(ArgumentParser):
        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            raise _input_error(message, self)

    # A class named in a YAML file is imported and called: only this project's own are open.
    set_parsing_settings(
        import_path_denylist=["*"], import_path_allowlist=["lit_recon", "datamodules"]
    )
    parser = Parser(prog="train.py fit", description="Train, and reconstruct at every checkpoint.")
    parser.add_argument("--config", action="config", help="a YAML file; may be given repeatedly")
    defaults: dict[str, tuple[type, str, set[str]]] = {
        "data": (ReconDataModule, "datamodules.Photos", set()),
        "model": (ReadoutModel, "lit_recon.models.RandomFeatures", {"d", "k", "n"}),
        "optim": (Optim, "lit_recon.modules.LeastSquares", set()),
        "recon": (Reconstructor, "lit_recon.methods.ProjectionReconstructor", set()),
    }
    for group, (base, default, derived) in defaults.items():
        choice = {"class_path": default}
        parser.add_subclass_arguments(base, group, skip=derived, default=choice)
    parser.add_class_arguments(StepCheckpoint, "checkpoint", skip={"dirpath"})
    parser.add_class_arguments(Trainer, "trainer", skip=HIDDEN_TRAINER_FLAGS)
    parser.add_class_arguments(WandbFlags, "wandb")
    parser.add_class_arguments(RunFlags, "run")
    parser.set_defaults({"trainer.enable_model_summary": False, "trainer.num_sanity_val_steps": 0})
    return parser


def _input_error(message: str, parser: ArgumentParser) -> Exception:
    """One line from what jsonargparse says in many: the flag, what was given, what would do."""
    from lit_recon.errors import InputError

    unknown = re.search(r"[Uu]nrecognized arguments: (\S+)", message)
    if unknown:
        return _unknown_flag(unknown[1].partition("=")[0], _known_flags(parser))
    flag = "--" + ".".join(re.findall(r'Parser key "([^"]+)"', message))
    option = re.search(r"Option '([^']+)' is not accepted", message)
    if option:
        owner = re.findall(r"class_path '([^']+)'", message)[-1]
        return _unknown_flag(f"{flag}.{option[1]}", _flags_of(owner, flag), owner)
    wrong_class = re.search(r"Expected a path but (\S+) either not accessible", message)
    if wrong_class:
        return InputError(flag, wrong_class[1], "give " + ", ".join(_class_names(flag)))
    wrong_type = re.search(r"Expected an? (.+)\. Got value: (.*)", message)
    if wrong_type:
        wanted = re.sub(r"<class '(\w+)'>|typing\.", r"\1", wrong_type[1])
        return InputError(flag, wrong_type[2], f"give {wanted}")
    line = re.sub(r"\s*\n\s*(- )?", "; ", message.strip())
    return InputError(flag if len(flag) > 2 else "flags", "", line)


def _unknown_flag(flag: str, known: Sequence[str], owner: str = "") -> Exception:
    from lit_recon.errors import InputError

    close = get_close_matches(flag, known, n=3)
    where = f" of {owner.rpartition('.')[2]}" if owner else ""
    remedy = f"no such flag{where}; "
    if close:
        remedy += "did you mean " + " or ".join(close) + "?"
    elif owner:
        remedy += "there are " + ", ".join(known) if known else "it has none"
    else:
        remedy += "python train.py fit --help lists them"
    return InputError(flag, "", remedy)


def _choices(flag: str) -> list[type]:
    """The classes that a flag can name."""
    import datamodules
    from lit_recon import methods, models, modules, solvers

    rooms: dict[str, Any] = {
        "--data": (datamodules, datamodules.__all__),
        "--model": (models, ["RandomFeatures"]),
        "--optim": (modules, ["LeastSquares", "SGD", "Adam", "LBFGS"]),
        "--recon": (methods, ["ProjectionReconstructor"]),
        "--recon.solver": (solvers, ["GaussNewton", "MomentumDescent"]),
    }
    room, names = rooms.get(flag, (None, []))
    return [getattr(room, name) for name in names]


def _class_names(flag: str) -> list[str]:
    return [choice.__name__ for choice in _choices(flag)]


def _flags_of(class_path: str, flag: str) -> list[str]:
    """The flags of one class, from its constructor."""
    from inspect import signature

    owner = next(c for c in _choices(flag) if c.__name__ == class_path.rpartition(".")[2])
    derived = {"d", "k", "n"} if flag == "--model" else set()
    return [f"{flag}.{name}" for name in signature(owner).parameters if name not in derived]


def _known_flags(parser: ArgumentParser) -> list[str]:
    known = [option for action in parser._actions for option in action.option_strings]
    for flag in ("--data", "--model", "--optim", "--recon", "--recon.solver"):
        for choice in _choices(flag):
            known += _flags_of(choice.__name__, flag)
    return known


def settle(config: Namespace, argv: list[str]) -> None:
    """Fill in what follows from other flags, in place."""
    from lit_recon.errors import InputError

    if config.run.seed < 0:
        raise InputError("--run.seed", config.run.seed, "give 0 or more")
    for part in (config.data, config.model, config.recon):
        if part.init_args.seed is None:
            part.init_args.seed = config.run.seed
    # Of the two ways to say the number of features, the command line beats the config file.
    given = {flag.partition("=")[0] for flag in argv}
    sizes = {"p", "p_over_dn"}
    for name in sizes:
        if f"--model.{name}" in given and not any(f"--model.{o}" in given for o in sizes - {name}):
            for other in sizes - {name}:
                config.model.init_args[other] = None
    if config.optim.class_path.endswith("LeastSquares") and config.trainer.max_steps == -1:
        config.trainer.max_steps = 1


# Assembling


def build(spec: Namespace, **derived: Any) -> Any:
    """An object from its class path and constructor arguments, nested ones included."""
    from importlib import import_module

    module, _, name = spec.class_path.rpartition(".")
    arguments = dict(spec.get("init_args") or {})
    for key, value in arguments.items():
        if hasattr(value, "class_path"):
            arguments[key] = build(value)
    return getattr(import_module(module), name)(**arguments, **derived)


def build_module(config: Namespace, data: ReconDataModule) -> Regression:
    """The model in its LightningModule, sized by the data; the config gets the resolved size."""
    from lit_recon.modules import Regression

    optim = build(config.optim)
    model = build(config.model, d=data.d, k=data.k, n=data.n)
    config.model.init_args.p, config.model.init_args.p_over_dn = model.p, None
    return Regression(model, optim)


def open_directory(config: Namespace) -> RunDirectory:
    """The run directory; ranks that Lightning starts get it from rank 0's environment."""
    from lit_recon.errors import InputError
    from lit_recon.records.directory import RunDirectory

    flags = config.run
    if os.environ.get("LOCAL_RANK", "0") == "0":
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
    parser: ArgumentParser, config: Namespace, directory: RunDirectory, module: Regression
) -> tuple[Trainer, ReconstructionCallback]:
    """The trainer with its loggers and callbacks; writes config.yaml and provenance.json."""
    from lightning import Trainer

    from callbacks import ReconstructionCallback, StepCheckpoint
    from lit_recon.records.jsonl import JsonlLogger
    from lit_recon.records.provenance import provenance

    settings = dict(config.trainer)
    if settings["log_every_n_steps"] is None:
        settings["log_every_n_steps"] = max(1, settings["max_steps"] // 1000)
    if settings["enable_progress_bar"] is None:
        settings["enable_progress_bar"] = sys.stdout.isatty()
    checkpoint = StepCheckpoint(directory.checkpoints, **dict(config.checkpoint))
    reconstruction = ReconstructionCallback(build(config.recon), checkpoint, directory)
    loggers: list[Any] = [JsonlLogger(directory)]
    if os.environ.get("LOCAL_RANK", "0") == "0":
        directory.write_text("config.yaml", parser.dump(config))
    wandb_logger = start_wandb(parser, config, directory)
    trainer = Trainer(
        **settings,
        logger=[*loggers, wandb_logger] if wandb_logger else loggers,
        callbacks=[checkpoint, reconstruction],
        default_root_dir=directory.path,
    )
    if trainer.is_global_zero:
        facts = provenance(sys.argv, config.run.seed, trainer.strategy.root_device)
        directory.write_json("provenance.json", facts)
    return trainer, reconstruction


def last_checkpoint(directory: RunDirectory) -> str | None:
    """The newest checkpoint of an earlier run in this directory, None where there is none."""
    saved = sorted(directory.checkpoints.glob("step=*.ckpt"))
    return str(saved[-1]) if saved else None


def start_wandb(parser: ArgumentParser, config: Namespace, directory: RunDirectory) -> Any:
    """The W&B logger, None where W&B is disabled or cannot start."""
    import yaml

    from callbacks.reconstruction import NUMBERS
    from lit_recon.records.tracking import choose_wandb_mode, make_wandb_logger

    mode, reason = choose_wandb_mode(config.wandb.mode)
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(reason)
    flags = config.wandb
    return make_wandb_logger(
        directory.path,
        mode,
        project=flags.project,
        name=directory.path.name,
        entity=flags.entity,
        group=flags.group,
        tags=flags.tags,
        config=yaml.safe_load(parser.dump(config)),
        metrics=[f"recon/projection/{name}" for name in NUMBERS] + TRAINING_NUMBERS,
    )


def conclude(
    directory: RunDirectory, reconstruction: ReconstructionCallback, trainer: Trainer
) -> None:
    """The last lines: what came back, and where to look at it."""
    from callbacks.reconstruction import tally
    from lit_recon.records.tracking import view_command

    step = trainer.global_step
    numbers = reconstruction.results.get(step)
    print()
    if numbers:
        print(tally(numbers))
        print(f"picture        {directory.step_path(step) / 'grid.png'}")
    print(f"run directory  {directory.path}")
    command = view_command(directory.path)
    if command:
        print(f"W&B            {command}")


if __name__ == "__main__":
    sys.exit(main())
