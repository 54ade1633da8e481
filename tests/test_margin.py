"""Training to the margin: the optimiser, and the numbers that say how near the margin is."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from math import isnan, log
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from callbacks import StepCheckpoint
from datamodules import Digits, ReconDataModule
from lit_recon.errors import InputError
from lit_recon.models import DeepMLP, RandomFeatures
from lit_recon.modules import SGD, LeastSquares, Margin, Training, margin
from lit_recon.modules.losses import LOSSES, Loss
from lit_recon.modules.margin import MarginDescent, log_loss, scores, temperature
from lit_recon.modules.optimality import Optimality
from lit_recon.modules.training import check_full_batch
from lit_recon.objectives.stationarity import decay_stationarity, margins
from lit_recon.records.checkpoints import saved_checkpoints
from tests.test_modules import logged, trained

SETTING: dict[str, Any] = {"widths": [40, 40], "bias": "first", "first_layer_std": 1e-4}


def digits(classes: int = 2, batch_size: int | None = None) -> Digits:
    names = ["zero", "one", "two"][:classes]
    return Digits(n=12, classes=names, normalize="mean_image", n_val=0, batch_size=batch_size)


def network(data: ReconDataModule) -> DeepMLP:
    data.setup()
    return DeepMLP(d=data.d, k=data.k, seed=1, **SETTING)


def ended(path: Path, optim: Any, steps: int, classes: int = 2, **flags: Any) -> Training:
    data = digits(classes)
    return trained(path, optim, steps, model=network(data), data=data, **flags)[0]


def measured(path: Path) -> list[dict[str, Any]]:
    return [row for row in logged(path) if "train/stationarity" in row]


# --- the loss


@pytest.mark.parametrize(("loss", "k"), [("logistic", 1), ("logistic", 3), ("cross_entropy", 3)])
def test_the_log_loss_is_that_of_the_loss(loss: Any, k: int) -> None:
    random = torch.Generator().manual_seed(0)
    output = 3 * torch.randn(6, k, generator=random, dtype=torch.float64)
    classes = torch.tensor([0, 1, 2, 2, 1, 0])
    y = torch.eye(3, dtype=torch.float64)[classes] if k == 3 else (classes[:, None] % 2) * 2.0 - 1
    output.requires_grad_()
    value, expected = log_loss(scores(loss, output, y)), LOSSES[loss](output, y).log()
    assert float(value) == pytest.approx(float(expected), rel=1e-12)
    ours, theirs = (torch.autograd.grad(v, output)[0] for v in (value, expected))
    assert torch.allclose(ours, theirs)


def test_the_log_loss_does_not_underflow() -> None:
    s = torch.tensor([1e5, 1e5 + log(3)], dtype=torch.float64, requires_grad=True)
    value = log_loss(s)
    assert float(value) == pytest.approx(-1e5 + log((1 + 1 / 3) / 2), rel=1e-14)
    (slope,) = torch.autograd.grad(value, s)
    assert torch.allclose(slope, torch.tensor([-0.75, -0.25], dtype=torch.float64))
    limit = torch.tensor([-1e-9, 1e-9], dtype=torch.float64) + margin.UNDERFLOW
    left, right = (log_loss(value[None]) for value in limit)
    assert float(left - right) == pytest.approx(2e-9, rel=1e-3)


def test_the_temperature_is_one_until_samples_are_away_from_the_boundary() -> None:
    y = torch.tensor([[1.0], [-1.0]])
    assert float(temperature("logistic", torch.tensor([[5.0], [3.0]]), y)) == 1
    hot = temperature("logistic", torch.tensor([[500.0], [-1000.0]]), y)
    assert float(hot) == pytest.approx(500 ** (1 - margin.SHARPENING))


# --- the optimiser


def descent(start: float, rate: float) -> tuple[nn.Linear, MarginDescent, Callable[[], Tensor]]:
    """One weight, on which the loss has its smallest value for two samples of one input at 0."""
    model = nn.Linear(1, 1, bias=False).double()
    x = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    y = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    nn.init.constant_(model.weight, start)

    def outputs() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return model(x), y

    optimiser = MarginDescent(model.parameters(), rate, "logistic", outputs)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = log_loss(scores("logistic", model(x), y))
        loss.backward()
        return loss

    return model, optimiser, closure


def test_a_step_that_would_raise_the_loss_is_made_shorter() -> None:
    _, optimiser, closure = descent(start=1.0, rate=100.0)
    losses = []
    for _ in range(10):
        losses.append(float(optimiser.step(closure) or 0.0))
    assert all(later <= earlier for earlier, later in pairwise(losses))
    assert losses[-1] < losses[0] - 0.1
    assert optimiser.param_groups[0]["rate"] < 10


def test_where_no_step_helps_the_weights_stay() -> None:
    model, optimiser, closure = descent(start=1.0, rate=0.1)
    for _ in range(300):
        optimiser.step(closure)
    weight = model.weight.detach().clone()
    optimiser._outputs = lambda: (torch.full((2, 1), 9.0).double(), torch.tensor([[1.0], [-1.0]]))
    optimiser.step(closure)  # every trial seems worse
    assert torch.equal(model.weight, weight)
    assert optimiser.param_groups[0]["rate"] > margin.SMALLEST_RATE


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
@pytest.mark.parametrize(("loss", "classes"), [("logistic", 2), ("cross_entropy", 3)])
def test_every_step_lowers_the_loss_far_below_what_numbers_hold(
    loss: Any, classes: int, precision: str, tmp_path: Path
) -> None:
    module = ended(tmp_path, Margin(loss=loss), 120, classes, precision=precision)
    losses = [row["train/loss"] for row in logged(tmp_path) if "train/loss" in row]
    assert losses[0] == pytest.approx(log(classes), rel=1e-3)
    assert losses[-1] < 1e-200 and logged(tmp_path)[-2]["train/acc"] == 1
    assert {p.dtype for p in module.model.parameters()} == {
        torch.float32 if precision == "32-true" else torch.float64
    }


def test_training_ends_at_a_loss_of_1e_40(tmp_path: Path) -> None:
    module = ended(tmp_path, Margin(stop_loss=1e-40), 500)
    losses = [row["train/loss"] for row in logged(tmp_path) if "train/loss" in row]
    assert module.global_step < 200
    assert losses[-3] > 1e-40 >= losses[-2] > 0


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    ends = []
    for name, stops in (("once", [60]), ("resumed", [23, 24, 60])):
        for steps in stops:
            every = StepCheckpoint(every_n_steps=10)
            module = ended(tmp_path / name, Margin(), steps, callbacks=[every])
        last = saved_checkpoints(tmp_path / name)[-1]
        group = torch.load(last, weights_only=True)["optimizer_states"][0]["param_groups"][0]
        ends.append((module.model.state_dict(), group, measured(tmp_path / name)[-1]))
    (once, group, row), (resumed, other, again) = ends
    assert all(torch.equal(once[name], resumed[name]) for name in once)
    assert group == other and group["rate"] != Margin().lr
    assert row == again


def test_what_margin_cannot_do_is_refused() -> None:
    check_full_batch(Margin(), 4, None, 1)
    check_full_batch(Margin(), 4, 4, 1)
    with pytest.raises(InputError, match=r"--data.batch_size 2: Margin takes all samples"):
        check_full_batch(Margin(), 4, 2, 1)
    with pytest.raises(InputError, match=r"--trainer.devices 2: .* in one process; give 1"):
        check_full_batch(Margin(), 4, None, 2)
    for flags, flag in (({"loss": "mse"}, "loss"), ({"lr": 0.0}, "lr"), ({"lr": -1.0}, "lr")):
        with pytest.raises(InputError) as refused:
            Margin(**flags)
        assert refused.value.flag == f"--optim.{flag}"


def test_mini_batches_are_refused_before_the_first_step(tmp_path: Path) -> None:
    data = digits(batch_size=4)
    with pytest.raises(InputError, match=r"--data\.batch_size"):
        trained(tmp_path, Margin(), 1, model=network(data), data=data)
    assert not (tmp_path / "metrics.jsonl").exists()


# --- the numbers


def test_the_margin_rises_and_the_residual_falls(tmp_path: Path) -> None:
    at = StepCheckpoint(at_steps=[20, 50, 100])
    ended(tmp_path, Margin(), 200, callbacks=[at], log_every_n_steps=100)
    rows = measured(tmp_path)
    assert [row["step"] for row in rows] == [0, 20, 50, 100, 200]
    normalised = [row["train/normalised_margin"] for row in rows]
    residual = [row["train/stationarity"] for row in rows]
    assert all(later > earlier for earlier, later in pairwise(normalised))
    assert all(later < earlier for earlier, later in pairwise(residual))
    assert residual[0] > 0.99 and residual[-1] < 0.01
    assert normalised[-1] < 1.05 * normalised[-2]  # settled
    assert rows[0]["train/start_left"] == pytest.approx(1)
    assert rows[-1]["train/margin"] > 1e3


@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_with_weight_decay_the_residual_is_that_of_the_loss(loss: Loss, tmp_path: Path) -> None:
    optim = SGD(lr=0.05, momentum=0.9, weight_decay=0.02, loss=loss)
    module = ended(tmp_path, optim, 300, log_every_n_steps=500, callbacks=[StepCheckpoint()])
    first, last = measured(tmp_path)
    assert "train/margin" not in last and last["train/stationarity"] < 0.1
    assert first["train/stationarity"] > 0.5
    data = digits()
    data.setup()
    expected = decay_stationarity(module.model, data.x, data.y, LOSSES[loss], 0.02).residual
    assert last["train/stationarity"] == pytest.approx(expected, rel=1e-4)


def test_numbers_without_a_meaning_are_not_there() -> None:
    data = digits(3)
    data.setup()
    model = DeepMLP(d=data.d, k=3, widths=[5], bias="all", activation="tanh")
    x, y = data.x, data.y

    def found(optim: Any, model: nn.Module = model, y: Tensor = y) -> dict[str, float]:
        return dict(Optimality(model, optim).measured(model, x, y))

    assert found(SGD()) == {} and found(SGD(loss="logistic")) == {}
    row = found(SGD(loss="cross_entropy"))
    assert row["train/margin"] == pytest.approx(float(margins(model(x), y).min()))
    assert isnan(row["train/normalised_margin"]) and row["train/start_left"] == pytest.approx(1)
    features = RandomFeatures(d=data.d, k=3, n=12, p=20)
    assert isnan(found(SGD(loss="cross_entropy"), features)["train/start_left"])
    assert found(LeastSquares(), features) == {}


def test_many_samples_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_recon.modules.optimality.MOST_SAMPLES", 3)
    model = DeepMLP(d=2, k=1, widths=[3])
    meter = Optimality(model, SGD(loss="logistic"))
    assert len(meter.measured(model, torch.eye(2), torch.ones(2, 1))) == 4
    assert meter.measured(model, torch.ones(4, 2), torch.ones(4, 1)) == {}


def test_to_measure_changes_nothing(tmp_path: Path) -> None:
    """A run that is measured at every step ends with the bits of one measured at its end."""
    ends = []
    for every in (1, None):
        model = DeepMLP(d=64, k=1, widths=[8], batch_norm=True, seed=1)
        data, optim = digits(), SGD(lr=1e-2, momentum=0.9, loss="logistic")
        path = tmp_path / str(every)
        callbacks = [StepCheckpoint(every_n_steps=every)]
        trained(path, optim, 12, model=model, data=data, callbacks=callbacks)
        ends.append(model.state_dict())
    assert all(torch.equal(ends[0][name], value) for name, value in ends[1].items())


@pytest.mark.long
@pytest.mark.slow
def test_the_published_setting_runs_from_the_command_line(
    type_command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """The setting of Haim et al. on 8x8 digits, even against odd; its numbers are in the page."""
    groups = "[[zero, two, four, six, eight], [one, three, five, seven, nine]]"
    flags = ["--data", "Digits", "--data.n", "20", "--data.groups", groups]
    flags += ["--data.normalize", "mean_image", "--model", "DeepMLP", "--model.widths", "[60, 60]"]
    flags += ["--model.bias", "first", "--model.first_layer_std", "1e-4", "--optim", "Margin"]
    flags += ["--trainer.max_steps", "400", "--checkpoint.at_steps", "[30]", "--run.name", "r"]
    flags += ["--recon", "RowSpaceReconstructor", "--recon.max_seconds", "1"]
    status, _, error = type_command(*flags, "--wandb.mode", "disabled")
    assert (status, error) == (0, "")
    path = tmp_path / "runs" / "r"
    start, early, end = measured(path)
    assert start["train/normalised_margin"] < early["train/normalised_margin"]
    assert early["train/normalised_margin"] < end["train/normalised_margin"]
    assert start["train/stationarity"] > early["train/stationarity"] > end["train/stationarity"]
    page = (path / "report.html").read_text()
    assert "normalised margin" in page and "stationarity residual" in page
    assert "groups" in json.dumps((path / "config.yaml").read_text())
