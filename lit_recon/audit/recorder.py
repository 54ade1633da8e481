"""Attacks a checkpoint, scores the result, and writes it to the run directory and the loggers."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite, nan
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lit_recon.audit.scoring import numbers_of, score_reconstruction
from lit_recon.knowledge import Knowledge
from lit_recon.methods import Earlier, Picture, Reconstruction, Reconstructor
from lit_recon.metrics.numbers import COMMON
from lit_recon.metrics.scores import Scores
from lit_recon.models import ReadoutModel
from lit_recon.records import media
from lit_recon.records.directory import RunDirectory, plain
from lit_recon.records.jsonl import JsonlLogger
from lit_recon.records.truth import Truth
from lit_recon.report.candidates import candidates_figure
from lit_recon.report.grid import (
    figure_to_uint8,
    overlay_figure,
    reconstruction_grid,
    save_gif,
    save_png,
)
from lit_recon.solvers import OnStep, SolverStep

T = TypeVar("T")


def _alone(value: T) -> T:
    return value


@dataclass
class Recorder:
    """Attacks checkpoints of one run with one method, in any order, on all ranks; rank 0 writes.

    Attributes:
        reconstructor: the method.
        directory: the run directory with the method's folder of results, from `of_method`.
        truth: the training data, for scoring after the attack; None: not known.
        loggers: the loggers of metrics.jsonl and of W&B.
        leader: whether this is rank 0.
        broadcast: returns rank 0's value on every rank.
        results: content of metrics.json, by step.
    """

    reconstructor: Reconstructor
    directory: RunDirectory
    truth: Truth | None
    loggers: Sequence[Logger] = ()
    leader: bool = True
    broadcast: Callable[[T], T] = _alone
    results: dict[int, dict[str, Any]] = field(default_factory=dict)

    def done(self, step: int) -> bool:
        """Whether a step has results; rank 0 reads its disk for all ranks."""
        if step not in self.results and self.broadcast(self.directory.has_step(step)):
            self.results[step] = read_results(self.directory, step)
        return step in self.results

    def attack(
        self,
        step: int,
        epoch: int,
        knowledge: Knowledge,
        on_step: OnStep | None = None,
    ) -> None:
        """Attack one checkpoint, score the result and write it.

        Args:
            step: training step of the checkpoint.
            epoch: its epoch.
            knowledge: every fact that a method may ask for; the method gets those that it asks for.
            on_step: see `Reconstructor.reconstruct`.
        """
        warm = self.broadcast(self._earlier(step) if self.reconstructor.warm_start else None)
        found = self.reconstructor.reconstruct(knowledge, on_step=on_step, earlier=warm and warm[1])
        scores = score_reconstruction(found, self.truth, knowledge.model)
        numbers = cast(
            dict[str, Any],
            plain(numbers_of(found, scores, self.truth, self.reconstructor.describes)),
        )
        self.results[step] = {
            **numbers,
            "reason": found.outcome.reason,
            "sure": found.outcome.sure,
            "empty": found.outcome.empty,
            "n": None if self.truth is None else self.truth.n,
            **sizes(knowledge.model),
            "d": found.candidates.shape[1],
            "method": self.reconstructor.name,
            "started_from": warm[0] if warm and found.warm else None,
            "knows": list(found.knows),
            "images": self._images(step, scores),
        }
        if self.leader:
            drawn = picture(
                found, scores, self.truth, knowledge, sentence(step, self.results[step])
            )
            self._write(step, epoch, found, numbers, figure_to_uint8(drawn))

    def _images(self, step: int, scores: Scores) -> list[dict[str, Any]]:
        """The rows of the table of images, with the first step at which each was recovered.

        Only steps up to this one count, of those that have results by now.
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
        """The last earlier step whose outcome is not `empty`, and the result of its attack."""
        for before in sorted(self.directory.steps(), reverse=True):
            if before < step:
                results = read_results(self.directory, before)
                if not results.get("empty", False):
                    file = self.directory.step_path(before) / "candidates.safetensors"
                    sure = results.get("sure", False)
                    return before, Earlier(load_file(file)["candidates"], sure)
        return None

    def _write(
        self,
        step: int,
        epoch: int,
        found: Reconstruction,
        numbers: dict[str, Any],
        pixels: NDArray[np.uint8],
    ) -> None:
        results = self.results[step]
        prefix = self.directory.results
        named = {f"{prefix}/{key}": value for key, value in numbers.items()}
        extra = found.pictures()
        results["pictures"] = [{"file": drawn.file, "words": drawn.words} for drawn in extra]
        with self.directory.step_directory(step) as folder:
            RunDirectory(folder).write_json("metrics.json", results)
            for drawn in extra:
                save_picture(drawn, folder)
            save_file(tensors(found), folder / "candidates.safetensors")
            save_png(pixels, folder / "grid.png")
            write_curve(found.curve, folder / "curve.csv")
            # Inside the block: a resumed run removes a row without results, but it would never add
            # the missing row of results.
            row = {"epoch": epoch, **named, f"{prefix}/reason": results["reason"]}
            for logger in self.loggers:
                if isinstance(logger, JsonlLogger):
                    logger.log_metrics(row, step=step)
        print(sentence(step, results), flush=True)
        for logger in self.loggers:
            if isinstance(logger, WandbLogger):
                self._log_to_wandb(logger, step, named, pixels, found)
            elif not isinstance(logger, JsonlLogger):  # that of somebody's own Trainer
                scalars = {name: v for name, v in named.items() if isinstance(v, int | float)}
                logger.log_metrics(scalars, step=step)
            if isinstance(logger, TensorBoardLogger):
                name = f"{prefix}/grid"
                logger.experiment.add_image(name, pixels, step, dataformats="HWC")

    def _log_to_wandb(
        self,
        logger: WandbLogger,
        step: int,
        named: dict[str, Any],
        pixels: NDArray[np.uint8],
        found: Reconstruction,
    ) -> None:
        prefix, results = self.directory.results, self.results[step]
        with media.one_log(logger, step) as row:
            row.update({name: value for name, value in named.items() if value is not None})
            row[f"{prefix}/grid"] = media.picture(pixels, step)
            for drawn in results["pictures"]:
                file = self.directory.step_path(step) / drawn["file"]
                row[f"{prefix}/{file.stem}"] = media.picture_file(file, step)
            if results["images"]:
                row[f"{prefix}/images"] = media.image_table(results["images"])
            if found.curve:
                chart, title = f"{prefix}/curve", f"{prefix}/curve at step {step}"
                curve = [asdict(entry) for entry in found.curve]
                axes = {"x": "applications", "y": "loss", "stroke": "phase"}
                row[chart] = media.curve(curve, title, **axes)
        logger.experiment.summary[f"{prefix}/reason"] = found.outcome.reason


def of_method(directory: RunDirectory, name: str) -> RunDirectory:
    """The run directory with the folder of one method's results."""
    return RunDirectory(directory.path, f"{directory.results}/{name}")


def named_numbers(directory: RunDirectory, methods: Iterable[Reconstructor]) -> list[str]:
    """The names under which the numbers of these methods are logged."""
    return [
        f"{directory.results}/{method.name}/{number.name}"
        for method in methods
        for number in (*COMMON, *method.describes)
    ]


def sizes(model: nn.Module) -> dict[str, int | None]:
    """Outputs k and features p of a network; None where it has no readout."""
    return {
        "k": model.readout.out_features if isinstance(model, ReadoutModel) else None,
        "p": model.p if isinstance(model, ReadoutModel) else None,
    }


def read_results(directory: RunDirectory, step: int) -> dict[str, Any]:
    """The content of a step's metrics.json; empty if the file is not on this machine's disk."""
    file = directory.step_path(step) / "metrics.json"
    return json.loads(file.read_text()) if file.exists() else {}


def tally(results: dict[str, Any]) -> str:
    """The counts of a step: ``10 of 10 images recovered, 10 exact to the pixel``.

    Where the training data are not known: ``12 candidates, 9 certified``.
    """
    n = results["n"]
    if n is None:
        m, share = results["candidates"], results["certified_fraction"]
        counted = f"{m} candidate{'' if m == 1 else 's'}"
        return counted if share is None else f"{counted}, {round(share * m)} certified"
    what = "samples" if results["exact_fraction"] is None else "images"
    line = f"{round(results['recovered_fraction'] * n)} of {n} {what} recovered"
    if results["exact_fraction"] is not None:
        line += f", {round(results['exact_fraction'] * n)} exact to the pixel"
    return line


def sentence(step: int, results: dict[str, Any]) -> str:
    """One line for the terminal: counts, errors, time and the reason why the attack ended."""
    numbers = {
        "direction error": results["direction_error"],
        "loss": results.get("projection_loss"),
    }
    told = [f"{name} {value:.1e}" for name, value in numbers.items() if isfinite(value or nan)]
    if results["n"] is not None and results.get("candidates", results["n"]) != results["n"]:
        told.append(f"{results['candidates']} candidates")
    told.append(f"{results['seconds']:.0f} s")
    what = f"step {step}, {results['method']}: {tally(results)}"
    return f"{what} ({', '.join(told)}; {results['reason']})"


def tensors(found: Reconstruction) -> dict[str, Tensor]:
    """The content of candidates.safetensors: candidates (m, d), and decoded pixels of images."""
    held = {"candidates": found.candidates.contiguous()}
    if found.certificates is not None:
        held["images"] = found.certificates.images.contiguous()
        held["certified"] = found.certificates.accepted.contiguous()
    return held


def write_curve(rows: Sequence[SolverStep], path: Path) -> None:
    """The inner curve as CSV, one row per solver step."""
    with path.open("w", newline="") as file:
        names = list(SolverStep.__dataclass_fields__)
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def save_picture(drawn: Picture, folder: Path) -> None:
    """Write a method's picture into a folder."""
    path, content = folder / drawn.file, drawn.content
    if drawn.animated:
        save_gif(content, path)
    else:
        save_png(content if isinstance(content, np.ndarray) else figure_to_uint8(content), path)


def picture(
    found: Reconstruction, scores: Scores, truth: Truth | None, knowledge: Knowledge, title: str
) -> Any:
    """The figure of one reconstruction: pairs of images, or coordinates for other data.

    Where the training data are not known, it shows the candidates alone.
    """
    if truth is None:
        return candidates_figure(
            found.candidates,
            title,
            certificates=found.certificates,
            shape=knowledge.input_shape,
            pixels=knowledge.pixels,
        )
    if truth.images is None:
        return overlay_figure(truth.x, found.candidates, scores.rows, title=title)
    assert scores.reconstructions is not None
    return reconstruction_grid(truth.images, scores.reconstructions, scores.rows, title=title)
