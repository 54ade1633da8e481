"""The registry of numbers, and the table of them in README.md.

`python -m tests.test_numbers` writes the table again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lit_recon import methods
from lit_recon.methods import Reconstructor
from lit_recon.metrics import numbers
from lit_recon.metrics.numbers import COMMON, Number, described, panels, register, shown_in

README = Path(__file__).parents[1] / "README.md"
HEAD = "| name | meaning |\n|---|---|\n"
ENDING = "| `status`, `reason` | how the attack ended, in one word and in a sentence |\n"


def shipped() -> dict[str, tuple[Number, ...]]:
    """The numbers that each method of the package adds to those of every method, by its name."""
    exported = [getattr(methods, name) for name in methods.__all__]
    classes = [
        cls for cls in exported if issubclass(cls, Reconstructor) and cls is not Reconstructor
    ]
    return {cls().name: cls.describes for cls in classes}


def rows() -> Iterator[str]:
    """The table's rows: numbers of every method, then those of one method, which they name."""
    for number in COMMON:
        yield f"| `{number.name}` | {number.meaning} |\n"
    own: dict[Number, list[str]] = {}
    for method, added in shipped().items():
        for number in added:
            own.setdefault(number, []).append(method)
    for number, names in own.items():
        yield f"| `{number.name}` | {', '.join(names)}: {number.meaning} |\n"
    yield ENDING


def table_in(text: str) -> str:
    """The table of numbers in README.md, from its heading to the line without a bar."""
    _, head, rest = text.partition(HEAD)
    lines = rest.splitlines(keepends=True)
    end = next(i for i, line in enumerate(lines) if not line.startswith("|"))
    return head + "".join(lines[:end])


def rewrite() -> None:
    """Puts the table of the registry into README.md."""
    text = README.read_text(encoding="utf-8")
    README.write_text(text.replace(table_in(text), HEAD + "".join(rows())), encoding="utf-8")


def test_the_readme_has_every_number_of_the_registry() -> None:
    written = table_in(README.read_text(encoding="utf-8"))
    remedy = "README.md differs from the registry; `python -m tests.test_numbers` writes it again"
    assert written == HEAD + "".join(rows()), remedy


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
