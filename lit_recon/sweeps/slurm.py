"""The runs of a sweep as jobs of a Slurm cluster, in arrays with a cap.

Jobs outlive the process that submitted them. Which job does which run is written down, so that a
sweep that is started again waits for the jobs that are still there instead of submitting others.
"""

from __future__ import annotations

import inspect
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lit_recon.errors import InputError, RunError
from lit_recon.records.directory import RunDirectory
from lit_recon.sweeps.workers import Main, Outcome, Task, last_words

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

ARRAY = 1000  # jobs of one array; a cluster's own limit is 1001 unless it is set
# Minutes. Slurm warns 90 s before the end, or up to 60 s earlier; a job that has not quite started
# would die of it.
SHORTEST = 3
POLL_SECONDS = 5.0
PATIENCE = 120  # looks at the queue in a row that may fail, as while its server restarts
JOBS = "slurm/jobs.json"


@dataclass
class SlurmFlags:
    """What --launcher slurm asks for, for each run.

    Args:
        partition: of the cluster; null: its default.
        account: that is charged; null: its default.
        time: minutes, at least 3. A run that needs more is stopped and goes on in a new job, three
            times.
        cpus: cores, at least 1.
        memory: in GB; null: the cluster's default.
        gpus: GPUs of one node.
    """

    partition: str | None = None
    account: str | None = None
    time: int = 60
    cpus: int = 1
    memory: float | None = None
    gpus: int = 0


class Job:
    """One command, as a job does it.

    Args:
        command: what to run.
        log: the file to which its output is appended.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.command = list(command)
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> str | None:
        """Run it; None or why it failed."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        cores = os.environ.get("SLURM_CPUS_PER_TASK", "1")
        environment = {"OMP_NUM_THREADS": cores, **os.environ}
        # One task may have several GPUs. Lightning starts their processes itself in a job of this
        # name, and in any other expects the cluster to have done it.
        environment["SLURM_JOB_NAME"] = "interactive"
        # Slurm may send the warning before the end to all processes; this one is to hear it alone.
        handler = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        signal.signal(signal.SIGUSR2, handler)
        return None if self._process.wait() == 0 else last_words(self.log)

    def checkpoint(self) -> DelayedSubmission:
        """What submitit queues again when the time is over: the same, which goes on."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            # Not Popen's own wait: that is what the signal has interrupted, and it holds a lock.
            _, status = os.waitpid(self._process.pid, 0)
            self._process.returncode = os.waitstatus_to_exitcode(status)
            self._process = None
        return DelayedSubmission(self)


def check() -> None:
    """Refuse where there is no Slurm, or nothing to talk to it."""
    if shutil.which("sbatch") is None:
        remedy = "there is no sbatch on this machine; start it on a cluster, or give local"
        raise InputError("--launcher", "slurm", remedy)
    try:
        import submitit  # noqa: F401
    except ImportError as error:
        raise InputError("--launcher", "slurm", "needs pip install -e '.[cluster]'") from error


def outcomes(
    tasks: Sequence[Task], main: Main, flags: SlurmFlags, directory: RunDirectory, jobs: int
) -> Generator[Outcome, None, None]:
    """Run all commands as jobs; if this is ended before they are, they are cancelled.

    Args:
        tasks: the commands.
        main: the function that the commands call, in a file that is a program.
        flags: what each job asks for.
        directory: of the sweep; on a disk that all nodes see.
        jobs: how many run at a time.

    Raises:
        InputError: Slurm does not take the jobs.
        RunError: it does not answer any more.
    """
    told = directory.read_json(JOBS) if (directory.path / JOBS).exists() else {}
    waiting = {task.name: task for task in tasks}
    known = queue()
    active = {job: name for job, name in told.items() if job in known and name in waiting}
    for name in active.values():
        del waiting[name]
    try:
        while waiting or active:
            if not active:
                batch = [waiting.pop(name) for name in list(waiting)[:ARRAY]]
                active = submit(batch, main, flags, directory, jobs)
                directory.write_json(JOBS, active)
            time.sleep(POLL_SECONDS)
            gone = set(active) - queue()
            if gone:
                time.sleep(POLL_SECONDS)  # until a shared disk shows what their nodes wrote
            for job in sorted(gone):
                yield Outcome(active.pop(job), _failure(directory, job))
    finally:
        if active:
            arrays = {job.partition("_")[0] for job in active}
            subprocess.run(["scancel", *sorted(arrays)], check=False)
            while set(active) & queue():  # the next start would wait for them
                time.sleep(1)


def submit(
    tasks: Sequence[Task], main: Main, flags: SlurmFlags, directory: RunDirectory, jobs: int
) -> dict[str, str]:
    """Submit one array; gives the name of the run that each job does."""
    import submitit
    from submitit.core.utils import FailedJobError

    executor = submitit.AutoExecutor(directory.path / "slurm", cluster="slurm")
    executor.update_parameters(
        name=directory.path.name,
        timeout_min=flags.time,
        cpus_per_task=flags.cpus,
        slurm_array_parallelism=jobs,
        **_given(
            slurm_partition=flags.partition,
            slurm_account=flags.account,
            mem_gb=flags.memory,
            gpus_per_node=flags.gpus or None,
        ),
    )
    program = [sys.executable, str(Path(inspect.getfile(main)).resolve())]
    work = [Job([*program, *task.argv], task.log) for task in tasks]
    try:
        submitted = executor.submit_array(work)
    except FailedJobError as error:
        raise InputError("--launcher", "slurm", f"sbatch refuses: {error}") from error
    return {job.job_id: task.name for job, task in zip(submitted, tasks, strict=True)}


def queue() -> set[str]:
    """The jobs of this user that have not ended, array by array as ``12_3``."""
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
    for _ in range(PATIENCE):
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            return set(answer.stdout.split())
        time.sleep(POLL_SECONDS)
    raise RunError(f"Slurm does not answer any more: {answer.stderr.strip()}")


def _failure(directory: RunDirectory, job: str) -> str | None:
    """Why the run of a finished job failed; None if it ended well."""
    from submitit import SlurmJob

    ended: SlurmJob[str | None] = SlurmJob(directory.path / "slurm", job)
    if not ended.paths.result_pickle.exists():
        return f"its job {job} was cancelled or killed; {ended.paths.stderr} may say more"
    if ended.exception() is not None:
        return f"its job {job} failed; {ended.paths.stderr} says why"
    return ended.result()


def _given(**parameters: object) -> Mapping[str, object]:
    return {name: value for name, value in parameters.items() if value is not None}
