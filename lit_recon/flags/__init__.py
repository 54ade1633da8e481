"""Command lines from constructors: every constructor argument of a class is a flag.

Flags come in groups. ``--data`` chooses one of several classes, and ``--data.n`` is a constructor
argument of the chosen class. A group with one class, such as ``--trainer``, needs no choice.
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
