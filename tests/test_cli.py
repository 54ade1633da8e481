"""The command line as people use it: what is typed, what is answered, and what is left on disk."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning import Trainer
from PIL import Image
from safetensors.torch import load_file

import datamodules
import train
from benchmarks.resume import left_by
from callbacks import StepCheckpoint
from datamodules.cifar import CLASSES as CIFAR_CLASSES
from lit_recon import methods, models, modules, solvers
from lit_recon.audit.recorder import named_numbers, of_method
from lit_recon.fit.flags import RunFlags, WandbFlags
from lit_recon.fit.introduction import HELP
from lit_recon.fit.run import RUN_PATH
from lit_recon.fit.settings import EPOCHS, read_sources, settle
from lit_recon.fit.trainer import GIVEN_HERE, WITHOUT_MEANING
from lit_recon.metrics.numbers import TRAINING
from lit_recon.records.checkpoints import saved_checkpoints, step_of
from lit_recon.records.directory import RunDirectory
from tests import kills
from tests.problems import folder_of_images
from tests.runs import read
from tests.warm import Command, foreign

ROOT = Path(__file__).parents[1]
# test_sweeps.py runs these as the sweeps that they are.
SWEPT = {"law_rf", "law_photos", "law_cifar10", "decay_sweep", "contraction_sweep"}
SWEPT |= {"conv_depth_sweep", "contraction_depth_sweep"}
CONFIGS = sorted(ROOT.glob("configs/**/*.yaml"))
# One of each kind of network and attack; the others run in `make test-long`.
KINDS = {"rf_sphere", "mlp_cifar10", "resnet_photos", "margin_photos", "conv_autoencoder_photos"}
KINDS |= {"capacity_moons", "decay_digits", "buzaglo2023_multiclass", "iurada2025", "demo"}
SPHERE = ["--data", "Sphere", "--data.n", "4", "--data.d", "8", "--model.p", "100"]
PHOTOS = ["--data.n", "4", "--data.image_size", "8", "--model.p_over_dn", "4"]
SGD = ["--optim", "SGD", "--optim.lr", "1e-3"]
DEEP = "--model DeepMLP --model.widths [20]"
FINAL = "--recon RowSpaceReconstructor --recon.evidence final"
TWO = ["--trainer.devices", "2", "--trainer.accelerator", "cpu", "--trainer.strategy", "ddp"]
TWICE = ["--trainer.accumulate_grad_batches", "2"]
SMALL = {"Photos", "Sphere", "TwoMoons"}  # data without ten classes
SHORT = ["--recon.max_seconds", "0.2"]
PATIENT = ["--recon.max_steps", "20", "--recon.max_seconds", "1000"]  # the same on a busy machine
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    tmp_path: Path,
    without_wandb: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Run]:
    """Types a command in an empty folder; gives the exit status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(RUN_PATH, raising=False)
    handler = signal.getsignal(signal.SIGINT)

    def type_(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = train.main(list(argv))
        return status, *capsys.readouterr()

    yield type_
    signal.signal(signal.SIGINT, handler)  # an interrupted trainer changes it


def configured(*argv: str) -> dict[str, Any]:
    """The flags that a command comes to, before data are loaded."""
    command = train.command_line()
    sources, _ = read_sources(command, list(argv), train.DEMO)
    return command.values(settle(command, sources)[0])


def rows(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def weights(directory: Path, step: int) -> torch.Tensor:
    file = directory / "checkpoints" / f"step={step:08d}.ckpt"
    return torch.load(file, weights_only=True)["state_dict"]["model.readout.weight"]


def step_folder(directory: Path, step: int) -> Path:
    return directory / "recon" / "projection" / f"step={step:08d}"


def candidates(directory: Path, step: int) -> torch.Tensor:
    return load_file(
        directory / "recon" / "projection" / f"step={step:08d}" / "candidates.safetensors"
    )["candidates"]


def shell(*argv: str, home: Path) -> subprocess.Popen[str]:
    """Starts a command in a new Python."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *argv],
        cwd=home,
        env=foreign(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def warm_shell(*argv: str, home: Path) -> Command:
    """Starts a command in a process that has imported all that it needs."""
    return Command(*argv, home=home, environment=foreign(home))


def ended(process: subprocess.Popen[str] | Command) -> tuple[int, str, str]:
    """Exit status, stdout and stderr, once it has ended."""
    out, error = process.communicate(timeout=120)
    assert process.returncode is not None
    return process.returncode, out, error


@pytest.fixture(scope="module", autouse=True)
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Any]]:
    """A run in two processes, which goes on beside the tests, and the folder of its runs."""
    home = tmp_path_factory.mktemp("two")
    flags = [*PHOTOS, *TWO, "--model.stored_rows", "1000"]
    process = warm_shell(*flags, "--run.name", "two", "--wandb.mode", "offline", home=home)
    yield home / "runs", process
    process.kill()
    process.wait()


# --- help


def test_help_needs_nothing_slow() -> None:
    script = "import sys, train; train.main(['--help']); sys.exit('torch' in sys.modules)"
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, HELP, "")


CHOICES: dict[str, tuple[list[type], set[str]]] = {
    "data": ([getattr(datamodules, name) for name in ("Photos", "CIFAR10Subset")], set()),
    "data ": ([getattr(datamodules, name) for name in ("ImageFolderSubset", "Sphere")], set()),
    "model": ([models.RandomFeatures], {"d", "k", "n"}),
    "optim": ([modules.LeastSquares, modules.SGD, modules.Adam, modules.LBFGS], set()),
    "recon": ([methods.ProjectionReconstructor], {"solver"}),
    "recon.solver": ([solvers.GaussNewton, solvers.MomentumDescent], set()),
    "checkpoint": ([StepCheckpoint], set()),
    "trainer": ([Trainer], GIVEN_HERE | WITHOUT_MEANING),
    "wandb": ([WandbFlags], set()),
    "run": ([RunFlags], set()),
}


def test_fit_help_lists_every_flag_of_every_class(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["fit", "--help"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 110
    for group, (classes, hidden) in CHOICES.items():
        for cls in classes:
            assert cls in (Trainer, StepCheckpoint) or cls.__name__ in text or "Flags" in str(cls)
            for name in set(inspect.signature(cls).parameters) - hidden:
                assert re.search(rf"--{group.strip()}\.{name}\b", text), (cls, name)
    assert "number of training images over all classes" in text
    assert "LeastSquares" in text
    assert "<" not in text.replace("<=", "")  # no repr of a type or a default


# --- configuration


@pytest.mark.parametrize("flags", [[], ["--run.seed", "0"], ["--wandb.mode", "disabled"]])
def test_no_flag_is_the_demo(flags: list[str]) -> None:
    demo = configured("--config", train.DEMO, *flags)
    assert configured(*flags) == demo
    assert demo["model"].endswith(".DeepMLP") and demo["data.batch_size"] == 4


def test_a_flag_of_a_run_s_work_starts_from_the_defaults() -> None:
    assert configured("--data.n", "6")["model"].endswith(".RandomFeatures")
    assert configured("--data.n", "6")["recon"] == "auto"


def test_print_config_can_be_given_back(run: Run, tmp_path: Path) -> None:
    flags = ["--data", "Sphere", "--optim", "SGD", "--optim.lr", "1e-7", "--recon.solver.damping"]
    status, printed, _ = run(*flags, "0.5", "--checkpoint.at_steps", "[1, 5]", "--print_config")
    assert status == 0
    (tmp_path / "given.yaml").write_text(printed)
    assert run("--config", "given.yaml", "--print_config") == (0, printed, "")
    settings = yaml.safe_load(printed)
    assert settings["optim"]["init_args"]["lr"] == 1e-7
    assert settings["recon"]["init_args"]["solver"]["init_args"]["damping"] == 0.5
    assert settings["checkpoint"]["at_steps"] == [1, 5]


def test_a_flag_wins_wherever_it_stands_and_a_later_file_over_an_earlier(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("data:\n  class_path: Sphere\n  init_args: {n: 3, d: 5}\nrun: {seed: 7}\n")
    second.write_text("data: {init_args: {d: 6}}\n")
    flags = configured("--data.n", "9", "--config", str(first), "--config", str(second))
    assert (flags["data.n"], flags["data.d"], flags["run.seed"]) == (9, 6, 7)
    assert flags["data.seed"] == flags["model.seed"] == flags["recon.seed"] == 7


def test_what_was_given_for_a_class_holds_for_the_next_and_its_defaults_do_not() -> None:
    cifar = str(ROOT / "configs" / "rf_cifar10.yaml")
    folder = configured("--config", cifar, "--data", "ImageFolderSubset", "--data.root", "x")
    assert folder["data.classes"] == ["frog", "truck"]
    assert configured("--data.root", "x", "--data", "ImageFolderSubset")["data.image_size"] is None
    assert configured("--data", "CIFAR10Subset")["data.classes"] == ["frog", "truck"]
    assert configured("--optim.lr", "0.1", "--optim", "SGD")["optim.lr"] == 0.1


def test_a_preset_on_top_of_a_configuration() -> None:
    files = [ROOT / "configs" / "rf_cifar10.yaml", ROOT / "configs" / "presets" / "iurada2025.yaml"]
    flags = configured(*[f"--config={file}" for file in files], "--recon.solver.lr", "20")
    assert flags["data"].endswith("CIFAR10Subset")
    assert flags["model.p"] == 100_000
    assert flags["recon.solver"].endswith("MomentumDescent")
    assert (flags["recon.solver.lr"], flags["recon.solver.surrogate_slope"]) == (20, 0.02)
    named = configured("--recon", "ProjectionReconstructor")
    assert named["recon.solver"] == "lit_recon.solvers.GaussNewton"


def test_a_preset_of_one_method_on_a_configuration_of_another(run: Run, tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    recon = "recon: {class_path: RowSpaceReconstructor, init_args: {evidence: final, max_rank: 9}}"
    first.write_text(f"{recon}\nrun: {{seed: 7}}\n")
    second.write_text("recon: {class_path: KKTReconstructor, init_args: {steps: 3}}\n")
    flags = configured("--config", str(first), "--config", str(second))
    assert flags["recon"].endswith("KKTReconstructor") and flags["recon.steps"] == 3
    assert "recon.evidence" not in flags
    status, _, said = run("--config", str(second), "--recon.max_rank", "9")
    assert status == 2 and "--recon.max_rank 9: no such flag of KKTReconstructor" in said


@pytest.mark.parametrize(
    ("flags", "p", "ratio"),
    [
        (["--config=rf_photos.yaml", "--model.p", "30"], 30, None),
        (["--config=rf_sphere.yaml", "--model.p_over_dn", "4"], None, 4),
        (["--config=rf_sphere.yaml", "--config=rf_photos.yaml"], None, 3),
        (["--config=rf_photos.yaml", "--config=rf_sphere.yaml"], 2000, None),
    ],
)
def test_the_last_word_on_the_number_of_features(
    flags: list[str], p: int | None, ratio: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT / "configs")
    found = configured(*flags)
    assert (found["model.p"], found["model.p_over_dn"]) == (p, ratio)


def test_training_stops_and_is_logged_in_reasonable_numbers() -> None:
    closed = configured("--model", "RandomFeatures")
    assert (closed["trainer.max_steps"], closed["trainer.max_epochs"]) == (1, None)
    assert configured("--optim", "SGD")["trainer.max_epochs"] == EPOCHS
    long = configured("--optim", "SGD", "--trainer.max_steps", "100000", "--data.batch_size", "5")
    assert long["trainer.log_every_n_steps"] == 500


# --- bad input


def refused(answer: tuple[int, str, str]) -> str:
    """The one line of a refusal, which leaves no run directory."""
    status, _, error = answer
    assert status == 2, error
    (line,) = error.splitlines()
    assert line.startswith("train.py: ")
    assert not list(Path().glob("runs/*"))
    return line


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        # flags and values
        ("--data.nn 3", "--data.nn 3 no such flag of Photos did you mean --data.n"),
        ("--trainer.max_step 3", "--trainer.max_step 3 did you mean --trainer.max_steps"),
        ("--frob 1", "--frob 1 no such flag --help"),
        ("--data.root x", "--data.root x of Photos CIFAR10Subset ImageFolderSubset and Table"),
        (
            "--optim.lr 0.1",
            "--optim.lr 0.1 of LeastSquares LBFGS, SGD, Adam, Margin and TensorAdam have it",
        ),
        ("--recon.solver.lr 20", "--recon.solver.lr GaussNewton MomentumDescent has it"),
        ("--model.d 4", "--model.d 4 no such flag of RandomFeatures"),
        ("--data.n ten", "--data.n ten give a whole number"),
        ("--data.n 1.5", "--data.n 1.5 give a whole number"),
        ("--data.n null", "--data.n null give a whole number"),
        ("--data.selection last", "--data.selection last give first or random"),
        ("--wandb.mode ofline", "--wandb.mode auto, online, offline or disabled"),
        (
            "--model.activation relu6",
            "--model.activation relu6 relu, relu+tanh, leaky_relu, elu, selu, gelu",
        ),
        ("--data.classes foo", "--data.classes foo a list such as '[a, b]' or null"),
        ("--checkpoint.at_steps 1,2", "--checkpoint.at_steps 1,2 a list such as '[1, 10]'"),
        ("--run.resume maybe", "--run.resume maybe true or false"),
        ("--data Foto", "--data Foto Photos, CIFAR10Subset, ImageFolderSubset or Sphere"),
        ("--data ReconDataModule", "--data ReconDataModule give Photos"),
        ("--model OneHiddenLayer", "--model OneHiddenLayer give RandomFeatures"),
        ("--recon.solver Newton", "--recon.solver Newton GaussNewton or MomentumDescent"),
        ("--data.n", "--data.n without a value"),
        ("--data.n 4 5", "5 is no flag"),
        ("sweeep", "sweeep give fit"),
        # report
        ("report", "--run missing give either --run or --sweep runs/NAME"),
        ("report --run nowhere", "--run nowhere no such directory runs/NAME"),
        ("report --run empty", "--run empty no run config.yaml runs/NAME"),
        ("report --run empty --sweep empty", "--run empty give either --run or --sweep"),
        ("report --runs empty", "--runs empty did you mean --run"),
        ("report empty", "empty is no flag"),
        # what constructors refuse
        ("--data.n 0", "--data.n 0 at least 1"),
        ("--data.n 5", "--data.n 5 2 classes 4 or 6"),
        ("--data.n 1000", "--data.n 1000 class china holds 143"),
        ("--data.classes [frog]", "--data.classes frog china, flower"),
        ("--data.image_size 7", "--data.image_size 7 one of 32, 16, 8"),
        ("--data.seed -1", "--data.seed -1 at least 0"),
        ("--data ImageFolderSubset", "--data.root null needs it"),
        ("--data ImageFolderSubset --data.root nowhere", "--data.root nowhere no such folder"),
        ("--data ImageFolderSubset --data.root empty", "--data.root empty no class folder"),
        ("--model.p 0", "--model.p 0 at least 1"),
        ("--model.stored_rows -1", "--model.stored_rows -1 0 or more"),
        ("--model.p_over_dn -1", "--model.p_over_dn -1.0 above 0"),
        ("--model.p 3 --model.p_over_dn 2", "--model.p_over_dn either this or --model.p"),
        ("--optim SGD --optim.lr -1", "--optim.lr -1.0 finite number, 0 or more"),
        ("--optim SGD --optim.lr .nan", "--optim.lr nan finite number, 0 or more"),
        ("--optim SGD --optim.stop_loss -1", "--optim.stop_loss -1.0 finite number, 0 or more"),
        ("--optim SGD --optim.loss hinge", "--optim.loss hinge mse, cross_entropy or logistic"),
        ("--optim SGD --optim.loss cross_entropy", "--optim.loss cross_entropy give logistic"),
        ("--data Sphere --optim SGD --optim.loss logistic", "--optim.loss logistic classes mse"),
        (
            "--optim.loss mse",
            "--optim.loss mse of LeastSquares LBFGS, SGD, Adam, Margin and TensorAdam have it",
        ),
        ("--data.batch_size 2", "--data.batch_size 2 LeastSquares --optim SGD"),
        (f"{DEEP} --optim Margin --data.batch_size 2", "--data.batch_size 2 Margin --optim SGD"),
        ("--data Sphere --model DeepMLP --optim Margin", "--optim.loss logistic classes mse"),
        (f"{DEEP} --optim Margin --optim.loss mse", "--optim.loss mse cross_entropy or logistic"),
        (
            f"--model SmallCNN --optim SGD {FINAL}",
            "--recon first_layer of SmallCNN is a Conv2d a dense layer",
        ),
        ("--checkpoint.keep 0", "--checkpoint.keep 0 at least 1"),
        ("--recon.max_seconds 0", "--recon.max_seconds 0.0 above 0"),
        ("--run.seed -1", "--run.seed -1 0 or more"),
        ("--model.p 9 --run.name a/b", "--run.name 'a/b' letters, digits"),
        ("--model.p 9 --run.resume true", "--run.resume true needs --run.name"),
        # what Lightning refuses
        ("--trainer.accelerator foo", "--trainer.accelerator foo cpu"),
        ("--trainer.devices 0", "--trainer.devices 0"),
        ("--trainer.strategy foo", "--trainer.strategy foo ddp"),
        ("--trainer.max_steps -5", "--trainer.max_steps -5"),
        ("--trainer.max_steps 0", "--trainer.max_steps 0 more than 0"),
        ("--trainer.profiler foo", "--trainer.profiler foo simple"),
        ("--trainer.max_time soon", "--trainer.max_time soon DD:HH:MM:SS"),
        ("--trainer.limit_val_batches 9", "--trainer.limit_val_batches 9 no such flag"),
        (
            "--trainer.devices 3 --trainer.accelerator cpu --trainer.strategy ddp",
            "--data.n 10 3 processes --trainer.devices 1",
        ),
        (
            f"{' '.join(TWO)} {' '.join(SGD)} --data.batch_size 3",
            "--data.batch_size 3 2 processes --trainer.devices 1",
        ),
        # configuration files
        ("--config nowhere.yaml", "--config nowhere.yaml cannot be read No such file"),
        ("--config broken.yaml", "--config broken.yaml is no YAML at line 2"),
        ("--config list.yaml", "--config list.yaml no groups"),
        ("--config keys.yaml", "--frob 1 in keys.yaml no such flag"),
        ("--config deep.yaml", "--recon.solver.dampin 3 in deep.yaml --recon.solver.damping"),
        ("--config value.yaml", "--data.n None in value.yaml a whole number"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    argv: str, words: str, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for name, text in {
        "broken": "data: [1,\n",
        "list": "- 1\n",
        "keys": "frob: 1\n",
        "deep": "recon: {init_args: {solver: {init_args: {dampin: 3}}}}\n",
        "value": "data: {init_args: {n: null}}\n",
    }.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    line = refused(run(*argv.split()))
    at = -1
    for word in words.split():
        at = line.find(word, at + 1)
        assert at >= 0, (word, line)


def test_a_start_that_no_decay_takes_away_is_refused_by_the_weights(run: Run) -> None:
    deep = [*DEEP.split(), *SGD, *FINAL.split(), "--data.image_size", "8", "--data.n", "4"]
    status, out, error = run(*deep, "--trainer.max_steps", "3", "--run.name", "r")
    assert (status, error) == (0, "")
    assert "they hold as much noise as 1 of a start by PyTorch" in out
    folder = Path("runs/r/recon/rowspace_final/step=00000003")
    assert json.loads((folder / "metrics.json").read_text())["status"] == "not_forgotten"


def test_cifar10_without_a_network_names_the_remedies(run: Run) -> None:
    line = refused(run("--data", "CIFAR10Subset", "--data.url", "http://127.0.0.1:9/cifar"))
    for remedy in ("archive", "--data.url MIRROR", "ImageFolderSubset", "--data Photos"):
        assert remedy in line


@pytest.mark.parametrize(
    "text",
    [
        "data: {class_path: evil.Photos}",
        "model: {class_path: evil.RandomFeatures}",
        "recon: {init_args: {solver: {class_path: evil.GaussNewton}}}",
        "recon: {init_args: {solver: evil.GaussNewton}}",
        "trainer: {profiler: {class_path: evil.Profiler}}",
        "trainer: {strategy: {class_path: evil.Strategy, init_args: {a: 1}}}",
        "trainer: {plugins: [{class_path: evil.Plugin}]}",
        "trainer: {callbacks: [{class_path: evil.Callback}]}",
        "trainer: {devices: [{class_path: evil.Device}]}",
        "class_path: evil.Main",
        "run: {name: !!python/object/apply:evil.run []}",
    ],
)
def test_a_file_cannot_name_other_peoples_code(
    text: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "evil.py").write_text("open('imported', 'w').close()\n")
    (tmp_path / "given.yaml").write_text(text + "\n")
    refused(run("--config", "given.yaml"))
    assert not (tmp_path / "imported").exists()


def test_an_existing_name_and_a_place_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    named = [*SPHERE, "--run.name", "one", "--recon.enabled", "false"]
    assert run(*named)[0] == 0
    before = (tmp_path / "runs" / "one" / "config.yaml").stat()
    status, _, error = run(*named)
    assert status == 2
    assert "--run.resume true" in error
    assert "--run.overwrite true" in error
    # What is refused for another reason does not cost the run that would have been replaced.
    assert run(*named, "--run.overwrite", "true", "--trainer.accelerator", "foo")[0] == 2
    assert (tmp_path / "runs" / "one" / "config.yaml").stat() == before
    assert run(*named, "--run.overwrite", "true")[0] == 0
    (tmp_path / "file").touch()
    status, _, error = run(*named, "--run.dir", "file/runs")
    assert (status, error.count("\n")) == (2, 1)
    assert error.startswith("train.py: --run.dir file/runs: cannot be written")


# --- runs


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_shipped_configuration_is_understood(file: Path) -> None:
    flags = configured("--config", str(file))
    for group, given in yaml.safe_load(file.read_text()).items():
        if isinstance(given, dict) and "class_path" in given:
            assert flags[group].rpartition(".")[2] == given["class_path"].rpartition(".")[2]
            assert {f"{group}.{name}" for name in given.get("init_args", {})} <= flags.keys()


@pytest.mark.slow
@pytest.mark.parametrize(
    "file",
    [
        pytest.param(file, marks=[pytest.mark.long] * (file.stem not in KINDS), id=file.stem)
        for file in CONFIGS
        if file.stem not in SWEPT
    ],
)
def test_every_shipped_configuration_runs(file: Path, run: Run, tmp_path: Path) -> None:
    given = yaml.safe_load(file.read_text())
    kinds = {group: given.get(group) for group in ("data", "model", "optim", "recon")}
    kind = {g: value["class_path"] for g, value in kinds.items() if isinstance(value, dict)}
    shrunk = ["--run.name", "r"]
    if kind.get("recon") == "KKTReconstructor" and "model" not in kind:
        kind |= {"model": "DeepMLP", "optim": "SGD"}  # a preset for networks of several layers
        shrunk += ["--model", "DeepMLP", "--optim", "SGD", "--optim.loss", "logistic"]
        if "multiclass" in file.stem:
            kind["data"] = "Digits"
            shrunk += ["--data", "Digits"]
    shrunk += [] if isinstance(given.get("recon"), list) else SHORT  # a list has its own limits
    source = kind.get("data", "Photos")
    named = given.get("data", {}).get("init_args", {})
    n = "4" if named.get("classes") or named.get("groups") or source in SMALL else "10"
    shrunk += ["--data.n", n]
    if source == "CIFAR10Subset":
        folder = folder_of_images(tmp_path / "images", CIFAR_CLASSES)
        shrunk += ["--data", "ImageFolderSubset", "--data.root", str(folder), "--data.n_val", n]
    vectors = {"Sphere": ["--data.d", "8"], "TwoMoons": []}
    shrunk += vectors.get(source, ["--data.image_size", "8"])
    if source == "MNIST":
        shrunk += ["--data", "Digits", "--data.n_val", n]
    sizes = {"RandomFeatures": ("p", "400"), "ConvAutoencoder": ("depth", "2")}
    sizes |= dict.fromkeys(("DeepMLP", "Autoencoder"), ("widths", "[40, 20]"))
    name, size = sizes.get(kind.get("model", "RandomFeatures"), ("width", "40"))
    shrunk += [f"--model.{name}", size]
    if kind.get("optim", "LeastSquares") != "LeastSquares":
        shrunk += ["--trainer.max_steps", "1", "--checkpoint.at_steps", "[]"]
    status, _, error = run("fit", "--config", str(file), *shrunk)
    assert (status, error) == (0, "")
    assert [row["step"] for row in rows(tmp_path / "runs" / "r") if "train/loss" in row] == [0, 1]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run of photographs in a process of its own, offline: its directory, and what it printed."""
    home = tmp_path_factory.mktemp("real")
    process = shell(*PHOTOS, "--run.name", "one", "--wandb.tags", "[a, b]", home=home)
    status, out, error = ended(process)
    assert (status, error) == (0, "")
    return home / "runs" / "one", out.splitlines()


def test_a_run_prints_our_lines_and_no_others(real: tuple[Path, list[str]]) -> None:
    patterns = [
        "W&B: offline, because there is no API key; .*wandb sync.*",
        r"attack by projection, at most .* s at a checkpoint",
        r"step 0, projection: 0 of 4 images recovered, 0 exact .*the weights hold no information\)",
        r"step 1, projection: 4 of 4 images recovered, 4 exact to the pixel \(.*, loss .* s; .*\)",
        "",
        "4 of 4 images recovered, 4 exact to the pixel by projection",
        "picture +runs/one/recon/projection/step=00000001/grid.png",
        "run directory +runs/one",
        "W&B +.*wandb leet runs/one/wandb/offline-run-.*",
        "report +runs/one/report.html",
    ]
    lines = real[1]
    assert len(lines) == len(patterns)
    for pattern, line in zip(patterns, lines, strict=True):
        assert re.fullmatch(pattern, line), line


def test_a_run_leaves_its_files_and_nothing_half_written(real: tuple[Path, list[str]]) -> None:
    directory = real[0]
    found = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
    ours = {path for path in found if not path.startswith("wandb/")}
    steps = ("00000000", "00000001")
    parts = ("metrics.json", "candidates.safetensors", "grid.png", "curve.csv")
    assert ours == {
        "config.yaml",
        "provenance.json",
        "metrics.jsonl",
        "report.html",
        "data.safetensors",
        *(f"checkpoints/step={step}.ckpt" for step in steps),
        *(f"recon/projection/step={step}/{part}" for step in steps for part in parts),
    }
    assert not [path for path in found if "tmp-" in path and "artifacts" not in path]


@cache
def records(directory: Path) -> list[dict[str, Any]]:
    """All records of the one offline segment of a run that has ended."""
    (segment,) = directory.glob("wandb/offline-run-*")
    return read(segment)


def test_the_same_numbers_are_in_every_place(real: tuple[Path, list[str]]) -> None:
    directory = real[0]
    files = {
        step: directory / "recon" / "projection" / f"step={step:08d}" / "metrics.json"
        for step in (0, 1)
    }
    named = set(named_numbers(RunDirectory("r"), [methods.ProjectionReconstructor()]))
    texts = {"recon/projection/status", "recon/projection/reason"}
    history = [row["history"]["item"] for row in records(directory) if "history" in row]
    logged = [row for row in rows(directory) if texts & row.keys()]
    assert [(row["step"], row["epoch"]) for row in logged] == [(0, 0), (1, 1)]
    for row in logged:
        step = row["step"]
        numbers = json.loads(files[step].read_text())
        assert row.keys() == {"step", "epoch"} | named | texts
        for name in named | texts:
            assert row[name] == numbers[name.rpartition("/")[2]]
        sent: dict[str, Any] = {}
        for item in history:
            if item["trainer/global_step"] == step:
                sent |= {k: v for k, v in item.items() if k in named | texts}
        expected = {k: v for k, v in row.items() if k in named and v is not None}
        assert sent == {**expected, "recon/projection/status": row["recon/projection/status"]}
    summary: dict[str, Any] = {}
    for record in records(directory):
        summary |= record.get("summary", {}).get("update", {})
    assert summary["recon/projection/exact_fraction"] == 1
    assert summary["recon/projection/reason"] == logged[-1]["recon/projection/reason"]
    assert summary["train/loss"] == rows(directory)[-1]["train/loss"]


def test_training_is_logged_at_the_step_of_its_weights(real: tuple[Path, list[str]]) -> None:
    directory = real[0]
    logged = [row for row in rows(directory) if "recon/projection/status" not in row]
    names = {"step", "epoch", "train/acc", "train/loss", "val/acc"}
    assert [row.keys() for row in logged] == [names, names]
    assert [(row["step"], row["epoch"]) for row in logged] == [(0, 0), (1, 1)]
    assert (logged[0]["train/loss"], logged[1]["train/acc"]) == (1.0, 1.0)
    assert logged[1]["train/loss"] < 1e-9
    items = [row["history"]["item"] for row in records(directory) if "history" in row]
    sent = [(i["trainer/global_step"], i["train/loss"]) for i in items if "train/loss" in i]
    assert sent == [(row["step"], row["train/loss"]) for row in logged if "train/loss" in row]


def test_every_number_is_drawn_over_the_training_step(real: tuple[Path, list[str]]) -> None:
    axes = {
        record["metric"]["name"]: record["metric"].get("step_metric")
        for record in records(real[0])
        if "metric" in record
    }
    assert axes.pop("trainer/global_step") is None
    assert set(axes.values()) == {"trainer/global_step"}
    numbers = named_numbers(RunDirectory("r"), [methods.ProjectionReconstructor()])
    trained = [f"train/{number.name}" for number in TRAINING]
    assert set(axes) == {*numbers, *train.TRAINING_NUMBERS, *trained}


def test_the_picture_in_wandb_is_the_one_on_disk(real: tuple[Path, list[str]]) -> None:
    directory = real[0]
    media = directory.glob("wandb/offline-run-*/files/media/images/recon/projection/grid*.png")
    sent = {np.asarray(Image.open(path).convert("RGB")).tobytes() for path in media}
    disk = [
        np.asarray(Image.open(path).convert("RGB")) for path in directory.glob("recon/*/*/*.png")
    ]
    assert sent == {pixels.tobytes() for pixels in disk}
    for pixels in disk:
        assert (pixels.min(), pixels.max()) == (0, 255)


@pytest.mark.slow
def test_a_finished_run_can_be_run_again_from_its_own_configuration(
    real: tuple[Path, list[str]], run: Run, tmp_path: Path
) -> None:
    directory = real[0]
    settings = yaml.safe_load((directory / "config.yaml").read_text())
    assert settings["model"]["init_args"] == {
        "p": 4 * 4 * 192,
        "p_over_dn": None,
        "activation": "relu",
        "seed": 0,
        "stored_rows": None,
    }
    assert settings["data"]["init_args"]["seed"] == settings["recon"]["init_args"]["seed"] == 0
    assert settings["run"]["name"] is None
    sent = next(record["run"] for record in records(directory) if "run" in record)
    assert sent["tags"] == ["a", "b"]
    assert sent["config"]["update"]["model"] == settings["model"]
    status, _, error = run("--config", str(directory / "config.yaml"), "--run.name", "again")
    assert (status, error) == (0, "")
    again = tmp_path / "runs" / "again"
    assert torch.equal(weights(again, 1), weights(directory, 1))
    assert torch.allclose(candidates(again, 1), candidates(directory, 1))


def test_fewer_features_than_samples_is_no_error(run: Run, tmp_path: Path) -> None:
    status, _, error = run(*SPHERE, "--model.p", "3", "--run.name", "r")
    assert (status, error) == (0, "")
    last = rows(tmp_path / "runs" / "r")[-2]
    assert last["recon/projection/status"] == "not_identifiable"
    assert last["recon/projection/projection_loss"] is None


def test_without_reconstruction(run: Run, tmp_path: Path) -> None:
    status, out, _ = run(*SPHERE, "--recon.enabled", "false", "--run.name", "r")
    assert status == 0
    report = "report         runs/r/report.html"
    assert out.splitlines()[1:] == ["", "run directory  runs/r", report]
    assert len(list((tmp_path / "runs" / "r" / "checkpoints").iterdir())) == 2
    assert not (tmp_path / "runs" / "r" / "recon").exists()


def test_the_report_is_written_again_and_a_broken_run_says_what_is_wrong(
    run: Run, tmp_path: Path
) -> None:
    assert run(*SPHERE, *SHORT, "--run.name", "r")[0] == 0
    page = tmp_path / "runs" / "r" / "report.html"
    whole = page.read_text()
    page.unlink()
    assert run("report", "--run", "runs/r") == (0, "report         runs/r/report.html\n", "")
    assert page.read_text() == whole
    broken = tmp_path / "runs" / "r" / "recon" / "projection" / "step=00000000" / "metrics.json"
    broken.write_text("{")
    status, _, error = run("report", "--run", "runs/r")
    assert (status, error.count("\n")) == (2, 1)
    assert "step=00000000/metrics.json: is corrupt" in error
    assert page.read_text() == whole
    # A run that goes on, and ends well, has lost nothing but the page.
    status, out, error = run("--run.name", "r", "--run.resume", "true")
    assert (status, error.count("\n")) == (1, 1)
    assert "of 4 samples recovered" in out
    assert "the run is complete, and only its report is missing" in error


@pytest.mark.long
def test_adam_is_warned_about_and_its_attack_ends_at_once(run: Run, tmp_path: Path) -> None:
    flags = [*SPHERE, "--optim", "Adam", "--trainer.max_steps", "2", "--run.name", "r"]
    with pytest.warns(UserWarning, match="leaves the span"):
        assert run(*flags)[0] == 0
    directory = tmp_path / "runs" / "r"
    found = json.loads((step_folder(directory, 2) / "metrics.json").read_text())
    assert (found["status"], found["applications"], found["empty"]) == ("span_broken", 0, True)
    assert "kind of optimiser" in found["knows"]
    # Evidence against success can be ignored, and is then not asked for.
    again = ["reconstruct", "--run", "runs/r", "--recon.evidence_against", "ignore"]
    assert run(*again, "--recon.max_steps", "2", "--recon.restarts", "0")[0] == 0
    (file,) = directory.glob("recon-*/projection/step=00000002/metrics.json")
    found = json.loads(file.read_text())
    assert found["status"] != "span_broken" and found["applications"] > 0
    assert "kind of optimiser" not in found["knows"]


def test_nan_in_training_ends_the_run_and_keeps_the_files(run: Run, tmp_path: Path) -> None:
    flags = ["--optim", "SGD", "--optim.lr", "1e30", "--trainer.max_steps", "50"]
    status, _, error = run(*SPHERE, *flags, "--run.name", "r", "--wandb.mode", "offline")
    assert status == 1
    (line,) = error.splitlines()
    assert line.startswith("train.py: the training loss is not finite at step 1 with SGD(lr=1e+30")
    directory = tmp_path / "runs" / "r"
    assert (directory / "checkpoints" / "step=00000000.ckpt").exists()
    assert (directory / "recon" / "projection" / "step=00000000" / "metrics.json").exists()
    assert [row["step"] for row in rows(directory)] == [0, 0]
    assert records(directory)[-1]["exit"]["exit_code"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("stop", [2, pytest.param(4, marks=pytest.mark.long)])
def test_an_interrupted_run_goes_on_where_it_stopped(
    stop: int, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [*SPHERE, *SGD, "--trainer.max_steps", "4", "--checkpoint.at_steps", "[2]", *PATIENT]
    assert run(*flags, "--run.name", "whole")[0] == 0
    attack = methods.ProjectionReconstructor.attack
    done: list[int] = []

    def interrupted(self: Any, knowledge: Any, random: Any, on_step: Any, earlier: Any) -> Any:
        done.append(len(done) * 2)
        if done[-1] != stop:
            return attack(self, knowledge, random, on_step, earlier)

        def interrupt(row: Any, candidates: Any) -> None:
            raise KeyboardInterrupt

        attack(self, knowledge, random, interrupt, earlier)
        raise KeyboardInterrupt  # where there is nothing to attack there is no step

    monkeypatch.setattr(methods.ProjectionReconstructor, "attack", interrupted)
    status, _, error = run(*flags, "--run.name", "cut")
    assert status == 130
    assert error.count("\n") == 1
    assert "--run.name cut --run.resume true" in error
    cut = tmp_path / "runs" / "cut"
    kept = {path: path.stat().st_ino for path in cut.glob("recon/*/*/*")}
    assert len(kept) == 4 * stop // 2
    assert weights(cut, stop) is not None

    monkeypatch.setattr(methods.ProjectionReconstructor, "attack", attack)
    status, out, error = run("--run.name", "cut", "--run.resume", "true")
    assert (status, error) == (0, "")
    assert "of 4 samples recovered" in out
    assert {path: path.stat().st_ino for path in kept} == kept  # not done again
    assert left_by(cut) == left_by(tmp_path / "runs" / "whole")


# Mini-batches of 4 and 2, so that checkpoints and the end are within epochs, and momentum.
ALIVE = ["--data", "Sphere", "--data.n", "6", "--data.d", "8", "--model.p", "200", *SGD]
ALIVE += ["--optim.momentum", "0.9", "--data.batch_size", "4", "--trainer.max_steps", "9"]
ALIVE += ["--checkpoint.at_steps", "[3, 5, 9]", *PATIENT]


@pytest.fixture(scope="module")
def alive(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the run leaves that nobody kills."""
    home = tmp_path_factory.mktemp("alive")
    argv = [*ALIVE, "--run.dir", str(home), "--run.name", "r", "--wandb.mode", "disabled"]
    assert train.main(argv) == 0
    return left_by(home / "r")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "step", "checkpoints", "attacks"),
    [
        (kills.in_training, 7, [0, 3, 5], [0, 3, 5]),
        pytest.param(kills.in_a_checkpoint, 0, [], [], marks=pytest.mark.long),
        pytest.param(kills.in_a_checkpoint, 5, [0, 3], [0, 3], marks=pytest.mark.long),
        pytest.param(kills.after_a_checkpoint, 9, [0, 3, 5, 9], [0, 3, 5], marks=pytest.mark.long),
        pytest.param(kills.in_an_attack, 2, [0, 3, 5], [0, 3], marks=pytest.mark.long),
        pytest.param(kills.in_the_results, 1, [0, 3], [0], marks=pytest.mark.long),
    ],
)
def test_a_killed_run_ends_as_one_that_nobody_killed(
    point: kills.Point,
    step: int,
    checkpoints: list[int],
    attacks: list[int],
    alive: dict[str, Any],
    run: Run,
    tmp_path: Path,
) -> None:
    argv = [*ALIVE, "--run.name", "r", "--wandb.mode", "disabled"]
    kills.killed(point, step, argv, tmp_path)
    directory = RunDirectory(tmp_path / "runs" / "r")
    assert [step_of(path) for path in saved_checkpoints(directory.path)] == checkpoints
    assert of_method(directory, "projection").steps() == attacks
    status, _, error = run(*argv, "--run.resume", "true")
    assert (status, error) == (0, "")
    assert left_by(directory.path) == alive


@pytest.mark.long
@pytest.mark.slow
def test_a_killed_offline_run_goes_on_as_another_segment_of_its_group(
    run: Run, tmp_path: Path
) -> None:
    argv = [*ALIVE, "--run.name", "r", "--wandb.mode", "offline"]
    kills.killed(kills.in_training, 4, argv, tmp_path)
    assert run(*argv, "--run.resume", "true")[0] == 0
    first, second = sorted((tmp_path / "runs" / "r").glob("wandb/offline-run-*"))
    started = next(record["run"] for record in read(second) if "run" in record)
    assert started["run_group"] == "r" and not first.name.endswith(started["run_id"])


def test_what_may_change_when_a_run_goes_on(run: Run) -> None:
    assert run(*SPHERE, *SGD, "--trainer.max_steps", "2", "--run.name", "r", *SHORT)[0] == 0
    again = ["--run.name", "r", "--run.resume", "true"]
    status, _, error = run(*again, "--optim.lr", "0.5")
    assert status == 2
    assert "--optim.lr 0.5: the run to go on with has 0.001" in error
    status, out, _ = run(*again, "--trainer.max_steps", "3", "--model.stored_rows", "10")
    assert status == 0
    assert "resumed with --trainer.max_steps 3 instead of 2" in out
    assert "resumed with --model.stored_rows 10 instead of None" in out
    assert "step 3, projection: " in out
    assert "step 2, projection: " not in out


def test_two_processes_end_as_one(two: tuple[Path, Any], run: Run, tmp_path: Path) -> None:
    runs, process = two
    status, out, error = ended(process)
    assert (status, error) == (0, "")
    assert len(re.findall(r"^step ", out, re.MULTILINE)) == 2
    assert [path.name for path in runs.iterdir()] == ["two"]
    assert len(list(runs.glob("two/wandb/offline-run-*"))) == 1
    assert "4 of 4 images recovered, 4 exact to the pixel" in out
    assert run(*PHOTOS, "--run.name", "one")[0] == 0
    one = tmp_path / "runs" / "one"
    assert torch.allclose(weights(runs / "two", 1), weights(one, 1))
    assert torch.allclose(candidates(runs / "two", 1), candidates(one, 1), atol=1e-4)
    assert [row["step"] for row in rows(runs / "two")] == [row["step"] for row in rows(one)]
    shared, alone = (
        json.loads((path / "recon" / "projection" / "step=00000001" / "metrics.json").read_text())
        for path in (runs / "two", one)
    )
    assert shared.keys() == alone.keys()
    assert shared["status"] == alone["status"] == "certified"
    for name in ("matched_error", "direction_error", "null_direction_error", "ssim"):
        assert shared[name] == pytest.approx(alone[name], abs=1e-4)
    for name in ("recovered_fraction", "exact_fraction", "certified_fraction", "p_over_dn"):
        assert shared[name] == alone[name]
    files = [path.relative_to(runs / "two") for path in (runs / "two" / "recon").rglob("*")]
    assert sorted(files) == sorted(path.relative_to(one) for path in (one / "recon").rglob("*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(
            [
                *("--model", "MLP", "--model.width", "60", "--optim.lr", "0.05"),
                *("--optim.stop_loss", "0.3"),
            ],
            marks=pytest.mark.long,  # test_reconstruct.py trains a full batch in two processes
        ),
        [
            "--data.batch_size",
            "4",
            "--optim.momentum",
            "0.9",
            "--trainer.accumulate_grad_batches",
            "2",
        ],
    ],
    ids=["full batch", "mini-batches"],
)
def test_two_processes_train_as_one(flags: list[str], run: Run, tmp_path: Path) -> None:
    sizes = ["--data", "Sphere", "--data.n", "10", "--data.d", "8", "--trainer.max_steps", "200"]
    flags = [*sizes, *SGD, *flags, "--checkpoint.at_steps", "[3]", "--recon.enabled", "false"]
    if "MLP" not in flags:
        flags += ["--model.p", "100", "--trainer.max_steps", "8"]
    named = ["--run.name", "two", "--wandb.mode", "offline"]
    with warm_shell(*flags, *TWO, *named, home=tmp_path) as two:
        assert run(*flags, "--run.name", "one")[0] == 0
        status, _, error = ended(two)
    assert (status, error) == (0, "")
    one, shared = (tmp_path / "runs" / name for name in ("one", "two"))
    assert len(list(shared.glob("wandb/offline-run-*"))) == 1
    steps = [step_of(path) for path in saved_checkpoints(one)]
    assert steps == [step_of(path) for path in saved_checkpoints(shared)]
    assert 3 < steps[-1] < 200  # the loss is low enough before, on both ranks alike
    for left, right in zip(saved_checkpoints(one), saved_checkpoints(shared), strict=True):
        states = [torch.load(path, weights_only=True) for path in (left, right)]
        for name, weight in states[0]["state_dict"].items():
            assert torch.allclose(weight, states[1]["state_dict"][name], atol=1e-6), name
    assert not torch.equal(weights(one, 3), weights(one, steps[-1]))
    for row, other in zip(rows(one), rows(shared), strict=True):
        assert row == pytest.approx(other, rel=1e-4, abs=1e-6)


@pytest.mark.long  # test_distributed.py has a rank that ends before the others
@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_ends_the_others_with_one_line(rank: int, tmp_path: Path) -> None:
    # Too few features for an end within the test.
    hard = ["--data", "Sphere", "--data.n", "20", "--data.d", "60", "--model.p_over_dn", "1.3"]
    directory = tmp_path / "runs" / "r"
    named = ["--run.name", "r", "--wandb.mode", "offline"]
    with warm_shell(*hard, *TWO, *named, home=tmp_path) as process:
        try:
            wait_until((directory / "checkpoints" / "step=00000001.ckpt").exists)
            # A process that is about to become another program still looks like Python.
            wait_until(lambda: len(children(process.pid)) == 1)
            (child,) = children(process.pid)
            os.kill([process.pid, child][rank], signal.SIGKILL)
            status, _, error = ended(process)  # of both: the pipe is open until both have ended
        finally:
            process.kill()
    assert status == (-signal.SIGKILL if rank == 0 else 1)
    # torch's own log of a lost connection comes or not, as the moment wants it.
    lines = [line for line in error.splitlines() if not re.match(r"\[[WE]\d{4} ", line)]
    assert len(lines) == 1, error
    assert lines[0].startswith("train.py: another process of this run has ended (")
    assert [path.name for path in (directory / "recon" / "projection").iterdir()] == [
        "step=00000000"
    ]
    assert sorted(path.name for path in (directory / "checkpoints").iterdir()) == [
        "step=00000000.ckpt",
        "step=00000001.ckpt",
    ]


def wait_until(true: Callable[[], bool]) -> None:
    for _ in range(600):
        if true():
            return
        time.sleep(0.1)
    raise TimeoutError


def children(process: int) -> list[int]:
    """The Python processes that a process has started."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,comm=", "--ppid", str(process)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = [line.split() for line in listed.stdout.splitlines()]
    return [int(pid) for pid, name in found if name.startswith("python")]
