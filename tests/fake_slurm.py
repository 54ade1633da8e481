"""sbatch, srun, squeue and scancel, as far as submitit and sweeps use them, without a cluster.

The jobs of an array run one after another. What is in the queue is in the folder FAKE_SLURM. A real
Slurm is checked by slurm_node.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

QUEUE = Path(os.environ.get("FAKE_SLURM", ""))


def install(folder: Path) -> None:
    """Puts the programs into a folder for PATH."""
    for name in ("sbatch", "srun", "squeue", "scancel"):
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {name} "$@"\n')
        program.chmod(0o755)


def sbatch(script: str) -> None:
    array = re.search(r"^#SBATCH --array=0-(\d+)%", Path(script).read_text(), re.MULTILINE)
    number = len(list(QUEUE.glob("submitted-*"))) + 1
    tasks = [f"{number}_{i}" for i in range(int(array[1]) + 1)] if array else [str(number)]
    (QUEUE / f"submitted-{number}").write_text(" ".join(tasks))
    for task in tasks:
        (QUEUE / task).touch()
    command = [sys.executable, __file__, "work", script, *tasks]
    nowhere = subprocess.DEVNULL
    subprocess.Popen(command, start_new_session=True, stdout=nowhere, stderr=nowhere)
    print(f"Submitted batch job {number}")


def work(script: str, *tasks: str) -> None:
    one = dict.fromkeys(("SLURM_NTASKS", "SLURM_JOB_NUM_NODES"), "1")
    zero = dict.fromkeys(("SLURM_PROCID", "SLURM_NODEID", "SLURM_LOCALID"), "0")
    for task in tasks:
        number, _, index = task.partition("_")
        name = {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": index} if index else {}
        environment = os.environ | one | zero | name | {"SLURM_JOB_ID": number}
        if (QUEUE / task).exists():
            subprocess.run(["bash", script], env=environment, check=False)
            (QUEUE / task).unlink(missing_ok=True)


def srun(*words: str) -> None:
    command = words[words.index(sys.executable) :]
    os.execv(command[0], command)


def squeue(*flags: str) -> None:
    assert "--array" in flags
    print(*(path.name for path in QUEUE.glob("[0-9]*")), sep="\n")


def scancel(*jobs: str) -> None:
    for job in jobs:
        for path in (QUEUE / job, *QUEUE.glob(f"{job}_*")):
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
