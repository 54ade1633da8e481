"""Every command and every block of code in README.md, in docs/ and on the pages of the methods.

The quick tests give every command to the program's own parser, with the files that it names. The
slow ones run what can be run here, at small sizes; `NOT_RUN` lists what is not run, and why.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from wandb.cli.cli import cli as wandb_commands

import train
from benchmarks.records import Flags
from datamodules.cifar import CLASSES
from lit_recon.__main__ import main as library
from lit_recon.audit import audit, reconstruct
from lit_recon.fit.run import RUN_PATH
from lit_recon.fit.settings import read_sources
from lit_recon.flags import Source
from lit_recon.sweeps import command as sweeps
from lit_recon.sweeps import slurm
from lit_recon.sweeps.grid import Axis, read_axes
from tests.pages import PAGES, ROOT, Block, blocks
from tests.problems import folder_of_images

# What a command or a block of Python holds that is not run here, and why not. The quick tests read
# all commands except the first two.
NOT_RUN = {
    "git clone": "the address is the reader's",
    ".venv/bin/activate": "of a shell",
    "^make": "its targets are what .ci/run and these tests run",
    "pip install": "needs the network",
    "wandb leet": "waits for keys",
    "wandb sync": "needs an account",
    "train.py dashboard": "needs an account; test_dashboard.py builds one without",
    "train.py$": "the demo is a configuration",
    "--config": "test_cli.py and test_sweeps.py run every configuration",
    "--grid.run.seed 0:5": "test_sweeps.py runs such sweeps",
    "--device cuda": "needs a GPU",
    "--run.name mlp|Truth.read": "test_wheel.py runs the example, with the wheel alone",
    "--checkpoint trained.ckpt": "needs a module; test_reconstruct.py has one",
    " audit ": "takes checkpoints of a training; test_audit.py and examples/ have some",
    "-m benchmarks.": "takes up to hours; test_benchmarks.py runs the quick sizes",
    "-m tests.slurm_node": "needs a Slurm to install",
}
SMALL = ["--recon.max_seconds", "0.2", "--wandb.mode", "disabled"]
FOUR = ["--data.n", "4", "--data.image_size", "8"]
Type = Callable[..., tuple[int, str, str]]


class ParsedError(Exception):
    """Raised in the place of the work, when the flags are read."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that holds what the pages take for granted, and where plugins are found."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "my_package.py").touch()
    folder_of_images(tmp_path / "FOLDER", CLASSES)
    rows = "".join(f"{i},{i % 7},{'even' if i % 2 else 'odd'}\n" for i in range(200))
    (tmp_path / "mine.csv").write_text(f"height,width,kind\n{rows}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv(RUN_PATH, raising=False)
    monkeypatch.setattr(sweeps, "read_axes", first_values)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]


def first_values(sources: Sequence[Source]) -> list[Axis]:
    """A grid of one point: its runs take their time, and test_sweeps.py has whole grids."""
    return [replace(axis, values=axis.values[:1]) for axis in read_axes(sources)]


def commands(page: str) -> list[list[str]]:
    return [words for block in blocks(page) for words in block.commands]


# --- reading


def test_there_are_pages_and_commands() -> None:
    assert {"README.md", "docs/tutorial.md", "lit_recon/methods/kkt/README.md"} <= {*PAGES}
    assert sum(len(commands(page)) for page in PAGES) > 80


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_every_reason_is_needed() -> None:
    lines = [" ".join(words) for page in PAGES for words in commands(page)]
    assert [part for part in NOT_RUN if not any(re.search(part, line) for line in lines)] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_understood(
    page: str, place: Path, type_command: Type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the program's own parser, up to where the work would start."""

    def parsed(*given: object) -> None:
        raise ParsedError

    monkeypatch.setattr(slurm, "check", lambda: None)
    monkeypatch.setattr(reconstruct, "attack", lambda job: None)
    for kind in ("of_run", "of_file", "of_change"):
        monkeypatch.setattr(reconstruct, kind, lambda *given: None)
    monkeypatch.setattr(audit, "of_files", lambda *given: None)
    monkeypatch.setattr(audit, "_Audit", lambda *given: SimpleNamespace(run=lambda: 0))
    monkeypatch.setitem(train.COMMANDS, "fit", resolved)
    read = Flags.read
    monkeypatch.setattr(Flags, "read", lambda flags, argv: parsed(read(flags, argv)))
    for block in blocks(page):
        assert block.language in {"bash", "python", "text"}
        if block.language == "python":
            compile(block.text, page, "exec")
            save(block, place)
        for words in block.commands:
            understood(words, type_command)


def save(block: Block, place: Path) -> None:
    if block.file is not None:
        (place / block.file).write_text(block.text)


def resolved(argv: list[str]) -> None:
    """Fit, up to where data are loaded."""
    command = train.command_line()
    train.resolve(command, read_sources(command, argv, train.DEMO)[0])


def understood(words: list[str], type_command: Type) -> None:
    program, *rest = words[: words.index("||")] if "||" in words else words
    if program == "python" and rest[0] == "train.py":
        script = rest[1:]
        if script[:1] == ["sweep"] and "--wandb-sweep" not in script:
            script += ["--wandb-sweep", f"{len(list(Path().iterdir()))}.yaml"]
        status, _, error = type_command(*script)
        if "report" in script:
            assert "no such directory" in error
        elif "dashboard" in script:
            assert "not to be reached" in error
        else:
            assert (status, error) == (0, ""), words
    elif program == "python" and rest[:2] == ["-m", "lit_recon"]:
        assert library(rest[2:]) == 0
    elif program == "python":
        flag, module, *argv = rest
        assert flag == "-m" and find_spec(module) is not None
        if module.startswith("benchmarks."):
            with pytest.raises(ParsedError):
                import_module(module).main(argv)
    elif program == "make":
        (target,) = rest
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif program == "pip":
        (extra,) = re.findall(r"\[(\w+)\]", " ".join(rest))
        assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text()
    elif program == "wandb":
        assert rest[0] in wandb_commands.commands
    else:
        assert not_run(" ".join(words)) is not None, words


def not_run(text: str) -> str | None:
    """Why a command or a block is not run; None: it is."""
    return next((reason for part, reason in NOT_RUN.items() if re.search(part, text)), None)


# --- running


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and weights of dense layers as other people have them, after a step on two images."""
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3 * 32 * 32), generator=random)
    x = (pixels / 255 - 0.48) / 0.25
    start = torch.randn(6, 3072, generator=random) / 50
    change = torch.randn(6, 2, generator=random) @ x / 100
    home = tmp_path_factory.mktemp("files")
    for name, weight in {"epoch1": start, "epoch2": start + change, "released": change}.items():
        torch.save(network(weight), home / f"{name}.pt")
    save_file(
        {f"encoder.{key}": value for key, value in network(change).items()},
        home / "client.safetensors",
    )
    np.save(home / "mean.npy", np.full((3, 32, 32), 0.48))
    trained = "--model MLP --model.width 60 --optim SGD --optim.lr 1e-4 --trainer.max_steps 2"
    where = ["--run.dir", str(home), "--run.name", "NAME"]
    assert train.main([*FOUR, *trained.split(), *SMALL, *where]) == 0
    return home


def network(weight: Tensor) -> dict[str, Tensor]:
    """A state dict with that first layer."""
    return {"0.weight": weight, "2.weight": torch.ones(1, len(weight))}


# A command that several pages show runs on one of them: in the tutorial, if it is there.
OWNERS = {
    shlex.join(words): page
    for page in sorted(PAGES, key=lambda page: page == "docs/tutorial.md")
    for words in commands(page)
}


def runs_here(words: list[str], page: str) -> bool:
    return not_run(" ".join(words)) is None and OWNERS[shlex.join(words)] == page


def code(page: str) -> list[str]:
    """The Python of a page that is to be run as it stands."""
    return [block.text for block in blocks(page) if block.runs and not_run(block.text) is None]


RUNNING = [
    page for page in PAGES if code(page) or any(runs_here(words, page) for words in commands(page))
]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNING)
def test_every_block_runs(
    page: str, place: Path, files: Path, type_command: Type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the page, in one folder; commands at small sizes."""
    shutil.copytree(files / "NAME", place / "runs" / "NAME")
    for file in filter(Path.is_file, files.iterdir()):
        (place / file.name).symlink_to(file)
    for block in blocks(page):
        if block.text in code(page):
            exec(compile(block.text, page, "exec"), {"__name__": "__main__"})
        save(block, place)
        for words in block.commands:
            if runs_here(words, page):
                monkeypatch.delenv(RUN_PATH, raising=False)
                status, _, error = type_command(*shrunk(words[2:]))
                assert (status, error) == (0, ""), words


def shrunk(script: list[str]) -> list[str]:
    """The arguments of train.py, at a small size: few images, few steps, little time."""
    if script[0] == "report":
        return script
    small = [*script, *SMALL]
    if script[0] == "reconstruct" or "Corners" in script or "Interpolator" in script:
        return small  # they are quick as they are
    small += ["--data.n", "4", "--data.d", "8"] if "Sphere" in script else FOUR
    if "ImageFolderSubset" in script:
        small += ["--data.classes", "[frog, truck]"]
    if "--model.width" in script:
        small += ["--model.width", "60"]
    if "--optim" in script:
        small += ["--trainer.max_steps", "1", "--checkpoint.at_steps", "[]"]
    return small


# --- the site


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "NO_COLOR": "1"}
    built = subprocess.run(
        [*command, "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (built.returncode, built.stdout, built.stderr) == (0, "", "")
    assert (tmp_path / "methods" / "rowspace.html").is_file()
    texts = [file.read_text(encoding="utf-8") for file in tmp_path.rglob("*.html")]
    assert not [text for text in texts if re.search(r'(src|href)="https?://(?!arxiv)', text)]
