"""Command lines from constructors: every argument of a class is a flag, with no second list.

Flags come in groups. ``--data`` chooses one of several classes, ``--data.n`` is a constructor
argument of the chosen one; ``--trainer.max_steps`` belongs to a class that needs no choosing.
"""

from lit_recon.flags.build import build, build_fitting, named_class
from lit_recon.flags.command import CommandLine, Source
from lit_recon.flags.help import describe
from lit_recon.flags.options import Group, choices

__all__ = [
    "CommandLine",
    "Group",
    "Source",
    "build",
    "build_fitting",
    "choices",
    "describe",
    "named_class",
]
