"""The verdict of an audit as a file of its directory, and on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "verdict.json"


@dataclass(frozen=True)
class WrittenVerdict:
    """What the page shows of verdict.json.

    Attributes:
        words: the verdict in sentences.
        not_tried: (method, reason) of every method that was not tried.
        limits: what the verdict does not say.
        patches: whether there is a page with the patches that came back.
    """

    words: Sequence[str]
    not_tried: Sequence[tuple[str, str]]
    limits: Sequence[str]
    patches: bool = False

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> WrittenVerdict:
        """From the content of the file."""
        skipped = [(entry["method"], entry["reason"]) for entry in told["not_tried"]]
        patches = told["numbers"]["patches"] is not None
        return cls(list(told["words"]), skipped, list(told["limits"]), patches)


def verdict_file(path: Path) -> Path | None:
    """The verdict in a directory; None: it is not that of an audit."""
    file = path / FILE
    return file if file.is_file() else None
