"""The blocks of code in README.md, in docs/ and on the pages of the methods."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("README.md", "docs/**/*.md", "lit_recon/methods/**/README.md")
    for path in ROOT.glob(pattern)
)
FENCE = re.compile(r"^( *)```(\w*)([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r'title="([^"]+)"')
# In a block without a fence these words begin a command; other lines are equations.
PROGRAMS = ("python ", "make ", "pip ", "wandb ")


@dataclass(frozen=True)
class Block:
    """One block.

    Attributes:
        language: bash, python, text or another one.
        text: its content.
        file: the file that a reader is to make of it; None: none.
    """

    language: str
    text: str
    file: str | None = None

    @property
    def runs(self) -> bool:
        """Whether it is Python to be run as it stands."""
        return self.language == "python" and self.file is None

    @property
    def commands(self) -> Iterator[list[str]]:
        """The words of every command; none, if the block is not of bash."""
        lines = self.text.replace("\\\n", " ").splitlines() if self.language == "bash" else ()
        for line in lines:
            words = shlex.split(line, comments=True)
            if words:
                yield words


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page in their order; indented ones only if they are commands."""
    text = (ROOT / page).read_text(encoding="utf-8")
    at = 0
    for fence in FENCE.finditer(text):
        yield from indented(text[at : fence.start()])
        at, file = fence.end(), FILE.search(fence[3])
        yield Block(fence[2], textwrap.dedent(fence[4]), file and file[1])
    yield from indented(text[at:])


def indented(text: str) -> Iterator[Block]:
    """The commands in blocks that are indented by four spaces, with what continues them."""
    found: list[str] = []
    for line in text.splitlines():
        goes_on = bool(found) and found[-1].endswith("\\")
        if line.startswith("    ") and (goes_on or line.strip().startswith(PROGRAMS)):
            found.append(line.strip())
    if found:
        yield Block("bash", "\n".join(found))
