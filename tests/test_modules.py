"""How models are trained: the optimisers, the loss, and what is logged when."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from torch import Tensor

from callbacks import StepCheckpoint, saved_checkpoints
from datamodules import Sphere
from lit_recon.errors import InputError, RunError
from lit_recon.linalg import minimum_norm
from lit_recon.models import RandomFeatures, ReadoutModel
from lit_recon.modules import LBFGS, SGD, Adam, LeastSquares, Optim, Regression, training
from lit_recon.records.directory import RunDirectory
from lit_recon.records.jsonl import JsonlLogger

N, D, P = 6, 5, 80


def trained(
    path: Path,
    optim: Optim,
    steps: int = 1,
    batch_size: int | None = None,
    model: ReadoutModel | None = None,
    callbacks: Sequence[Callback] = (),
    **flags: Any,
) -> tuple[Regression, Sphere]:
    """A small model after some steps, logged to path/metrics.jsonl."""
    data = Sphere(n=N, d=D, batch_size=batch_size)
    data.setup()
    module = Regression(model or RandomFeatures(d=D, k=1, n=N, p=P), optim)
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=JsonlLogger(RunDirectory(path)),
        callbacks=list(callbacks),
        enable_checkpointing=bool(callbacks),
        default_root_dir=path,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **({"log_every_n_steps": 1} | flags),
    )
    trainer.fit(module, data)
    return module, data


def logged(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def span_residual(module: Regression, data: Sphere) -> float:
    """How much of the readout lies outside the span of the training samples' features."""
    readout = module.model.readout.weight.detach().double()
    phi = module.model.features(data.x).double()
    fitted = torch.linalg.lstsq(phi.T, readout.T).solution
    return float((readout.T - phi.T @ fitted).norm() / readout.norm())


def loss_of(module: Regression, data: Sphere, readout: Tensor) -> float:
    return float((module.model.features(data.x) @ readout.T - data.y).square().mean())


def test_least_squares_is_the_fit_of_minimum_norm(tmp_path: Path) -> None:
    module, data = trained(tmp_path, LeastSquares())
    phi = module.model.features(data.x)
    readout = module.model.readout.weight.detach()
    assert torch.allclose(readout, minimum_norm(phi, data.y).to(readout))
    reference = torch.linalg.pinv(phi.double()) @ data.y.double()
    assert torch.allclose(readout.double().T, reference, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optim", [SGD(lr=1e-3, momentum=0.5), LBFGS(), LeastSquares()])
def test_optimisers_that_keep_the_span(optim: Optim, tmp_path: Path) -> None:
    steps = 1 if isinstance(optim, LeastSquares) else 5
    assert optim.span_warning is None
    assert span_residual(*trained(tmp_path, optim, steps)) < 1e-5


def test_adam_leaves_the_span_and_says_so(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Adam scales every weight on its own"):
        found = trained(tmp_path, Adam(lr=1e-2), steps=3)
    assert span_residual(*found) > 0.1


@pytest.mark.parametrize(
    ("make", "flag"),
    [
        (lambda: SGD(lr=-1), "--optim.lr"),
        (lambda: SGD(lr=float("nan")), "--optim.lr"),
        (lambda: SGD(momentum=float("inf")), "--optim.momentum"),
        (lambda: Adam(weight_decay=-0.1), "--optim.weight_decay"),
        (lambda: LBFGS(max_iter=0), "--optim.max_iter"),
    ],
)
def test_settings_outside_their_range_are_refused_by_name(make: Any, flag: str) -> None:
    with pytest.raises(InputError) as refused:
        make()
    assert refused.value.flag == flag


@pytest.mark.parametrize("optim", [SGD(lr=1e-3), LBFGS(max_iter=3)])
def test_the_loss_is_logged_at_the_step_of_its_weights(optim: Optim, tmp_path: Path) -> None:
    module, data = trained(tmp_path, optim, steps=3)
    rows = logged(tmp_path)
    assert [(row["step"], row["epoch"]) for row in rows] == [(0, 0), (1, 1), (2, 2), (3, 3)]
    zero = torch.zeros_like(module.model.readout.weight)
    assert rows[0]["train/loss"] == pytest.approx(loss_of(module, data, zero), rel=1e-5)
    final = module.model.readout.weight.detach()
    assert rows[3]["train/loss"] == pytest.approx(loss_of(module, data, final), rel=1e-4)


class Counting(RandomFeatures):
    """Counts how often features are computed."""

    counted = 0

    def features(self, x: Tensor) -> Tensor:
        self.counted += 1
        return super().features(x)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_features_that_never_change_are_computed_once(
    batch_size: int | None, tmp_path: Path
) -> None:
    model = Counting(d=D, k=1, n=N, p=P)
    held = {*vars(model)}
    module, data = trained(tmp_path, SGD(), steps=5, batch_size=batch_size, model=model)
    assert model.counted == 1
    assert set(vars(model)) == held | {"counted"}  # an attacker gets the model: no sample is in it
    for x, y, samples in data.train_dataloader():
        found = module.training_step((x, y, samples), 0)
        assert torch.allclose(found, (model(x) - y).square().mean())


def test_features_that_may_change_are_computed_anew(tmp_path: Path) -> None:
    model = Counting(d=D, k=1, n=N, p=P)
    assert model.frozen
    model.another = torch.nn.Parameter(torch.zeros(1))
    assert not model.frozen
    trained(tmp_path, SGD(), steps=5, model=model, log_every_n_steps=100)
    assert model.counted == 5 + 1  # every step, and the row at the end


def test_many_samples_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "KNOWN_SAMPLES", N - 1)
    model = Counting(d=D, k=1, n=N, p=P)
    trained(tmp_path, SGD(), steps=5, model=model, log_every_n_steps=100)
    assert model.counted == 5 + 1


def test_what_is_logged_of_many_steps(tmp_path: Path) -> None:
    trained(tmp_path / "few", SGD(), steps=7, log_every_n_steps=3)
    assert [row["step"] for row in logged(tmp_path / "few")] == [0, 3, 6, 7]
    trained(tmp_path / "parts", SGD(), steps=2, batch_size=3, accumulate_grad_batches=2)
    assert [row["step"] for row in logged(tmp_path / "parts")] == [0, 1, 2]


@pytest.mark.filterwarnings("ignore:.*lr_scheduler")
def test_weights_that_are_no_numbers_end_the_run_before_they_are_saved(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"the weights are not finite at step 1 .* lower --optim.lr"):
        trained(tmp_path, SGD(lr=3e38), steps=5, callbacks=[StepCheckpoint(every_n_steps=1)])
    assert [path.name for path in saved_checkpoints(tmp_path)] == ["step=00000000.ckpt"]
