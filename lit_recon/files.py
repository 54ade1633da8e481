"""Atomic files: a file is complete or absent, even if the process is killed while it writes.

A file is written under a temporary name in the same directory and then renamed. A killed process
leaves a file with such a name, ``.NAME.tmp-XXXXXXXX``.
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
    """A new temporary name in the same directory, hence on the same file system."""
    return path.with_name(f".{path.name}.tmp-{secrets.token_hex(4)}")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; it is renamed to `path` when the block ends.

    An existing file is replaced. If the block raises, the temporary file is removed.
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
    """fsync a file or a directory, so that it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
