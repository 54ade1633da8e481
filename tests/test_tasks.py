"""What a network is trained to give, and networks without a readout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from lit_recon.errors import InputError
from lit_recon.models import Model
from lit_recon.modules import Autoencode, Labels, Next
from lit_recon.records.checkpoints import load_weights
from lit_recon.records.truth import Truth

POINTS = ["--data", "Sphere", "--data.n", "4", "--data.d", "6", "--wandb.mode", "disabled"]
SGD = ["--optim", "SGD", "--optim.lr", "1e-3", "--trainer.max_steps", "3", "--run.name", "r"]
SHORT = ["--recon.max_steps", "2", "--recon.restarts", "0"]
Run = Callable[..., tuple[int, str, str]]


class Deep(Model):
    """Two layers, of which none is a readout with this library's name.

    Args:
        d: input dimension.
        k: outputs.
        width: hidden units.
    """

    def __init__(self, d: int, k: int, width: int = 8) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(d, width), nn.Tanh(), nn.Linear(width, k))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flatten(1))


@pytest.fixture
def run(type_command: Run) -> Run:
    """Types a command with the plugin in an empty folder; gives exit status, stdout, stderr."""
    return lambda *argv: type_command(*argv, "--plugin", "tests.test_tasks")


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_targets() -> None:
    x, y = torch.arange(12.0).view(6, 1, 2), torch.ones(6, 1)
    assert Labels().targets(x, y) is y
    assert torch.equal(Autoencode().targets(x, y), x.flatten(1))
    assert torch.equal(Next().targets(x, y), x.flatten(1).roll(-1, 0))
    halves = Next(period=3).targets(x, y)
    assert torch.equal(halves, x.flatten(1)[[1, 2, 0, 4, 5, 3]])
    with pytest.raises(InputError, match=r"--task\.period 4: does not divide 6 samples"):
        Next(period=4).targets(x, y)
    with pytest.raises(InputError, match=r"--task\.period 1: give at least 2"):
        Next(period=1)


@pytest.mark.parametrize(
    "task",
    [
        pytest.param("Autoencode", marks=pytest.mark.long),
        "next",
        pytest.param("Labels", marks=pytest.mark.long),
    ],
)
def test_a_task_chooses_the_targets(task: str, run: Run, tmp_path: Path) -> None:
    flags = [*POINTS, *SGD, *SHORT, "--task", task, "--model", "MLP", "--model.width", "60"]
    status, _, error = run(*flags)
    assert (status, error) == (0, "")
    path = tmp_path / "runs" / "r"
    weights = load_weights(path / "checkpoints" / "step=00000003.ckpt")
    outputs = 1 if task == "Labels" else 6
    assert weights["readout.weight"].shape == (outputs, 60)
    assert Truth.read(path).k == outputs
    losses = [row["train/loss"] for row in rows(path) if "train/loss" in row]
    # The loss at the end is that of these weights on these targets.
    truth = Truth.read(path)
    output = (truth.x @ weights["first_layer.weight"].T).relu() @ weights["readout.weight"].T
    targets = {"Autoencode": truth.x, "next": truth.x.roll(-1, 0), "Labels": None}[task]
    if targets is not None:
        assert losses[-1] == pytest.approx(float((output - targets).square().mean()), rel=1e-4)
    assert losses[-1] < losses[0]
    named = yaml.safe_load((path / "config.yaml").read_text())["task"]["class_path"]
    assert named.lower().endswith(task.lower())
    # Its checkpoints are attacked from files alone, and another task is another run.
    assert run("reconstruct", "--run", "runs/r", "--recon.spare", "1", *SHORT)[0] == 0
    # One with as many outputs where these are images: the attractor attack needs them.
    other = "Next" if task == "Autoencode" else "Autoencode"
    status, _, error = run(*flags, "--run.resume", "true", "--task", other)
    assert status == 2 and "the run to go on with has" in error


def test_a_network_without_a_readout_is_trained_and_not_attacked_by_projection(
    run: Run, tmp_path: Path
) -> None:
    status, _, error = run(*POINTS, *SGD, "--model", "Deep", "--recon", "ProjectionReconstructor")
    assert status == 2
    assert error == (
        "train.py: --recon ProjectionReconstructor: attacks a linear readout; Deep has none\n"
    )
    assert not (tmp_path / "runs").exists()
    status, out, error = run(*POINTS, *SGD, "--model", "Deep", "--recon.enabled", "false")
    assert (status, error) == (0, "")
    losses = [row["train/loss"] for row in rows(tmp_path / "runs" / "r") if "train/loss" in row]
    assert losses[-1] < losses[0]
    assert "attack by" not in out
    # Goes on to the bit, like every other.
    more = ["--run.resume", "true", "--trainer.max_steps", "5"]
    assert run(*POINTS, *SGD, "--model", "Deep", "--recon.enabled", "false", *more)[0] == 0
    whole = ["--run.name", "whole", "--trainer.max_steps", "5", "--recon.enabled", "false"]
    assert run(*POINTS, *SGD, "--model", "Deep", *whole)[0] == 0
    ends = [
        load_weights(tmp_path / "runs" / name / "checkpoints" / "step=00000005.ckpt")
        for name in ("r", "whole")
    ]
    assert all(torch.equal(weight, ends[1][name]) for name, weight in ends[0].items())


def test_a_closed_form_needs_a_readout(run: Run) -> None:
    status, _, error = run(*POINTS, "--model", "Deep", "--recon.enabled", "false")
    assert status == 2
    assert "--optim LeastSquares: fits the readout alone, and Deep trains all" in error
