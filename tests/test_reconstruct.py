"""`python train.py reconstruct`: what files give is what the run gave, and what files cannot be."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import yaml
from lightning import Trainer
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import train
from datamodules import Sphere
from lit_recon.fit.run import RUN_PATH
from lit_recon.flags.plugins import take_plugins
from lit_recon.metrics.matching import EUCLIDEAN, match
from lit_recon.records.directory import RunDirectory
from lit_recon.records.truth import Truth
from tests.rounding import TOLERANCE, OtherOrder

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
QUIET = ["--wandb.mode", "disabled"]
SGD = ["--optim", "SGD", "--optim.lr", "1e-4", "--trainer.max_steps", "4"]
SHORT = ["--recon.max_steps", "3", "--recon.restarts", "0"]
EARLY = ["--checkpoint.at_steps", "[2]"]
POINTS = ["--data", "Sphere", "--data.n", "3", "--data.d", "12"]
MLP = [*POINTS, "--model", "MLP", "--model.width", "180"]
RUNS = {
    "features": [*POINTS, "--model.p", "180"],
    "mlp": MLP,
    "resnet": [
        *["--data.n", "2", "--data.image_size", "8", "--model", "ResNet", "--model.width", "12"],
        *["--model.blocks", "1", "--recon.restarts", "0", "--recon.hops", "0"],
        *["--recon.max_steps", "4", "--recon.solver.cg_steps", "6"],
    ],
}
METHODS = {"features": 1, "mlp": 2, "resnet": 1}  # that auto applies to each
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    """Types a command in an empty folder; gives the exit status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(RUN_PATH, raising=False)
    monkeypatch.setattr(train, "PLUGINS", [])
    handler = signal.getsignal(signal.SIGINT)

    def type_(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = train.main(list(argv))
        return status, *capsys.readouterr()

    yield type_
    signal.signal(signal.SIGINT, handler)


@pytest.fixture(scope="module", autouse=True)
def started_early(request: pytest.FixtureRequest) -> None:
    """The run in two processes takes longest: it starts before the first test, if one needs it."""
    if any("two" in item.fixturenames for item in request.session.items):  # type: ignore[attr-defined]
        request.getfixturevalue("two")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Any]]:
    """A run of an MLP in two processes, which goes on beside the tests, and its directory."""
    home = tmp_path_factory.mktemp("two")
    ranks = ["--trainer.devices", "2", "--trainer.accelerator", "cpu", "--trainer.strategy", "ddp"]
    points = ["--data", "Sphere", "--data.n", "4", "--data.d", "12", "--model", "MLP"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *points, *SGD, *QUIET, *ranks, "--run.name", "r"],
        cwd=home,
        env={k: v for k, v in os.environ.items() if k != RUN_PATH} | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield home / "runs" / "r", process
    process.kill()
    process.wait()  # and not for the other rank, which ends when it misses this one
    for pipe in (process.stdout, process.stderr):
        assert pipe is not None
        pipe.close()


@pytest.fixture(scope="module")
def inline(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives a run that was attacked while it trained, at steps 0, 2 and 4; each is made once."""
    home = tmp_path_factory.mktemp("inline")

    @cache
    def attacked(name: str) -> Path:
        named = ["--run.dir", str(home), "--run.name", name]
        assert train.main([*RUNS[name], *SGD, *EARLY, *QUIET, *named]) == 0
        os.environ.pop(RUN_PATH)
        return home / name

    return attacked


@pytest.fixture
def copied(inline: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """Copies a run to where it may be changed."""

    def copy(name: str, *, attacked: bool = True) -> Path:
        path = tmp_path / "runs" / name
        shutil.copytree(inline(name), path)
        if not attacked:
            shutil.rmtree(path / "recon")
        return path

    return copy


def numbers(path: Path, step: int, folder: str = "recon/projection") -> dict[str, Any]:
    """What is recorded of a step, but times."""
    found = json.loads((path / folder / f"step={step:08d}" / "metrics.json").read_text())
    assert found.pop("seconds") > 0
    return found


def tensors(path: Path, step: int, folder: str = "recon/projection") -> dict[str, Tensor]:
    return load_file(path / folder / f"step={step:08d}" / "candidates.safetensors")


def files(path: Path) -> dict[Path, bytes]:
    """All that a folder holds, leftovers included."""
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def refused(answer: tuple[int, str, str], *words: str) -> None:
    """One line that holds all the words in this order, and status 2."""
    status, _, error = answer
    assert status == 2, error
    (line,) = error.splitlines()
    assert re.search(".*".join(map(re.escape, ("train.py: ", *words))), line), line


# --- a run of ours


# What rests on an attack's way, which rounding changes: not compared.
ON_THE_WAY = {"steps", "applications", "restarts"}
FLOOR = 1e-12  # of a loss in float32


def alike(found: Any, expected: Any, least: float = TOLERANCE) -> None:
    """The same results up to rounding: words, counts and decisions equal, other numbers close.

    Args:
        found, expected: as in metrics.json.
        least: differences below this one are rounding.
    """
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected.keys() - ON_THE_WAY:
            # The order of candidates is no part of a result.
            if key != "candidate":
                alike(found[key], expected[key], FLOOR if key.endswith("loss") else least)
    elif isinstance(expected, list):
        for one, other in zip(found, expected, strict=True):
            alike(one, other, least)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-2, abs=least)
    else:
        assert found == expected


def same_step(path: Path, other: Path, step: int) -> None:
    """Two results of one step, in two orders of summation."""
    alike(numbers(path, step), numbers(other, step))
    ours, theirs = tensors(path, step), tensors(other, step)
    assert ours.keys() == theirs.keys()
    pairs = match(ours["candidates"], theirs["candidates"], EUCLIDEAN)
    assert float(pairs.error.max()) < TOLERANCE
    for exact in ours.keys() - {"candidates"}:
        assert torch.equal(ours[exact], theirs[exact][pairs.index])


@pytest.mark.rounding
@pytest.mark.parametrize(
    "name",
    ["features", *(pytest.param(name, marks=pytest.mark.long) for name in ("mlp", "resnet"))],
)
def test_files_give_what_the_run_gave(
    name: str, run: Run, inline: Callable[[str], Path], copied: Callable[..., Path]
) -> None:
    path = copied(name, attacked=False)
    with OtherOrder(0):
        status, out, error = run("reconstruct", "--run", f"runs/{name}", "--steps", "all")
    assert (status, error) == (0, "")
    assert re.search(rf"^results +runs/{name}/recon$", out, re.MULTILINE)
    for step in (0, 2, 4):
        same_step(path, inline(name), step)
    started = [numbers(path, step)["started_from"] for step in (0, 2, 4)]
    assert started == [None, None, 2]  # at step 0 there was nothing to find
    done = files(path / "recon")
    status, out, _ = run("reconstruct", "--run", f"runs/{name}", "--steps", "all")
    assert (status, out.count("done before")) == (0, 3 * METHODS[name])
    assert files(path / "recon") == done
    assert numbers(path, 4)["knows"][:2] == ["final weights", "initial readout"]


@pytest.mark.long
def test_other_settings_land_beside_and_are_told_apart(
    run: Run, inline: Callable[[str], Path], copied: Callable[..., Path]
) -> None:
    path = copied("mlp")
    own = files(path / "recon")
    other = ["--recon.evidence", "first_layer", "--recon.candidates", "auto"]
    assert run("reconstruct", "--run", "runs/mlp", "--steps", "2,4", *other)[0] == 0
    variant = "recon-candidates_auto-evidence_first_layer"
    folder = f"{variant}/projection_first_layer"
    assert files(path / "recon") == own
    assert [numbers(path, step, folder)["started_from"] for step in (2, 4)] == [None, 2]
    own_source, source = (
        json.loads((path / place / "provenance.json").read_text()) for place in (".", variant)
    )
    assert source["seed"] == own_source["seed"] and source["device"] == "cpu"
    assert source.keys() < own_source.keys() == source.keys() | {"finished_utc"}
    found = numbers(path, 4, folder)
    assert found["method"] == "projection_first_layer"
    assert "first layer at an earlier checkpoint" in found["knows"]
    assert "first layer at an earlier checkpoint" not in numbers(path, 4)["knows"]
    # With auto the number of samples is not given.
    assert "number of training samples" in numbers(path, 4)["knows"]
    assert "number of training samples" not in found["knows"]
    assert found["candidates"] == 3
    assert found["direction_error"] < numbers(path, 4)["direction_error"] < 0.1
    named = [key for row in rows(path) for key in row if key.endswith("/status")]
    assert named.count("recon/projection/status") == 3
    assert named.count(f"{folder}/status") == 2
    # A warm start that is switched off is told as such, and the last step is the default.
    assert run("reconstruct", "--run", "runs/mlp", "--recon.warm_start", "false")[0] == 0
    assert numbers(path, 4, "recon-no_warm_start/projection")["started_from"] is None
    assert not (path / "recon-no_warm_start" / "projection" / "step=00000002").exists()
    # The rows of all attacks outlast a resumed run.
    again = ["--run.name", "mlp", "--run.resume", "true", "--trainer.max_steps", "5"]
    assert run(*again, "--recon.enabled", "false")[0] == 0
    assert (path / "checkpoints" / "step=00000005.ckpt").is_file()
    kept = [key for row in rows(path) for key in row if key.endswith("/status")]
    assert kept == [*named, "recon-no_warm_start/projection/status"]
    # An attack that was switched off for training is made when it is asked for.
    assert "step 5, projection: " in run("reconstruct", "--run", "runs/mlp")[1]
    out = run("reconstruct", "--run", "runs/mlp", "--recon.enabled", "true")[1]
    assert out.count("done before") == METHODS["mlp"] and not (path / "recon-enabled").exists()


def test_a_name_of_ones_own_holds_one_set_of_settings(run: Run, copied: Any) -> None:
    path = copied("features")
    mine = ["reconstruct", "--run", "runs/features", "--name", "mine"]
    solver = ["--recon.solver", "MomentumDescent", *SHORT]
    assert run(*mine, *solver)[0] == 0
    assert "recon-mine/projection/status" in rows(path)[-1]
    refused(run(*mine), "--name mine", "other settings")
    assert run(*mine, *solver)[1].count("done before") == 1


def test_flags_of_the_runs_own_solver_are_known(run: Run, copied: Any) -> None:
    path = copied("features")
    config = yaml.safe_load((path / "config.yaml").read_text())
    config["recon"]["init_args"]["solver"] = {"class_path": "lit_recon.solvers.MomentumDescent"}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    flags = ["--recon.solver.lr", "4", "--steps", "2", *SHORT]
    assert run("reconstruct", "--run", "runs/features", *flags)[0] == 0
    assert (path / "recon-lr_4-restarts_0-max_steps_3/projection/step=00000002").is_dir()


@pytest.mark.rounding
def test_a_resumed_run_starts_where_the_undisturbed_one_did(
    run: Run, inline: Callable[[str], Path], copied: Callable[..., Path]
) -> None:
    path = copied("mlp")  # so that the run goes on in another place, too
    (path / "checkpoints" / "step=00000004.ckpt").unlink()
    shutil.rmtree(path / "recon" / "projection" / "step=00000004")
    assert run("--run.name", "mlp", "--run.resume", "true")[0] == 0
    same_step(path, inline("mlp"), 4)
    assert numbers(path, 4)["started_from"] == 2


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("", "--run missing give --run runs/NAME, --checkpoint"),
        ("--run runs/mlp --checkpoint x", "--checkpoint x is not for --run"),
        ("--run nowhere", "--run nowhere is no run directory"),
        ("--run runs", "--run runs is no run directory"),
        ("--run runs/mlp --steps 3", "--steps 3 has no checkpoint there are 0, 2, 4"),
        ("--run runs/mlp --steps 2,7", "--steps 7 has no checkpoint"),
        ("--run runs/mlp --steps first", "--steps first give last, all, or some of 0, 2, 4"),
        ("--run runs/mlp --steps -1", "--steps -1 give last"),
        ("--run runs/mlp --device gpu", "--device gpu cannot be used here cpu, cuda or auto"),
        ("--run runs/mlp --device meta", "--device meta cannot be used here"),
        ("--run runs/mlp --device cuda:99", "--device cuda:99 cannot be used here"),
        ("--run runs/mlp --name ../../x", "--name '../../x' give letters"),
        ("--run runs/mlp --name", "--name without a value"),
        ("--run runs/mlp --data.n 4", "--data.n 4 is for --checkpoint; the run has data"),
        ("--run runs/mlp --model.width 4", "--model.width 4 no such flag"),
        ("--run runs/mlp --run.seed 4", "--run.seed 4 no such flag"),
        ("--run runs/mlp --trainer.max_steps 4", "--trainer.max_steps 4 no such flag"),
        ("--run runs/mlp --recon.hop 4", "--recon.hop 4 did you mean --recon.hops"),
        ("--run runs/mlp --recon.hops -4", "--recon.hops -4 give 0 or more"),
        ("--run runs/mlp --initial x", "--initial x is not for --run"),
        ("--run runs/mlp --features x", "--features x is not for --run"),
        ("--checkpoint x --steps all", "--steps all is not for --checkpoint"),
        ("--checkpoint x", "--initial missing"),
        ("--checkpoint x --initial y", "--module missing none; give the package with --plugin"),
        ("--run runs/resnet --recon.candidates auto", "--recon.candidates auto ResNet"),
        ("--run runs/resnet --recon.evidence first_layer", "--recon.evidence first_layer ResNet"),
        ("--run runs/features --recon.evidence first_layer", "first_layer RandomFeatures has"),
        ("--plugin", "--plugin without a value"),
        ("--plugin --run runs/mlp", "--plugin without a value"),
        ("--plugin no_such_package --run runs/mlp", "--plugin no_such_package ModuleNotFound"),
        ("--plugin=train.py", "--plugin train.py cannot be imported"),
    ],
)
def test_wrong_flags_are_one_line(argv: str, words: str, run: Run, copied: Any) -> None:
    paths = [copied(name) for name in RUNS if f"runs/{name}" in argv]
    before = [files(path) for path in paths]
    refused(run("reconstruct", *argv.split()), *words.split())
    assert [files(path) for path in paths] == before


class Code:
    """What a pickle of it does when it is loaded."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def other_width(file: Path) -> None:
    saved = torch.load(file, weights_only=True)
    saved["state_dict"] = {name: w[..., :5] for name, w in saved["state_dict"].items()}
    torch.save(saved, file)


def of_another_kind(file: Path) -> None:
    torch.save({"state_dict": {"weight": torch.zeros(3)}}, file)


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (Path.unlink, "is missing"),
    "truncated": (lambda file: os.truncate(file, file.stat().st_size // 2), "no whole checkpoint"),
    "empty": (lambda file: os.truncate(file, 0), "no whole checkpoint"),
    "random bytes": (lambda file: file.write_bytes(bytes(range(256))), "no whole checkpoint"),
    "a pickle with code": (
        lambda file: file.write_bytes(pickle.dumps({"state_dict": Code()}, protocol=2)),
        "holds posix.mkdir, and nothing but numbers",
    ),
    "a checkpoint with code": (lambda file: torch.save({"x": Code()}, file), "holds"),
    "no state_dict": (lambda file: torch.save({"weight": torch.zeros(3)}, file), "no state_dict"),
    "another width": (other_width, "does not fit MLP"),
    "another kind": (of_another_kind, ""),
    "a folder": (a_folder, "cannot be read"),
}


# The checkpoint at step 0 is read by the same code: `make test` breaks it in one way.
@pytest.mark.parametrize(
    ("how", "step"),
    [
        *((how, 4) for how in BROKEN),
        ("missing", 0),
        *(pytest.param(how, 0, marks=pytest.mark.long) for how in list(BROKEN)[1:]),
    ],
)
def test_broken_checkpoints_are_one_line(how: str, step: int, run: Run, copied: Any) -> None:
    path = copied("mlp")
    break_, words = BROKEN[how]
    break_(path / "checkpoints" / f"step={step:08d}.ckpt")
    before = files(path)
    steps = "4" if step == 0 or how != "missing" else "all"
    answer = run("reconstruct", "--run", "runs/mlp", "--steps", steps, *SHORT)
    if how == "missing" and step == 4:  # then 2 is the last
        assert answer[0] == 0
        return
    refused(answer, "--run runs/mlp", f"step={step:08d}.ckpt", words)
    assert files(path) == before
    assert not Path("executed").exists()


def test_broken_records_are_one_line(run: Run, copied: Any) -> None:
    path = copied("mlp")
    (path / "data.safetensors").write_bytes(b"nothing")
    refused(run("reconstruct", "--run", "runs/mlp"), "--run", "data.safetensors", "cannot be read")
    (path / "data.safetensors").unlink()
    refused(run("reconstruct", "--run", "runs/mlp"), "--run", "has no data.safetensors")
    shutil.rmtree(path / "checkpoints")
    (path / "config.yaml").write_text("model: [")
    refused(run("reconstruct", "--run", "runs/mlp"), "config.yaml", "is no YAML")


# --- somebody's own module

PACKAGE = """
import torch
from lightning import LightningModule
from torch import nn

from lit_recon.models import MLP, ReadoutModel


class Net(LightningModule):
    def __init__(self, width):
        super().__init__()
        self.save_hyperparameters()
        self.head = nn.Linear(width, 1, bias=False)
        self.body = nn.Sequential(nn.Linear(6, width, bias=False), nn.ReLU())

    def forward(self, x):
        return self.head(self.embed(x))

    def embed(self, x):
        return self.body(x)

    def training_step(self, batch, index):
        return (self(batch[0]) - batch[1]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class Waves(ReadoutModel):
    '''Cosines.

    Args:
        d: input dimension.
        k: outputs.
        count: how many.
    '''

    def __init__(self, d: int, k: int, count: int = 60) -> None:
        super().__init__()
        self.body = nn.Linear(d, count, bias=False)
        self.readout = nn.Linear(count, k, bias=False)

    def features(self, x):
        return self.body(x).cos()


class Deeper(MLP):
    pass
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a package with networks."""
    name = "theirs"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    sys.modules.pop(name, None)


@pytest.fixture
def theirs(package: str, tmp_path: Path) -> list[str]:
    """The command that attacks a module of theirs, trained by Lightning on two points."""
    net = __import__(package).Net(width=60)
    data = Sphere(n=2, d=6)
    data.setup()
    facts = {"hyper_parameters": dict(net.hparams), "global_step": 0, "epoch": 0}
    torch.save({"state_dict": net.state_dict(), **facts}, tmp_path / "start.ckpt")
    trainer = Trainer(
        max_epochs=20,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(net, DataLoader(TensorDataset(data.x, data.y), batch_size=2))
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    given = ["--checkpoint", "end.ckpt", "--initial", "start.ckpt", "--plugin", package]
    return ["reconstruct", *given, "--data", "Sphere", "--data.n", "2", "--data.d", "6", *QUIET]


def test_a_module_of_ones_own_is_attacked(theirs: list[str], run: Run, tmp_path: Path) -> None:
    status, out, error = run(*theirs, "--out", "found")
    assert (status, error) == (0, "")
    assert "step 20, projection: 2 of 2 samples recovered" in out
    found = numbers(tmp_path / "found", 20)
    assert found["direction_error"] < 0.1
    assert (found["n"], found["d"], found["k"], found["p"]) == (2, 6, 1, 60)
    assert found["started_from"] is None and found["method"] == "projection"
    assert (tmp_path / "found" / "report.html").is_file()
    assert run("report", "--run", "found")[0] == 0
    # Named, it is the same; and without a directory a new one is made.
    named = ["--module", "Net", "--readout", "head", "--features", "embed"]
    assert run(*theirs, *named)[0] == 0
    (path,) = (tmp_path / "runs").iterdir()
    assert path.name.startswith("net-")
    same_step(path, tmp_path / "found", 20)
    # A directory takes further checkpoints of the same training, and nothing else.
    assert run(*theirs, "--out", "found")[1].count("done before") == METHODS["mlp"]
    shutil.copy("end.ckpt", "other.ckpt")
    other = [word.replace("end.ckpt", "other.ckpt") for word in theirs]
    kept = files(tmp_path / "found")
    refused(run(*other, "--out", "found"), "--out found", "other results of step 20")
    refused(run(*theirs, "--out", "found", "--data.seed", "3"), "another --data.seed")
    refused(run("reconstruct", "--run", "found"), "--run found", "results of files")
    assert files(tmp_path / "found") == kept
    early = [word.replace("end.ckpt", "start.ckpt") for word in theirs]
    assert run(*early, "--out", "found")[0] == 0
    assert numbers(tmp_path / "found", 0)["status"] == "no_signal"


def test_the_place_of_a_command_that_was_killed_is_taken_again(
    theirs: list[str], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Truth, "write", Mock(side_effect=KeyboardInterrupt))
        assert run(*theirs, "--out", "found")[0] == 130
    assert files(tmp_path / "found")
    assert run(*theirs, "--out", "found")[0] == 0
    assert numbers(tmp_path / "found", 20)["n"] == 2


def test_a_run_of_ours_is_no_place_for_it(theirs: list[str], run: Run, copied: Any) -> None:
    path = copied("mlp")
    before = files(path)
    refused(run(*theirs, "--out", "runs/mlp"), "--out runs/mlp", "something else")
    (path / "config.yaml").unlink()
    (path / "provenance.json").unlink()
    refused(run(*theirs, "--out", "runs/mlp"), "--out runs/mlp", "give another name")
    kept = {f: b for f, b in before.items() if f.name not in ("config.yaml", "provenance.json")}
    assert files(path) == kept


def checkpoint(name: str, **content: Any) -> str:
    torch.save(content, name)
    return name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("--module Nets", "--module Nets the LightningModules are: Net"),
        ("--readout tail", "--readout tail is no linear layer; there are head, body.0"),
        ("--features head_of", "--features head_of Net has no such method"),
        ("--features forward", "--features forward shape (1, 1) (n, 60)"),
        ("--data.d 7", "--data gives inputs of shape (1, 7) Net does not take them"),
        ("--initial nowhere.ckpt", "--initial nowhere.ckpt is missing"),
        ("--checkpoint nowhere.ckpt", "--checkpoint nowhere.ckpt is missing"),
        ("--checkpoint plain.ckpt", "--checkpoint plain.ckpt hyper_parameters TypeError width"),
        ("--checkpoint wide.ckpt", "--checkpoint wide.ckpt does not fit Net size mismatch"),
        ("--initial narrow.ckpt", "--initial narrow.ckpt is of another network (1, 5) (1, 60)"),
        ("--initial alien.ckpt", "--initial alien.ckpt hyper_parameters TypeError mapping"),
        ("--recon.candidates auto", "--recon.candidates auto needs one hidden layer"),
        ("--recon.evidence first_layer", "--recon.evidence first_layer"),
        ("--out file/x", "--out file/x"),
    ],
)
def test_what_is_wrong_with_a_module_is_one_line(
    change: str, words: str, theirs: list[str], package: str, run: Run, tmp_path: Path
) -> None:
    net = sys.modules[package].Net(width=5)
    checkpoint("plain.ckpt", state_dict=net.state_dict())
    checkpoint("wide.ckpt", state_dict=net.state_dict(), hyper_parameters={"width": 9})
    checkpoint("narrow.ckpt", state_dict=net.state_dict(), hyper_parameters={"width": 5})
    checkpoint("alien.ckpt", state_dict=net.state_dict(), hyper_parameters=[1])
    Path("file").touch()
    flag, value = change.split(maxsplit=1)
    argv = list(theirs)
    if flag in argv:
        argv[argv.index(flag) + 1] = value
    else:
        argv += [flag, value]
    before = set(tmp_path.iterdir())
    refused(run(*argv), *words.split())
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "runs"}
    assert not list(tmp_path.glob("runs/*"))


def test_a_network_of_a_plugin_is_trained_and_attacked(
    package: str, run: Run, tmp_path: Path
) -> None:
    points = ["--data", "Sphere", "--data.n", "2", "--data.d", "6", *QUIET, "--run.name", "r"]
    mine = ["--model", "Waves", "--model.count", "50", *SGD, "--recon.max_steps", "2"]
    refused(
        run(*points, *mine),
        "--model Waves",
        "RandomFeatures, Autoencoder, ConvAutoencoder, SmallCNN, DeepMLP, Interpolator, MLP or",
    )
    status, _, error = run(f"--plugin={package}", *points, *mine)
    assert (status, error) == (0, "")
    path = tmp_path / "runs" / "r"
    inline = numbers(path, 4)
    assert (inline["p"], inline["n"]) == (50, 2)
    shutil.rmtree(path / "recon")
    # In a new process nothing is known of it but what the flag names.
    train.PLUGINS.clear()
    refused(run("reconstruct", "--run", "runs/r"), "--model theirs.Waves in runs/r/config.yaml")
    status, _, error = run("reconstruct", "--run", "runs/r", "--plugin", package, "--steps", "0,4")
    assert (status, error) == (0, "")
    alike(numbers(path, 4), inline)


def test_a_deep_network_with_batch_normalisation_is_attacked_in_eval_mode(
    run: Run, tmp_path: Path
) -> None:
    deep = ["--model", "DeepMLP", "--model.widths", "[40, 60]", "--model.batch_norm", "true"]
    named = [*QUIET, "--run.name", "r", "--recon.max_steps", "2", "--recon.hops", "0"]
    status, _, error = run(*POINTS, *deep, *SGD, *named)
    assert (status, error) == (0, "")
    path = tmp_path / "runs" / "r"
    inline = numbers(path, 4)
    assert (inline["p"], inline["method"]) == (60, "projection")
    shutil.rmtree(path / "recon")
    status, _, error = run("reconstruct", "--run", "runs/r", "--steps", "0,4")
    assert (status, error) == (0, "")
    alike(numbers(path, 4), inline)
    layer = [*deep, *SGD, *QUIET, "--recon.evidence", "first_layer"]
    refused(run(*POINTS, *layer), "--recon.evidence first_layer", "DeepMLP has none")
    alone = ["--data.batch_size", "2", "--run.name", "alone"]
    refused(run(*POINTS, *deep, *SGD, *QUIET, *alone), "--data.batch_size 2", "one sample of 3")
    assert not (tmp_path / "runs" / "alone").exists()


def test_a_plugin_hides_none_of_our_networks(package: str, run: Run) -> None:
    take_plugins(["--plugin", package], train.PLUGINS)
    model = next(group for group in train.groups() if group.name == "model")
    names = [cls.__name__ for cls in model.classes]
    ours = ["RandomFeatures", "Autoencoder", "ConvAutoencoder", "SmallCNN", "DeepMLP"]
    assert names == [*ours, "Interpolator", "MLP", "ResNet", "Waves", "Deeper"]
    again = ["--a", "--plugin", package, "1", f"--plugin={package}"]
    assert take_plugins(again, train.PLUGINS) == ["--a", "1"]


def test_a_sweep_repeats_the_plugins(
    package: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr("lit_recon.sweeps.command.sweep", lambda *given: told.append(given))
    assert run("sweep", "--plugin", package, "--grid.data.n", "2,3")[0] == 0
    ((argv, fit),) = told
    assert argv == ["--grid.data.n", "2,3"]
    assert fit.flags == [f"--plugin={package}"]
    assert package in fit.command.packages


def test_the_shape_of_inputs_that_are_no_images_outlasts_the_run(tmp_path: Path) -> None:
    data = Sphere(n=2, d=12)
    data.setup()
    for shape in ((12,), (3, 2, 2)):
        data.x, data.val_x = data.x.view(-1, *shape), data.val_x.view(-1, *shape)
        truth = Truth.of(data)
        truth.write(RunDirectory(tmp_path))
        assert truth.shape == Truth.read(tmp_path).shape == shape
        assert truth.x.shape == (2, 12)


def test_evidence_that_a_model_lacks_is_told_before_anything_is_written(run: Run) -> None:
    for flags in (["--recon.evidence", "first_layer"], ["--model", "ResNet", *SGD]):
        auto = ["--data.image_size", "8", "--recon.candidates", "auto", *QUIET]
        refused(run(*flags, *auto), "--recon.", "needs")
        assert not Path("runs").exists()


# --- several processes


def test_two_processes_train_and_attack_an_mlp_as_one(
    two: tuple[Path, Any], run: Run, tmp_path: Path
) -> None:
    path, process = two
    _, error = process.communicate(timeout=300)
    assert (process.returncode, error) == (0, "")
    points = ["--data", "Sphere", "--data.n", "4", "--data.d", "12", "--model", "MLP"]
    assert run(*points, *SGD, *QUIET, "--run.name", "one")[0] == 0
    one = tmp_path / "runs" / "one"
    states = [
        torch.load(where / "checkpoints" / "step=00000004.ckpt", weights_only=True)["state_dict"]
        for where in (path, one)
    ]
    for name, weight in states[0].items():
        assert torch.allclose(weight, states[1][name], atol=1e-6), name
    shared, alone = numbers(path, 4), numbers(one, 4)
    assert shared.keys() == alone.keys()
    assert shared["status"] == alone["status"] == "agreed"
    for name in ("oracle_loss", "projection_loss"):
        assert shared[name] == pytest.approx(alone[name], rel=0.05)
    for name in ("matched_error", "direction_error", "null_direction_error"):
        assert shared[name] == pytest.approx(alone[name], abs=1e-2)
    assert shared["recovered_fraction"] == alone["recovered_fraction"] == 1
