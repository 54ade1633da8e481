"""`python train.py reconstruct`: attack saved checkpoints, from files alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

from lit_recon.audit.job import attack
from lit_recon.audit.own_module import of_file
from lit_recon.audit.saved_run import of_run
from lit_recon.errors import InputError
from lit_recon.flags import CommandLine, Group, describe

INTRODUCTION = """\
usage: python train.py reconstruct --run runs/NAME [--steps last|all|0,100] [--recon.FLAG value ...]
       python train.py reconstruct --checkpoint FILE --initial FILE --plugin PACKAGE --data ...

Attacks the saved checkpoints of a run, with its own settings or with others, and puts the results
where they would have been, or beside them. Or attacks a checkpoint of a LightningModule of your
own, from an importable package that you trust.

"""
GROUPS_OF_FIT = ("data", "recon", "recon.solver", "wandb")  # that this command has too
CLASS_GROUPS = ("data", "recon", "wandb")
RUN_FLAGS = ("steps", "name")  # only with --run
FILE_FLAGS = ("initial", "module", "readout", "features", "out")  # only with --checkpoint


@dataclass
class ReconstructFlags:
    """What is attacked.

    Args:
        run: directory of a run, as runs/NAME.
        steps: last, all, or training steps such as 0,100.
        name: of results of other settings, which go to runs/NAME/recon-NAME; null: what differs, in
            a few words.
        device: cpu, cuda, cuda:1 and so on; auto takes a GPU where there is one.
        checkpoint: instead of --run, a checkpoint of a LightningModule of your own; --data says
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
    groups = [own, *(fit.groups[name] for name in GROUPS_OF_FIT)]
    if {"-h", "--help"} & set(argv):
        print(INTRODUCTION + describe(groups), end="")
        return
    command = CommandLine("python train.py reconstruct", groups, fit.packages)
    sources = command.read(argv)
    # Alone: the others may belong to classes that only the run's configuration names.
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
