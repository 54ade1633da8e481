"""`python train.py reconstruct`: attacks saved checkpoints; needs only their files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

from jsonargparse import Namespace

from lit_recon.audit.change import PixelFlags, of_change
from lit_recon.audit.job import attack
from lit_recon.audit.own_module import of_file
from lit_recon.audit.saved_run import of_run
from lit_recon.errors import InputError
from lit_recon.flags import CommandLine, Group, Source, describe

INTRODUCTION = """\
usage: python train.py reconstruct --run runs/NAME [--steps last|all|0,100] [--recon.FLAG value ...]
       python train.py reconstruct --checkpoint FILE --initial FILE --plugin PACKAGE --data ...
       python train.py reconstruct --before FILE --after FILE [--pixels.shape ... | --data ...]
       python train.py reconstruct --update FILE [--pixels.shape ... | --data ...]
       python train.py reconstruct --weights FILE [--pixels.shape ... | --data ...]

Attacks the saved checkpoints of a run. With the run's own settings the results go to
runs/NAME/recon, with other settings to runs/NAME/recon-NAME. Or attacks a checkpoint of your own
LightningModule, from an importable package that you trust. Or attacks the change of a first dense
layer between two checkpoints of any network, or in the update of a client of federated learning,
or that layer's weights alone, if weight decay has made them forget their start. Files are Lightning
checkpoints, state dicts (.pt, .pth) or .safetensors. Without --data nothing is known of the
training data, and the results are candidates with their certificates.

"""
GROUPS_OF_FIT = ("data", "recon", "recon.solver", "wandb")  # this command has them too
CLASS_GROUPS = ("data", "recon", "wandb")
# What is attacked, by one of these flags, and which other flags belong to it.
SOURCES = {
    "run": {"steps", "name"},
    "checkpoint": {"initial", "module", "readout", "features", "out"},
    "before": {"after", "layer", "out"},
    "after": {"before", "layer", "out"},
    "update": {"layer", "out"},
    "weights": {"layer", "out"},
}
# The method for weights alone, if none is named.
FINAL = Source(None, [("recon", "RowSpaceReconstructor"), ("recon.evidence", "final")])


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
        before: an earlier checkpoint of any network, without its class; with --after. Of several
            files, separated by commas, the one is taken from which most images can be had back.
        after: a later checkpoint of the same network.
        update: the difference of two checkpoints, such as the update of a client, instead of both.
        weights: the final weights of any network, without its class and without its start.
        layer: dotted name of the dense layer that the inputs meet; null: the first layer.
        out: directory for results of files; several checkpoints of one training can share it; null:
            a new one in runs.
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
    before: str | None = None
    after: str | None = None
    update: str | None = None
    weights: str | None = None
    layer: str | None = None
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
    own, pixels = Group("", (ReconstructFlags,)), Group("pixels", (PixelFlags,))
    groups = [own, pixels, *(fit.groups[name] for name in GROUPS_OF_FIT)]
    if {"-h", "--help"} & set(argv):
        print(INTRODUCTION + describe(groups), end="")
        return
    command = CommandLine("python train.py reconstruct", groups, fit.packages)
    sources = command.read(argv)
    # Without the flags of classes: only the run's configuration may say which classes have them.
    flags = command.parse([source.without(*CLASS_GROUPS) for source in sources])
    use = source_of(flags)
    data_given = any(source.only("data").values for source in sources)
    for source in sources:
        for flag, value in source.only("pixels").values:
            if use in ("run", "checkpoint") or data_given:
                known = "--data" if data_given else f"--{use}"
                raise InputError(
                    f"--{flag}", source.given(value), f"{known} gives it; leave it out"
                )
    if use == "run":
        settings = [source.without(*vars(ReconstructFlags())) for source in sources]
        attack(of_run(fit, settings, flags))
        return
    named = any(flag == "recon" for source in sources for flag, _ in source.values)
    sources = sources if named or use != "weights" else [FINAL, *sources]
    # The record of an attack without data must not name any.
    left_out = "pixels" if use == "checkpoint" or data_given else "data"
    kept = [group for group in groups if group.name != left_out]
    command = CommandLine(command.command, kept, fit.packages)
    flags = command.parse(sources)
    attack(of_file(command, flags, plugins) if use == "checkpoint" else of_change(command, flags))


def source_of(flags: Namespace) -> str:
    """Which flag of `SOURCES` says what is attacked.

    Raises:
        InputError: none, several, or a flag that belongs to another one.
    """
    given = [name for name in SOURCES if flags[name] is not None]
    if not given:
        remedy = "give --run runs/NAME, --checkpoint, --before and --after, --update or --weights"
        raise InputError("--run", "missing", remedy)
    use = given[0]
    for name, default in vars(ReconstructFlags()).items():
        if name not in SOURCES[use] | {use, "device"} and flags[name] != default:
            raise InputError(f"--{name}", flags[name], f"is not for --{use}; leave it out")
    return use
