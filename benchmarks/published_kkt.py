"""Draws the published KKT attack and the row space on the final weights of one run, side by side.

python train.py --config configs/margin_photos.yaml --run.name margin
python -m benchmarks.published_kkt --run runs/margin

The published attack has all of its steps, if nothing else is asked for. Its settings hold for
weights of the size that the authors' training gives, so all weights are multiplied by one number
that gives their margin; the network is homogeneous, and stays what it is. That number is computed
from the training images, in favour of the published attack. Each training image is shown with the
candidate that is most like it, stretched to the full range as its authors do. The row space has
the weights as they are, and its images are shown as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

import train
from benchmarks.entering import sheet
from benchmarks.final_weights import scaled
from benchmarks.problems import preset
from benchmarks.records import Flags, Record, count, one_line_errors
from datamodules.images import to_targets
from lit_recon.audit.saved_run import last_checkpoint
from lit_recon.audit.scoring import score_reconstruction
from lit_recon.errors import InputError
from lit_recon.knowledge import Knowledge
from lit_recon.methods import KKTReconstructor, RowSpaceReconstructor
from lit_recon.metrics import stretched
from lit_recon.metrics.scores import Scores
from lit_recon.models import DeepMLP

COUNTED = {"recovered": "with an error below .1", "exact": "exact"}


def told(name: str, scores: Scores, seconds: float) -> str:
    """One line: what came back, and how long it took."""
    n = len(scores.rows)
    counts = [f"{round((scores.metrics.good_fraction or 0) * n)} recognisable"]
    for key, words in COUNTED.items():
        counts.append(f"{sum(bool(getattr(row, key)) for row in scores.rows)} {words}")
    return f"{name}: of {n} images {', '.join(counts)}, in {seconds:.0f} s"


def shown(labels: Sequence[int], columns: int) -> list[int]:
    """The first training images of each class, as many of each."""
    classes = sorted(set(labels))
    each = columns // len(classes)
    return [i for kind in classes for i in [j for j, x in enumerate(labels) if x == kind][:each]]


@one_line_errors("published_kkt")
def main(argv: list[str] | None = None) -> int:
    description = (
        "The published KKT attack and the row space on the weights of one run, as a picture."
    )
    flags = Flags("published_kkt", description, {"steps": 20, "columns": 4})
    add = flags.add_argument
    add("--run", required=True, help="directory of a run of margin_photos.yaml or the like")
    add("--steps", type=count, help="steps of the published attack, instead of all 50,000")
    add("--columns", type=count, default=8, help="training images shown")
    args = flags.read(argv)
    record = Record(flags, argv, args, seeds=[0])
    held = last_checkpoint(train.command_line(), args.run, torch.device("cpu"))
    known, truth = held.knowledge, held.truth
    model = known.model
    if not isinstance(model, DeepMLP) or truth is None or truth.images is None or truth.k != 1:
        remedy = "is no run of a DeepMLP on images of two classes; give one, as margin_photos.yaml"
        raise InputError("--run", args.run, remedy)
    settings = preset("haim2022_cifar")
    whole = settings["steps"]
    settings["steps"] = args.steps or whole
    smaller = scaled(model, truth.x, to_targets(torch.tensor(truth.labels), 2))
    attack = KKTReconstructor(**settings)
    theirs = attack.reconstruct(Knowledge(smaller, n=truth.n, pixels=truth.pixels))
    ours = RowSpaceReconstructor("final").reconstruct(Knowledge(model, pixels=truth.pixels))
    published, rows = (score_reconstruction(found, truth, model) for found in (theirs, ours))
    steps = f"{theirs.numbers['steps']:,} of\n{whole:,} steps"
    print(told(f"published, {' '.join(steps.split())}", published, theirs.seconds))
    print(told("row space", rows, ours.seconds))
    measured = {"published": (theirs, published), "rowspace": (ours, rows)}
    record.write(
        [
            {"attack": name, "steps": found.numbers.get("steps"), "seconds": found.seconds}
            | scores.metrics.as_dict()
            for name, (found, scores) in measured.items()
        ]
    )
    assert truth.pixels is not None and rows.reconstructions is not None  # these are images
    nearest = [row.nearest for row in published.rows]
    looks = stretched(truth.pixels.values(theirs.candidates[nearest]))
    pictures = {
        "training": truth.images,
        f"published,\n{steps}": (looks * 255).round().byte(),
        "row space": rows.reconstructions,
    }
    columns = shown(truth.labels, args.columns)
    drawn = [
        (label, [np.asarray(images[i]) for i in columns]) for label, images in pictures.items()
    ]
    path = args.out / "published_kkt.png"
    sheet(drawn).save(path)
    print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
