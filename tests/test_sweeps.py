"""Sweeps as people start, stop and repeat them, and the parts that they are made of."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import pandas as pd
import pytest
import yaml

import train
from datamodules.cifar import CLASSES
from lit_recon.errors import InputError, RunError
from lit_recon.fit.settings import read_given
from lit_recon.methods import ProjectionReconstructor
from lit_recon.metrics import numbers
from lit_recon.metrics.numbers import COMMON, Number
from lit_recon.records.directory import RunDirectory
from lit_recon.sweeps import machine
from lit_recon.sweeps.command import claimed
from lit_recon.sweeps.grid import Axis, combinations, read_axes
from lit_recon.sweeps.plan import Fit, GridPoint, identify, plan
from lit_recon.sweeps.progress import summary
from lit_recon.sweeps.results import FAILED, Results, finished_rows
from lit_recon.sweeps.workers import Outcome, Task, outcomes
from tests import commands, warm
from tests.problems import folder_of_images
from tests.runs import write_run

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
LAWS = sorted(ROOT.glob("configs/law_*.yaml"))
SPHERE = ["--data", "Sphere", "--data.n", "4", "--data.d", "8", "--model.p_over_dn", "4"]
TINY = [*SPHERE, "--recon.max_steps", "20", "--recon.restarts", "0", "--recon.hops", "0"]
GRID = ["--grid.run.seed", "0:2", "--grid.recon.spare", "0,2"]
Type = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    tmp_path: Path,
    without_wandb: None,
    warm_workers: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Type:
    """Types a sweep in an empty folder; gives the exit status, stdout and stderr.

    Its workers have imported all that they need. `whole` has new ones.
    """
    monkeypatch.chdir(tmp_path)

    def type_(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = train.main(["sweep", *argv])
        return status, *capsys.readouterr()

    return type_


def axes(*argv: str, file: Path | None = None) -> dict[str, list[str]]:
    """The axes that a command line comes to."""
    command = train.command_line()
    given = [f"--config={file}"] if file else []
    return {axis.flag: list(axis.values) for axis in read_axes(command.read([*given, *argv]))}


# --- the grid


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("0.25,0.5,1", ["0.25", "0.5", "1"]),
        ("0:3", ["0", "1", "2"]),
        ("-1:1,7", ["-1", "0", "7"]),
        ("relu, relu+tanh", ["relu", "relu+tanh"]),
        ("[[1, 10], [100]]", ["[1, 10]", "[100]"]),
        ("[a, 1e-3, null, true]", ["a", "1e-3", "null", "true"]),
    ],
)
def test_values_of_a_flag(typed: str, values: list[str], tmp_path: Path) -> None:
    assert axes("--grid.x.y", typed) == {"x.y": values}
    (tmp_path / "given.yaml").write_text(f"grid:\n  x.y: {typed}\n")
    assert axes(file=tmp_path / "given.yaml") == {"x.y": values}


def test_a_range_in_a_file_is_no_number_in_base_60(tmp_path: Path) -> None:
    (tmp_path / "given.yaml").write_text("grid: {run: {seed: 1:5}}\n")
    assert axes(file=tmp_path / "given.yaml") == {"run.seed": ["1", "2", "3", "4"]}


def test_the_command_line_is_stronger_than_a_file(tmp_path: Path) -> None:
    file = tmp_path / "given.yaml"
    file.write_text("grid:\n  model.p: 1,2\n  run.seed: 0:3\n  config: [a.yaml]\n")
    bundle = [str(tmp_path / "a.yaml")]
    assert axes(file=file) == {"model.p": ["1", "2"], "run.seed": ["0", "1", "2"], "config": bundle}
    assert axes("--grid.model.p", "3", file=file)["model.p"] == ["3"]
    assert axes("--run.seed", "7", file=file) == {"model.p": ["1", "2"], "config": bundle}
    with pytest.raises(InputError, match=r"^--grid.model.p: give either this or --model.p"):
        axes("--grid.model.p", "3,4", "--model.p", "3")


def test_the_last_axis_changes_first() -> None:
    found = combinations([Axis("a", ("1", "2")), Axis("b", ("x", "y"))])
    assert [tuple(cell.values()) for cell in found] == [
        ("1", "x"),
        ("1", "y"),
        ("2", "x"),
        ("2", "y"),
    ]


# --- the runs


def planned(*argv: str) -> list[GridPoint]:
    """The runs that a command line comes to."""
    fit = Fit(train.command_line(), train.resolve, commands.main)
    given = fit.command.read(argv)
    return plan(fit, [source.without("grid") for source in given], read_axes(given))


def test_names_say_what_varies_and_are_no_longer_than_a_name_can_be() -> None:
    grid = ["--grid.data.seed", "0", "--grid.run.seed", "3", "--grid.model.activation", "relu+tanh"]
    (run,) = planned(*SPHERE, *grid)
    assert re.fullmatch("data.seed=0-run.seed=3-activation=relu[+]tanh-[0-9a-f]{8}", run.name)
    (run,) = planned("--data", "ImageFolderSubset", "--grid.data.root", "x" * 200)
    assert len(run.name) < 128


def test_a_grid_of_files_is_weaker_than_flags_and_stronger_than_other_files(tmp_path: Path) -> None:
    preset = ROOT / "configs" / "presets" / "iurada2025.yaml"
    (tmp_path / "own.yaml").write_text("recon: {init_args: {spare: 5, hops: 5}}\n")
    (tmp_path / "base.yaml").write_text("recon: {init_args: {spare: 7, rounds: 7}}\n")
    files = [
        "--config",
        str(tmp_path / "base.yaml"),
        "--grid.config",
        f"{tmp_path}/own.yaml,{preset}",
    ]
    own, paper = planned(*SPHERE, *files, "--recon.hops", "9")
    assert own.name.startswith("config=own-") and paper.name.startswith("config=iurada2025-")
    flags = ("recon.spare", "recon.hops", "recon.rounds", "recon.solver")
    # Without a word on it every method that applies has its own solver.
    assert [own.values.get(flag) for flag in flags] == [5, 9, 7, None]
    assert own.values["recon"] == "auto"
    assert [paper.values[flag] for flag in flags] == [0, 9, 7, "lit_recon.solvers.MomentumDescent"]


@pytest.mark.parametrize("file", LAWS, ids=lambda file: file.stem)
def test_a_law_varies_ratios_below_and_above_the_thresholds(file: Path) -> None:
    assert axes(file=file)["run.seed"] == [*"01234"]
    runs = planned("--config", str(file), "--grid.run.seed", "3")  # each run takes its time to plan
    ratios = sorted({run.values["model.p_over_dn"] for run in runs})
    assert {0.5, 1, 2} < set(ratios)
    assert {run.values["run.seed"] for run in runs} == {3}
    assert len(runs) == len(ratios) * len({run.values["recon.solver"] for run in runs})


def test_a_changed_configuration_is_another_run() -> None:
    command = train.command_line()

    def identity(*argv: str) -> str:
        return identify(train.resolve(command, command.read([*TINY, *argv])))

    names = {identity(), identity("--data.noise", "0.1"), identity("--recon.max_seconds", "9")}
    assert len(names) == 3
    assert identity() == identity("--run.name", "a", "--run.dir", "b", "--wandb.tags", "[c]")


# --- bad input


def test_slurm_needs_slurm_and_submitit(run: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--grid.run.seed", "0:2", "--launcher", "slurm"]
    monkeypatch.setattr(shutil, "which", lambda name: None)
    status, out, error = run(*flags)
    assert (status, out) == (2, "")
    assert error.startswith("train.py: --launcher slurm: there is no sbatch on this machine")
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setitem(sys.modules, "submitit", None)
    status, out, error = run(*flags)
    assert (status, out) == (2, "")
    assert error == "train.py: --launcher slurm: needs pip install -e '.[cluster]'\n"
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("", "--grid.* missing --grid.run.seed 0:5"),
        ("--grid.model.pp 1,2", "--grid.model.pp 1 no such flag of RandomFeatures --model.p"),
        ("--grid.model.p 1,many", "--grid.model.p many a whole number"),
        ("--grid.data.n 0,4", "--grid.data.n 0 give at least 1"),
        ("--grid.recon.max_seconds 1,0", "--grid.recon.max_seconds 0.0 above 0"),
        ("--grid.model Perceptron,RandomFeatures", "--grid.model Perceptron give RandomFeatures"),
        ("--grid.run.seed 5:5", "--grid.run.seed 5:5 give values"),
        ("--grid.run.seed 1,,2", "--grid.run.seed 1,,2 give values"),
        ("--grid.run.seed [1", "--grid.run.seed [1 give values"),
        ("--grid.run.seed 0,1,0", "--grid.* seed=0- seed=0- the same run"),
        ("--grid.run.seed 0:10001", "--grid.* of 10,001 runs --yes true"),
        ("--grid.run.name a,b", "--grid.run.name every run of a sweep gets its own"),
        ("--grid.config nowhere.yaml", "--config nowhere.yaml cannot be read"),
        ("--grid.run.seed 0 --run.seed 1", "--grid.run.seed either this or --run.seed"),
        ("--grid.run.seed 0 --jobs 0", "--jobs 0 give at least 1"),
        ("--grid.run.seed 0 --job 2", "--job 2 no such flag did you mean --jobs?"),
        ("--grid.run.seed 0 --data.n 0", "--data.n 0 give at least 1"),
        ("--grid.run.seed 0 --launcher pbs", "--launcher pbs give local or slurm"),
        ("--grid.run.seed 0 --slurm.time 2", "--slurm.time 2 give at least 3"),
        ("--grid.run.seed 0 --slurm.partitio x", "--slurm.partitio x --slurm.partition"),
        ("--grid.run.seed 0 --run.name thesis", "--run.name thesis is no sweep directory"),
        ("--config grid.yaml", "--grid x in grid.yaml write flags"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_started(
    argv: str, words: str, run: Type, tmp_path: Path
) -> None:
    (tmp_path / "grid.yaml").write_text("grid: x\n")
    (tmp_path / "runs" / "thesis").mkdir(parents=True)
    (tmp_path / "runs" / "thesis" / "chapter.tex").write_text("years of work")
    status, out, error = run(*argv.split())
    assert (status, out) == (2, "")
    (line,) = error.splitlines()
    at = -1
    for word in words.split():
        at = line.find(word, at + 1)
        assert at >= 0, (word, line)
    assert [str(path) for path in Path("runs").rglob("*.*")] == ["runs/thesis/chapter.tex"]


def test_a_sweep_that_starts_leaves_the_files_of_runs_at_work(tmp_path: Path) -> None:
    for kind in ("run", "sweep"):
        claim = partial(RunDirectory.create, tmp_path, kind, resume=True, kind=kind)
        directory = claim()
        directory.write_json("sweep.json" if kind == "sweep" else "config.yaml", {})
        half = [directory.path / name for name in (".a.tmp-01234567", "b/.c.tmp-01234567")]
        half[1].parent.mkdir()
        for file in half:
            file.touch()
        claim()
        assert [file.exists() for file in half] == [False, kind == "sweep"]


def hold(runs: Path, there: Connection) -> None:
    """Be at work in the directory of a sweep, in a process of its own."""
    with claimed(str(runs), "sweep"):
        there.send("held")
        time.sleep(60)


def test_one_sweep_at_a_time_in_a_directory(run: Type, tmp_path: Path) -> None:
    here, there = multiprocessing.Pipe()
    process = warm.context().Process(target=hold, args=(tmp_path / "runs", there))
    process.start()
    try:
        assert here.recv() == "held"
        status, _, error = run(*TINY, *GRID)
    finally:
        process.kill()
        process.join()
    assert status == 2
    assert "--run.name sweep: another process is at work" in error


# --- the workers


def ran(tmp_path: Path, *argvs: list[str], workers: int = 1) -> dict[str, str | None]:
    tasks = [Task(str(i), argv, tmp_path / f"{i}.log") for i, argv in enumerate(argvs)]
    shares = [{"SHARE": f"share {i}"} for i in range(workers)]
    return {end.name: end.failure for end in outcomes(iter(tasks), commands.main, shares)}


def test_a_worker_runs_many_commands_with_its_share(tmp_path: Path) -> None:
    told = tmp_path / "told"
    assert set(ran(tmp_path, *[["count", str(told)]] * 5).values()) == {None}
    assert len(set(told.read_text().splitlines())) == 1
    assert told.read_text().splitlines()[0].endswith(" share 0 True")
    assert (tmp_path / "4.log").read_text().startswith(f"told count {told} share 0 ")


def test_a_command_that_fails_costs_no_other(tmp_path: Path) -> None:
    ends = ran(tmp_path, ["fail"], ["raise"], ["die"], ["fine"], workers=1)
    assert ends["0"] == "--data.n 0: give at least 1"
    assert ends["1"] == "ValueError: of no kind that we know"
    assert (ends["2"] or "").startswith("its process was killed (SIGKILL)")
    assert ends["3"] is None
    processes = [(tmp_path / f"{i}.log").read_text().split()[-1] for i in (2, 3)]
    assert len(set(processes)) == 2
    assert "Traceback" in (tmp_path / "1.log").read_text()


def test_an_end_before_the_last_command_interrupts_it(tmp_path: Path) -> None:
    there = tmp_path / "there"
    tasks = iter(
        [Task("a", ["fine"], tmp_path / "a"), Task("b", ["sleep", str(there)], tmp_path / "b")]
    )
    ends = outcomes(tasks, commands.main, [{"SHARE": ""}] * 2)
    assert next(ends) == Outcome("a", None)
    wait_until(there.exists)
    ends.close()
    assert there.read_text() == "interrupted"


@pytest.mark.parametrize(
    ("jobs", "gpus", "threads", "visible"),
    [
        (1, None, ["8"], [None]),
        (3, None, ["2"] * 3, [None] * 3),
        (16, None, ["1"] * 16, [None] * 16),
        (2, "0,1,2,3", ["4"] * 2, ["0,2", "1,3"]),
        (3, "0,1,2,3", ["2"] * 3, ["0,3", "1", "2"]),
        (3, "5,GPU-6", ["2"] * 3, ["5", "GPU-6", "5"]),
        (2, "", ["4"] * 2, [None] * 2),
    ],
)
def test_shares_of_a_machine(
    jobs: int,
    gpus: str | None,
    threads: list[str],
    visible: list[str | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine, "cores", lambda: 8)
    monkeypatch.setattr(machine.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus or "")
    if gpus is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    found = machine.shares(jobs)
    assert [share["OMP_NUM_THREADS"] for share in found] == threads
    assert [share.get("CUDA_VISIBLE_DEVICES") for share in found] == visible
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert machine.shares(1)[0]["OMP_NUM_THREADS"] == "3"


def wait_until(true: Callable[[], bool]) -> None:
    for _ in range(1200):
        if true():
            return
        time.sleep(0.1)
    raise TimeoutError


# --- W&B


def test_a_sweep_of_wandb_calls_the_same_flags(run: Type, tmp_path: Path) -> None:
    preset = ROOT / "configs" / "presets" / "iurada2025.yaml"
    grid = [
        "--grid.model.p_over_dn",
        "0.5,2",
        "--grid.run.seed",
        "0:2",
        "--grid.config",
        str(preset),
    ]
    flags = ["--data", "Sphere", "--run.name", "law", "--wandb.project", "p", "--jobs", "2"]
    status, out, error = run(*grid, *flags, "--wandb-sweep", "sweep.yaml")
    assert (status, error) == (0, "")
    assert out.startswith("wandb sweep sweep.yaml ")
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.yaml"]
    written = yaml.safe_load((tmp_path / "sweep.yaml").read_text())
    assert written["parameters"] == {
        "model.p_over_dn": {"values": [0.5, 2]},
        "run.seed": {"values": [0, 1]},
        "config": {"values": [str(preset)]},
    }
    assert (written["method"], written["name"], written["project"]) == ("grid", "law", "p")
    # What an agent makes of it, which is what a run of a sweep comes to.
    chosen = [f"--{name}={given['values'][0]}" for name, given in written["parameters"].items()]
    assert written["program"] == "train.py"
    *start, word = written["command"][:4]
    assert (start, word) == (["${env}", "${interpreter}", "${program}"], "fit")
    *argv, last = written["command"][4:]
    assert last == "${args}"
    argv += chosen
    command = train.command_line()
    values = train.resolve(command, read_given(command, argv))
    assert identify(values) == planned(*grid, *flags[:2])[0].name[-8:]
    status, _, error = run(*grid, *flags, "--wandb-sweep", "sweep.yaml")
    assert status == 2
    assert "--wandb-sweep sweep.yaml: cannot be written (File exists)" in error


# --- whole sweeps


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of four runs, done without an interruption: the folder of its runs."""
    home = tmp_path_factory.mktemp("whole")
    status, out, error = ended(shell(*TINY, *GRID, "--jobs", "1", home=home))
    assert (status, error) == (0, "")
    assert out.splitlines()[0] == "4 runs, of which 0 have ended before"
    assert out.splitlines()[-3:] == [
        "results  runs/sweep/results.csv",
        "law      runs/sweep/law.png",
        "report   runs/sweep/report.html",
    ]
    return home / "runs" / "sweep"


SWEEP = ["sweep", "--wandb.mode", "disabled"]


def shell(*argv: str, home: Path) -> subprocess.Popen[str]:
    """Starts a sweep in a new Python and a process group of its own, as a shell does."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *SWEEP, *argv],
        cwd=home,
        env=warm.foreign(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def warm_shell(*argv: str, home: Path) -> warm.Command:
    """The same in a process that has imported all that it needs; its workers are forked."""
    return warm.Command(*SWEEP, *argv, home=home, environment=warm.foreign(home), session=True)


def ended(process: subprocess.Popen[str] | warm.Command) -> tuple[int, str, str]:
    """Exit status, stdout and stderr, once it has ended."""
    out, error = process.communicate(timeout=240)
    assert process.returncode is not None
    return process.returncode, out, error


def without_times(directory: Path) -> str:
    """results.csv without the column that no two runs share."""
    return pd.read_csv(directory / "results.csv").drop(columns="seconds").to_csv()


def steps(directory: Path) -> dict[Path, int]:
    """Every finished step of every run, and when it was written."""
    return {
        path.relative_to(directory): path.stat().st_mtime_ns
        for path in directory.glob("*/recon/*/step=*")
    }


def test_a_sweep_leaves_one_row_for_each_run_and_step(whole: Path) -> None:
    table = pd.read_csv(whole / "results.csv")
    assert table.equals(pd.read_parquet(whole / "results.parquet").astype(table.dtypes))
    assert list(table.columns[:6]) == [
        *("run", "status", "reason", "method", "run.seed", "recon.spare")
    ]
    assert list(table["step"]) == [0, 1] * 4
    assert list(table["last"]) == [False, True] * 4
    assert list(table["run.seed"]) == list(table["seed"]) == [0] * 4 + [1] * 4
    assert list(table["recon.spare"]) == [0, 0, 2, 2] * 2
    assert set(table["method"]) == {"projection"}
    assert set(table["solver"]) == {"GaussNewton"}
    described = table.columns[table.columns.get_loc("train_loss") + 1 :]
    assert list(described[: len(COMMON)]) == [number.name for number in COMMON]
    own = {number.name for number in ProjectionReconstructor.describes}
    assert set(described[len(COMMON) :]) == own
    assert len(described) == len(COMMON) + len(own)
    assert set(map(tuple, table[["model", "n", "d", "k", "p"]].to_numpy())) == {
        ("RandomFeatures", 4, 8, 1, 128)
    }
    row = table.iloc[1]
    numbers = json.loads(
        (whole / row["run"] / "recon/projection/step=00000001/metrics.json").read_text()
    )
    for name in ("status", "reason", "direction_error", "recovered_fraction", "seconds"):
        assert row[name] == numbers[name]
    assert table["exact_fraction"].isna().all()
    logged = [
        json.loads(x) for x in (whole / row["run"] / "metrics.jsonl").read_text().splitlines()
    ]
    losses = [x["train/loss"] for x in logged if "train/loss" in x]
    assert list(table["train_loss"][:2]) == losses
    assert "samples recovered" in (whole / "logs" / f"{row['run']}.log").read_text()


def test_two_methods_of_a_run_have_rows_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Number("memory_left", "memory left", "", "share", shown=("sweep",))
    monkeypatch.setattr(numbers, "_REGISTRY", {**numbers._REGISTRY, "memory_left": memory})
    (point,) = planned(*TINY, "--grid.run.seed", "0")
    path = tmp_path / point.name
    write_run(path, {0: 0, 1: 4}, images=False)
    more = {"memory_left": 0.25, "odd_number": 7.0}
    write_run(path, {0: 0, 1: 2, 2: 3}, images=False, method="a_toy", more=more)
    results = Results(RunDirectory(tmp_path), [point])
    last = results.take(point.name, None)
    assert [(row["method"], row["step"]) for row in last] == [("projection", 1), ("a_toy", 2)]
    assert summary(last).startswith("projection: recovered 1.00, ")
    assert "; a_toy: recovered 0.75, " in summary(last)
    table = results.table()
    assert list(table["method"]) == ["projection"] * 2 + ["a_toy"] * 3
    assert list(table["step"]) == [0, 1, 0, 1, 2]
    assert list(table["last"]) == [False, True, False, False, True]
    assert list(table["solver"].fillna("-")) == ["GaussNewton"] * 2 + ["-"] * 3
    assert list(table["memory_left"].fillna(-1)) == [-1, -1, 0.25, 0.25, 0.25]
    assert list(table["projection_loss"].isna()) == [False] * 2 + [True] * 3
    assert "odd_number" not in table
    # A method that does not record p / (d n) has it from the sizes of the run.
    assert set(table["p_over_dn"]) == {3.0}
    written = (tmp_path / "results.csv").read_text().splitlines()
    assert written[0].split(",")[:4] == ["run", "status", "reason", "method"]
    assert len(written) == 1 + 5


def test_a_run_of_an_older_version_fails_in_words(tmp_path: Path) -> None:
    (point,) = planned(*TINY, "--grid.run.seed", "0")
    path = write_run(tmp_path / point.name, {1: 4}, images=False)
    step = path / "recon" / "projection" / "step=00000001"
    step.rename(path / "recon" / step.name)
    with pytest.raises(RunError, match=f"{path} has results of an older version in recon/step="):
        finished_rows(point, RunDirectory(path))
    results = Results(RunDirectory(tmp_path), [point])
    (row,) = results.take(point.name, None)
    assert row["status"] == FAILED and "has results of an older version" in row["reason"]


def test_a_finished_sweep_is_not_done_again(whole: Path, run: Type) -> None:
    os.chdir(whole.parents[1])
    before = {path: path.stat().st_mtime_ns for path in whole.glob("*/**/*") if path.is_file()}
    content = (whole / "results.csv").read_bytes()
    status, out, error = run(*GRID, *TINY, "--wandb.mode", "disabled")
    assert (status, error) == (0, "")
    assert out.splitlines()[0] == "4 runs, of which 4 have ended before"
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (whole / "results.csv").read_bytes() == content


@pytest.mark.long  # other tests begin with the results of runs that have ended
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_is_stopped_goes_on(kill: signal.Signals, whole: Path, tmp_path: Path) -> None:
    process = warm_shell(*TINY, *GRID, "--jobs", "2", home=tmp_path)
    directory = tmp_path / "runs" / "sweep"
    try:
        wait_until(lambda: len(list(directory.glob("*/recon/*/step=00000001"))) > 0)
        os.killpg(process.pid, kill)
        status, _, error = ended(process)
    finally:
        process.kill()
    done = steps(directory)
    assert 2 <= len(done) < 8
    if kill is signal.SIGINT:
        (line,) = error.splitlines()
        assert line.startswith("train.py: interrupted; what is finished is in runs/sweep; python")
        assert line.endswith(" --jobs 2 goes on")
        assert status == 130
        interrupted = pd.read_csv(directory / "results.csv", dtype=str)
    else:
        assert (status, error) == (-signal.SIGKILL, "")
        interrupted = pd.DataFrame()
    status, _, error = ended(warm_shell(*TINY, *GRID, "--jobs", "2", home=tmp_path))
    assert (status, error) == (0, "")
    assert {path: time for path, time in steps(directory).items() if path in done} == done
    assert without_times(directory) == without_times(whole)
    # Columns come with the first row that has a value in them; rows stay as they are.
    table = pd.read_csv(directory / "results.csv", dtype=str)[interrupted.columns]
    before, after = (frame.fillna("").to_numpy().tolist() for frame in (interrupted, table))
    assert [row for row in before if row not in after] == []


def test_failed_and_damaged_runs_cost_no_other_and_lose_nothing(
    whole: Path, tmp_path: Path, run: Type
) -> None:
    directory = shutil.copytree(whole, tmp_path / "runs" / "sweep")
    first, second, third, fourth = pd.read_csv(directory / "results.csv")["run"].unique()
    (directory / first / "recon" / "projection" / "step=00000001" / "metrics.json").write_text(
        '{"status": '
    )
    (directory / second / "provenance.json").write_text("[]")
    shutil.rmtree(directory / third)
    (directory / third).mkdir()
    (directory / third / "chapter.tex").write_text("years of work")
    damaged = [file for name in (first, second, third) for file in (directory / name).rglob("*.*")]
    before = {file: file.read_bytes() for file in damaged if file.is_file()}
    status, out, error = run(*TINY, *GRID, "--wandb.mode", "disabled")
    assert status == 1
    (line,) = error.splitlines()
    assert "3 runs failed" in line
    assert {file: file.read_bytes() for file in before} == before
    table = pd.read_csv(directory / "results.csv").set_index("run")
    assert list(table["status"][:3]) == ["failed"] * 3
    for name, words in (
        (first, "is damaged"),
        (second, "is damaged"),
        (third, "is no run directory"),
    ):
        assert words in table.loc[name, "reason"]
        assert f"failed   {name}: {table.loc[name, 'reason']}" in out.splitlines()
    assert list(table.loc[fourth, "step"]) == [0, 1]


@pytest.mark.parametrize(
    "file",
    [pytest.param(f, marks=[pytest.mark.long] * (f.stem != "law_photos"), id=f.stem) for f in LAWS],
)
def test_every_shipped_sweep_runs_from_its_file_alone(
    file: Path, run: Type, tmp_path: Path
) -> None:
    few = ["--data.n", "4", "--grid.model.p_over_dn", "4", "--grid.run.seed", "0"]
    shrunk = [*few, "--recon.max_seconds", "0.2"]
    source = yaml.safe_load(file.read_text())["data"]["class_path"]
    if source == "CIFAR10Subset":
        folder = folder_of_images(tmp_path / "images")
        shrunk += ["--data", "ImageFolderSubset", "--data.root", str(folder)]
    shrunk += ["--data.d", "8"] if source == "Sphere" else ["--data.image_size", "8"]
    status, out, error = run("--config", str(file), *shrunk)
    assert (status, error) == (0, "")
    directory = tmp_path / "runs" / file.stem
    law, report = out.splitlines()[-2:]
    assert law == f"law      runs/{file.stem}/law.png"
    assert report == f"report   runs/{file.stem}/report.html"
    table = pd.read_csv(directory / "law.csv")
    solvers = pd.read_csv(directory / "results.csv")["solver"].unique()
    assert table["line"].nunique() == len(solvers)
    assert ("exact_fraction" in set(table["number"])) == (source != "Sphere")
    assert (directory / "law.svg").read_text().endswith("</svg>\n")


@pytest.mark.long
def test_the_sweep_of_weight_decay_draws_its_figure_over_it(run: Type, tmp_path: Path) -> None:
    folder = folder_of_images(tmp_path / "images", CLASSES)
    few = ["--data.n", "10", "--data.image_size", "8", "--model.widths", "[40]"]
    few += ["--data", "ImageFolderSubset", "--data.root", str(folder), "--data.n_val", "10"]
    few += ["--trainer.max_steps", "1", "--recon.max_seconds", "0.2"]
    few += ["--grid.run.seed", "0", "--grid.optim.weight_decay", "0,0.5"]
    status, out, error = run("--config", str(ROOT / "configs" / "decay_sweep.yaml"), *few)
    assert (status, error) == (0, "")
    assert "law      runs/decay_sweep/law.png" in out
    table = pd.read_csv(tmp_path / "runs" / "decay_sweep" / "law.csv")
    assert list(table["line"].unique()) == ["decay_binary", "decay_ten_classes"]
    assert set(table["optim.weight_decay"]) == {0, 0.5}
    page = (tmp_path / "runs" / "decay_sweep" / "report.html").read_text()
    assert "p / (d n)" not in page


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "x", "lines", "few"),
    [
        (
            "contraction_sweep",
            "data.norm",
            "model.activation",
            "--data.n 4 --model.widths [40] --grid.data.norm 4,32"
            " --grid.model.activation tanh,relu",
        ),
        (
            "contraction_depth_sweep",
            "data.norm",
            "model.widths",
            "--data.n 4 --grid.run.seed 0 --grid.data.norm 4,32 --grid.model.widths [[9],[9,9]]",
        ),
        (
            "conv_depth_sweep",
            "model.depth",
            "model.stride",
            "--model.channels 4 --grid.run.seed 0 --grid.model.depth 2,4 --grid.model.stride 1,2",
        ),
    ],
    ids=["contraction", "contraction over depth", "depth"],
)
def test_sweeps_of_autoencoders_draw_what_attracts(
    name: str, x: str, lines: str, few: str, run: Type, tmp_path: Path
) -> None:
    short = "--data.image_size 8 --trainer.max_steps 20 --recon.starts 5 --recon.max_seconds 0.5"
    file = str(ROOT / "configs" / f"{name}.yaml")
    status, _, error = run("--config", file, *few.split(), *short.split())
    assert (status, error) == (0, "")
    drawn, results = (pd.read_csv(tmp_path / "runs" / name / f) for f in ("law.csv", "results.csv"))
    word = lines.rpartition(".")[2]
    last = results[results["last"].fillna(False)]
    labels = [f"{word} {value}" for value in last[lines]]
    held = dict(zip(zip(labels, last[x], strict=True), last["attractor_fraction"], strict=True))
    told = drawn[drawn["number"] == "attractor_fraction"]
    shown = dict(zip(zip(told["line"], told[x], strict=True), told["median"], strict=True))
    assert len(shown) == 4 and shown == held
