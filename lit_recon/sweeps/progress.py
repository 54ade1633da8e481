"""The terminal during a sweep: a line for every run that ends, and a bar."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class View:
    """Shows which runs have ended; in a terminal with a bar and the time left.

    Args:
        total: the runs still to do.
        console: where to; None: the terminal.
    """

    def __init__(self, total: int, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._total = total
        self._ended = self._failed = 0
        self._bar = Progress(
            TextColumn("sweep"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[failed]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total, failed="")

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The bar, for as long as the block runs."""
        with self._bar:
            yield

    def tell(self, name: str, words: str, *, failed: bool = False) -> None:
        """A run has ended."""
        self._ended += 1
        self._failed += failed
        line = f"{self._ended} of {self._total}  {name}  {words}"
        self._console.print(line, markup=False)
        failures = f"{self._failed} failed" if self._failed else ""
        self._bar.update(self._task, completed=self._ended, failed=failures)


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """A run in a few words, from the row of each method's last step."""
    if len(rows) == 1:
        return _method(rows[0])
    return "; ".join(f"{row['method']}: {_method(row)}" for row in rows)


def _method(row: Mapping[str, Any]) -> str:
    if row.get("recovered_fraction") is None:
        return f"{row['status']}: {row['reason']}"
    words = [f"recovered {row['recovered_fraction']:.2f}"]
    if row.get("exact_fraction") is not None:
        words.append(f"exact {row['exact_fraction']:.2f}")
    if row.get("direction_error") is not None:
        words.append(f"direction error {row['direction_error']:.1e}")
    return ", ".join([*words, f"{row['status']} after {row['seconds']:.1f} s"])
