"""The two ways in which a run ends early, each with one line for the person who started it."""

from __future__ import annotations


class InputError(ValueError):
    """A flag, file or folder that cannot be used. The command line answers it with exit status 2.

    Args:
        flag: the flag as people type it, for example ``--data.n``.
        given: what was given.
        remedy: what would do.
    """

    def __init__(self, flag: str, given: object, remedy: str) -> None:
        super().__init__(f"{flag} {given}".rstrip() + f": {remedy}")
        self.flag = flag
        self.given = given
        self.remedy = remedy


class RunError(RuntimeError):
    """A run that started well and then failed, for example on NaN. Answered with exit status 1."""
