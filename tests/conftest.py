"""What all tests run in, and a browser for those that look at a page."""

from __future__ import annotations

# Before torch, so that all processes of a test have the same kernels: those that the commands and
# the benchmarks choose on this processor. Otherwise their results differ in the last digits.
import benchmarks  # noqa: F401  # isort: skip

import multiprocessing
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import wandb
from playwright.sync_api import Browser, Page, sync_playwright

import train
from lit_recon.sweeps import workers
from tests import warm

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# Imported once, by the process that those of some tests are forked from.
multiprocessing.set_forkserver_preload(["tests.imported"])

# What a shell starts in the background ignores Ctrl-C, and so would the commands that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)  # when the tests that do not run are out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with most slow tests first: a long one that starts last keeps only one core busy."""
    slow = Counter(
        item.path
        for item in items
        if item.get_closest_marker("slow") or item.get_closest_marker("browser")
    )
    items.sort(key=lambda item: -slow[item.path])


# Tiny problems run faster on one thread; the rounding tests also try several. Set before any
# fixture of a module runs: on other threads sums are divided in another way.
THREADS = int(os.environ.get("TEST_THREADS", "1"))
torch.set_num_threads(THREADS)


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """A test may change the number of threads for itself alone."""
    yield
    torch.set_num_threads(THREADS)


@pytest.fixture
def without_wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """W&B disabled by the environment, which it reads once in a process: another test's is gone."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The browser that is installed here; tests that need one are skipped without."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser here: none of {', '.join(BROWSERS)} is on the path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens a file; nothing that it does may be an error, or ask for anything from anywhere."""
    said: list[str] = []
    contexts = []

    def open_(file: Path, size: tuple[int, int] = (1280, 900)) -> Page:
        width, height = size
        context = browser.new_context(viewport={"width": width, "height": height}, offline=True)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url))
        page.goto(file.as_uri())
        assert said.pop(0) == file.as_uri()
        return page

    yield open_
    for context in contexts:
        context.close()
    assert [line[:80] for line in said if not line.startswith("data:image/")] == []


@pytest.fixture
def warm_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers of sweeps have imported all that they need; test_sweeps.py has new ones, too."""
    monkeypatch.setattr(workers, "_CONTEXT", warm.CONTEXT)


@pytest.fixture
def type_command(
    tmp_path: Path,
    without_wandb: None,
    warm_workers: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str, str]]:
    """Types a command in an empty folder, without plugins; gives exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "PLUGINS", [])

    def type_(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = train.main(list(argv))
        return status, *capsys.readouterr()

    return type_
