"""Run directories as a run would leave them, and what W&B has kept of a run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from lit_recon.audit.recorder import write_curve
from lit_recon.knowledge import PixelScale
from lit_recon.metrics import inputs_from_images, score
from lit_recon.records.directory import RunDirectory
from lit_recon.records.truth import Truth
from lit_recon.solvers import SolverStep

PIXELS = PixelScale((3, 8, 8), 0.4, 0.25)
CLASSES = ["<b>cat</b>", "dog"]  # names come from folders, whatever these are called


def write_run(
    path: Path,
    found: Mapping[int, int],
    *,
    n: int = 4,
    images: bool = True,
    kept: bool = True,
    settings: str = "recon",
    method: str = "projection",
    more: Mapping[str, float] | None = None,
) -> Path:
    """A finished run of random images or vectors.

    Args:
        path: where.
        found: for every reconstructed step how many of the samples come back, the first ones.
        n: number of samples.
        images: whether the samples are images of 8x8.
        kept: whether the run has kept its training data.
        settings: the folder of the reconstructions, ``recon`` or ``recon-VARIANT``.
        method: the method that has made them; a second call adds another method to the run.
        more: further numbers of the method.
    """
    random = torch.Generator().manual_seed(0)
    shape = (2 * n, *PIXELS.shape)
    pixels = torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)
    x = inputs_from_images(pixels, PIXELS).flatten(1)
    directory = RunDirectory(path)
    config = {
        "data": {"class_path": "datamodules.Photos", "init_args": {"n": n, "batch_size": None}},
        "model": {"class_path": "lit_recon.models.RandomFeatures", "init_args": {"p": 92160}},
        "recon": RECON,
        "trainer": {"max_steps": max(found, default=1)},
    }
    directory.write_text("config.yaml", yaml.safe_dump(config))
    directory.write_json("provenance.json", PROVENANCE)
    for step in (0, *found):
        row = {"step": step, "epoch": 0, "train/loss": 0.1**step or None, "train/acc": 1.0}
        directory.append_jsonl("metrics.jsonl", row)
        if step in found:
            ended = {"step": step, "epoch": 0, f"{settings}/{method}/reason": "it ended"}
            directory.append_jsonl("metrics.jsonl", ended)
    if kept:
        _truth(x, pixels if images else None, n).write(directory)
    for step, count in found.items():
        candidates = torch.cat([x[:count], torch.randn(n - count, x.shape[1], generator=random)])
        folder = path / settings / method / f"step={step:08d}"
        folder.mkdir(parents=True)
        told = {"method": method, **(PROJECTION if method == "projection" else {}), **(more or {})}
        _write_step(folder, x[:n], candidates, pixels[:n] if images else None, count, told)
        if not (images and kept):
            _draw(folder)
    return path


RECON = {
    "class_path": "lit_recon.methods.ProjectionReconstructor",
    "init_args": {"solver": {"class_path": "lit_recon.solvers.GaussNewton", "init_args": {}}},
}
# What a run by projection leaves besides the numbers of every method.
PROJECTION = {"projection_loss": 1e-9, "oracle_loss": 1e-12, "p_over_dn": 3.0, "restarts": 0}
PROVENANCE: dict[str, Any] = {
    "started_utc": "2026-01-02T03:04:05+00:00",
    "finished_utc": "2026-01-02T03:05:25+00:00",
    "command": "train.py --run.name '<i>mine</i>'",
    "seed": 0,
    "device": "cpu",
    "gpu": None,
    "cpu": "A processor",
    "cores": 2,
    "platform": "Linux",
    "versions": {"python": "3.10.0", "torch": "2.14.1", "scipy": None},
    "git": {"commit": 40 * "a", "dirty": True},
}


def read(segment: Path) -> list[dict[str, Any]]:
    """The records of an offline segment, as W&B's own reader prints them."""
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json"]
    text = subprocess.check_output([*command, str(segment)], text=True, timeout=60)
    return [json.loads(line) for line in text.splitlines()]


def _truth(x: Tensor, pixels: Tensor | None, n: int) -> Truth:
    return Truth(
        x=x[:n].contiguous(),
        held_out=x[n:].contiguous(),
        images=None if pixels is None else pixels[:n].contiguous(),
        pixels=None if pixels is None else PIXELS,
        radius=None,
        labels=[] if pixels is None else [i % 2 for i in range(n)],
        class_names=[] if pixels is None else CLASSES,
        indices=list(range(n)),
    )


def _write_step(
    folder: Path,
    x: Tensor,
    candidates: Tensor,
    images: Tensor | None,
    count: int,
    more: Mapping[str, Any],
) -> None:
    scale = None if images is None else PIXELS
    certified = None if images is None else torch.arange(len(x)) < count
    scores = score(x, candidates, -x, scale, images, certified=certified)
    held = {"candidates": candidates}
    if images is not None:
        assert scores.reconstructions is not None and certified is not None
        matched = torch.tensor([row.candidate for row in scores.rows])
        decoded = torch.zeros_like(images)
        decoded[matched] = scores.reconstructions
        held |= {"images": decoded, "certified": certified}
    save_file(held, folder / "candidates.safetensors")
    curve = _curve() if count else []
    numbers = {
        **scores.metrics.as_dict(),
        "candidates": len(candidates),
        "seconds": 0.5,
        "steps": len(curve),
        "applications": curve[-1].applications if curve else 0,
        **more,
        "status": "certified" if count == len(x) else "no_signal",
        "reason": "every candidate is right" if count == len(x) else "the weights tell nothing",
        "sure": count == len(x),
        "empty": not count,
        "n": len(x),
        "d": x.shape[1],
        "k": 1,
        "p": 3 * x.numel(),
        "knows": ["final weights", "number of training samples"],
        "started_from": None,
        "images": [asdict(row) for row in scores.rows],
    }
    RunDirectory(folder).write_json("metrics.json", numbers)
    write_curve(curve, folder / "curve.csv")


def _curve() -> list[SolverStep]:
    phases = ["coarse", "coarse", "plain", "coarse", "plain"]
    return [
        SolverStep(i, phase, 0.1**i, 4, 10 * (i + 1), 0.1 * i) for i, phase in enumerate(phases)
    ]


def _draw(folder: Path) -> None:
    """A picture of all samples, which only a page without single pictures shows."""
    noise = torch.randint(0, 256, (40, 90, 3), dtype=torch.uint8).numpy()
    Image.fromarray(noise).save(folder / "grid.png")
