"""When checkpoints and reconstructions happen, what they leave, and what they leave alone."""

from __future__ import annotations

import io
import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from callbacks import (
    StepCheckpoint,
    StepProgressBar,
    WholeCheckpoints,
    terminal,
)
from lit_recon.audit.recorder import of_method, sentence, tally
from lit_recon.errors import InputError, RunError
from lit_recon.methods import ProjectionReconstructor
from lit_recon.modules import SGD, LeastSquares, Optim
from lit_recon.records.checkpoints import saved_checkpoints
from lit_recon.records.directory import RunDirectory
from lit_recon.records.jsonl import rewind
from tests.small_runs import data_of, fit


def steps_in(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step=")) for path in folder.iterdir())


class Nothing(ProjectionReconstructor):
    """An attack that stops at once, for tests of everything around it."""

    def __init__(self) -> None:
        super().__init__(max_seconds=1e-9, restarts=0, spectral_start=False)


# --- when


@pytest.mark.parametrize(
    ("checkpoint", "kept", "attacked"),
    [
        (lambda: StepCheckpoint(), [0, 7], [0, 7]),
        (lambda: StepCheckpoint(at_steps=[1, 3, 50]), [0, 1, 3, 7], [0, 1, 3, 7]),
        (lambda: StepCheckpoint(every_n_steps=3), [0, 3, 6, 7], [0, 3, 6, 7]),
        (lambda: StepCheckpoint(every_n_steps=2, keep=2), [0, 6, 7], [0, 2, 4, 6, 7]),
        (lambda: StepCheckpoint(at_steps=[0, 7], every_n_steps=7), [0, 7], [0, 7]),
    ],
)
def test_every_checkpoint_is_attacked(
    checkpoint: Any, kept: list[int], attacked: list[int], tmp_path: Path
) -> None:
    fit(tmp_path, optim=SGD(), steps=7, attack=Nothing(), checkpoint=checkpoint())
    assert steps_in(tmp_path / "checkpoints") == kept
    assert steps_in(tmp_path / "recon" / "projection") == attacked
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "recon/projection/status" in row] == attacked


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"every_n_steps": 0}, "--checkpoint.every_n_steps"),
        ({"at_steps": [3, -1]}, "--checkpoint.at_steps"),
        ({"keep": 0}, "--checkpoint.keep"),
    ],
)
def test_steps_that_cannot_be(settings: dict[str, Any], flag: str) -> None:
    with pytest.raises(InputError) as refused:
        StepCheckpoint(**settings)
    assert refused.value.flag == flag


def test_a_step_with_results_is_not_done_again(tmp_path: Path) -> None:
    fit(tmp_path, attack=Nothing())
    before = {path: path.stat().st_ino for path in (tmp_path / "recon").rglob("*")}
    fit(tmp_path, attack=Nothing())
    assert {path: path.stat().st_ino for path in (tmp_path / "recon").rglob("*")} == before


# --- no trace in training


@pytest.mark.parametrize(
    ("optim", "steps", "batch_size"), [(SGD(lr=1e-3), 20, 2), (LeastSquares(), 1, None)]
)
def test_training_is_the_same_to_the_bit_without_the_attack(
    optim: Optim, steps: int, batch_size: int | None, tmp_path: Path
) -> None:
    ends = []
    for name, attack in (("with", ProjectionReconstructor(max_seconds=0.2)), ("without", None)):
        checkpoint = StepCheckpoint(at_steps=[3, 8])
        data = data_of("photos", batch_size)
        module, _ = fit(
            tmp_path / name,
            data=data,
            optim=optim,
            steps=steps,
            attack=attack,
            checkpoint=checkpoint,
        )
        weight = module.model.get_parameter("readout.weight")
        ends.append((weight.detach().clone(), torch.get_rng_state()))
    assert ends[0][0].abs().sum() > 0
    assert torch.equal(ends[0][0], ends[1][0])
    assert torch.equal(ends[0][1], ends[1][1])
    left, right = (saved_checkpoints(tmp_path / name) for name in ("with", "without"))
    assert [path.name for path in left] == [path.name for path in right]


# --- whole files


def test_a_checkpoint_on_a_full_disk_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "step=00000000.ckpt"
    WholeCheckpoints().save_checkpoint({"weight": torch.zeros(3)}, path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(RunError, match=r"step=00000000\.ckpt could not be written: File too"):
            WholeCheckpoints().save_checkpoint({"weight": torch.zeros(9999)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_rows_that_will_be_written_again_are_dropped(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    with of_method(directory, "projection").step_directory(4):
        pass
    rows = [
        {"step": 3, "train/loss": 1.0},
        {"step": 4, "recon/projection/psnr": 1.0},
        {"step": 4, "train/loss": 0.5},
        {"step": 5, "recon/projection/psnr": 2.0},
    ]
    for row in rows:
        directory.append_jsonl("metrics.jsonl", row)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "train')
    rewind(directory, 4)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows[:2]


# --- what people see


def test_what_came_back_in_words() -> None:
    results: dict[str, Any] = {
        "n": 10,
        "method": "projection",
        "recovered_fraction": 0.7,
        "exact_fraction": 0.6,
        "direction_error": 0.123,
        "projection_loss": None,
        "seconds": 2.4,
        "reason": "because",
    }
    assert tally(results) == "7 of 10 images recovered, 6 exact to the pixel"
    assert tally({**results, "exact_fraction": None}) == "7 of 10 samples recovered"
    unknown = {**results, "n": None, "candidates": 4, "certified_fraction": 0.75}
    assert tally(unknown) == "4 candidates, 3 certified"
    assert tally({**unknown, "candidates": 1, "certified_fraction": None}) == "1 candidate"
    told = "(direction error 1.2e-01, 2 s; because)"
    assert sentence(3, results) == f"step 3, projection: {tally(results)} {told}"


def test_the_inner_bar_shows_the_loss_and_goes_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "SECONDS", 0.0)
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, color_system=None)
    bar = StepProgressBar(console)
    fit(tmp_path, steps=3, optim=SGD(), attack=ProjectionReconstructor(max_seconds=1), extra=(bar,))
    shown = screen.getvalue()
    assert "train/loss" in shown
    assert "projection at step 3" in shown
    assert "loss " in shown.partition("projection at step 3")[2]
    assert "step 3, projection: " in shown  # the line of the checkpoint, above the bars
    assert [task.description for task in bar._progress.tasks] == ["train"]
