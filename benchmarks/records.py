"""Code that all benchmarks share: flags, one-line errors, tables and result files."""

from __future__ import annotations

import argparse
import functools
import json
import math
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from matplotlib.figure import Figure

from lit_recon.errors import InputError, RunError
from lit_recon.records.directory import RunDirectory
from lit_recon.records.provenance import provenance
from lit_recon.report.grid import figure_to_uint8, save_png

RESULTS = Path("benchmarks") / "results"
PLACES = ("root", "run", "out")  # flags with folders, which are not recorded
Main = Callable[..., int]  # of argv, which may be left out


class Flags(argparse.ArgumentParser):
    """The flags of one script, with the flags that all scripts have.

    Args:
        name: name of the script and of its results.
        description: what it measures.
        quick: defaults with ``--quick``.
    """

    def __init__(self, name: str, description: str | None, quick: dict[str, Any]) -> None:
        super().__init__(
            f"python -m benchmarks.{name}",
            description=description,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            allow_abbrev=False,
        )
        self.name = name
        self.quick = quick
        add = self.add_argument
        add("--quick", action="store_true", help="a tiny size, to check that the script works")
        add("--threads", type=count, default=torch.get_num_threads(), help="CPU threads")
        add(
            "--out",
            type=Path,
            default=RESULTS,
            metavar="FOLDER",
            help="folder of results; with --quick its subfolder quick/",
        )

    def read(self, argv: list[str] | None) -> argparse.Namespace:
        """Parse the flags, and set torch's number of threads."""
        if self.parse_args(argv).quick:
            self.set_defaults(**self.quick, out=RESULTS / "quick")
        args = self.parse_args(argv)
        torch.set_num_threads(args.threads)
        return args

    def error(self, message: str) -> NoReturn:
        """Exit with one line; argparse would print the usage first."""
        self.exit(2, f"{self.prog}: {message}; --help lists the flags\n")


class Record:
    """Writes the results of one script as NAME.json; made before the work starts.

    Args:
        flags: the parser of the script.
        argv: its arguments; None: those of the process.
        args: the parsed arguments.
        seeds: all seeds of the measurements.
        device: the measured device.
    """

    def __init__(
        self,
        flags: Flags,
        argv: list[str] | None,
        args: argparse.Namespace,
        *,
        seeds: Sequence[int],
        device: str = "cpu",
    ) -> None:
        given = sys.argv[1:] if argv is None else argv
        command = ["python", "-m", f"benchmarks.{flags.name}", *without_places(given)]
        facts = provenance(command, seeds[0], device)
        self.facts = {**facts, "seed": list(seeds), "threads": args.threads}
        git: Any = facts["git"]
        if git is not None:
            self.facts["git"] = {**git, "dirty": code_differs()}
        self.settings = {k: v for k, v in vars(args).items() if k not in PLACES}
        self.folder: Path = args.out
        self.name = flags.name

    def write(self, results: Sequence[object], **more: object) -> None:
        """Write NAME.json atomically, and print its path."""
        content = {"provenance": self.facts, "settings": self.settings, "results": results, **more}
        print(RunDirectory(self.folder).write_json(f"{self.name}.json", content))

    def earlier(self, *, of_any_run: bool = False) -> list[dict[str, Any]]:
        """The rows that are there of a run with the same code and settings, or of any run.

        Rows of several runs in one file must say themselves of which code they are.
        """
        try:
            text = (self.folder / f"{self.name}.json").read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        content = json.loads(text)
        then = (content["provenance"]["git"], content["settings"])
        now = json.loads(json.dumps((self.facts["git"], self.settings)))
        rows: list[dict[str, Any]] = content["results"]
        return rows if of_any_run or list(then) == now else []

    def draw(self, figure: Figure) -> None:
        """Write NAME.png next to NAME.json, and print its path."""
        path = self.folder / f"{self.name}.png"
        save_png(figure_to_uint8(figure), path)
        print(path)


def code_differs() -> bool:
    """Whether a tracked file differs from the commit, except benchmark results."""
    pathspec = [".", f":(exclude){RESULTS.as_posix()}"]
    command = ["git", "status", "--porcelain", "--untracked-files=no", "--", *pathspec]
    root = Path(__file__).parents[1]
    return bool(subprocess.run(command, cwd=root, capture_output=True, check=True).stdout)


def without_places(argv: Sequence[str]) -> list[str]:
    """A command line in which the values of PLACES are replaced by FOLDER."""
    flags = {f"--{place}" for place in PLACES}
    hidden, value_follows = [], False
    for word in argv:
        flag, equals, _ = word.partition("=")
        hidden.append("FOLDER" if value_follows else word)
        value_follows = word in flags
        if equals and flag in flags:
            hidden[-1] = f"{flag}=FOLDER"
    return hidden


def one_line_errors(name: str) -> Callable[[Main], Main]:
    """Decorator: print InputError (exit status 2) and RunError (1) as one line on stderr."""

    def wrap(main: Main) -> Main:
        @functools.wraps(main)
        def wrapped(argv: list[str] | None = None) -> int:
            try:
                return main(argv)
            except (InputError, RunError) as error:
                line = " ".join(str(error).split())
                print(f"python -m benchmarks.{name}: {line}", file=sys.stderr)
                return 2 if isinstance(error, InputError) else 1

        return wrapped

    return wrap


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A text table; the first column is aligned left, the others right."""
    cells = [list(header), *([text(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = []
    for first, *rest in cells:
        aligned = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *aligned]))
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def text(value: object) -> str:
    """The text of a cell: three significant digits of a float, a dash for None and non-finite."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def peak_bytes(usage: resource.struct_rusage) -> int:
    """The largest resident memory of a process in bytes; Linux counts KiB and macOS bytes."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def count(word: str) -> int:
    """Parse a whole number of at least 1."""
    value = int(word)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{word} is below 1")
    return value


def seed(word: str) -> int:
    """Parse a seed of at least 0."""
    value = int(word)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{word} is below 0")
    return value


def positive(word: str) -> float:
    """Parse a finite number above 0."""
    value = float(word)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{word} is no finite number above 0")
    return value
