"""Imports go from right to left in `LEVELS`, and `--help` has nothing slow to import."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# A room imports from the levels above it and from itself; rooms of one level do not see each other.
LEVELS = (
    ("errors", "files", "randomness", "processor"),
    ("activations", "capacity", "distributed", "protection", "tall_matrix"),
    ("linalg", "knowledge"),
    ("models", "linear_map"),
    ("objectives", "solvers", "metrics"),
    ("methods", "modules", "records", "flags"),
    ("report",),
    ("audit", "sweeps"),
    ("fit", "__main__"),
    ("datamodules", "callbacks"),
    ("train",),
    ("benchmarks",),
)
APPLICATION = ("datamodules", "callbacks", "train", "benchmarks")  # rooms outside lit_recon/
NO_NAMES = {"utils", "common", "helpers"}

ROOT = Path(__file__).parents[1]
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
PACKAGES = ("lit_recon", "callbacks", "datamodules", "benchmarks")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
# Named here whether they are there or not: a missing one must fail and not pass unseen.
QUICK = (ROOT / "lit_recon" / "__init__.py", ROOT / "train.py")


def room_of(module: str) -> str | None:
    """The room of a dotted module name: "" for the root of lit_recon, None for other people's."""
    first, _, rest = module.partition(".")
    if first == "lit_recon":
        return rest.partition(".")[0]
    return first if first in APPLICATION else None


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names of all that is imported anywhere in a file, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # "." starts a relative import, which is in no room and so never allowed.
            module = "." * node.level + (node.module or "")
            if module == "lit_recon":
                yield from (f"lit_recon.{alias.name}" for alias in node.names)
            else:
                yield module


def wrong_imports(room: str, source: str) -> list[str]:
    """What a file of `room` imports against the direction."""
    return [
        name
        for name in imported(ast.parse(source))
        if name.startswith(".") or not allowed(room, room_of(name))
    ]


def allowed(room: str, target: str | None) -> bool:
    if target in (None, "", "__version__", room):
        return True
    return target in LEVEL and room in LEVEL and LEVEL[target] < LEVEL[room]


def imported_at_once(tree: ast.AST) -> Iterator[str]:
    """Names of the packages that running a file imports, so not those inside functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imported_at_once(ast.Module(node.orelse, type_ignores=[]))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (name.partition(".")[0] for name in imported(node))
        else:
            yield from imported_at_once(node)


def files_imported(path: Path) -> set[Path]:
    """The files of this project that a file imports, also for types and inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # A name may be a module of the package, or something that the package's file holds.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if file_of(name) else node.module for name in names]
        else:
            continue
        found |= {file for name in names if (file := file_of(name)) is not None}
    return found - {path}


def file_of(module: str) -> Path | None:
    """The file of a dotted module name; None for other people's, and for what is no module."""
    place = ROOT.joinpath(*module.split("."))
    for file in (place.with_suffix(".py"), place / "__init__.py"):
        if file.exists():
            return file
    return None


def circle(graph: dict[Path, set[Path]]) -> list[Path]:
    """Files that import one another in a circle; empty if there are none."""
    done: set[Path] = set()

    def visit(file: Path, way: list[Path]) -> list[Path]:
        if file in way:
            return way[way.index(file) :]
        if file in done:
            return []
        for other in sorted(graph.get(file, ())):
            found = visit(other, [*way, file])
            if found:
                return found
        done.add(file)
        return []

    return next((found for file in sorted(graph) if (found := visit(file, []))), [])


def identify(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [*SOURCES, ROOT / "train.py"], ids=identify)
def test_imports_go_from_right_to_left(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    room = room_of(module)
    assert room is not None
    if room == "":  # the root gathers public names, and imports each when it is used
        return
    assert room in LEVEL, f"{path} is in no room of LEVELS"
    assert wrong_imports(room, path.read_text(encoding="utf-8")) == []


def test_no_files_import_one_another_in_a_circle() -> None:
    # The root of the library imports what it exports when it is used; it holds the version.
    graph = {path: files_imported(path) for path in [*SOURCES, ROOT / "train.py"]}
    graph.pop(ROOT / "lit_recon" / "__init__.py")
    assert circle(graph) == []


def test_the_test_sees_a_circle() -> None:
    a, b, c = Path("a"), Path("b"), Path("c")
    assert circle({a: {b}, b: {c}, c: set()}) == []
    assert circle({a: {b}, b: {c}, c: {b}}) == [b, c]


def test_the_command_line_stays_short() -> None:
    lines = (ROOT / "train.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 340


@pytest.mark.parametrize("path", SOURCES, ids=identify)
def test_every_name_says_what_is_inside(path: Path) -> None:
    assert not NO_NAMES & set(path.relative_to(ROOT).with_suffix("").parts)


@pytest.mark.parametrize("path", QUICK, ids=identify)
def test_help_has_nothing_slow_to_import(path: Path) -> None:
    names = set(imported_at_once(ast.parse(path.read_text(encoding="utf-8"))))
    assert names <= sys.stdlib_module_names


def test_the_processes_of_a_study_begin_with_few_imports() -> None:
    left, reached = [ROOT / "lit_recon" / "sweeps" / "cells.py"], set()
    while left:
        reached.add(path := left.pop())
        left += files_imported(path) - reached
    sources = (path.read_text(encoding="utf-8") for path in reached)
    names = {name for source in sources for name in imported_at_once(ast.parse(source))}
    assert "torch" in names and len(reached) > 5
    assert not names & {"jsonargparse", "lightning", "matplotlib", "torchvision", "wandb"}


@pytest.mark.parametrize(
    ("room", "source", "wrong"),
    [
        ("methods", "from lit_recon.solvers import loop", []),
        ("methods", "from lit_recon.methods.base import Method", []),
        ("methods", "def f():\n    import lit_recon.report.page", ["lit_recon.report.page"]),
        ("solvers", "from lit_recon.objectives import x", ["lit_recon.objectives"]),
        ("solvers", "from lit_recon import metrics, errors", ["lit_recon.metrics"]),
        ("audit", "from lit_recon.sweeps import plan", ["lit_recon.sweeps"]),
        ("solvers", "from . import loop", ["."]),
        ("models", "import callbacks.reconstruct", ["callbacks.reconstruct"]),
        ("callbacks", "from datamodules.photos import Photos", ["datamodules.photos"]),
        ("records", "from lit_recon import __version__\nimport torch", []),
        ("errors", "from lit_recon.knowledge import Knowledge", ["lit_recon.knowledge"]),
        ("train", "from callbacks import a\nfrom lit_recon.methods import b", []),
        ("train", "from lit_recon.nowhere import b", ["lit_recon.nowhere"]),
    ],
)
def test_the_test_sees_a_wrong_import(room: str, source: str, wrong: list[str]) -> None:
    assert wrong_imports(room, source) == wrong


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import torch.nn", {"torch"}),
        ("try:\n    import torch\nexcept ImportError:\n    import numpy", {"torch", "numpy"}),
        ("class A:\n    import torch\n    def f(self):\n        import numpy", {"torch"}),
        ("def f():\n    import torch", set()),
        ("if TYPE_CHECKING:\n    import torch\nelse:\n    import numpy", {"numpy"}),
    ],
)
def test_the_test_sees_a_slow_import(source: str, names: set[str]) -> None:
    assert set(imported_at_once(ast.parse(source))) == names
