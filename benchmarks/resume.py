"""Compares runs that are killed at random moments and resumed with an uninterrupted run.

Every run is ``python train.py`` in a process of its own: mini-batches with momentum, checkpoints
within epochs, and an attack on each checkpoint. SIGKILL ends it at a random moment between the
first checkpoint and the end; then the same command runs with ``--run.resume true``. It must leave
the same files: bit-identical weights, optimiser states and candidates, and the same rows and
numbers, except times.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.problems import ROOT
from benchmarks.records import Flags, Record, count, one_line_errors, seed, table
from lit_recon.audit.recorder import of_method
from lit_recon.errors import RunError
from lit_recon.records.checkpoints import saved_checkpoints, step_of
from lit_recon.records.directory import RunDirectory

METHOD = "projection"
LIMIT = 600  # seconds for one command


def command_line(steps: int, every: int) -> list[str]:
    """The flags of train.py; attacks end by steps, because seconds depend on the machine."""
    flags = {
        "data": "Sphere",
        "data.n": 10,
        "data.d": 40,
        "data.batch_size": 4,
        "model": "RandomFeatures",
        "model.p": 1600,
        "optim": "SGD",
        "optim.lr": 1e-4,
        "optim.momentum": 0.9,
        "trainer.max_steps": steps,
        "trainer.accelerator": "cpu",
        "checkpoint.every_n_steps": every,
        "recon.max_steps": 60,
        "recon.max_seconds": LIMIT,
        "wandb.mode": "disabled",
    }
    return [f"--{flag}={value}" for flag, value in flags.items()]


def left_by(directory: Path) -> dict[str, Any]:
    """The content of a run directory by file name, without times and W&B."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        name = path.relative_to(directory).as_posix()
        if name.startswith("wandb/"):
            continue
        found[name] = None
        if path.suffix in (".json", ".jsonl") and name != "provenance.json":
            found[name] = re.sub(r'seconds": [0-9.e-]+', "", path.read_text())
        elif path.suffix == ".safetensors":
            found[name] = path.read_bytes()
        elif path.suffix == ".ckpt":
            saved = torch.load(path, weights_only=True)
            found[name] = [exact(saved[part]) for part in ("state_dict", "optimizer_states")]
    return found


def differing(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Names of the files that only one run has, or that differ."""
    return sorted(n for n in {*found, *expected} if found.get(n, 0) != expected.get(n, 0))


def exact(state: Any) -> Any:
    """A state in which tensors are replaced by their bytes."""
    if isinstance(state, dict):
        return {name: exact(value) for name, value in state.items()}
    if isinstance(state, list):
        return [exact(value) for value in state]
    return state.numpy().tobytes() if isinstance(state, torch.Tensor) else state


def started(argv: list[str], directory: Path, threads: int) -> subprocess.Popen[str]:
    """Start a run as a user does."""
    place = [f"--run.dir={directory.parent}", f"--run.name={directory.name}"]
    return subprocess.Popen(
        [sys.executable, "train.py", *argv, *place],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str], limit: float = LIMIT) -> None:
    """Wait for the end of a run, at most `limit` seconds.

    Raises:
        RunError: the run failed; the message is its last line.
    """
    _, said = process.communicate(timeout=limit)
    if process.returncode:
        line = (said.splitlines() or ["no message"])[-1]
        raise RunError(f"train.py ended with status {process.returncode}: {line}")


def undisturbed(argv: list[str], directory: Path, threads: int) -> tuple[float, float]:
    """Run to the end; returns the seconds until the first checkpoint and until the end."""
    begin = time.perf_counter()
    with started(argv, directory, threads) as process:
        while process.poll() is None and not saved_checkpoints(directory):
            time.sleep(0.01)
        training = time.perf_counter() - begin
        finished(process)
    return training, time.perf_counter() - begin


def killed(argv: list[str], directory: Path, share: float, threads: int, whole: float) -> None:
    """Kill a run after a share of the time `whole` between the first checkpoint and the end."""
    with started(argv, directory, threads) as process:
        while process.poll() is None and not saved_checkpoints(directory):
            time.sleep(0.01)
        time.sleep(share * whole)
        process.kill()
        process.communicate()


def trial(
    argv: list[str],
    directory: Path,
    share: float,
    whole: float,
    expected: dict[str, Any],
    threads: int,
) -> dict[str, Any]:
    """Kill a run and resume it; returns where it was killed, and which files differ."""
    killed(argv, directory, share, threads, whole)
    saved = [step_of(path) for path in saved_checkpoints(directory)]
    attacked = of_method(RunDirectory(directory), METHOD).steps()
    drafts = [path.name for path in directory.rglob(".*.tmp-*")]
    with started([*argv, "--run.resume=true"], directory, threads) as process:
        finished(process)
    names = differing(left_by(directory), expected)
    return {
        "killed_after_seconds": share * whole,
        "last_checkpoint": saved[-1],
        "in": "an attack" if saved[-1] not in attacked else "training",
        "drafts_left": len(drafts),
        "differing_files": names,
        "equal": not names,
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Print one line for every kill."""
    header = ["kill", "after: s", "last checkpoint", "in", "drafts left", "outcome"]
    lines = [
        [
            i,
            row["killed_after_seconds"],
            row["last_checkpoint"],
            row["in"],
            row["drafts_left"],
            "equal" if row["equal"] else ", ".join(row["differing_files"]),
        ]
        for i, row in enumerate(rows)
    ]
    print(table(header, lines))


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Make the uninterrupted run and all killed runs; returns one row for each kill."""
    argv = command_line(args.steps, args.every)
    shares = np.random.default_rng(args.seed).uniform(size=args.kills)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        training, end = undisturbed(argv, Path(folder, "whole"), args.threads)
        expected = left_by(Path(folder, "whole"))
        for i, share in enumerate(shares.tolist()):
            directory = Path(folder, f"kill{i}")
            rows.append(trial(argv, directory, share, end - training, expected, args.threads))
            print(f"kill {i}: equal {rows[-1]['equal']}", file=sys.stderr, flush=True)
    return rows


@one_line_errors("resume")
def main(argv: list[str] | None = None) -> int:
    quick: dict[str, Any] = {"kills": 1, "steps": 40, "every": 15}
    flags = Flags("resume", "Compares killed and resumed runs with an uninterrupted run.", quick)
    add = flags.add_argument
    add("--kills", type=count, default=20, help="number of killed runs")
    add("--seed", type=seed, default=0, help="seed of the moments of the kills")
    add("--steps", type=count, default=4000, help="training steps")
    add("--every", type=count, default=500, help="steps from one checkpoint to the next")
    args = flags.read(argv)
    record = Record(flags, argv, args, seeds=[args.seed])
    rows = run(args)
    show(rows)
    record.write(rows)
    refuse_differences(rows)
    return 0


def refuse_differences(rows: list[dict[str, Any]]) -> None:
    """Raise RunError if a resumed run differs from the uninterrupted run."""
    different = sum(not row["equal"] for row in rows)
    if different:
        raise RunError(f"{different} of {len(rows)} resumed runs differ from the uninterrupted run")


if __name__ == "__main__":
    sys.exit(main())
