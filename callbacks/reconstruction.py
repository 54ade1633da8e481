"""Reconstruct the training data at every checkpoint, without leaving a trace in training."""

from __future__ import annotations

import copy
import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import isfinite, nan
from pathlib import Path
from typing import Any, cast

import numpy as np
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import WandbLogger
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from callbacks.checkpoints import StepCheckpoint
from callbacks.terminal import StepProgressBar
from lit_recon.knowledge import Knowledge, PixelScale
from lit_recon.methods import Reconstruction, Reconstructor
from lit_recon.metrics.scores import Scores, score
from lit_recon.models import ReadoutModel
from lit_recon.randomness import generator
from lit_recon.records.directory import RunDirectory, plain
from lit_recon.records.jsonl import JsonlLogger
from lit_recon.records.media import log_curve, log_image, log_image_table
from lit_recon.report.grid import figure_to_uint8, overlay_figure, reconstruction_grid, save_png
from lit_recon.solvers import OnStep, Row

NUMBERS = (
    "projection_loss",
    "oracle_loss",
    "matched_error",
    "direction_error",
    "matched_error_abs",
    "recovered_fraction",
    "exact_fraction",
    "certified_fraction",
    "psnr",
    "ssim",
    "null_direction_error",
    "p_over_dn",
    "candidates",
    "steps",
    "applications",
    "restarts",
    "seconds",
)
"""The numbers of a reconstruction that are logged; beside them stands ``status``."""


@dataclass(frozen=True)
class Truth:
    """The training data, as far as scoring needs them; no method ever sees it.

    Copies: what happens to the data module later is no part of the attack or of its score.
    """

    x: Tensor  # (n, d)
    held_out: Tensor  # (v, d)
    images: Tensor | None  # (n, c, h, w) uint8

    @classmethod
    def of(cls, data: Any) -> Truth:
        """What a data module holds."""
        images = None if data.images is None else data.images.clone()
        return cls(data.x.flatten(1).clone(), data.val_x.flatten(1).clone(), images)


class ReconstructionCallback(Checkpoint):
    """Runs an attack whenever the checkpoint callback has saved, on every rank; rank 0 writes.

    List it after the checkpoint callback. It works on a copy of the model, with its own generator,
    and looks at the training data only after the attack has returned. A step whose results are on
    disk is not done again.

    Args:
        reconstructor: the attack.
        checkpoint: the callback that saves checkpoints.
        directory: where results go.
    """

    def __init__(
        self, reconstructor: Reconstructor, checkpoint: StepCheckpoint, directory: RunDirectory
    ) -> None:
        self.reconstructor = reconstructor
        self.checkpoint = checkpoint
        self.directory = directory
        self.results: dict[int, dict[str, Any]] = {}
        self._initial_readout: Tensor | None = None
        self._n: int = 0
        self._pixels: PixelScale | None = None
        self._radius: float | None = None
        self._truth: Truth | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"initial_readout": self._initial_readout}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._initial_readout = state_dict["initial_readout"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        self._n, self._pixels, self._radius = data.n, data.pixels, data.radius
        self._truth = Truth.of(data)
        if self._initial_readout is None:
            self._initial_readout = model_of(pl_module).readout.weight.detach().cpu().clone()
        # The checkpoint that is resumed from: the run may have ended before its reconstruction did.
        self._reconstruct_if_saved(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._reconstruct_if_saved(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        self._reconstruct_if_saved(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._reconstruct_if_saved(trainer, pl_module)

    def _reconstruct_if_saved(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step = self.checkpoint.last_saved_step
        if step < 0 or step in self.results:
            return
        # Rank 0's disk decides: all ranks must take part in a reconstruction or none.
        if trainer.strategy.broadcast(self.directory.has_step(step)):
            self.results[step] = read_results(self.directory, step)
            return
        with _progress(trainer, step) as on_step:
            outcome = self._attack(pl_module, on_step)
        assert self._truth is not None
        scores = score_reconstruction(outcome, self._truth, self._pixels)
        numbers = cast(dict[str, Any], plain(numbers_of(outcome, scores, self._truth)))
        k, p = model_of(pl_module).readout.weight.shape
        self.results[step] = {
            **numbers,
            "reason": outcome.status.sentence,
            "n": self._n,
            "d": outcome.candidates.shape[1],
            "k": k,
            "p": p,
            "images": [asdict(row) for row in scores.rows],
        }
        if trainer.is_global_zero:
            self._write(trainer, step, outcome, scores, numbers)

    def _attack(self, pl_module: LightningModule, on_step: OnStep) -> Reconstruction:
        """The attack on a copy of the model; only buffers, which training leaves, are shared."""
        live = model_of(pl_module)
        model = copy.deepcopy(live, memo={id(b): b for b in live.buffers()}).eval()
        assert self._initial_readout is not None
        readout = model.readout.weight.detach()
        knowledge = Knowledge(
            model=model,
            readout=readout,
            initial_readout=self._initial_readout.to(readout),
            n=self._n,
            pixels=self._pixels,
            radius=self._radius,
        )
        random = generator(self.reconstructor.seed, "candidates")
        return self.reconstructor.reconstruct(knowledge, random, on_step)

    def _write(
        self,
        trainer: Trainer,
        step: int,
        outcome: Reconstruction,
        scores: Scores,
        numbers: dict[str, Any],
    ) -> None:
        assert self._truth is not None
        results = self.results[step]
        line = sentence(step, results)
        pixels = figure_to_uint8(picture(outcome, scores, self._truth, title=line))
        prefix = f"recon/{self.reconstructor.name}"
        named = {f"{prefix}/{key}": value for key, value in numbers.items()}
        with self.directory.step_directory(step) as folder:
            RunDirectory(folder).write_json("metrics.json", results)
            save_file(tensors(outcome), folder / "candidates.safetensors")
            save_png(pixels, folder / "grid.png")
            write_curve(outcome.rows, folder / "curve.csv")
            # A row without results is dropped when the run is resumed; results without their row
            # would stay without it.
            epoch = self.checkpoint.last_saved_epoch
            row = {"epoch": epoch, **named, f"{prefix}/reason": results["reason"]}
            for logger in trainer.loggers:
                if isinstance(logger, JsonlLogger):
                    logger.log_metrics(row, step=step)
        print(line, flush=True)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                self._log_to_wandb(logger, prefix, step, named, pixels, outcome)

    def _log_to_wandb(
        self,
        logger: WandbLogger,
        prefix: str,
        step: int,
        named: dict[str, Any],
        pixels: NDArray[np.uint8],
        outcome: Reconstruction,
    ) -> None:
        logger.log_metrics({k: v for k, v in named.items() if v is not None}, step=step)
        logger.experiment.summary[f"{prefix}/reason"] = outcome.status.sentence
        log_image(logger, f"{prefix}/grid", pixels, step)
        log_image_table(logger, f"{prefix}/images", self.results[step]["images"], step)
        curve = [asdict(row) for row in outcome.rows]
        axes = {"x": "applications", "y": "loss", "stroke": "phase"}
        log_curve(logger, f"{prefix}/curve", curve, step, **axes)


def model_of(pl_module: LightningModule) -> ReadoutModel:
    """The network that is trained and attacked."""
    return cast(ReadoutModel, pl_module.model)


def score_reconstruction(
    outcome: Reconstruction, truth: Truth, pixels: PixelScale | None
) -> Scores:
    """Match the candidates to the training data and score them, after the attack."""
    certificates = outcome.certificates
    return score(
        truth.x,
        outcome.candidates,
        held_out=truth.held_out,
        pixels=pixels,
        images=truth.images,
        decoded=None if certificates is None else certificates.images,
        certified=None if certificates is None else certificates.accepted,
        sign_blind=outcome.sign_blind,
    )


def numbers_of(outcome: Reconstruction, scores: Scores, truth: Truth) -> dict[str, Any]:
    """Every number of one reconstruction under its public name."""
    return {
        "projection_loss": outcome.projection_loss,
        "oracle_loss": outcome.oracle(truth.x),
        **asdict(scores.metrics),
        "p_over_dn": outcome.p_over_dn,
        "candidates": len(outcome.candidates),
        "status": outcome.status.value,
        "steps": outcome.steps,
        "applications": outcome.applications,
        "restarts": outcome.restarts,
        "seconds": outcome.seconds,
    }


def read_results(directory: RunDirectory, step: int) -> dict[str, Any]:
    """What a finished step has in its metrics.json; empty on a machine without that disk."""
    file = directory.step_path(step) / "metrics.json"
    return json.loads(file.read_text()) if file.exists() else {}


def tally(results: dict[str, Any]) -> str:
    """How much came back: ``10 of 10 images recovered, 10 exact to the pixel``."""
    n = results["n"]
    what = "samples" if results["exact_fraction"] is None else "images"
    line = f"{round(results['recovered_fraction'] * n)} of {n} {what} recovered"
    if results["exact_fraction"] is not None:
        line += f", {round(results['exact_fraction'] * n)} exact to the pixel"
    return line


def sentence(step: int, results: dict[str, Any]) -> str:
    """One line for people: what came back at this step, how exactly, and how the attack ended."""
    numbers = {"direction error": results["direction_error"], "loss": results["projection_loss"]}
    told = [f"{name} {value:.1e}" for name, value in numbers.items() if isfinite(value or nan)]
    if results.get("candidates", results["n"]) != results["n"]:
        told.append(f"{results['candidates']} candidates")
    told.append(f"{results['seconds']:.0f} s")
    return f"step {step}: {tally(results)} ({', '.join(told)}; {results['reason']})"


def tensors(outcome: Reconstruction) -> dict[str, Tensor]:
    """What candidates.safetensors holds: candidates (m, d), and for images the decoded pixels."""
    held = {"candidates": outcome.candidates.contiguous()}
    if outcome.certificates is not None:
        held["images"] = outcome.certificates.images.contiguous()
        held["certified"] = outcome.certificates.accepted.contiguous()
    return held


def write_curve(rows: list[Row], path: Path) -> None:
    """The inner curve as CSV, one row per solver step."""
    with path.open("w", newline="") as file:
        names = list(Row.__dataclass_fields__)
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def picture(outcome: Reconstruction, scores: Scores, truth: Truth, title: str) -> Any:
    """The figure of one reconstruction: pairs of images, or coordinates for other data."""
    if truth.images is None:
        return overlay_figure(truth.x, outcome.candidates, scores.rows, title=title)
    assert scores.reconstructions is not None
    return reconstruction_grid(truth.images, scores.reconstructions, scores.rows, title=title)


@contextmanager
def _progress(trainer: Trainer, step: int) -> Iterator[OnStep]:
    """What the solver calls with every row: an inner bar where there is a training bar."""
    bar = trainer.progress_bar_callback
    if isinstance(bar, StepProgressBar):
        with bar.inner(f"reconstruct at step {step}") as show:
            yield lambda row, candidates: show(row)
    else:
        yield lambda row, candidates: None
