"""Draws training images entering the weights: what the row space gave back at each checkpoint.

python train.py --run.name demo && python -m benchmarks.entering --run runs/demo
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from safetensors.numpy import load_file

from lit_recon.audit.recorder import of_method, read_results
from lit_recon.records.directory import RunDirectory
from lit_recon.records.truth import Truth

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
    rows = [("training", [np.asarray(image) for image in truth.images])]
    for step in shown:
        found = load_file(directory.step_path(step) / "candidates.safetensors")
        images = [entry["candidate"] for entry in read_results(directory, step)["images"]]
        rows.append((f"step {step}", [None if i is None else found["images"][i] for i in images]))
    width = LABEL + truth.n * (SIDE + GAP)
    sheet = Image.new("RGB", (width, len(rows) * (SIDE + GAP)), "white")
    pen = ImageDraw.Draw(sheet)
    for y, (label, images) in enumerate(rows):
        pen.text((4, y * (SIDE + GAP) + SIDE // 2 - 8), label, fill="black", font_size=14)
        for x, image in enumerate(images):
            pixels = np.full((1, 1, 3), EMPTY, np.uint8) if image is None else image
            pixels = pixels if image is None else pixels.transpose(1, 2, 0)
            tile = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            sheet.paste(tile, (LABEL + x * (SIDE + GAP), y * (SIDE + GAP)))
    return sheet


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
