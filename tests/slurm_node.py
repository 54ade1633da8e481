"""The check of sweeps on a real Slurm: a cluster of this one machine, for as long as it takes.

    python -m tests.slurm_node [check_NAME ...]

Needs root, munge and Slurm (Debian's slurm-wlm, or their programs from elsewhere on PATH), and
submitit. The cluster lives in a temporary folder and on ports of its own, and ends with the check.
It takes about ten minutes and is no part of the test suite. What it shows: never more runs at a
time than ``--jobs``; a job cancelled by hand costs its own run alone, and the same command runs
that one again; jobs that outlive a killed sweep are waited for, not submitted again; Ctrl-C cancels
them; a run that uses up its time goes on in another job; a single run under srun.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
TRAIN = [sys.executable, str(ROOT / "train.py")]
QUICK = ["--data", "Sphere", "--data.n", "4", "--data.d", "8", "--model.p_over_dn", "4"]
HARD = ["--data", "Sphere", "--data.n", "20", "--data.d", "60", "--model.p_over_dn", "1.1"]
SLURM = ["--launcher", "slurm", "--wandb.mode", "disabled"]

CONFIGURATION = """\
ClusterName=check
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
AuthInfo=socket={folder}/munge.sock
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=check Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """Munge and Slurm with one node of four CPUs, whatever the machine has."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "key").write_bytes(secrets.token_bytes(1024))
    (folder / "key").chmod(0o400)
    values = {"host": socket.gethostname().partition(".")[0], "user": "root", "folder": folder}
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**values))
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    os.environ["PATH"] += ":/usr/sbin"
    places = {"key-file": "key", "socket": "munge.sock", "pid-file": "munged.pid"}
    places |= {"seed-file": "seed", "log-file": "munged.log"}
    munge = [f"--{flag}={folder / name}" for flag, name in places.items()]
    daemons = [["munged", "--foreground", "--force", *munge], ["slurmctld", "-D"], ["slurmd", "-D"]]
    with (folder / "daemons.log").open("wb") as log:
        started = []
        try:
            for daemon in daemons:
                started.append(subprocess.Popen(daemon, stdout=log, stderr=log))
                time.sleep(2)
            wait_until(lambda: "idle" in output("sinfo", "--noheader"))
            yield
        finally:
            for process in reversed(started):
                process.terminate()
                process.wait()


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def jobs(*states: str) -> list[str]:
    """The jobs in some of the states, or all that have not ended."""
    chosen = [f"--states={','.join(states)}"] if states else []
    return output("squeue", "--noheader", "--array", "--format=%i", *chosen).split()


def wait_until(true: Callable[[], object]) -> None:
    for _ in range(1200):
        if true():
            return
        time.sleep(0.5)
    raise TimeoutError


def start(*argv: str) -> subprocess.Popen[str]:
    """A command in a process group of its own, as a shell starts it."""
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def sweep(*argv: str) -> subprocess.Popen[str]:
    return start(*TRAIN, "sweep", *SLURM, *argv)


def ended(process: subprocess.Popen[str], status: int) -> str:
    """What it printed, once it has ended as it should."""
    out, error = process.communicate()
    assert process.returncode == status, (process.returncode, out, error)
    return out + error


def results(name: str) -> pd.DataFrame:
    return pd.read_csv(Path("runs", name, "results.csv"))


def check_the_cap() -> None:
    process = sweep(*QUICK, "--grid.run.seed", "0:6", "--jobs", "2", "--run.name", "cap")
    most = 0
    while process.poll() is None:
        most = max(most, len(jobs("RUNNING")))
        time.sleep(0.2)
    ended(process, 0)
    assert most == 2, most
    assert list(results("cap")["seed"][1::2]) == list(range(6))


def check_a_cancelled_job() -> None:
    command = [*HARD, "--grid.run.seed", "0:3", "--jobs", "3", "--recon.max_seconds", "20"]
    process = sweep(*command, "--run.name", "cancelled")
    wait_until(lambda: len(jobs("RUNNING")) == 3)
    victim = sorted(jobs())[1]
    subprocess.run(["scancel", victim], check=True)
    told = ended(process, 1)
    assert f"its job {victim} was cancelled or killed" in told, told
    table = results("cancelled")
    assert list(table[table["last"]]["seed"]) == [0, 2]
    told = ended(sweep(*command, "--run.name", "cancelled"), 0)
    assert "3 runs, of which 2 have ended before" in told and "1 of 1" in told, told
    assert list(results("cancelled")["seed"][1::2]) == [0, 1, 2]


def check_a_killed_sweep() -> None:
    command = [*HARD, "--grid.run.seed", "0:3", "--jobs", "1", "--recon.max_seconds", "10"]
    process = sweep(*command, "--run.name", "killed")
    wait_until(lambda: Path("runs/killed/slurm/jobs.json").exists() and jobs("RUNNING"))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    left = set(jobs())
    assert left
    again = sweep(*command, "--run.name", "killed")
    while again.poll() is None:
        assert set(jobs()) <= left
        time.sleep(1)
    ended(again, 0)
    assert list(results("killed")["seed"][1::2]) == [0, 1, 2]


def check_ctrl_c() -> None:
    command = [*HARD, "--grid.run.seed", "0:3", "--jobs", "2", "--recon.max_seconds", "10"]
    process = sweep(*command, "--run.name", "stopped")
    wait_until(lambda: jobs("RUNNING"))
    os.killpg(process.pid, signal.SIGINT)
    told = ended(process, 130)
    assert "--run.name stopped goes on" in told, told
    assert not jobs()
    ended(sweep(*command, "--run.name", "stopped"), 0)
    assert list(results("stopped")["seed"][1::2]) == [0, 1, 2]


def check_a_run_that_uses_up_its_time() -> None:
    # Slurm warns a job 90 to 150 s before its end, here 30 to 120 s after its start; each of four
    # attacks takes 40 s. It goes on in the same job, which Slurm lets wait for two minutes.
    steps = ["--optim", "SGD", "--optim.lr", "1e-3", "--trainer.max_steps", "4"]
    command = [*HARD, *steps, "--checkpoint.every_n_steps", "1", "--recon.max_seconds", "40"]
    ended(sweep(*command, "--grid.run.seed", "0", "--slurm.time", "3", "--run.name", "late"), 0)
    assert list(results("late")["step"]) == list(range(5))
    (log,) = Path("runs/late/logs").iterdir()
    told = log.read_text()
    assert told.count("train.py: interrupted") >= 1 and told.count("step 0: ") == 1, told


def check_srun() -> None:
    told = ended(start("srun", *TRAIN, *QUICK, "--wandb.mode", "disabled", "--run.name", "s"), 0)
    assert "4 of 4 samples recovered" in told and "warning" not in told, told


def main() -> None:
    home = Path(tempfile.mkdtemp(prefix="slurm-"))
    os.chdir(home)
    os.environ["PYTHONPATH"] = str(ROOT)
    # What a shell starts in the background ignores Ctrl-C, and so would all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    checks = {name: check for name, check in globals().items() if name.startswith("check_")}
    with cluster(home):
        for name, check in checks.items():
            if not sys.argv[1:] or name in sys.argv[1:]:
                print(name.removeprefix("check_").replace("_", " "), end=" ... ", flush=True)
                check()
                print("done", flush=True)
    shutil.rmtree(home)


if __name__ == "__main__":
    main()
