"""Where a map comes to rest: its fixed points and cycles, each once, with how often it was met."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import exp, log, nan

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs
from torch import Tensor

from lit_recon.methods.attractors.maps import ReducedMap
from lit_recon.methods.attractors.pixels import WholePixels
from lit_recon.solvers.rows import orbit

DENSE = 600  # coordinates up to which whole derivatives are formed
ENTRIES = 20_000_000  # of the derivatives that are held at once, 160 MB
ARNOLDI_STEPS = 300
MOST_LOG = 700.0  # exp of more is no double
SAME = 1e-4  # distance of two points that are the same, relative to a typical norm


def clusters(points: Tensor, within: float) -> Tensor:
    """(m,) for each point the index of the first one that is near it, itself if it is the first.

    >>> clusters(torch.tensor([[0.0], [1.0], [0.01], [1.01]]), within=0.1)
    tensor([0, 1, 0, 1])

    Args:
        points: (m, r).
        within: a distance.
    """
    first = torch.full((len(points),), -1, dtype=torch.long, device=points.device)
    while bool((first < 0).any()):
        free = (first < 0).nonzero()[:, 0]
        near = (points[free] - points[free[0]]).norm(dim=1) <= within
        first[free[near]] = free[0]
    return first


@dataclass
class Limits:
    """All limits found so far; the points of a cycle follow one another.

    Attributes:
        map: the map.
        unit: the norm of a typical point.
        judge: inputs (m, d) compared with images of whole pixels; None: no pixel scale is known.
        points: (k, r) float64.
        cycle: (k,) the number of the limit that a point belongs to, from 0.
        hits: (limits,) how many random starts have come to each limit.
        certified: (k,) bool.
        false_chance: the chance that a certified point is no image, summed over them.
        owners: the limit of each certified image, by the bytes of its pixels.
    """

    map: ReducedMap
    unit: float
    judge: Callable[[Tensor], WholePixels] | None
    points: Tensor
    cycle: Tensor
    hits: Tensor
    certified: Tensor
    false_chance: float = 0.0
    owners: dict[bytes, int] = field(default_factory=dict)

    @classmethod
    def none(
        cls, map: ReducedMap, unit: float, judge: Callable[[Tensor], WholePixels] | None
    ) -> Limits:
        """No limits yet."""
        points = map.offset.new_zeros(0, map.r)
        none = torch.zeros(0, dtype=torch.long)
        return cls(map, unit, judge, points, none, none, none.bool())

    def __len__(self) -> int:
        return len(self.hits)

    @property
    def periods(self) -> Tensor:
        """(limits,) the length of each cycle, 1 for a fixed point."""
        return torch.bincount(self.cycle, minlength=len(self))

    @property
    def certain(self) -> Tensor:
        """(limits,) bool, every point of the limit is certified."""
        bad = torch.bincount(self.cycle[~self.certified], minlength=len(self))
        return bad == 0

    def meet(self, z: Tensor, within: float, *, count: bool) -> Tensor:
        """(m,) bool, which points (m, r) are at a limit that is known already.

        Args:
            z: the points, which need not be accurate.
            within: a distance.
            count: whether they are ends of random starts.
        """
        if not len(self):
            return torch.zeros(len(z), dtype=torch.bool, device=z.device)
        distance, nearest = torch.cdist(z, self.points).min(1)
        met = distance <= within
        if count:
            ends = self.cycle[nearest[met].cpu()]
            self.hits += torch.bincount(ends, minlength=len(self))
        return met

    def add(self, z: Tensor, period: Tensor, starts: Tensor) -> int:
        """Enter the ends of an iteration.

        Args:
            z: (m, r) float64 points that are accurate.
            period: (m,) 1 or more.
            starts: (m,) how many random starts each of them stands for.

        Returns:
            How many limits are new.
        """
        new = 0
        for point, length, count in zip(z, period.tolist(), starts.tolist(), strict=True):
            near = (self.points - point).norm(dim=1) <= SAME * self.unit
            if bool(near.any()):
                self.hits[self.cycle[near.nonzero()[0, 0].cpu()]] += count
                continue
            members = orbit(self.map, point[None], length)[:, 0]  # (length, r)
            certified = torch.zeros(length, dtype=torch.bool)
            if self.judge is not None:
                judged = self.judge(self.map.image(self.map.lift(members)))
                certified = judged.accepted
                images = [image.numpy().tobytes() for image in judged.certificates.images]
                if bool(certified.all()) and len(set(images)) == 1:
                    # Around an image that repels there can be points, and turns of two, that are
                    # nearer to it than rounding: they are this image too.
                    if images[0] in self.owners:
                        self.hits[self.owners[images[0]]] += count
                        continue
                    members, certified = members[:1], certified[:1]
                for i in certified.nonzero()[:, 0].tolist():
                    self.owners.setdefault(images[i], len(self.hits))
                    self.false_chance += float(10 ** judged.log_chance[i])
            self.points = torch.cat([self.points, members])
            number = torch.full((len(members),), len(self.hits))
            self.cycle = torch.cat([self.cycle, number])
            self.hits = torch.cat([self.hits, torch.tensor([count])])
            self.certified = torch.cat([self.certified, certified])
            new += 1
        return new

    def radii(self) -> Tensor:
        """(limits,) spectral radius of the derivative over a whole turn; below 1 it attracts.

        NaN for limits that are no images and that no random start came to, once there are images:
        Newton's method finds many of them.
        """
        wanted = self.certain | (self.hits > 0) | (not bool(self.certain.any()))
        chosen = wanted.nonzero()[:, 0].tolist()
        turns = [(self.cycle == i).nonzero()[:, 0] for i in chosen]
        radii = torch.full((len(self),), nan, dtype=torch.float64)
        radii[chosen] = turn_radii(self.map, self.points, turns)
        return radii


def turn_radii(map: ReducedMap, points: Tensor, turns: Sequence[Tensor]) -> Tensor:
    """Spectral radii of the derivatives of cycles over a whole turn, (len(turns),) on the CPU.

    Args:
        map: the map.
        points: (k, r) coordinates.
        turns: for each cycle the numbers of its points, in their order.
    """
    if map.r > DENSE:
        found = [_arnoldi(map, points[turn.to(points.device)]) for turn in turns]
        return torch.tensor(found, dtype=torch.float64)
    at_once = max(1, ENTRIES // map.r**2)
    single = [i for i, turn in enumerate(turns) if len(turn) == 1]
    radii = torch.empty(len(turns), dtype=torch.float64)
    for part in torch.tensor(single, dtype=torch.long).split(at_once) if single else ():
        rows = torch.cat([turns[i] for i in part.tolist()]).to(points.device)
        radii[part] = torch.linalg.eigvals(map.jacobian(points[rows])).abs().amax(1).cpu()
    for i in set(range(len(turns))) - set(single):
        radii[i] = _product_radius(map, points[turns[i].to(points.device)])
    return radii


def _product_radius(map: ReducedMap, members: Tensor) -> float:
    """The radius of the product of derivatives at points (k, r), scaled so as not to overflow."""
    product, log_scale = torch.eye(map.r).to(members), 0.0
    for member in members:
        product = map.jacobian(member[None])[0] @ product
        size = float(product.abs().amax())
        if size == 0:
            return 0.0
        product, log_scale = product / size, log_scale + log(size)
    return float(torch.linalg.eigvals(product).abs().amax()) * exp(min(log_scale, MOST_LOG))


def _arnoldi(map: ReducedMap, members: Tensor) -> float:
    """The same from products with vectors, by Arnoldi's iteration."""

    def turn(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        pushed = torch.from_numpy(vector.reshape(1, -1)).to(members)
        for member in members:
            pushed = torch.func.jvp(map, (member[None],), (pushed,))[1]
        return np.asarray(pushed.cpu().numpy()[0])

    operator = LinearOperator((map.r, map.r), matvec=turn, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(map.r)
    try:
        values = eigs(operator, k=1, v0=start, maxiter=ARNOLDI_STEPS, return_eigenvectors=False)
    except ArpackNoConvergence:
        return nan
    return float(abs(values[0]))
