"""A method from outside is one class: its numbers are everywhere, and no file of ours knows it."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import train
from lit_recon.flags import Source
from lit_recon.report.dashboard import build_workspace, methods_of
from tests import toy

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
PLUGIN = ["--plugin", "tests.toy"]
POINTS = ["--data", "Sphere", "--data.n", "3", "--data.d", "12", "--model.p", "180"]
SHORT = ["--recon.max_steps", "3", "--recon.restarts", "0"]
QUIET = ["--wandb.mode", "disabled"]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(type_command: Run) -> Run:
    """Types a command with the plugin in an empty folder; gives exit status, stdout, stderr."""
    return lambda *argv: type_command(*argv, *PLUGIN)


def results(path: Path, method: str, step: int = 1) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (path / "recon" / method / f"step={step:08d}" / "metrics.json").read_text()
    )
    return found


def test_no_file_of_ours_knows_the_toy() -> None:
    packages = ("lit_recon", "callbacks", "datamodules", "configs", "train.py")
    sources = [ROOT / "train.py", *(f for p in packages for f in (ROOT / p).rglob("*.*"))]
    texts = [
        f.read_text(encoding="utf-8") for f in sources if f.suffix in (".py", ".html", ".yaml")
    ]
    assert len(texts) > 50
    assert not [text for text in texts if "pull_back" in text or "PullBack" in text]


def test_its_numbers_are_in_every_place(run: Run, tmp_path: Path) -> None:
    status, out, error = run(*POINTS, *SHORT, "--run.name", "r", "--wandb.mode", "offline")
    assert (status, error) == (0, "")
    path = tmp_path / "runs" / "r"
    # Both methods apply; the cheaper one is first, and the last lines say what came by which.
    lines = out.splitlines()
    assert [line for line in lines if line.startswith("attack by")] == [
        "attack by pull_back, at most 10 s at a checkpoint",
        "attack by projection, at most 600 s at a checkpoint",
    ]
    assert re.search(r"^\d of 3 samples recovered by pull_back$", out, re.MULTILINE)
    assert re.search(r"^\d of 3 samples recovered by projection$", out, re.MULTILINE)
    # metrics.json, each method with its own threat model
    found, projection = results(path, "pull_back"), results(path, "projection")
    assert found["pull_back"] > 0 and "pull_back" not in projection
    assert found["knows"] == ["final weights", "norm of the inputs"]
    assert "number of training samples" in projection["knows"]
    # metrics.jsonl and W&B
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    (logged,) = [r for r in rows if "recon/pull_back/pull_back" in r and r["step"] == 1]
    assert logged["recon/pull_back/pull_back"] == found["pull_back"]
    (segment,) = path.glob("wandb/offline-run-*")
    raw = next(segment.glob("*.wandb")).read_bytes()
    assert b"recon/pull_back/pull_back" in raw and b"recon/projection/projection_loss" in raw
    assert list(segment.glob("files/media/images/recon/pull_back/grid*.png"))
    # the report
    page = (path / "report.html").read_text(encoding="utf-8")
    assert "pull_back" in page and "projection" in page
    assert "pull-back" in page  # its words, in a chart
    # config.yaml names both, and can be given back
    config = yaml.safe_load((path / "config.yaml").read_text())["recon"]
    assert [entry["class_path"].rpartition(".")[2] for entry in config] == [
        "PullBackReconstructor",
        "ProjectionReconstructor",
    ]
    assert config[1]["init_args"]["max_steps"] == 3
    assert run("--config", "runs/r/config.yaml", *QUIET, "--run.name", "again")[0] == 0
    assert results(tmp_path / "runs" / "again", "pull_back")["pull_back"] == found["pull_back"]
    # The run goes on with both, and does nothing again.
    status, out, _ = run("--run.name", "r", "--run.resume", "true", *QUIET)
    assert status == 0 and "step 1, pull_back" not in out


@pytest.mark.long
def test_it_is_a_row_of_a_sweep_and_a_panel_of_the_dashboard(run: Run, tmp_path: Path) -> None:
    grid = ["--grid.run.seed", "0,1", "--run.name", "s"]
    status, _, error = run("sweep", *POINTS, *SHORT, *QUIET, *grid)
    assert (status, error) == (0, "")
    path = tmp_path / "runs" / "s"
    with (path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows if row["step"] == "1"] == 2 * ["pull_back", "projection"]
    for row in rows:
        assert bool(row["pull_back"]) == (row["method"] == "pull_back")
        assert row["candidates"] == ("1" if row["method"] == "pull_back" else "3")
    assert "pull_back" in (path / "report.html").read_text(encoding="utf-8")
    workspace = build_workspace("somebody", "runs", methods_of([toy]), "Reconstruction")
    assert "recon/pull_back/pull_back" in json.dumps(workspace._spec)


def test_settings_hold_for_the_methods_that_have_them(run: Run, tmp_path: Path) -> None:
    both = ["--recon", "[PullBackReconstructor, ProjectionReconstructor]"]
    flags = ["--recon.scale", "2", "--recon.max_seconds", "7", *SHORT, *QUIET]
    assert run(*POINTS, *both, *flags, "--run.name", "r")[0] == 0
    first, second = yaml.safe_load((tmp_path / "runs/r/config.yaml").read_text())["recon"]
    assert first["init_args"] == {"scale": 2.0, "max_seconds": 7.0}
    assert (second["init_args"]["max_seconds"], second["init_args"]["max_steps"]) == (7.0, 3)
    # A file gives each its own; a flag is stronger, and holds for all.
    entries = [
        {"class_path": "tests.toy.PullBackReconstructor", "init_args": {"max_seconds": 1.0}},
        {"class_path": "ProjectionReconstructor", "init_args": {"max_seconds": 2.0, "spare": 1}},
    ]
    (tmp_path / "two.yaml").write_text(yaml.safe_dump({"recon": entries}))
    train.PLUGINS[:] = [toy]
    command = train.command_line()
    for flag, seconds in ((Source(None, []), [1, 2]), ([("recon.max_seconds", "5")], [5, 5])):
        typed = flag if isinstance(flag, Source) else Source(None, flag)
        config = command.parse([*command.read(["--config", "two.yaml"])[:1], typed])
        assert [spec.init_args.max_seconds for spec in config.recon] == seconds
        assert config.recon[1].init_args.spare == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--recon [PullBackReconstructor,Nope]", "--recon Nope: give auto, Proj.* or Pull.*list"),
        ("--recon [ToyNope]", "--recon ToyNope: give auto"),
        (
            "--recon [PullBackReconstructor,PullBackReconstructor]",
            "--recon PullBackReconstructor: name every method once",
        ),
        ("--recon []", "--recon []: give auto"),
        ("--recon.max_seconds 0", "--recon.max_seconds 0.0: give seconds above 0"),
        ("--recon.scale 0", "--recon.scale 0.0: give another number"),
        (
            "--recon ProjectionReconstructor --recon.scale 1",
            "--recon.scale 1: no such flag of ProjectionReconstructor; PullBack.* has it",
        ),
        ("--recon.scal 1", "--recon.scal 1: no such flag.* did you mean --recon.scale"),
    ],
)
def test_bad_lists_are_one_line(flags: str, words: str, run: Run, tmp_path: Path) -> None:
    status, _, error = run(*POINTS, *QUIET, *flags.split())
    assert status == 2
    (line,) = error.splitlines()
    assert re.match("train.py: " + words.replace("[", r"\["), line), line
    assert not (tmp_path / "runs").exists()


def test_a_method_that_does_not_apply(run: Run, tmp_path: Path) -> None:
    deep = ["--data.n", "2", "--data.image_size", "8", "--model", "ResNet", "--model.width", "4"]
    train_ = ["--model.blocks", "1", "--optim", "SGD", "--trainer.max_steps", "1", *QUIET, *SHORT]
    # Named it is refused before anything is written; under auto it is left out.
    named = ["--recon", "ProjectionReconstructor,PullBackReconstructor"]
    status, _, error = run(*deep, *train_, *named)
    assert status == 2 and error.count("\n") == 1
    assert "--recon PullBackReconstructor: needs one hidden layer, and ResNet" in error
    assert not (tmp_path / "runs").exists()
    status, _, _ = run(*deep, *train_, "--recon.max_seconds", "2", "--run.name", "r")
    assert status == 0
    assert [path.name for path in (tmp_path / "runs/r/recon").iterdir()] == ["projection"]


def test_other_settings_of_one_method_land_beside(run: Run, tmp_path: Path) -> None:
    assert run(*POINTS, *SHORT, *QUIET, "--run.name", "r")[0] == 0
    path = tmp_path / "runs" / "r"
    before = {file: file.read_bytes() for file in (path / "recon").rglob("*.json")}
    status, out, error = run("reconstruct", "--run", "runs/r", "--recon.scale", "-3")
    assert (status, error) == (0, "")
    # Only the method that has the flag differs from the run's own.
    assert sorted(folder.name for folder in path.glob("recon*")) == ["recon", "recon-scale__3"]
    (found,) = (path / "recon-scale__3").glob("*/step=*/metrics.json")
    assert json.loads(found.read_text())["method"] == "pull_back"
    assert out.count("done before") == 1  # by the projection attack
    assert {file: file.read_bytes() for file in (path / "recon").rglob("*.json")} == before
    assert (path / "recon-scale__3" / "provenance.json").is_file()
