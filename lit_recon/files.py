"""Files that are whole or not there, whenever a process is killed.

They are written beside their place and renamed into it. What a killed process leaves is known by
its name, ``.NAME.tmp-XXXXXXXX``.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LEFTOVER = re.compile(r"\..+\.tmp-[0-9a-f]{8}")


def beside(path: Path) -> Path:
    """A new name in the same directory, hence on the same file system, that tells a leftover."""
    return path.with_name(f".{path.name}.tmp-{secrets.token_hex(4)}")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A new name to write a file to, which takes its place when the block ends.

    It replaces one that is there, and is removed if the block raises.
    """
    draft = beside(path)
    try:
        yield draft
        sync(draft)
        draft.replace(path)
        sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Makes the content of a file, or the names in a directory, outlast a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
