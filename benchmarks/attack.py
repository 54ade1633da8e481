"""Measures whole commands: scores, seconds and memory of ``python train.py``.

Every row is one run of train.py in a process of its own, as a user starts it: seconds and memory
include imports, data, training, attack and files. The first row is always a tiny problem, which
shows the cost of any command. Its peak memory is subtracted in the column "added / V".
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.problems import ROOT, Problem, photos, pictures, runnable, sphere
from benchmarks.records import Flags, Record, one_line_errors, peak_bytes, positive, seed, table
from lit_recon.audit.recorder import of_method
from lit_recon.errors import InputError, RunError
from lit_recon.records.directory import RunDirectory

PROBLEMS = {
    "cifar": pictures(10, 32, 100_000),
    "cifar-cat-dog": pictures(10, 32, 100_000, ("cat", "dog")),
    "cifar-ship-airplane": pictures(10, 32, 100_000, ("ship", "airplane")),
    "cifar-horse-deer": pictures(10, 32, 100_000, ("horse", "deer")),
    "cifar16": pictures(30, 16, 100_000),
    "cifar8": pictures(100, 8, 100_000),
    "cifar8x10": pictures(100, 8, 10 * 100 * 192),
    "sphere1.5": sphere(10, 100, 1500),
    "sphere2": sphere(10, 100, 2000),
    "photos": photos(10, 32, 3 * 10 * 3072),
}
TINY = photos(4, 8, 4 * 4 * 192)
METHOD = "projection"
STEP = 1  # a closed-form training has one step
SHARES = ("recovered_fraction", "exact_fraction", "certified_fraction")
COPIED = (*SHARES, "direction_error", "projection_loss", "status", "applications", "restarts")


def run(
    name: str, problem: Problem, root: str | None, random_seed: int, args: argparse.Namespace
) -> dict[str, Any]:
    """Run one command, read its results, and print one line.

    Raises:
        InputError: train.py refused a flag; the message is its last line.
        RunError: train.py failed; the message is its last line.
    """
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory(Path(folder) / "run")
        flags = {
            "run.dir": folder,
            "run.name": directory.path.name,
            "recon": "ProjectionReconstructor",
            "recon.seed": random_seed,
            "recon.max_seconds": args.seconds,
            "wandb.mode": "disabled",
            "trainer.accelerator": "cpu",
        }
        command = [sys.executable, "train.py", *model_flags(problem, root)]
        command += [f"--{flag}={value}" for flag, value in flags.items()]
        wall, peak = timed(command, args.threads)
        found = json.loads(
            (of_method(directory, METHOD).step_path(STEP) / "metrics.json").read_text()
        )
    share = found["recovered_fraction"]
    line = f"{name}, seed {random_seed}: {share:.2f} recovered, {wall:.1f} s"
    print(line, file=sys.stderr, flush=True)
    return {
        "problem": name,
        "recon_seed": random_seed,
        **problem.size,
        **{key: found[key] for key in COPIED},
        "attack_seconds": found["seconds"],
        "command_seconds": wall,
        "peak_bytes": peak,
        "peak_over_first_layer": peak / problem.first_layer_bytes,
    }


def model_flags(problem: Problem, root: str | None) -> list[str]:
    """The flags of train.py for the data and the model of a problem."""
    data = [f"--data.{name}={value}" for name, value in problem.settings(root).items()]
    return [f"--data={problem.data}", *data, f"--model.p={problem.p}"]


def timed(command: list[str], threads: int) -> tuple[float, int]:
    """Wall seconds and peak resident bytes of a command."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=errors
        )
        # Popen.wait does not return memory, and getrusage only that of the largest child so far.
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        lines = errors.read().splitlines() or ["no message"]
    if process.returncode == 2:
        raise InputError("train.py", "refuses", lines[-1])
    if process.returncode:
        raise RunError(f"train.py ended with status {process.returncode}: {lines[-1]}")
    return seconds, peak_bytes(usage)


def show(rows: list[dict[str, Any]]) -> None:
    """Print one line for every run; shares are shown as numbers of samples."""
    header = ["problem", "seed", "n", "p/(dn)", "recovered", "exact", "certified", "status"]
    header += ["applications", "attack: s", "command: s", "peak: GB", "peak / V", "added / V"]
    lines = []
    for row in rows:
        shares = (row[key] for key in SHARES)
        counts = [None if share is None else round(share * row["n"]) for share in shares]
        line = [row["problem"], row["recon_seed"], row["n"], row["p_over_dn"], *counts]
        line += [row["status"], row["applications"], row["attack_seconds"]]
        line += [row["command_seconds"], row["peak_bytes"] / 1e9, row["peak_over_first_layer"]]
        line += [row.get("added_over_first_layer")]
        lines.append(line)
    print(table(header, lines))


@one_line_errors("attack")
def main(argv: list[str] | None = None) -> int:
    quick: dict[str, Any] = {"problems": []}
    flags = Flags("attack", "Scores, seconds and memory of whole commands.", quick)
    add = flags.add_argument
    add("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS), help="problems")
    add("--root", metavar="FOLDER", help="CIFAR-10 as FOLDER/CLASS/IMAGE.png")
    add("--seeds", nargs="+", type=seed, default=[0], help="seeds of the attack; data and model: 0")
    add("--seconds", type=positive, default=600.0, help="time budget of one attack")
    args = flags.read(argv)
    names = runnable({name: PROBLEMS[name] for name in args.problems}, args.root)
    root = args.root and str(Path(args.root).expanduser().resolve())  # train.py has another cwd
    record = Record(flags, argv, args, seeds=args.seeds)
    rows = [run("tiny", TINY, None, args.seeds[0], args)]
    rows += [
        run(name, PROBLEMS[name], root, random_seed, args)
        for name in names
        for random_seed in args.seeds
    ]
    for row in rows[1:]:
        added = row["peak_bytes"] - rows[0]["peak_bytes"]
        row["added_over_first_layer"] = added / PROBLEMS[row["problem"]].first_layer_bytes
    show(rows)
    record.write(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
