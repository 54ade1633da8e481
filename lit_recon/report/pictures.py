"""Pictures for a page: every pixel of a training image as it is, and what came back of it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lit_recon.metrics import SampleScore
from lit_recon.metrics.scores import shown_images
from lit_recon.records.truth import Truth
from lit_recon.report.grid import tiles
from lit_recon.report.run import Checkpoint, checked


@dataclass(frozen=True)
class Found:
    """What came back of an image at one checkpoint; pictures are ``data:`` addresses."""

    step: int
    row: SampleScore
    reconstruction: str
    difference: str


@dataclass(frozen=True)
class Pair:
    """A training image beside what came back of it at every checkpoint."""

    index: int
    truth: str
    found: tuple[Found, ...]


def image_pairs(
    truth: Truth, checkpoints: Sequence[Checkpoint], indices: Sequence[int]
) -> list[Pair]:
    """Some training images, each with its reconstruction at every one of some checkpoints.

    Raises:
        InputError: candidates that cannot be read, or that are not those of these images.
    """
    assert truth.images is not None
    at = [(point, reconstructions(truth, point)) for point in checkpoints]
    pairs = []
    for index in indices:
        image = truth.images[index]
        drawn = [(point, tiles(image, images[index], point.rows[index])) for point, images in at]
        found = tuple(
            Found(point.step, point.rows[index], png(back), png(difference))
            for point, (_, back, difference) in drawn
        )
        pairs.append(Pair(index, png(drawn[0][1][0]), found))
    return pairs


def reconstructions(truth: Truth, checkpoint: Checkpoint) -> Tensor:
    """(n, c, h, w) uint8, the images that were scored, in training order; black without one."""
    assert truth.images is not None and truth.pixels is not None
    held = checkpoint.tensors()
    with checked(checkpoint.folder / "candidates.safetensors"):
        candidates = held["candidates"].double()  # (m, d)
        sign = torch.ones(len(candidates), dtype=torch.float64)
        matched = [row for row in checkpoint.rows if row.candidate is not None]
        chosen = torch.tensor([row.candidate for row in matched], dtype=torch.long)
        sign[chosen] = torch.tensor([row.sign for row in matched], dtype=torch.float64)
        images = shown_images(
            sign[:, None] * candidates,
            sign,
            truth.pixels,
            held.get("images"),
            held.get("certified"),
        )
        found = torch.zeros_like(truth.images)
        found[[row.index for row in matched]] = images[chosen]
    return found


def png(pixels: NDArray) -> str:
    """(h, w, 3) uint8 as a ``data:`` address of a PNG."""
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "PNG")
        return address(file.getvalue(), "image/png")


def picture_file(path: Path) -> str:
    """The same from a file, PNG or GIF.

    Raises:
        InputError: it cannot be read.
    """
    with checked(path):
        return address(path.read_bytes(), f"image/{path.suffix[1:]}")


def address(content: bytes, kind: str) -> str:
    """``data:`` address of a file's content."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
