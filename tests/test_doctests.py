"""The examples in docstrings run, and every public class has one."""

from __future__ import annotations

import doctest
import inspect
from importlib import import_module
from pathlib import Path

import pytest

import lit_recon
from lit_recon import methods, models, modules, solvers

ROOT = Path(__file__).parents[1]
PACKAGES = ("lit_recon", "datamodules")
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
)
WITH_EXAMPLES = [
    name for name in MODULES if ">>>" in Path(import_module(name).__file__ or "").read_text()
]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_run(name: str) -> None:
    found = doctest.testmod(import_module(name))
    assert found.attempted > 0 and found.failed == 0


def test_every_public_class_has_an_example() -> None:
    names = {name: getattr(lit_recon, name) for name in lit_recon.__all__}
    for room in (methods, models, modules, solvers):
        names |= {name: getattr(room, name) for name in room.__all__}
    classes = {name: value for name, value in names.items() if inspect.isclass(value)}
    assert len(classes) > 20
    abstract = {name for name, cls in classes.items() if inspect.isabstract(cls)}
    without = {
        name
        for name, cls in classes.items()
        if ">>>" not in (cls.__doc__ or "") and name not in abstract
    }
    assert without == set()
