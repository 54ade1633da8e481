"""The two errors that end a command; train.py prints each as one line."""

from __future__ import annotations


class InputError(ValueError):
    """A flag, file or folder that cannot be used; train.py exits with status 2.

    Args:
        flag: the flag as a user types it, for example ``--data.n``.
        given: the given value.
        remedy: what is wrong with it, or what to give instead.
    """

    def __init__(self, flag: str, given: object, remedy: str) -> None:
        super().__init__(f"{flag} {given}".rstrip() + f": {remedy}")
        self.flag = flag
        self.given = given
        self.remedy = remedy


class RunError(RuntimeError):
    """A run that started and then failed, for example on NaN; train.py exits with status 1."""
