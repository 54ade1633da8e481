"""Counts wrong certificates of the row-space attack where there is nothing to find.

Every run changes the first layer of a dense network by ``C X``, rounded as its weights are, and
lets the attack look for images. In most kinds of runs the rows of X are no images of the claimed
normalisation, so that every accepted image is wrong:

- `gaussian`, `smooth`: Gaussian vectors, and smooth random fields.
- `contrast`: photographs, each multiplied by a number between 0.5 and 1 and not rounded.
- `subspace`: a random subspace that is known to the precision of float64.
- `noise`: the change is noise without a low rank.

In two more they are images, but the attacker is wrong about the normalisation: `wrong_mean` and
`wrong_std`. The lattice of integers has no scale, so that images may be exact in spite of a wrong
standard deviation; what counts are accepted images that equal no training image. A mean that is
wrong by a whole number of levels makes images of another brightness, which are integers as well;
here it misses every whole number by 0.1 levels or more. `control` are images under the right
normalisation, and shows that the attack accepts what it should. It is not part of the null.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.records import Flags, Record, count, one_line_errors, positive, seed, table
from datamodules.photos import Photos
from lit_recon.knowledge import DenseLayer, Knowledge, PixelScale
from lit_recon.methods import RowSpaceReconstructor
from lit_recon.models import DeepMLP

CONTROL = "control"
KINDS = ("gaussian", "smooth", "contrast", "subspace", "noise", "wrong_mean", "wrong_std", CONTROL)
SUMMED = ("n", "integer_vectors", "accepted", "wrong", "seconds")
SIZES = (8, 16)
IMAGES = (5, 20)  # smallest and largest number of training inputs
NEURONS = (32, 128)
CHANGE = (-3.0, 0.0)  # log10 of the size of the change, relative to the weights
PATCHES = 120  # photographs from which each run draws its images


@dataclass(frozen=True)
class Problem:
    """What the rows of the change are, and what the attacker believes.

    Attributes:
        x: (n, d) float64 rows of the change; None: the change is noise.
        pixels: the claimed normalisation.
        images: (n, c, h, w) uint8, those that may be accepted.
        exact: the change is not rounded to float32.
    """

    x: Tensor | None
    pixels: PixelScale
    images: Tensor
    exact: bool = False


class Draw:
    """Draws the problems of one image size from a generator."""

    def __init__(self, size: int) -> None:
        data = Photos(n=PATCHES, image_size=size, n_val=0)
        data.load()
        assert data.images is not None
        self.patches = data.images
        self.shape = (3, size, size)

    def __call__(self, kind: str, random: torch.Generator) -> Problem:
        """One problem of that kind."""
        n = int(torch.randint(IMAGES[0], IMAGES[1] + 1, (), generator=random))
        u = self.patches[torch.randperm(len(self.patches), generator=random)[:n]]
        mean, std = float((u / 255).double().mean()), float((u / 255).double().std())
        right = PixelScale(self.shape, mean, std)
        levels, none = u.double().flatten(1), u[:0]
        if kind == "noise":
            return Problem(None, right, none)
        if kind == "contrast":
            levels = levels * (0.5 + 0.5 * torch.rand(n, 1, generator=random, dtype=torch.float64))
        x = (levels / 255 - mean) / std
        if kind in ("gaussian", "subspace"):
            x = torch.randn(x.shape, generator=random, dtype=torch.float64)
        if kind == "smooth":
            coarse = torch.randn(n, 3, 4, 4, generator=random, dtype=torch.float64)
            x = F.interpolate(coarse, size=self.shape[1:], mode="bicubic").flatten(1)
        claimed = right
        if kind == "wrong_mean":
            wrong = float(torch.randint(-30, 31, (), generator=random))
            wrong += 0.1 + 0.8 * float(torch.rand((), generator=random))
            claimed = PixelScale(self.shape, mean + wrong / 255, std)
        if kind == "wrong_std":
            factor = float(torch.rand((), generator=random)) * 2 - 1
            claimed = PixelScale(self.shape, mean, std * 2**factor)
        true = u if kind in (CONTROL, "wrong_mean", "wrong_std") else none
        return Problem(x, claimed, true, exact=kind == "subspace")


def knowledge_of(problem: Problem, random: torch.Generator) -> Knowledge:
    """What the attacker holds after the first layer of a network has changed."""
    d = problem.pixels.d
    h = int(torch.randint(NEURONS[0], NEURONS[1] + 1, (), generator=random))
    model = DeepMLP(d=d, k=1, widths=[h], seed=int(torch.randint(1000, (), generator=random)))
    before = model.first_layer.weight.detach().clone()
    if problem.x is None:
        change = torch.randn(h, d, generator=random, dtype=torch.float64)
    else:
        share = torch.randn(h, len(problem.x), generator=random, dtype=torch.float64)
        change = share @ problem.x
    low, high = CHANGE
    size = 10 ** (low + (high - low) * float(torch.rand((), generator=random)))
    change *= size * before.double().norm() / change.norm()
    if problem.exact:
        model, before = model.double(), before.double()
    with torch.no_grad():
        model.first_layer.weight.copy_(before.double() + change)
    layer = DenseLayer("first_layer", before)
    return Knowledge(model.eval(), earlier_first_layer=layer, pixels=problem.pixels)


def run(kind: str, draw: Draw, number: int, seconds: float) -> dict[str, Any]:
    """One attack: how it ended, and how many of the images that it accepted are wrong."""
    random = torch.Generator().manual_seed(number)
    problem = draw(kind, random)
    held = knowledge_of(problem, random)
    found = RowSpaceReconstructor(max_seconds=seconds).reconstruct(held)
    accepted: set[bytes] = set()
    if found.certificates is not None:
        images = found.certificates.images[found.certificates.accepted]
        accepted = {image.numpy().tobytes() for image in images}
    true = {image.numpy().tobytes() for image in problem.images}
    return {
        "kind": kind,
        "size": draw.shape[1],
        "seed": number,
        "n": 0 if problem.x is None else len(problem.x),
        "status": found.status,
        "integer_vectors": found.numbers["lattice_rank"],
        "noise_floor": found.numbers["noise_floor"],
        "accepted": len(accepted),
        "wrong": len(accepted - true),
        "seconds": found.seconds,
    }


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The sums of every kind and size."""
    sums = []
    for kind, size in dict.fromkeys((row["kind"], row["size"]) for row in rows):
        own = [row for row in rows if (row["kind"], row["size"]) == (kind, size)]
        totals = {name: sum(row[name] for row in own) for name in SUMMED}
        statuses = Counter(sorted(row["status"] for row in own))
        sums.append(
            {"kind": kind, "size": size, "runs": len(own), **totals, "statuses": dict(statuses)}
        )
    return sums


@one_line_errors("lattice_null")
def main(argv: list[str] | None = None) -> int:
    quick = {"runs": 1}
    flags = Flags("lattice_null", "Wrong certificates of the row-space attack.", quick)
    add = flags.add_argument
    add("--runs", type=count, default=72, help="runs of every kind and size; 14 of them are null")
    add("--sizes", nargs="+", type=int, choices=(4, 8, 16, 32), default=SIZES, help="image sides")
    add("--kinds", nargs="+", choices=KINDS, default=KINDS, help="what the change holds")
    add("--seed", type=seed, default=0, help="seed of the first run; each run has the next one")
    add("--seconds", type=positive, default=0.5, help="time budget of one attack")
    args = flags.read(argv)
    seeds = range(args.seed, args.seed + args.runs)
    record = Record(flags, argv, args, seeds=[seeds[0], seeds[-1]])
    rows = []
    for draw in map(Draw, args.sizes):
        for kind in args.kinds:
            rows += [run(kind, draw, number, args.seconds) for number in seeds]
            here = summary(rows)[-1]
            line = f"{kind}, {draw.shape[1]}x{draw.shape[1]}: {here['wrong']} wrong of "
            line += f"{here['accepted']} accepted, {here['seconds']:.0f} s"
            print(line, file=sys.stderr, flush=True)
    sums = summary(rows)
    header = ["kind", "size", "runs", *SUMMED]
    print(table(header, [[row[name] for name in header] for row in sums]))
    null = [row for row in rows if row["kind"] != CONTROL]
    wrong = [row for row in null if row["wrong"]]
    print(f"{sum(row['wrong'] for row in null)} wrong images in {len(null)} null runs")
    record.write(sums, null_runs=len(null), wrong_runs=wrong)
    return 0


if __name__ == "__main__":
    sys.exit(main())
