"""`python train.py reconstruct`: attacks saved checkpoints; needs only their files."""

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

Attacks the saved checkpoints of a run. With the run's own settings the results go to
runs/NAME/recon, with other settings to runs/NAME/recon-NAME. Or attacks a checkpoint of your own
LightningModule, from an importable package that you trust.

"""
GROUPS_OF_FIT = ("data", "recon", "recon.solver", "wandb")  # this command has them too
CLASS_GROUPS = ("data", "recon", "wandb")
RUN_FLAGS = ("steps", "name")  # only with --run
FILE_FLAGS = ("initial", "module", "readout", "features", "out")  # only with --checkpoint


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
