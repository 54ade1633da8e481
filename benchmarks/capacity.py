"""Constructed networks: how fast they are built, how often they fit, and against the published way.

The authors' repository (patrickfinke/memo) is no package, so that its way stands here as
`published`: the algorithm line by line, with float32 products over all samples, as its code does.
Both ways get the same first layers and the same orders of candidates; what is compared is what they
build. Inputs lie in the unit ball, as there.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits, make_moons
from torch import Tensor

from benchmarks.records import Flags, Record, count, one_line_errors, peak_bytes, table
from lit_recon.capacity.codes import draw_first_layer, draw_order
from lit_recon.capacity.construction import construct
from lit_recon.capacity.literal import literal_second_layer
from lit_recon.capacity.study import wilson
from lit_recon.errors import InputError

Data = tuple[Tensor, Tensor]
PAIR = ("frog", "truck")
GIB = 2**30


def unit_ball(x: NDArray[Any], *, center: bool = False) -> Tensor:
    """Samples (n, d) in the unit ball, float32."""
    moved = torch.from_numpy(np.asarray(x, dtype=np.float64))
    moved = moved - moved.mean(0) if center else moved
    return (moved / moved.norm(dim=1).max()).float()


def moons(n: int) -> Data:
    x, labels = make_moons(n, noise=0.05, random_state=0)
    return unit_ball(x), torch.from_numpy(labels)


def digits(*, center: bool) -> Data:
    bunch = load_digits()
    return unit_ball(bunch.data, center=center), torch.from_numpy(bunch.target)


def photographs(root: Path, n: int, *, center: bool) -> Data:
    """The first n / 2 images of each class of PAIR."""
    x = []
    for name in PAIR:
        files = sorted((root / name).glob("*.png"))[: n // 2]
        if len(files) < n // 2:
            raise InputError("--root", root, f"holds {len(files)} images of {name}, not {n // 2}")
        x += [np.asarray(Image.open(file)).ravel() / 255 for file in files]
    return unit_ball(np.stack(x), center=center), torch.arange(n) // (n // 2)


def published(x: Tensor, labels: Tensor, width: int, max_bias: float, seed: int) -> dict[str, Any]:
    """The network of the same draws by the algorithm line by line, and whether it predicts all."""
    weight, bias = draw_first_layer(width, x.shape[1], max_bias, seed)
    h = x.numpy() @ weight.numpy().T  # as in the authors' code, in float32
    h += bias.numpy()
    h = np.heaviside(h, 0, dtype=h.dtype, out=h)
    classes = int(labels.max()) + 1
    widths, uncovered = [], 0
    for label in range(1, classes) if classes == 2 else range(classes):
        own = (labels == label).numpy()
        order = draw_order(int(own.sum()), seed, label)
        layer = literal_second_layer(h[own], h[~own], order)
        widths.append(len(layer.centres))
        uncovered += int((~layer.covered).sum())
    return {"accuracy": 1 - uncovered / len(x), "width": sum(widths)}


def ours(x: Tensor, labels: Tensor, width: int, max_bias: float, seed: int) -> dict[str, Any]:
    made = construct(x, labels, width=width, max_bias=max_bias, activation="threshold", seed=seed)
    uncovered = sum(int((~layer.covered).sum()) for layer in made.layers)
    return {"accuracy": 1 - uncovered / len(x), "width": made.width}


def timed(build: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    begin = time.process_time()
    found = build(*arguments)
    return {**found, "seconds": time.process_time() - begin}


def cell(
    name: str, data: Data, width: int, max_bias: float, seeds: Sequence[int], compared: int
) -> dict[str, Any]:
    """Networks of one size on one data set; some of them are built in the published way too."""
    settings = (*data, width, max_bias)
    made = [timed(ours, *settings, seed) for seed in seeds]
    other = [timed(published, *settings, seed) for seed in seeds[:compared]]
    fits = sum(one["accuracy"] == 1 for one in made)
    least, most = wilson(fits, len(made))
    row = {
        "data": name,
        "n": len(data[0]),
        "n1": width,
        "max_bias": max_bias,
        "runs": len(made),
        "interpolates": fits / len(made),
        "least": least,
        "most": most,
        "width": float(np.mean([one["width"] for one in made])),
        "seconds": float(np.mean([one["seconds"] for one in made])),
        "peak_gib": peak_bytes(getrusage(RUSAGE_SELF)) / GIB,  # of the process so far
        "compared": len(other),
        "same": None,
        "published_seconds": None,
        "times_faster": None,
    }
    if other:
        keys = ("accuracy", "width")
        seconds = [sum(one["seconds"] for one in some[: len(other)]) for some in (made, other)]
        row["same"] = sum(
            all(a[k] == b[k] for k in keys) for a, b in zip(made, other, strict=False)
        )
        row["published_seconds"] = seconds[1] / len(other)
        row["times_faster"] = seconds[1] / seconds[0]
    return row


def cells(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All cells, one after another."""
    seeds, few = range(args.seeds), range(args.few)
    large = moons(args.large)  # first, so that the peak of memory is theirs
    for width in args.large_widths:
        yield cell("moons", large, width, 1.0, few, 0)
    small, compared = moons(args.n), args.few
    for max_bias in (0.0, 0.5, 1.0, 2.5):
        for width in args.widths:
            yield cell("moons", small, width, max_bias, seeds, compared)
    for center in (False, True):
        name = f"digits, {'centred' if center else 'raw'}"
        for width in (100, 200):
            yield cell(name, digits(center=center), width, 0.5, few, compared)
    for n in args.photos if args.root is not None else ():
        for center in (True, False):
            data = photographs(args.root, n, center=center)
            name = f"{' and '.join(PAIR)}, {'centred' if center else 'raw'}"
            for width in args.photo_widths:
                yield cell(name, data, width, 0.0, seeds, 1)
    for width in args.large_compared:
        yield cell("moons", large, width, 1.0, range(1), 1)


SHOWN = (
    *("data", "n", "n1", "max_bias", "runs", "interpolates", "width", "seconds"),
    *("peak_gib", "same", "compared", "times_faster"),
)


@one_line_errors("capacity")
def main(argv: list[str] | None = None) -> int:
    quick: dict[str, Any] = {"n": 200, "large": 2000, "seeds": 3, "few": 2, "widths": [100]}
    quick |= {"large_widths": [200], "photos": [20], "photo_widths": [60], "large_compared": [200]}
    flags = Flags("capacity", "Builds interpolating networks of labels.", quick)
    add = flags.add_argument

    def several(name: str, default: list[int], told: str) -> None:
        add(name, type=count, nargs="+", default=default, help=told)

    add("--n", type=count, default=1000, help="samples of the small moons")
    several("--widths", [100, 160, 190, 210, 300, 460, 500], "n1 of the small moons")
    add("--large", type=count, default=1_000_000, help="samples of the large moons")
    several("--large-widths", [200, 400, 800, 2000], "n1 of the large moons")
    several("--large-compared", [400], "n1 of large moons that are built in the published way too")
    several("--photos", [20, 100, 300, 590], "even numbers of images")
    several("--photo-widths", [40, 60, 80, 150, 200], "n1 of images")
    add("--seeds", type=count, default=50, help="networks of a cell, seeds from 0 on")
    add("--few", type=count, default=5, help="networks of a cell of large moons or digits")
    add("--root", type=Path, default=None, help="folder of class folders; left out: no photographs")
    args = flags.read(argv)
    record = Record(flags, argv, args, seeds=list(range(args.seeds)))
    rows = []
    for row in cells(args):
        rows.append(row)
        print(f"{row['data']}, n {row['n']}, n1 {row['n1']}", file=sys.stderr, flush=True)
        record.write(rows)
    print(table(SHOWN, [[row[name] for name in SHOWN] for row in rows]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
