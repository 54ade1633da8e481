"""The registry of numbers, and the tables of them in docs/numbers.md.

`python -m tests.test_numbers` writes the tables again.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest

from lit_recon import methods
from lit_recon.methods import Reconstructor
from lit_recon.metrics import numbers
from lit_recon.metrics.numbers import (
    COMMON,
    TRAINING,
    Number,
    described,
    panels,
    register,
    shown_in,
)

PAGE = Path(__file__).parents[1] / "docs" / "numbers.md"
ATTACK = "| name | meaning |\n|---|---|\n"
TRAINED = "| name in training | meaning |\n|---|---|\n"
ENDING = "| `status`, `reason` | how the attack ended, in one word and in a sentence |\n"


def shipped() -> dict[str, tuple[Number, ...]]:
    """The numbers that each method of the package adds to those of every method, by its name."""
    exported = [getattr(methods, name) for name in methods.__all__]
    classes = [
        cls for cls in exported if issubclass(cls, Reconstructor) and cls is not Reconstructor
    ]
    return {cls().name: cls.describes for cls in classes}


def cell(text: str) -> str:
    """A text in which Markdown sees neither the end of a cell nor a tag."""
    return text.replace("|", r"\|").replace("<", "&lt;")


def rows() -> Iterator[str]:
    """The table's rows: numbers of every method, then those of one method, which they name."""
    for number in COMMON:
        yield f"| `{number.name}` | {cell(number.meaning)} |\n"
    own: dict[Number, list[str]] = {}
    for method, added in shipped().items():
        for number in added:
            own.setdefault(number, []).append(method)
    for number, names in own.items():
        yield f"| `{number.name}` | {', '.join(names)}: {cell(number.meaning)} |\n"
    yield ENDING


def tables() -> dict[str, str]:
    """The tables of the registry, each by its heading."""
    training = (f"| `train/{number.name}` | {cell(number.meaning)} |\n" for number in TRAINING)
    return {ATTACK: ATTACK + "".join(rows()), TRAINED: TRAINED + "".join(training)}


def table_in(text: str, head: str) -> str:
    """The table of that heading, up to the first line without a bar."""
    _, _, rest = text.partition(head)
    return head + "".join(takewhile(lambda line: line[0] == "|", rest.splitlines(keepends=True)))


def rewrite() -> None:
    """Puts the tables of the registry into the page."""
    text = PAGE.read_text(encoding="utf-8")
    for head, table in tables().items():
        text = text.replace(table_in(text, head), table)
    PAGE.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("head", [ATTACK, TRAINED], ids=["attack", "training"])
def test_the_page_has_every_number_of_the_registry(head: str) -> None:
    written = table_in(PAGE.read_text(encoding="utf-8"), head)
    remedy = f"{PAGE} differs from the registry; `python -m tests.test_numbers` writes it again"
    assert written == tables()[head], remedy


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the registry, so that no other test sees what is entered."""
    monkeypatch.setattr(numbers, "_REGISTRY", dict(numbers._REGISTRY))


def test_two_methods_may_share_a_number_and_not_its_name(registry: None) -> None:
    rank = Number("a_rank", "rank", "of the change", "count")
    register([rank])
    register([Number("a_rank", "rank", "of the change", "count")])
    assert described("a_rank") == rank
    with pytest.raises(ValueError, match="a_rank is described twice"):
        register([Number("a_rank", "rank", "of something else", "count")])


def test_a_number_stands_where_it_says(registry: None) -> None:
    share = Number("a_share", "share", "", "share", panel="what came back", shown=("page",))
    hidden = Number("a_rank", "rank", "", "count")
    register([share, hidden])
    names = [number.name for number in shown_in("page")]
    assert names.index("a_share") < names.index("direction_error")  # shares come first
    assert names[-1] == "seconds"
    assert "a_rank" not in names and share not in shown_in("law")
    drawn = panels(numbers.registered())
    assert drawn["what came back"][-1] == share
    assert list(drawn)[-1] == "time"
    assert hidden not in [number for together in drawn.values() for number in together]


if __name__ == "__main__":
    rewrite()
