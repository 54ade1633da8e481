"""Downloads of data sets by torchvision: whole files, a time limit, and one line for a failure."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from lit_recon.errors import InputError

PATIENCE = 20.0  # seconds without an answer from the server before a download fails


@contextmanager
def fetching(name: str, root: Path, remedies: str) -> Iterator[None]:
    """What fails inside is an error of ``--data.root`` that names the alternatives.

    Args:
        name: of the data set.
        root: the folder that it should be in.
        remedies: what else would do.

    Raises:
        InputError: the network, the disk or the file's content failed.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError, HTTPException) as error:
        reason = f"{name} is not there and fetching it failed ({one_line(error)})"
        raise InputError("--data.root", root, f"{reason}; {remedies}") from error


@contextmanager
def download_folder(root: Path) -> Iterator[Path]:
    """A temporary folder in `root`, where a download may take its time but not for ever.

    In a folder of its own: another run may be downloading to the same root.
    """
    root.mkdir(parents=True, exist_ok=True)
    before = socket.getdefaulttimeout()
    with tempfile.TemporaryDirectory(dir=root, prefix="download-") as scratch:
        socket.setdefaulttimeout(PATIENCE)  # torchvision's download has no limit
        try:
            yield Path(scratch)
        finally:
            socket.setdefaulttimeout(before)


def one_line(error: Exception) -> str:
    """The message of an error in one line, or its kind."""
    return " ".join(str(error).split()) or type(error).__name__
