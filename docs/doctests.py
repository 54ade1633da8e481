"""Lets the examples in docstrings be blocks of code on the pages of the library."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

EXAMPLE = re.compile(r"^>>> (?:.*\S.*\n?)+", re.MULTILINE)  # to the next empty line


class Doctests(Extension):
    """Fences the examples: Markdown would take their prompts for quotations."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Change the docstring of every object that has one."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """The text with every example in a fence."""
    return EXAMPLE.sub(lambda example: f"```pycon\n{example[0].rstrip()}\n```\n", text)
