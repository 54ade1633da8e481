"""Draws training images entering the weights: what the row space gave back at each checkpoint.

python train.py --run.name demo && python -m benchmarks.entering --run runs/demo
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from safetensors.numpy import load_file

from lit_recon.audit.recorder import of_method, read_results
from lit_recon.records.directory import RunDirectory
from lit_recon.records.truth import Truth

Pixels = NDArray[np.uint8]  # (3, h, w)

SIDE, GAP, LABEL = 64, 4, 96  # pixels
EMPTY = 235  # grey of an image that did not come back


def draw(run: str, steps: int, method: str = "rowspace") -> Image.Image:
    """One row for each of the first checkpoints, one column for each training image.

    Args:
        run: the run directory.
        steps: the number of rows, besides that of the training images.
        method: short name of the method.
    """
    truth = Truth.read(run)
    assert truth.images is not None
    directory = of_method(RunDirectory(Path(run)), method)
    shown = directory.steps()[:steps]
    rows: list[tuple[str, list[Pixels | None]]]
    rows = [("training", [np.asarray(image) for image in truth.images])]
    for step in shown:
        found = load_file(directory.step_path(step) / "candidates.safetensors")
        images = [entry["candidate"] for entry in read_results(directory, step)["images"]]
        rows.append((f"step {step}", [None if i is None else found["images"][i] for i in images]))
    return sheet(rows)


def sheet(rows: Sequence[tuple[str, Sequence[Pixels | None]]]) -> Image.Image:
    """A label and tiles for each row; a missing image is a grey tile."""
    columns = max(len(images) for _, images in rows)
    size = LABEL + columns * (SIDE + GAP), len(rows) * (SIDE + GAP)
    drawn = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(drawn)
    for y, (label, images) in enumerate(rows):
        middle = y * (SIDE + GAP) + SIDE // 2
        pen.text((4, middle), label, fill="black", font_size=14, anchor="lm")
        for x, image in enumerate(images):
            pixels = np.full((1, 1, 3), EMPTY, np.uint8)
            if image is not None:
                pixels = image.transpose(1, 2, 0)
            tile = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            drawn.paste(tile, (LABEL + x * (SIDE + GAP), y * (SIDE + GAP)))
    return drawn


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, help="directory of a run with rowspace")
    parser.add_argument("--steps", type=int, default=4, help="checkpoints shown")
    parser.add_argument("--out", default="benchmarks/entering.png", help="the picture")
    flags = parser.parse_args(argv)
    draw(flags.run, flags.steps).save(flags.out)
    print(flags.out)


if __name__ == "__main__":
    main()
