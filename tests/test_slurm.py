"""Jobs of Slurm, with programs that stand in for its own; `slurm_node.py` checks the real ones."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from lit_recon.errors import InputError
from lit_recon.records.directory import RunDirectory
from lit_recon.sweeps import slurm
from lit_recon.sweeps.workers import Outcome, Task
from tests import commands, fake_slurm

pytest.importorskip("submitit")


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A sweep's directory on a machine with a Slurm that is none."""
    for folder in ("queue", "bin"):
        (tmp_path / folder).mkdir()
    monkeypatch.setenv("FAKE_SLURM", str(tmp_path / "queue"))
    fake_slurm.install(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setattr(slurm, "POLL_SECONDS", 0.2)
    return RunDirectory(tmp_path / "sweep")


def tasks(directory: RunDirectory, *argvs: list[str]) -> list[Task]:
    return [Task(f"r{i}", argv, directory.path / f"{i}.log") for i, argv in enumerate(argvs)]


def outcomes(directory: RunDirectory, todo: list[Task]) -> list[Outcome]:
    return list(slurm.outcomes(todo, commands.main, slurm.SlurmFlags(), directory, jobs=2))


def submitted(directory: RunDirectory) -> list[str]:
    folder = directory.path.parent / "queue"
    return [path.read_text() for path in sorted(folder.glob("submitted-*"))]


def test_every_job_runs_its_command_and_tells_why_it_failed(directory: RunDirectory) -> None:
    todo = tasks(directory, ["fine"], ["fail"], ["die"])
    ends = {end.name: end.failure for end in outcomes(directory, todo)}
    assert ends["r0"] is None
    assert ends["r1"] == "--data.n 0: give at least 1"
    assert ends["r2"] is not None
    assert (directory.path / "0.log").read_text().startswith("told fine")
    assert submitted(directory) == ["1_0 1_1 1_2"]
    assert "--array=0-2%2" in (directory.path / "slurm" / "1_submission.sh").read_text()


def test_many_runs_are_several_arrays(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "ARRAY", 2)
    todo = tasks(directory, ["fine"], ["fine"], ["fine"])
    assert {end.failure for end in outcomes(directory, todo)} == {None}
    assert submitted(directory) == ["1_0 1_1", "2"]


def test_jobs_of_a_sweep_that_was_killed_are_waited_for(directory: RunDirectory) -> None:
    todo = tasks(directory, ["fine"], ["fine"], ["fine"])
    known = slurm.submit(todo[:2], commands.main, slurm.SlurmFlags(), directory, 2)
    directory.write_json(slurm.JOBS, known)
    assert {end.name for end in outcomes(directory, todo)} == {"r0", "r1", "r2"}
    assert len(submitted(directory)) == 2
    assert (directory.path / "0.log").read_text().count("told") == 1


def test_a_sweep_that_ends_cancels_its_jobs(directory: RunDirectory) -> None:
    there = directory.path.parent / "there"
    todo = tasks(directory, ["fine"], ["sleep", str(there)], ["fine"])
    with closing(slurm.outcomes(todo, commands.main, slurm.SlurmFlags(), directory, 1)) as ends:
        assert next(ends) == Outcome("r0", None)
    assert slurm.queue() == set()
    assert not (directory.path / "2.log").exists()


def test_a_job_that_is_cancelled_by_hand_fails_alone(directory: RunDirectory) -> None:
    there = directory.path.parent / "there"
    todo = tasks(directory, ["fine"], ["sleep", str(there)])

    def cancel() -> None:
        while not there.exists():
            time.sleep(0.05)
        subprocess.run(["scancel", "1_1"], check=True)

    threading.Thread(target=cancel).start()
    first, second = outcomes(directory, todo)
    assert first.failure is None
    assert (second.failure or "").startswith("its job 1_1 was cancelled or killed; ")


def test_what_slurm_refuses_is_bad_input(directory: RunDirectory) -> None:
    (directory.path.parent / "bin" / "sbatch").write_text("#!/bin/sh\necho no such x >&2\nexit 1\n")
    with pytest.raises(InputError, match=r"--launcher slurm: sbatch refuses: .*no such x"):
        outcomes(directory, tasks(directory, ["fine"]))


def test_a_job_whose_time_is_over_leaves_a_whole_run_and_goes_on(tmp_path: Path) -> None:
    there = tmp_path / "there"
    program = [sys.executable, str(Path(commands.__file__))]
    job = slurm.Job([*program, "sleep", str(there)], tmp_path / "log")
    again: list[object] = []

    def warn(signum: int, frame: object) -> None:
        again.append(job.checkpoint().function)
        raise InterruptedError

    before = signal.signal(signal.SIGUSR2, warn)
    try:
        threading.Thread(target=send_once_there, args=(there,)).start()
        with pytest.raises(InterruptedError):
            job()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert there.read_text() == "interrupted"
    assert again == [job]
    assert pickle.loads(pickle.dumps(job)).command == job.command


def send_once_there(path: Path) -> None:
    while not path.exists():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGUSR2)
