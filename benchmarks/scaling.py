"""Measures one application of J^T J against the lower bounds (floors) of the machine.

An application reads V twice and does 4 p d m floating-point operations. Machines are noisy, so both
floors are measured in the same process, and measurements alternate. The time to read V is that of
the faster of a matrix-vector product with V and a sum over V. The arithmetic speed is that of a
product of square matrices. The share is the larger floor divided by the measured time; 1 is
perfect. If V is not stored, reading V means drawing it again. Every size runs in processes of its
own, so that its peak memory can be measured.

Several ranks are processes on the CPU with one thread each, which share the rows of V. The floors
are those of one rank while the others do the same work. The same problem on one of these ranks,
unshared and with the other ranks asleep, is measured too; the speedup is the ratio of the medians.
If the arithmetic of several ranks is slower than that of one rank, they did not have a core each.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from math import ceil
from multiprocessing import get_context
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.records import Flags, Record, count, one_line_errors, peak_bytes, table
from lit_recon.activations import ACTIVATIONS
from lit_recon.distributed import Ranks, ranks
from lit_recon.errors import InputError, RunError
from lit_recon.linear_map import LinearMap
from lit_recon.objectives.projection import ProjectionObjective
from lit_recon.tall_matrix import SeededMatrix, TallMatrix

# Sides of square matrices that are large enough for full arithmetic speed.
SQUARE = {"cpu": 1024, "cuda": 8192}
# Shorter calls are repeated, so that the clock and kernel launches do not matter.
LEAST_SECONDS = 0.02


@dataclass(frozen=True)
class Cell:
    """One size on one machine."""

    p: int
    m: int
    d: int
    k: int
    ranks: int
    stored: bool
    device: str
    threads: int  # per rank
    repeats: int


class Problem:
    """The projection loss at random candidates, with this rank's share of a random V."""

    def __init__(self, cell: Cell, us: Ranks) -> None:
        random = torch.Generator(cell.device).manual_seed(us.rank)

        def normal(rows: int, columns: int) -> torch.Tensor:
            return torch.empty(rows, columns, device=cell.device).normal_(generator=random)

        share = us.share(cell.p)
        if cell.stored:
            self.rows = TallMatrix.of(normal(len(share), cell.d).mul_(cell.d**-0.5))
        else:
            like = torch.empty(0, device=cell.device)
            self.rows = TallMatrix(SeededMatrix(0, cell.p, cell.d), share, like)
        map, target = LinearMap(self.rows, us), normal(cell.k, len(share))
        objective = ProjectionObjective(map, ACTIVATIONS["relu"], target, radius=cell.d**0.5)
        self.at = objective.linearise(objective.retract(normal(cell.m, cell.d)))
        self.step = self.at.vjp(self.at.residual)

    def application(self) -> torch.Tensor:
        """J^T J applied to one step."""
        return self.at.vjp(self.at.jvp(self.step))


class Clock:
    """Times calls that all ranks begin together, after the device has finished earlier work."""

    def __init__(self, device: torch.device, us: Ranks) -> None:
        self.device = device
        self.us = us

    def __call__(self, call: Callable[[], object], times: int = 1) -> float:
        """Mean seconds of one call, over `times` calls in a row."""
        self.us.total(torch.zeros(1))  # a barrier
        self._wait()
        started = time.perf_counter()
        for _ in range(times):
            call()
        self._wait()
        return (time.perf_counter() - started) / times

    def times(self, call: Callable[[], object]) -> int:
        """The number of repetitions that take LEAST_SECONDS on rank 0; also warms up the call."""
        self(call)
        return int(self.us.first(torch.tensor(ceil(LEAST_SECONDS / self(call)))))

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def peak(device: torch.device) -> int:
    """Peak memory of this process in bytes: of the GPU, or resident memory on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_bytes(getrusage(RUSAGE_SELF))


@torch.no_grad()
def measure(cell: Cell) -> dict[str, Any]:
    """Measure one row of the results; must run in a new process, once on each rank."""
    torch.set_num_threads(cell.threads)
    us, device = ranks(), torch.device(cell.device)
    # A first small problem loads the libraries, so that their memory is not counted.
    Problem(replace(cell, p=64 * us.size, stored=True), us).application()
    before = peak(device)
    problem = Problem(cell, us)
    problem.application()
    memory = peak(device) - before

    rows = problem.rows
    square = torch.randn(SQUARE[device.type], SQUARE[device.type], device=device)
    calls: dict[str, Callable[[], object]] = {"application": problem.application}
    if us.size > 1:
        calls["alone"] = Problem(cell, Ranks()).application if us.rank == 0 else lambda: None
    reads: dict[str, Callable[[], object]] = {"draw": lambda: sum(map(len, rows))}
    if isinstance(v := rows.matrix, torch.Tensor):
        vector = torch.randn(cell.d, 1, device=device)
        reads = {"product": lambda: v @ vector, "sum": v.sum}
    calls = {**calls, **reads, "gemm": lambda: square @ square}

    clock = Clock(device, us)
    times = {name: clock.times(call) for name, call in calls.items()}
    rounds = [
        {name: clock(call, times[name]) for name, call in calls.items()}
        for _ in range(cell.repeats)
    ]
    seconds = {name: median(row[name] for row in rounds) for name in calls}
    operations = 4 * len(rows) * cell.d * cell.m
    per_second = [2 * len(square) ** 3 / row["gemm"] for row in rounds]
    reading = [2 * min(row[name] for name in reads) for row in rounds]
    arithmetic = [operations / rate for rate in per_second]
    shares = [
        max(floors) / row["application"]
        for *floors, row in zip(reading, arithmetic, rounds, strict=True)
    ]
    share_bytes = 4 * len(rows) * cell.d
    stored_bytes = share_bytes if cell.stored else 0
    return {
        **asdict(cell),
        "first_layer_bytes": 4 * cell.p * cell.d,
        "application_seconds": seconds["application"],
        "one_rank_seconds": seconds.get("alone"),
        "speedup": seconds["alone"] / seconds["application"] if "alone" in seconds else None,
        "reading_floor_seconds": median(reading),
        "arithmetic_floor_seconds": median(arithmetic),
        "bytes_per_second": 2 * share_bytes / median(reading),
        "operations_per_second": median(per_second),
        "share_of_floor": median(shares),
        "stored_bytes": stored_bytes,
        "beside_bytes": memory - stored_bytes,
    }


def on_rank(cell: Cell, rank: int, store: Path) -> dict[str, Any]:
    """Measure on one rank; the ranks connect through the file `store`."""
    if cell.ranks == 1:
        return measure(cell)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=cell.ranks)
    try:
        return measure(cell)
    finally:
        dist.destroy_process_group()  # also after an error, or the others would wait


def in_fresh_processes(cell: Cell) -> dict[str, Any]:
    """Measure in new processes; returns the times of rank 0 and the memory of every rank."""
    # A forked process does not start with its parent's peak memory, as a spawned one does.
    context = get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.records", "lit_recon.methods"])
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(cell.ranks, context) as pool,
    ):
        store = Path(folder) / "store"
        everyone = [pool.submit(on_rank, cell, rank, store) for rank in range(cell.ranks)]
        try:
            rows = [one.result() for one in everyone]
        except BrokenProcessPool as error:
            what = f"a process for p={cell.p}, m={cell.m} was killed, perhaps for memory"
            raise RunError(what) from error
    own = {name: [row[name] for row in rows] for name in ("stored_bytes", "beside_bytes")}
    return {**rows[0], **own}


def show(rows: list[dict[str, Any]]) -> None:
    """Print one line for every size."""
    sizes = ["p", "m", "ranks", "V in GB", "stored", "ms", "speedup"]
    floors = ["reading: ms", "GB/s", "arithmetic: ms", "GFLOP/s", "share", "MB beside V"]
    lines = [
        [
            row["p"],
            row["m"],
            row["ranks"],
            row["first_layer_bytes"] / 1e9,
            "yes" if row["stored"] else "no",
            1e3 * row["application_seconds"],
            row["speedup"],
            1e3 * row["reading_floor_seconds"],
            row["bytes_per_second"] / 1e9,
            1e3 * row["arithmetic_floor_seconds"],
            row["operations_per_second"] / 1e9,
            row["share_of_floor"],
            max(row["beside_bytes"]) / 1e6,
        ]
        for row in rows
    ]
    print(table([*sizes, *floors], lines))


@one_line_errors("scaling")
def main(argv: list[str] | None = None) -> int:
    quick = {"p": [2000], "m": [5], "d": 48, "repeats": 3}
    flags = Flags("scaling", "Seconds and memory of one application of J^T J.", quick)
    add = flags.add_argument
    add("--p", nargs="+", type=count, default=[25_000, 50_000, 100_000], help="features")
    add("--m", nargs="+", type=count, default=[10, 30, 100], help="candidates")
    add("--d", type=count, default=3072, help="input dimension")
    add("--k", type=count, default=1, help="outputs")
    add(
        "--ranks",
        nargs="+",
        type=count,
        help="processes that share V, with one thread each if several; None: 1 and 2, on a GPU 1",
    )
    add(
        "--stored",
        nargs="+",
        type=int,
        choices=[0, 1],
        default=[1],
        help="1: V is stored; 0: V is drawn again at every read",
    )
    add("--repeats", type=count, default=9, help="rounds; results are medians")
    add("--device", choices=SQUARE, default="cpu", help="device")
    args = flags.read(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device", args.device, "there is no CUDA device here; give cpu")
    args.ranks = args.ranks or ([1, 2] if args.device == "cpu" else [1])
    if args.device == "cuda" and max(args.ranks) > 1:
        raise InputError("--ranks", max(args.ranks), "several ranks are on the CPU; give 1")
    record = Record(flags, argv, args, seeds=[0], device=args.device)
    rows = [
        in_fresh_processes(
            Cell(
                p=p,
                m=m,
                d=args.d,
                k=args.k,
                ranks=size,
                stored=bool(stored),
                device=args.device,
                threads=args.threads if size == 1 else 1,
                repeats=args.repeats,
            )
        )
        for p in args.p
        for m in args.m
        for stored in args.stored
        for size in args.ranks
    ]
    show(rows)
    record.write(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
