"""Compares our attack with the paper's descent, on the same trained model in one process.

For both attacks it measures the seconds and the applications of J^T J until each level of success,
and how much sooner our attack reaches the descent's best error. A descent step counts as one
application, because it reads V as often. The true data are used only for scoring, and the clock
stops during scoring.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass, replace
from math import inf
from typing import Any

from torch import Tensor

from benchmarks.problems import Problem, Trained, pictures, published, runnable, sphere, train
from benchmarks.records import Flags, Record, one_line_errors, positive, seed, table, text
from lit_recon.methods import ProjectionReconstructor, Reconstruction
from lit_recon.metrics.matching import DIRECTION, match
from lit_recon.metrics.scores import recovered_fraction
from lit_recon.randomness import generator
from lit_recon.solvers import SolverStep

SHARES = (0.5, 0.9, 1.0)  # of the samples, recovered
ERRORS = (1e-1, 1e-2, 1e-3, 1e-4)  # mean direction error
# Scoring may take this share of the time. Time budgets are longer by it, because they include it.
SCORING = 0.1
# A stalled descent still improves slowly, so this factor times its best error counts as reached.
NEAR_BEST = 1.01
# The curve in the results keeps points that lower the error by this factor or recover a sample.
CURVE_FACTOR = 0.95


@dataclass(frozen=True)
class Contest:
    """A problem, with the paper's step size for it and the descent's time budget in seconds."""

    problem: Problem
    lr: float
    seconds: float


CONTESTS = {
    "sphere": Contest(sphere(20, 100, 20_000), lr=20, seconds=60),
    "cifar": Contest(pictures(10, 32, 100_000), lr=2000, seconds=300),
    "tiny": Contest(sphere(4, 16, 640), lr=3, seconds=1),
}


@dataclass(frozen=True)
class Point:
    """The scores at one moment of an attack.

    Attributes:
        seconds: since the start, without scoring.
        applications: applications of J^T J since the start.
        phase: phase of the attack; in ``even``, candidates are known only up to sign, but they are
            scored as they are.
        candidates: their number; above n while spare candidates are tried; the best n are scored.
        recovered: share of the samples.
        error: mean direction error.
    """

    seconds: float
    applications: int
    phase: str
    candidates: int
    recovered: float
    error: float


class Trace:
    """Scores an attack while it runs; pass it as ``on_step``. Its clock starts when it is made.

    Args:
        x: (n, d) training inputs.
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self.points: list[Point] = []
        self._cost = 0.0  # seconds of the last scoring
        self._scoring = 0.0  # seconds of all scoring
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the start, without scoring."""
        return time.perf_counter() - self._started - self._scoring

    def __call__(self, row: SolverStep, candidates: Tensor) -> None:
        # Candidates of the coarse phase are coordinates in a subspace, not inputs.
        if row.phase != "coarse" and self._due(row.phase):
            self._score(row.phase, row.applications, candidates)

    def end(self, outcome: Reconstruction) -> None:
        """Score the result of the attack; call it as soon as the attack returns."""
        self._score("end", outcome.numbers["applications"], outcome.candidates)

    def _due(self, phase: str) -> bool:
        if not self.points or self.points[-1].phase != phase:
            return True
        return SCORING * (self.seconds - self.points[-1].seconds) >= self._cost

    def _score(self, phase: str, applications: int, candidates: Tensor) -> None:
        seconds, started = self.seconds, time.perf_counter()
        matching = match(self.x, candidates, DIRECTION)
        error = matching.mean_error()
        self.points.append(
            Point(
                seconds,
                applications,
                phase,
                len(candidates),
                recovered_fraction(matching),
                inf if error is None else error,
            )
        )
        self._cost = time.perf_counter() - started
        self._scoring += self._cost

    def reaching(self, *, recovered: float = 0.0, error: float = inf) -> Point | None:
        """The first point with at least this share and at most this error; None if none has."""
        points = (p for p in self.points if p.recovered >= recovered and p.error <= error)
        return next(points, None)

    @property
    def best_error(self) -> float:
        return min(point.error for point in self.points)

    def curve(self) -> list[Point]:
        """The points that improve on all earlier ones, and the last point."""
        kept: list[Point] = []
        error, recovered = inf, -1.0
        for point in self.points:
            if point.error <= CURVE_FACTOR * error or point.recovered > recovered:
                kept.append(point)
                error, recovered = min(error, point.error), max(recovered, point.recovered)
        last = self.points[-1]
        return kept if kept[-1] is last else [*kept, last]


LEVELS: dict[str, dict[str, float]] = {
    **{f"{share:.0%} recovered": {"recovered": share} for share in SHARES},
    **{f"error {error:.0e}": {"error": error} for error in ERRORS},
}


def attack(
    trained: Trained, reconstructor: ProjectionReconstructor, seed: int
) -> tuple[Trace, dict[str, Any]]:
    """Run one attack; returns its trace and its row of results."""
    random = generator(seed, "candidates")
    trace = Trace(trained.x)
    outcome = reconstructor.reconstruct(trained.knowledge, random, trace)
    trace.end(outcome)
    end = trace.points[-1]
    return trace, {
        "recovered": round(end.recovered * len(trained.x)),
        "error": end.error,
        "best_error": trace.best_error,
        "seconds": end.seconds,
        "applications": end.applications,
        "restarts": outcome.numbers["restarts"],
        "status": outcome.status,
        "curve": trace.curve(),
    }


def compare(name: str, root: str | None, seconds: float | None, seed: int) -> dict[str, Any]:
    """Run both attacks on one problem, print the tables, and return the row of results."""
    contest = CONTESTS[name]
    size = contest.problem.size
    trained = train(contest.problem, root, seed)
    ours = ProjectionReconstructor()
    ours.max_seconds *= 1 + SCORING
    descent = published(contest.lr, (seconds or contest.seconds) * (1 + SCORING))
    # The paper's attack has no certificate, so it does not get the pixel scale.
    blind = replace(trained, knowledge=replace(trained.knowledge, pixels=None))
    traces, attacks = {}, {}
    traces["ours"], attacks["ours"] = attack(trained, ours, seed)
    traces["descent"], attacks["descent"] = attack(blind, descent, seed)
    best = NEAR_BEST * traces["descent"].best_error
    levels = LEVELS | {f"descent's best, {best:.1e}": {"error": best}}
    reached = {
        level: {which: trace.reaching(**goal) for which, trace in traces.items()}
        for level, goal in levels.items()
    }
    sooner = {level: times_sooner(**points) for level, points in reached.items()}
    print(f"\n{name}, seed {seed}:", ", ".join(f"{k} {text(v)}" for k, v in size.items()))
    show(attacks, reached, sooner)
    return {
        "problem": name,
        "seed": seed,
        **size,
        "attacks": {
            which: {**row, "curve": [asdict(point) for point in row["curve"]]}
            for which, row in attacks.items()
        },
        "levels": [
            {
                "level": level,
                **{which: point and asdict(point) for which, point in points.items()},
                "times_sooner": sooner[level],
            }
            for level, points in reached.items()
        ],
    }


def times_sooner(ours: Point | None, descent: Point | None) -> float | None:
    """The descent's seconds divided by ours; None if one attack never reached the level."""
    if ours is None or descent is None:
        return None
    return descent.seconds / ours.seconds


def show(
    attacks: dict[str, dict[str, Any]],
    reached: dict[str, dict[str, Point | None]],
    sooner: dict[str, float | None],
) -> None:
    """Print the final numbers of both attacks, then when they reached each level."""
    ends = [[which, *list(row.values())[:-1]] for which, row in attacks.items()]
    print(table(["", *list(attacks["ours"])[:-1]], ends))
    header, lines = ["reached first"], []
    for which in attacks:
        header += [f"{which}: s", "applications", "phase"]
    for level, points in reached.items():
        cells = [
            getattr(point, name, None)
            for point in points.values()
            for name in ("seconds", "applications", "phase")
        ]
        lines.append([level, *cells, sooner[level]])
    print(table([*header, "times sooner"], lines), flush=True)


@one_line_errors("solver_comparison")
def main(argv: list[str] | None = None) -> int:
    quick = {"problems": ["tiny"]}
    flags = Flags("solver_comparison", "Compares our attack with the paper's descent.", quick)
    add = flags.add_argument
    add("--problems", nargs="+", choices=CONTESTS, default=["sphere", "cifar"], help="problems")
    add("--root", metavar="FOLDER", help="CIFAR-10 as FOLDER/CLASS/IMAGE.png")
    add("--seeds", nargs="+", type=seed, default=[0], help="seeds of data, model and attack")
    add(
        "--seconds",
        type=positive,
        help="time budget of the descent; None: 60 for sphere, 300 for cifar",
    )
    args = flags.read(argv)
    names = runnable({name: CONTESTS[name].problem for name in args.problems}, args.root)
    record = Record(flags, argv, args, seeds=args.seeds)
    pairs = [(name, seed) for name in names for seed in args.seeds]
    record.write([compare(name, args.root, args.seconds, seed) for name, seed in pairs])
    return 0


if __name__ == "__main__":
    sys.exit(main())
