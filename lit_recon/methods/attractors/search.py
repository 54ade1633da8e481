"""The search for limits of a map: iteration from many places, then Newton's method.

Rounds of starts go through float32 first. What comes to rest there is made accurate in float64,
each limit once. A search ends when all kinds of places have been tried without a new limit that
counts, when the images found span the whole range of the readout, or with its time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from lit_recon.methods.attractors.limits import DENSE, Limits, clusters
from lit_recon.methods.attractors.maps import ReducedMap
from lit_recon.methods.attractors.starts import NEAR_FOUND, RANDOM, Place, Starts
from lit_recon.solvers import Monitor
from lit_recon.solvers.rows import RUNNING, Orbits, fixed_points, iterate, orbit

QUICK, ACCURATE = 1e-5, 1e-10  # relative steps at which a row is at rest, float32 and float64
QUICK_SAME = 3e-3  # units up to which two ends in float32 are the same limit
ROUNDS, RANDOM_SHARE = 4, 0.2  # of random starts, and the share of the time for them
STEPS = 1024  # applications to a start: cycles up to 256 are found, and longer ones mostly
NEWTON_STEPS, NEWTON_ENTRIES = 60, 10_000_000  # of the derivatives held at once, 40 MB
NEWTON_STARTS = 64
RESOLVED = 0.95  # cosine of an approximate image with the image that it has led to
TRIES = 4  # starts beside each approximate image in a round
SIDEWAYS = (0.02, 0.05, 0.1, 0.2, 0.4)  # steps from limits that are no images, in units
WARM_UP = 4  # applications of the map, at most, before Newton's method begins


@dataclass
class Search:
    """One search.

    Attributes:
        map: the map in float64.
        quick: the same in float32.
        starts: draws starts.
        limits: what has been found.
        monitor: the clock and the inner curve.
        per_round: starts of each round.
        newton: whether fixed points are also solved for.
        approximate: computes further places (m, r) to search near; None: there are none.
        random_starts: how many random starts were iterated so far.
        settled: how many of them came to a limit.
        diverged: how many of them overflowed.
    """

    map: ReducedMap
    quick: ReducedMap
    starts: Starts
    limits: Limits
    monitor: Monitor
    per_round: int
    newton: bool = True
    approximate: Callable[[], Tensor | None] | None = None
    random_starts: int = 0
    settled: int = 0
    diverged: int = 0
    spans_all: bool = field(default=False, init=False)
    _components: Tensor | None = field(default=None, init=False)
    _examined: int = field(default=0, init=False)

    def begin(self) -> None:
        """Iterate from random starts, in more rounds while these come to new images.

        Shares of these starts estimate the sizes of basins.
        """
        for _ in range(ROUNDS):
            before = int(self.limits.certified.sum())
            for place in RANDOM:
                self._iterate_from(place)
            share = self.monitor.seconds / self.monitor.max_seconds
            if int(self.limits.certified.sum()) == before or self.done or share > RANDOM_SHARE:
                break

    def widen(self) -> None:
        """Search in all kinds of places, until none has a new limit that counts.

        Iterations are cheap and come first, in turn, until none of them has anything new. One kind
        of search with Newton's method follows, and iterations again if it has brought something.
        While there is nothing that counts, iterations are left out.
        """
        places = [partial(self._iterate_from, place) for place in (*NEAR_FOUND, *RANDOM)]
        kinds: list[Callable[[], None]] = [self._near_components, self._near_spurious, self._newton]
        if self._worth:
            self._in_turn(places)

        def followed(search: Callable[[], None]) -> None:
            if self._brings(search):
                self._in_turn(places)

        self._in_turn([partial(followed, kind) for kind in kinds])

    def _in_turn(self, searches: Sequence[Callable[[], None]]) -> None:
        """Search in one way after the other, until none has a new limit that counts."""
        idle = turn = 0
        while idle < len(searches) and not self.done:
            idle = 0 if self._brings(searches[turn % len(searches)]) else idle + 1
            turn += 1

    def _brings(self, search: Callable[[], None]) -> bool:
        """Search, and say whether a new limit that counts was found."""
        before = self._worth
        search()
        return self._worth > before

    def from_points(self, y: Tensor, phase: str) -> None:
        """Iterate from given points (m, r), and solve for fixed points near them."""
        self._settle(self._iterated(y, phase), count=False)
        self._solve(y, f"{phase}, newton")

    @property
    def done(self) -> bool:
        """Whether nothing is left to be found, or no time."""
        return self.spans_all or self.monitor.out_of_time

    @property
    def _solves(self) -> bool:
        """Whether fixed points are solved for, with whole derivatives."""
        return self.newton and self.map.r <= DENSE

    @property
    def _worth(self) -> int:
        """What counts of what was found: images, or without a pixel scale what starts came to."""
        if self.limits.judge is None:
            return int((self.limits.hits > 0).sum())
        return int(self.limits.certified.sum())

    @property
    def _known(self) -> Tensor:
        """(k, r) points to search near: images, or where there are none all limits."""
        points, certified = self.limits.points, self.limits.certified.to(self.limits.points.device)
        return points[certified] if bool(certified.any()) else points

    def _near_components(self) -> None:
        """Search near approximate images that have not led to an image yet.

        The first time at them, and later beside them and with other norms.
        """
        if self._components is None:
            found = None if self.approximate is None else self.approximate()
            self._components = self.map.offset.new_zeros(0, self.map.r) if found is None else found
            self.from_points(self._components, "components")
            return
        known = nn.functional.normalize(self.limits.points[self.limits.certified])
        alike = nn.functional.normalize(self._components) @ known.T
        left = self._components[alike.amax(1) < RESOLVED] if len(known) else self._components
        self.from_points(self.starts.beside(left, TRIES), "beside components")

    def _near_spurious(self) -> None:
        """Newton's method along the weakest direction of fixed points that are no images.

        A training image that has lost its attraction often has such a neighbour: where the
        eigenvalue of a direction passes 1, two fixed points part from one.
        """
        single = self.limits.periods == 1
        own = (~self.limits.certain & single)[self.limits.cycle]
        own[: self._examined] = False
        self._examined = len(own)
        y = self.limits.points[own]
        if not self._solves or not len(y):
            return
        eye = torch.eye(self.map.r).to(y)
        weakest = torch.linalg.svd(self.map.jacobian(y) - eye)[2][:, -1]  # (m, r)
        sizes = self.limits.unit * torch.tensor(SIDEWAYS).to(y)
        self._solve(
            torch.cat([y + s * weakest for s in [*sizes, *-sizes]]), "beside limits, newton"
        )

    def _iterate_from(self, place: Place) -> None:
        if place not in RANDOM and not len(self._known):
            return
        y = place(self.starts, self.per_round, self._known)
        random = place in RANDOM
        self._settle(self._iterated(y, place.__name__), count=random)

    def _iterated(self, y: Tensor, phase: str) -> Orbits:
        return iterate(
            self.quick,
            y.to(self.quick.offset),
            self.monitor,
            phase,
            unit=self.limits.unit,
            tolerance=QUICK,
            max_steps=STEPS,
        )

    def _settle(self, ends: Orbits, *, count: bool) -> None:
        """Enter the ends of an iteration in float32; `count` says whether starts were random."""
        unit, at_rest = self.limits.unit, ends.period > RUNNING
        if count:
            self.random_starts += len(ends.z)
            self.settled += int(at_rest.sum())
            self.diverged += int((ends.period < RUNNING).sum())
        z = self._same_phase(ends.z[at_rest], ends.period[at_rest])
        met = self.limits.meet(z.to(self.map.offset), QUICK_SAME * unit, count=count)
        z = z[~met]
        first = clusters(z, QUICK_SAME * unit)
        heads, sizes = first.unique(return_counts=True)
        exact = iterate(
            self.map,
            z[heads].to(self.map.offset),
            self.monitor,
            "float64",
            unit=unit,
            tolerance=ACCURATE,
            max_steps=STEPS,
        )
        slow = exact.period == RUNNING
        if bool(slow.any()) and self.map.r <= DENSE:
            solved = self._solved(self.map, exact.z[slow], "float64, newton", ACCURATE)
            exact.z[slow], exact.period[slow] = solved.z, solved.period
        self._enter(exact, sizes if count else torch.zeros_like(sizes))

    def _same_phase(self, z: Tensor, period: Tensor) -> Tensor:
        """Points on cycles, moved along them to where the first coordinate is least."""
        z = z.clone()
        for length in period.unique().tolist():
            if length > 1:
                rows = period == length
                turn = orbit(self.quick, z[rows], length)  # (length, rows, r)
                least = turn[:, :, 0].argmin(0)
                z[rows] = turn[least, torch.arange(len(least), device=z.device)]
        return z

    def _newton(self) -> None:
        """Fixed points by Newton's method, also those that repel."""
        share = NEWTON_STARTS // (len(RANDOM) + len(NEAR_FOUND))
        places = [*RANDOM, *(NEAR_FOUND if len(self._known) else ())]
        y = torch.cat([place(self.starts, share, self._known) for place in places])
        y = y.to(self.quick.offset)
        for _ in range(WARM_UP):
            self._solve(y[::WARM_UP], "newton")
            y = self.quick(y)[1:]

    def _solve(self, y: Tensor, phase: str) -> None:
        """Enter the fixed points to which Newton's method leads from y (m, r)."""
        if not self._solves or not len(y):
            return
        rough = self._solved(self.quick, y.to(self.quick.offset), phase, QUICK)
        z = rough.z[rough.period > RUNNING]
        z = z[~self.limits.meet(z.to(self.map.offset), QUICK_SAME * self.limits.unit, count=False)]
        heads = clusters(z, QUICK_SAME * self.limits.unit).unique()
        exact = self._solved(self.map, z[heads].to(self.map.offset), "float64, newton", ACCURATE)
        self._enter(exact, torch.zeros(len(exact.z), dtype=torch.long))

    def _solved(self, map: ReducedMap, y: Tensor, phase: str, tolerance: float) -> Orbits:
        at_once = max(1, NEWTON_ENTRIES // map.r**2)
        parts = [
            fixed_points(
                map,
                map.jacobian,
                part,
                self.monitor,
                phase,
                unit=self.limits.unit,
                tolerance=tolerance,
                max_steps=NEWTON_STEPS,
            )
            for part in y.split(at_once)
        ]
        return Orbits(
            torch.cat([part.z for part in parts]),
            torch.cat([part.period for part in parts]),
            torch.cat([part.steps for part in parts]),
        )

    def _enter(self, exact: Orbits, starts: Tensor) -> None:
        kept = exact.period > RUNNING
        self.limits.add(exact.z[kept], exact.period[kept], starts[kept])
        if self.map.deficient:
            images = self.limits.points[self.limits.certified.to(self.limits.points.device)]
            if len(images) >= self.map.r:
                rank = torch.linalg.matrix_rank(images, rtol=1e-9)
                self.spans_all = int(rank) == self.map.r
