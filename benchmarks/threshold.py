"""Measures the recovered share of samples over p / (d n), for our attack and the paper's descent.

The data are synthetic, on the sphere. Every seed is one data set, one model and one start of the
attack, the same as with ``train.py --run.seed``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from statistics import fmean, median
from typing import Any

import torch
from matplotlib.figure import Figure

from benchmarks.problems import published, sphere, train
from benchmarks.records import Flags, Record, count, one_line_errors, positive, seed, table
from lit_recon.errors import RunError
from lit_recon.methods import ProjectionReconstructor
from lit_recon.metrics.matching import DIRECTION, match
from lit_recon.metrics.scores import recovered_fraction
from lit_recon.randomness import generator
from lit_recon.report.grid import DPI, FAILED, FAINT, RECOVERED

RATIOS = [0.5, 0.75, 1.0, 1.1, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 5.0]
COLOURS = {"ours": RECOVERED, "descent": FAILED}


@dataclass(frozen=True)
class Cell:
    """One attack on n points of dimension d with p = ratio d n features."""

    solver: str
    ratio: float
    seed: int
    n: int
    d: int
    lr: float  # of the descent
    seconds: float


def attack(cell: Cell) -> dict[str, Any]:
    """Train, attack and score; returns one row of the results."""
    problem = sphere(cell.n, cell.d, round(cell.ratio * cell.n * cell.d))
    trained = train(problem, None, cell.seed)
    if cell.solver == "ours":
        reconstructor = ProjectionReconstructor(max_seconds=cell.seconds)
    else:
        reconstructor = published(cell.lr, cell.seconds)
    outcome = reconstructor.reconstruct(trained.knowledge, generator(cell.seed, "candidates"))
    matching = match(trained.x, outcome.candidates, DIRECTION)
    return {
        **asdict(cell),
        "p": problem.p,
        "recovered_fraction": recovered_fraction(matching),
        "direction_error": matching.mean_error(),
        "attack_seconds": outcome.seconds,
        "applications": outcome.numbers["applications"],
        "restarts": outcome.numbers["restarts"],
        "status": outcome.status,
    }


def attack_all(cells: list[Cell], jobs: int) -> Iterator[dict[str, Any]]:
    """Yield the rows in order, computed by `jobs` processes that share the threads."""
    if jobs == 1:
        yield from map(attack, cells)
        return
    threads = max(1, torch.get_num_threads() // jobs)
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (threads,))
    try:
        with pool:
            yield from pool.map(attack, cells)
    except BrokenProcessPool as error:
        raise RunError("a process was killed, perhaps for memory; give fewer --jobs") from error


def summaries(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for every ratio and solver: mean share, number of complete seeds, median costs."""
    groups: dict[tuple[float, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["ratio"], row["solver"]), []).append(row)
    return [
        {
            "ratio": ratio,
            "solver": solver,
            "recovered_fraction": fmean(row["recovered_fraction"] for row in group),
            "least_recovered": min(row["recovered_fraction"] for row in group),
            "most_recovered": max(row["recovered_fraction"] for row in group),
            "complete_seeds": sum(row["recovered_fraction"] == 1 for row in group),
            "seeds": len(group),
            "median_seconds": median(row["attack_seconds"] for row in group),
            "median_applications": median(row["applications"] for row in group),
        }
        for (ratio, solver), group in groups.items()
    ]


def show(rows: list[dict[str, Any]], solvers: list[str]) -> None:
    """Print one line for every ratio, with four columns for every solver."""
    lines: dict[float, list[Any]] = {}
    for row in rows:
        complete = f"{row['complete_seeds']} of {row['seeds']}"
        share = f"{row['recovered_fraction']:.2f}"
        costs = [row["median_seconds"], round(row["median_applications"])]
        lines.setdefault(row["ratio"], []).extend([share, complete, *costs])
    header = ["p/(dn)"]
    for solver in solvers:
        header += [f"{solver}: recovered", "complete", "seconds", "applications"]
    print(table(header, [[f"{ratio:g}", *cells] for ratio, cells in lines.items()]))


def figure(rows: list[dict[str, Any]], title: str) -> Figure:
    """Plot mean shares over the ratios, with bands from minimum to maximum over seeds."""
    picture = Figure(figsize=(6.4, 4.0), dpi=DPI, facecolor="white", layout="constrained")
    axes = picture.add_subplot()
    axes.axvline(1, color=FAINT, linewidth=1, linestyle=":")
    for solver, colour in COLOURS.items():
        found = sorted((row for row in rows if row["solver"] == solver), key=lambda r: r["ratio"])
        ratios = [row["ratio"] for row in found]
        least = [row["least_recovered"] for row in found]
        most = [row["most_recovered"] for row in found]
        axes.fill_between(ratios, least, most, color=colour, alpha=0.15, linewidth=0)
        if found:
            means = [row["recovered_fraction"] for row in found]
            axes.plot(ratios, means, color=colour, marker="o", markersize=4, label=solver)
    axes.set(xlabel="p / (d n)", ylabel="share of samples recovered", title=title)
    axes.set(ylim=(-0.03, 1.03))
    axes.legend(frameon=False)
    return picture


@one_line_errors("threshold")
def main(argv: list[str] | None = None) -> int:
    quick = {"ratios": [3.0, 5.0], "seeds": [0], "n": 4, "d": 20, "lr": 4.0, "seconds": 2.0}
    flags = Flags("threshold", "The share of samples recovered over p / (d n).", quick)
    add = flags.add_argument
    add("--ratios", nargs="+", type=positive, default=RATIOS, help="p / (d n)")
    add(
        "--seeds",
        nargs="+",
        type=seed,
        default=list(range(10)),
        help="seeds of data, model and attack",
    )
    add("--solvers", nargs="+", choices=COLOURS, default=list(COLOURS), help="which attacks")
    add("--n", type=count, default=10, help="training samples")
    add("--d", type=count, default=100, help="input dimension")
    add(
        "--lr",
        type=positive,
        default=20.0,
        help="step size of the descent; 20 is the paper's for d = 100",
    )
    add("--seconds", type=positive, default=30.0, help="time budget of one attack")
    add("--jobs", type=count, default=1, help="processes that work in parallel")
    args = flags.read(argv)
    record = Record(flags, argv, args, seeds=args.seeds)
    cells = [
        Cell(solver, ratio, seed, args.n, args.d, args.lr, args.seconds)
        for ratio in args.ratios
        for solver in args.solvers
        for seed in args.seeds
    ]
    rows = []
    for row in attack_all(cells, args.jobs):
        rows.append(row)
        done = f"{len(rows)} of {len(cells)}: p/(dn) {row['ratio']:g}, seed {row['seed']}"
        share = f"{row['recovered_fraction']:.2f} recovered"
        line = f"{done}, {row['solver']}: {share}, {row['attack_seconds']:.1f} s"
        print(line, file=sys.stderr, flush=True)
    means = summaries(rows)
    show(means, args.solvers)
    record.write(rows, summaries=means)
    title = f"n = {args.n}, d = {args.d}, {len(args.seeds)} seeds, at most {args.seconds:g} s each"
    record.draw(figure(means, title))
    return 0


if __name__ == "__main__":
    sys.exit(main())
