"""Measures one more run of a sweep: in a process of its own, and in a process that is kept.

The run is `python train.py fit` on a problem that is solved at once. So the measurement is about
everything but the attack: start of the process, imports, flags, W&B, pictures and files. Runs of
both kinds alternate, so that a busy machine slows both. The time of each part of a run is measured
in the kept process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import train
from benchmarks.problems import ROOT
from benchmarks.records import Flags, Record, count, one_line_errors, table
from lit_recon.errors import RunError
from lit_recon.sweeps.workers import Task, outcomes

PROBLEM = ["--data", "Sphere", "--data.n", "4", "--data.d", "20", "--model.p_over_dn", "4"]
PARTS = {
    "flags": [
        ("train", "command_line"),
        ("lit_recon.fit.settings", "read_sources"),
        ("lit_recon.fit.settings", "settle"),
    ],
    "start of W&B": [("lit_recon.audit.loggers", "make_wandb_logger")],
    "provenance": [("lit_recon.records.provenance", "provenance")],
    "attack": [("lit_recon.methods.projection", "ProjectionReconstructor.attack")],
    "pictures": [("lit_recon.audit.recorder", name) for name in ("picture", "figure_to_uint8")],
    "report": [("lit_recon.fit.run", "write_run_report")],
}
"""Functions by part of a run; none of them calls another."""


def command(folder: Path, seed: int, wandb: str) -> list[str]:
    """The command line of one run."""
    place = ["--run.dir", str(folder), "--run.name", f"{wandb}-{time.monotonic_ns()}"]
    return ["fit", *PROBLEM, "--run.seed", str(seed), "--wandb.mode", wandb, *place]


def fresh(argv: list[str]) -> float:
    """Seconds of a run in a process of its own."""
    began = time.monotonic()
    program = [sys.executable, str(ROOT / "train.py"), *argv]
    ended = subprocess.run(program, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RunError(f"a run failed: {ended.stderr}")
    return time.monotonic() - began


def turns(folder: Path, runs: int, threads: int) -> dict[str, list[float]]:
    """Seconds of `runs` runs of each kind; the kept process has one more, which imports."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    seconds: dict[str, list[float]] = {"fresh": [], "kept": []}

    def tasks() -> Iterator[Task]:
        for seed in range(runs + 1):
            if seed:
                seconds["fresh"].append(fresh(command(folder, seed, "offline")))
            yield Task(str(seed), command(folder, seed, "offline"), folder / "log")

    with closing(outcomes(tasks(), train.main, [{}])) as ended:
        while True:
            began, before = time.monotonic(), sum(seconds["fresh"])
            outcome = next(ended, None)
            if outcome is None:
                return seconds
            if outcome.failure is not None:
                raise RunError(f"a run failed: {outcome.failure}")
            seconds["kept"].append(time.monotonic() - began - sum(seconds["fresh"]) + before)


def parts(folder: Path, runs: int, wandb: str) -> dict[str, float]:
    """Median seconds of a run and of its parts, after a first run that imports."""
    spent: list[dict[str, float]] = []

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            began = time.monotonic()
            try:
                return call(*args, **kwargs)
            finally:
                spent[-1][name] = spent[-1].get(name, 0.0) + time.monotonic() - began

        return wrapped

    with ExitStack() as stack:
        for part, functions in PARTS.items():
            for module, path in functions:
                *owners, name = path.split(".")
                owner: Any = import_module(module)
                for step in owners:
                    owner = getattr(owner, step)
                stack.enter_context(patch.object(owner, name, timed(part, getattr(owner, name))))
        for seed in range(runs + 1):
            spent.append({})
            began = time.monotonic()
            with redirect_stdout(StringIO()):
                status = train.main(command(folder, seed, wandb))
            if status:
                raise RunError("a run failed")
            spent[-1]["run"] = time.monotonic() - began
    names = ["run", *(name for name in PARTS if name in spent[-1])]
    found = {name: median(run[name] for run in spent[1:]) for name in names}
    return found | {"training, files and the rest": found["run"] - sum(list(found.values())[1:])}


@one_line_errors("sweep_throughput")
def main(argv: list[str] | None = None) -> int:
    text = "Seconds of one more run of a sweep, and of its parts."
    flags = Flags("sweep_throughput", text, {"runs": 1})
    flags.add_argument("--runs", type=count, default=5, help="runs of each kind")
    args = flags.read(argv)
    record = Record(flags, argv, args, seeds=list(range(args.runs + 1)))
    with tempfile.TemporaryDirectory() as folder:
        seconds = turns(Path(folder), args.runs, args.threads)
        where = {mode: parts(Path(folder), args.runs, mode) for mode in ("offline", "disabled")}
    fresh, first, *kept = median(seconds["fresh"]), *seconds["kept"]
    ratio = fresh / median(kept)
    rows = [["of its own", fresh], ["kept, first run", first], ["kept, one more", median(kept)]]
    print(table(["process", "seconds of a run"], rows))
    print(f"one more run costs {ratio:.1f} times less in a process that is kept\n")
    names = list(where["offline"])
    shares = [[name, *(where[mode].get(name) for mode in where)] for name in names]
    print(table(["part", *(f"seconds, W&B {mode}" for mode in where)], shares))
    record.write([{"seconds": seconds, "ratio": ratio, "parts": where}])
    return 0


if __name__ == "__main__":
    sys.exit(main())
