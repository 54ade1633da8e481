"""Attack a checkpoint, score what comes back, and write it to the run directory and the loggers."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite, nan
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from lightning.pytorch.loggers import Logger, WandbLogger
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from lit_recon.knowledge import Knowledge
from lit_recon.methods import Earlier, Reconstruction, Reconstructor
from lit_recon.metrics.scores import Scores, score
from lit_recon.models import ReadoutModel
from lit_recon.randomness import generator
from lit_recon.records.directory import RunDirectory, plain
from lit_recon.records.jsonl import JsonlLogger
from lit_recon.records.media import log_curve, log_image, log_image_table
from lit_recon.records.truth import Truth
from lit_recon.report.grid import figure_to_uint8, overlay_figure, reconstruction_grid, save_png
from lit_recon.solvers import OnStep, Row, Status

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


# Statuses that are evidence of success, and those after which candidates are noise.
SURE = {status.value for status in (Status.CONVERGED, Status.CERTIFIED, Status.AGREED)}
NOISE = {status.value for status in (Status.NO_SIGNAL, Status.NOT_IDENTIFIABLE, Status.NONFINITE)}
T = TypeVar("T")


def _alone(value: T) -> T:
    return value


@dataclass
class Recorder:
    """Attacks checkpoints of one run, in any order; all ranks call it together, rank 0 writes.

    Attributes:
        reconstructor: the attack.
        directory: where results go; a step whose results are there is not done again.
        truth: for scoring, after the attack.
        loggers: which get the numbers; metrics.jsonl and W&B.
        leader: whether this is rank 0.
        broadcast: gives rank 0's value to all.
        results: by step, what metrics.json holds.
    """

    reconstructor: Reconstructor
    directory: RunDirectory
    truth: Truth
    loggers: Sequence[Logger] = ()
    leader: bool = True
    broadcast: Callable[[T], T] = _alone
    results: dict[int, dict[str, Any]] = field(default_factory=dict)

    def done(self, step: int) -> bool:
        """Whether the results of a step are there. Rank 0's disk decides for all."""
        if step not in self.results and self.broadcast(self.directory.has_step(step)):
            self.results[step] = read_results(self.directory, step)
        return step in self.results

    def attack(
        self,
        step: int,
        epoch: int,
        model: ReadoutModel,
        initial: Mapping[str, Tensor],
        initial_share: float | None,
        on_step: OnStep | None = None,
    ) -> None:
        """Attack one checkpoint and record the outcome.

        Args:
            step, epoch: of the checkpoint.
            model: the network with the checkpoint's weights, which training will not change.
            initial: its weights at step 0, by name.
            initial_share: how much of the initial readout is left in the readout; None: not known.
            on_step: see `Reconstructor.reconstruct`.
        """
        knowledge = known(model, initial, initial_share, self.truth, self.reconstructor)
        warm = self.broadcast(self._earlier(step) if self.reconstructor.warm_start else None)
        random = generator(self.reconstructor.seed, "candidates")
        outcome = self.reconstructor.reconstruct(knowledge, random, on_step, warm and warm[1])
        scores = score_reconstruction(outcome, self.truth)
        numbers = cast(dict[str, Any], plain(numbers_of(outcome, scores, self.truth)))
        self.results[step] = {
            **numbers,
            "reason": outcome.status.sentence,
            "n": self.truth.n,
            "d": outcome.candidates.shape[1],
            "k": model.readout.out_features,
            "p": model.p,
            "method": self.reconstructor.name,
            "started_from": warm[0] if warm and outcome.warm else None,
            "knows": knowledge.facts,
            "images": self._images(step, scores),
        }
        if self.leader:
            self._write(step, epoch, outcome, scores, numbers)

    def _images(self, step: int, scores: Scores) -> list[dict[str, Any]]:
        """The rows of the table of images, with the first step at which each came back.

        Of the steps that have been attacked by now, and are not later than this one.
        """
        before = [s for s in self.directory.steps() if s < step]
        earlier = read_results(self.directory, before[-1])["images"] if before else []
        rows = [asdict(row) for row in scores.rows]
        for row in rows:
            known: dict[str, Any] = next((e for e in earlier if e["index"] == row["index"]), {})
            for what in ("recovered", "exact"):
                first = known.get(f"first_{what}")
                row[f"first_{what}"] = step if first is None and row[what] else first
        return rows

    def _earlier(self, step: int) -> tuple[int, Earlier] | None:
        """The last step before this one whose attack had something to find, and what it found."""
        for before in sorted(self.directory.steps(), reverse=True):
            if before < step:
                status = read_results(self.directory, before)["status"]
                if status not in NOISE:
                    file = self.directory.step_path(before) / "candidates.safetensors"
                    return before, Earlier(load_file(file)["candidates"], status in SURE)
        return None

    def _write(
        self,
        step: int,
        epoch: int,
        outcome: Reconstruction,
        scores: Scores,
        numbers: dict[str, Any],
    ) -> None:
        results = self.results[step]
        line = sentence(step, results)
        pixels = figure_to_uint8(picture(outcome, scores, self.truth, title=line))
        prefix = f"{self.directory.results}/{self.reconstructor.name}"
        named = {f"{prefix}/{key}": value for key, value in numbers.items()}
        with self.directory.step_directory(step) as folder:
            RunDirectory(folder).write_json("metrics.json", results)
            save_file(tensors(outcome), folder / "candidates.safetensors")
            save_png(pixels, folder / "grid.png")
            write_curve(outcome.rows, folder / "curve.csv")
            # A row without results is dropped when the run is resumed; results without their row
            # would stay without it.
            row = {"epoch": epoch, **named, f"{prefix}/reason": results["reason"]}
            for logger in self.loggers:
                if isinstance(logger, JsonlLogger):
                    logger.log_metrics(row, step=step)
        print(line, flush=True)
        for logger in self.loggers:
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


def named_numbers(prefix: str) -> list[str]:
    """The names under which numbers are logged."""
    return [f"{prefix}/{number}" for number in NUMBERS]


def known(
    model: ReadoutModel,
    initial: Mapping[str, Tensor],
    initial_share: float | None,
    truth: Truth,
    reconstructor: Reconstructor,
) -> Knowledge:
    """What the attacker holds: weights, constants of the pipeline, and no sample."""
    readout = model.readout.weight.detach()
    # Where it is not known (Adam with weight decay) nothing fits better than the start itself.
    share = 1.0 if initial_share is None else initial_share
    first_layer = None
    if reconstructor.evidence == "first_layer":
        # Weight decay shrinks all layers alike.
        first_layer = initial["first_layer.weight"].to(readout) * share
    return Knowledge(
        model=model,
        readout=readout,
        initial_readout=initial["readout.weight"].to(readout) * share,
        n=truth.n,
        pixels=truth.pixels,
        radius=truth.radius,
        shape=truth.shape,
        initial_first_layer=first_layer,
    )


def score_reconstruction(outcome: Reconstruction, truth: Truth) -> Scores:
    """Match the candidates to the training data and score them, after the attack."""
    certificates = outcome.certificates
    return score(
        truth.x,
        outcome.candidates,
        held_out=truth.held_out,
        pixels=truth.pixels,
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
