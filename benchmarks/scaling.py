"""What one application of J^T J costs, against the floor of the machine that it ran on.

An application reads V twice and does 4 p d m floating-point operations. Both floors are measured in
the same process and in turn with it, since machines are noisy: the time to read V from the faster
one of a matrix-vector product and a sum over the same V, the arithmetic from a product of square
matrices. The share is the larger floor over the measured time, 1 being perfect. Every size has a
process of its own, so that its peak memory is its own too.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from math import ceil
from multiprocessing import get_context
from resource import RUSAGE_SELF, getrusage
from statistics import median
from typing import Any

import torch

from benchmarks.records import Flags, Record, count, one_line_errors, peak_bytes, table
from lit_recon.activations import ACTIVATIONS
from lit_recon.errors import InputError, RunError
from lit_recon.features import LinearMap
from lit_recon.objectives.projection import ProjectionObjective
from lit_recon.rows import Rows

# Sides of square matrices whose product runs at full rate.
SQUARE = {"cpu": 1024, "cuda": 8192}
# Calls that end sooner are repeated, so that no clock and no launch shows.
LEAST_SECONDS = 0.02


@dataclass(frozen=True)
class Cell:
    """One size on one machine."""

    p: int
    m: int
    d: int
    k: int
    device: str
    threads: int
    repeats: int


class Clock:
    """Times calls on a device, whose queue is empty before and after."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, call: Callable[[], object], times: int = 1) -> float:
        """Seconds of one of so many calls in a row."""
        self._wait()
        started = time.perf_counter()
        for _ in range(times):
            call()
        self._wait()
        return (time.perf_counter() - started) / times

    def times(self, call: Callable[[], object]) -> int:
        """How often to repeat a call in a row; also warms it up."""
        self(call)
        return ceil(LEAST_SECONDS / self(call))

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def peak(device: torch.device) -> int:
    """Bytes that this process has held at most, on the GPU where it uses one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_bytes(getrusage(RUSAGE_SELF))


@torch.no_grad()
def measure(cell: Cell) -> dict[str, Any]:
    """One row of the results; for a fresh process."""
    torch.set_num_threads(cell.threads)
    device = torch.device(cell.device)
    random = torch.Generator(device).manual_seed(0)

    def normal(rows: int, columns: int) -> torch.Tensor:
        return torch.empty(rows, columns, device=device).normal_(generator=random)

    before = peak(device)
    v = normal(cell.p, cell.d).mul_(cell.d**-0.5)
    target = normal(cell.k, cell.p)
    objective = ProjectionObjective(
        LinearMap(Rows.of(v)), ACTIVATIONS["relu"], target, radius=cell.d**0.5
    )
    at = objective.linearise(objective.retract(normal(cell.m, cell.d)))
    step = at.vjp(at.residual)

    def application() -> torch.Tensor:
        return at.vjp(at.jvp(step))

    application()
    memory = peak(device) - before

    vector = normal(cell.d, 1)
    square = normal(SQUARE[device.type], SQUARE[device.type])
    calls: dict[str, Callable[[], object]] = {
        "application": application,
        "product": lambda: v @ vector,
        "sum": v.sum,
        "gemm": lambda: square @ square,
    }
    clock = Clock(device)
    times = {name: clock.times(call) for name, call in calls.items()}
    rounds = [
        {name: clock(call, times[name]) for name, call in calls.items()}
        for _ in range(cell.repeats)
    ]
    operations = 4 * cell.p * cell.d * cell.m
    per_second = [2 * len(square) ** 3 / row["gemm"] for row in rounds]
    reading = [2 * min(row["product"], row["sum"]) for row in rounds]
    arithmetic = [operations / rate for rate in per_second]
    shares = [
        max(floors) / row["application"]
        for *floors, row in zip(reading, arithmetic, rounds, strict=True)
    ]
    v_bytes = v.numel() * v.element_size()
    return {
        **asdict(cell),
        "first_layer_bytes": v_bytes,
        "application_seconds": median(row["application"] for row in rounds),
        "reading_floor_seconds": median(reading),
        "arithmetic_floor_seconds": median(arithmetic),
        "bytes_per_second": 2 * v_bytes / median(reading),
        "operations_per_second": median(per_second),
        "share_of_floor": median(shares),
        "peak_bytes": memory,
        "peak_over_first_layer": memory / v_bytes,
    }


def in_its_own_process(cell: Cell) -> dict[str, Any]:
    """Measure where nothing was allocated before."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(measure, cell).result()
        except BrokenProcessPool as error:
            what = f"the process for p={cell.p}, m={cell.m} was killed, perhaps for memory"
            raise RunError(what) from error


def show(rows: list[dict[str, Any]]) -> None:
    """Print one line for every size."""
    header = ["p", "m", "V in GB", "ms", "reading: ms", "GB/s", "arithmetic: ms", "GFLOP/s"]
    lines = [
        [
            row["p"],
            row["m"],
            row["first_layer_bytes"] / 1e9,
            1e3 * row["application_seconds"],
            1e3 * row["reading_floor_seconds"],
            row["bytes_per_second"] / 1e9,
            1e3 * row["arithmetic_floor_seconds"],
            row["operations_per_second"] / 1e9,
            row["share_of_floor"],
            row["peak_over_first_layer"],
        ]
        for row in rows
    ]
    print(table([*header, "share", "memory / V"], lines))


@one_line_errors("scaling")
def main(argv: list[str] | None = None) -> int:
    quick = {"p": [2000], "m": [5], "d": 48, "repeats": 3}
    flags = Flags("scaling", "Seconds and memory of one application of J^T J.", quick)
    add = flags.add_argument
    add("--p", nargs="+", type=count, default=[25_000, 50_000, 100_000], help="features")
    add("--m", nargs="+", type=count, default=[10, 30, 100], help="candidates")
    add("--d", type=count, default=3072, help="input dimension")
    add("--k", type=count, default=1, help="outputs")
    add("--repeats", type=count, default=9, help="rounds to take the median of")
    add("--device", choices=SQUARE, default="cpu", help="where")
    args = flags.read(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device", args.device, "there is no CUDA device here; give cpu")
    record = Record(flags, argv, args, seeds=[0], device=args.device)
    rows = [
        in_its_own_process(Cell(p, m, args.d, args.k, args.device, args.threads, args.repeats))
        for p in args.p
        for m in args.m
    ]
    show(rows)
    record.write(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
