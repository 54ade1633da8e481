"""How models are trained: the optimisers, the loss, and what is logged when."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback, Trainer
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from callbacks import StepCheckpoint
from datamodules import ReconDataModule, Sphere
from lit_recon.errors import InputError, RunError
from lit_recon.linalg import minimum_norm
from lit_recon.models import MLP, DeepMLP, RandomFeatures, ReadoutModel
from lit_recon.modules import LBFGS, SGD, Adam, LeastSquares, Optim, Training, check_loss, training
from lit_recon.modules.losses import LOSSES, Loss
from lit_recon.modules.training import check_batch_norm
from lit_recon.records.checkpoints import load_weights, saved_checkpoints, step_of
from lit_recon.records.directory import RunDirectory
from lit_recon.records.jsonl import JsonlLogger

N, D, P = 6, 5, 80


def trained(
    path: Path,
    optim: Optim,
    steps: int = 1,
    batch_size: int | None = None,
    model: ReadoutModel | None = None,
    data: ReconDataModule | None = None,
    callbacks: Sequence[Callback] = (),
    **flags: Any,
) -> tuple[Training, ReconDataModule]:
    """A small model after some steps, logged to path/metrics.jsonl; goes on from a checkpoint."""
    data = data or Sphere(n=N, d=D, batch_size=batch_size)
    data.setup()
    module = Training(model or RandomFeatures(d=data.d, k=data.k, n=N, p=P), optim)
    saved = saved_checkpoints(path)
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
    last = saved[-1] if saved else None
    trainer.fit(module, datamodule=data, ckpt_path=last, weights_only=True)
    return module, data


def network(module: Training) -> ReadoutModel:
    """What is trained, which here always has a readout."""
    assert isinstance(module.model, ReadoutModel)
    return module.model


def logged(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def span_residual(module: Training, data: ReconDataModule, start: Tensor | float = 0.0) -> float:
    """How much of the readout less its start lies outside the span of the training features."""
    moved = (network(module).readout.weight.detach() - start).double()
    phi = network(module).features(data.x.to(network(module).readout.weight)).double()
    fitted = torch.linalg.lstsq(phi.T, moved.T).solution
    return float((moved.T - phi.T @ fitted).norm() / moved.norm())


def loss_of(module: Training, data: ReconDataModule, readout: Tensor) -> float:
    return float((network(module).features(data.x) @ readout.T - data.y).square().mean())


def test_least_squares_is_the_fit_of_minimum_norm(tmp_path: Path) -> None:
    module, data = trained(tmp_path, LeastSquares())
    phi = network(module).features(data.x)
    readout = network(module).readout.weight.detach()
    assert torch.allclose(readout, minimum_norm(phi, data.y).to(readout))
    reference = torch.linalg.pinv(phi.double()) @ data.y.double()
    assert torch.allclose(readout.double().T, reference, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optim", [SGD(lr=1e-3, momentum=0.5), LBFGS(), LeastSquares()])
def test_optimisers_that_keep_the_span(optim: Optim, tmp_path: Path) -> None:
    steps = 1 if isinstance(optim, LeastSquares) else 5
    assert optim.span_warning is None
    assert span_residual(*trained(tmp_path, optim, steps)) < 1e-5


def from_somewhere(
    path: Path, optim: Optim, steps: int, batch_size: int | None
) -> tuple[Training, ReconDataModule, Tensor]:
    """A model in float64 whose readout started elsewhere than at zero, and where that was."""
    model = RandomFeatures(d=D, k=1, n=N, p=P)
    random = torch.Generator().manual_seed(0)
    start = torch.randn(1, P, generator=random, dtype=torch.float64) / P**0.5
    with torch.no_grad():
        model.readout.weight.copy_(start)
    start = model.readout.weight.detach().double()
    found = trained(path, optim, steps, batch_size, model=model, precision="64-true")
    return *found, start


@pytest.mark.parametrize(
    ("optim", "batch_size"),
    [
        (SGD(lr=1e-3), None),
        (SGD(lr=1e-3, momentum=0.9), 2),
        (SGD(lr=1e-3, momentum=0.9, weight_decay=0.5), 4),
        (SGD(lr=1e-2, weight_decay=2.0), 2),
        (LBFGS(max_iter=2), None),
        (LeastSquares(), None),
    ],
)
def test_what_is_left_of_the_start_is_known(
    optim: Optim, batch_size: int | None, tmp_path: Path
) -> None:
    steps = 1 if isinstance(optim, LeastSquares) else 40
    module, data, start = from_somewhere(tmp_path, optim, steps, batch_size)
    share = optim.initial_share(steps)
    assert share is not None and optim.initial_share(0) == 1
    assert span_residual(module, data, share * start) < 1e-11
    assert span_residual(module, data, (share + 0.01) * start) > 1e-3


def test_weight_decay_takes_a_share_of_the_start() -> None:
    assert SGD(lr=0.1, weight_decay=0.5).initial_share(3) == pytest.approx(0.95**3, rel=1e-14)
    assert SGD(lr=0.1, momentum=0.9).initial_share(1000) == 1
    assert LBFGS().initial_share(5) == Adam().initial_share(5) == 1
    assert Adam(weight_decay=0.1).initial_share(5) is None


@pytest.mark.filterwarnings("ignore:Adam scales")
@pytest.mark.parametrize("batch_size", [None, 2])
def test_adam_leaves_the_span_of_any_start(batch_size: int | None, tmp_path: Path) -> None:
    module, data, start = from_somewhere(tmp_path, Adam(lr=1e-3), 40, batch_size)
    assert span_residual(module, data, start) > 1e-3


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
        (lambda: SGD(stop_loss=-1e-7), "--optim.stop_loss"),
        (lambda: Adam(stop_loss=float("nan")), "--optim.stop_loss"),
        (lambda: LBFGS(stop_loss=float("inf")), "--optim.stop_loss"),
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
    zero = torch.zeros_like(network(module).readout.weight)
    assert rows[0]["train/loss"] == pytest.approx(loss_of(module, data, zero), rel=1e-5)
    final = network(module).readout.weight.detach()
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


@pytest.mark.parametrize("count", [2, 1])
def test_a_split_goes_where_the_model_goes(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "KNOWN_SAMPLES", 1)
    model = Counting(d=D, k=1, n=N, p=P)
    split = training.Split.of(model, torch.randn(count, D), torch.randn(count, 1))
    output = split.output(model)
    counted = model.counted
    moved = split.to(torch.empty(0, dtype=torch.float64))
    assert {moved.x.dtype, moved.y.dtype} == {torch.float64}
    assert torch.allclose(moved.output(model.double()), output.double(), atol=1e-5)
    assert model.counted - counted == (count > 1)


def test_what_is_logged_of_many_steps(tmp_path: Path) -> None:
    trained(tmp_path / "few", SGD(), steps=7, log_every_n_steps=3)
    assert [row["step"] for row in logged(tmp_path / "few")] == [0, 3, 6, 7]
    trained(tmp_path / "parts", SGD(), steps=2, batch_size=3, accumulate_grad_batches=2)
    assert [row["step"] for row in logged(tmp_path / "parts")] == [0, 1, 2]


class Waits(TorchDispatchMode):
    """Counts how often a number leaves its device, for which a GPU is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += operator is torch.ops.aten._local_scalar_dense.default
        return operator(*args, **(kwargs or {}))


class Watch(Callback):
    """What there was at the start of every step: numbers that left, and random states."""

    def __init__(self, waits: Waits) -> None:
        self.waits = waits
        self.counts: list[int] = []
        self.states: list[Any] = []

    def on_train_batch_start(self, *args: Any) -> None:
        self.counts.append(self.waits.count)
        self.states.append(
            (torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state()))
        )


@pytest.mark.parametrize("batch_size", [None, 4])
def test_a_step_waits_for_nothing_and_draws_nothing(batch_size: int | None, tmp_path: Path) -> None:
    model = MLP(d=D, k=1, n=N, width=P)
    with Waits() as waits:
        watch = Watch(waits)
        callbacks = [StepCheckpoint(), watch]
        flags: dict[str, Any] = {"log_every_n_steps": 5}
        trained(tmp_path, SGD(), 12, batch_size, model=model, callbacks=callbacks, **flags)
    counts = [later - earlier for earlier, later in pairwise(watch.counts)]
    logged_steps = [step for step, count in enumerate(counts) if count]
    assert logged_steps == [0, 5, 10]
    assert all(state == watch.states[0] for state in watch.states)


@pytest.mark.filterwarnings("ignore:.*lr_scheduler")
def test_weights_that_are_no_numbers_end_the_run_before_they_are_saved(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"the weights are not finite at step 1 .* lower --optim.lr"):
        trained(tmp_path, SGD(lr=3e38), steps=5, callbacks=[StepCheckpoint(every_n_steps=1)])
    assert [path.name for path in saved_checkpoints(tmp_path)] == ["step=00000000.ckpt"]


# --- batch normalisation


def normalised() -> DeepMLP:
    return DeepMLP(d=D, k=1, widths=[7, 4], bias="all", batch_norm=True, seed=2)


def test_running_statistics_are_saved_and_go_on(tmp_path: Path) -> None:
    """The statistics of a checkpoint are those after its step, in one go or resumed."""
    ends = []
    for name, stops in (("once", [6]), ("resumed", [3, 6])):
        for steps in stops:
            module, _ = trained(
                tmp_path / name,
                SGD(lr=1e-2, momentum=0.9, weight_decay=1e-3),
                steps,
                batch_size=2,
                model=normalised(),
                callbacks=[StepCheckpoint()],
            )
            saved = load_weights(saved_checkpoints(tmp_path / name)[-1])
            assert saved["norms.0.num_batches_tracked"] == steps
            weights = module.model.state_dict()  # after the last row has been logged
            assert all(torch.equal(weights[key], value) for key, value in saved.items())
        ends.append(saved)
    assert all(torch.equal(ends[0][key], value) for key, value in ends[1].items())
    assert ends[0]["norms.1.running_mean"].abs().sum() > 0


@pytest.mark.parametrize(
    ("n", "batch_size", "ranks", "flag"),
    [
        (4, None, 1, None),
        (6, 4, 1, None),
        (5, 4, 1, "--data.batch_size 4"),
        (6, 1, 1, "--data.batch_size 1"),
        (1, None, 1, "--data.batch_size null"),
        (6, None, 2, "--trainer.sync_batchnorm false"),
    ],
)
def test_batches_that_cannot_be_normalised(
    n: int, batch_size: int | None, ranks: int, flag: str | None
) -> None:
    check_batch_norm(MLP(d=2, k=1, n=n, width=3), n, batch_size, ranks)
    if flag is None:
        check_batch_norm(normalised(), n, batch_size, ranks)
        return
    with pytest.raises(InputError, match=flag):
        check_batch_norm(normalised(), n, batch_size, ranks)
    shared = nn.SyncBatchNorm.convert_sync_batchnorm(normalised())
    if ranks > 1:
        check_batch_norm(shared, n, batch_size, ranks)


# --- losses


class Classes(Sphere):
    """Points whose targets are classes."""

    def load(self) -> None:
        super().load()
        self.k = 3
        eye = torch.eye(self.k)
        self.y, self.val_y = eye[torch.arange(self.n) % 3], eye[torch.arange(len(self.val_x)) % 3]


def test_losses_are_what_their_names_say() -> None:
    random = torch.Generator().manual_seed(0)
    output, classes = torch.randn(5, 3, generator=random), torch.tensor([0, 2, 1, 1, 0])
    one_hot, sign = torch.eye(3)[classes], torch.tensor([[1.0], [-1], [-1], [1], [1]])
    log_softmax = output - output.exp().sum(1, keepdim=True).log()
    assert torch.allclose(
        LOSSES["cross_entropy"](output, one_hot), -log_softmax[range(5), classes].mean()
    )
    assert torch.allclose(LOSSES["mse"](output, one_hot), (output - one_hot).square().mean())
    distance = (output - one_hot).abs()
    huber = torch.where(distance < 1, distance.square() / 2, distance - 0.5)
    assert torch.allclose(LOSSES["huber"](output, one_hot), huber.mean())
    each = [(1 + (-s * f).exp()).log() for s, f in zip(sign.flatten(), output[:, 0], strict=True)]
    assert torch.allclose(LOSSES["logistic"](output[:, :1], sign), torch.stack(each).mean())
    columns = [LOSSES["logistic"](output[:, [i]], 2 * one_hot[:, [i]] - 1) for i in range(3)]
    assert torch.allclose(LOSSES["logistic"](output, one_hot), torch.stack(columns).mean())


@pytest.mark.filterwarnings("ignore:Adam scales")
@pytest.mark.parametrize("make", [SGD, Adam, LBFGS])
@pytest.mark.parametrize(("loss", "start"), [("cross_entropy", log(3)), ("logistic", log(2))])
def test_every_optimiser_minimises_its_loss(
    make: Any, loss: str, start: float, tmp_path: Path
) -> None:
    settings = {"max_iter": 2} if make is LBFGS else {"lr": 0.1}
    trained(tmp_path, make(loss=loss, **settings), steps=40, data=Classes(n=N, d=D))
    rows = [row for row in logged(tmp_path) if "train/loss" in row]
    assert rows[0]["train/loss"] == pytest.approx(start)  # all outputs are zero
    assert rows[-1]["train/loss"] < start / 2
    assert rows[-1]["train/acc"] == 1 and 0 <= rows[-1]["val/acc"] <= 1


@pytest.mark.parametrize(
    ("loss", "y", "words"),
    [
        ("cross_entropy", [[1.0], [-1.0]], "an output for every class"),
        ("cross_entropy", [[0.4, 0.6]], "needs classes"),
        ("logistic", [[1.0], [0.5]], "needs classes"),
        ("logistic", [[1.0, 1.0, 0.0]], "needs classes"),
    ],
)
def test_losses_for_other_targets_are_refused(loss: Loss, y: list[Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as refused:
        check_loss(loss, torch.tensor(y))
    assert refused.value.flag == "--optim.loss"


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        ("mse", [[0.3]]),
        ("mse", [[1.0], [-1.0]]),
        ("huber", [[0.3]]),
        ("huber", [[1.0], [-1.0]]),
        ("logistic", [[1.0], [-1.0]]),
        ("logistic", [[0.0, 1.0, 0.0]]),
        ("cross_entropy", [[0.0, 1.0, 0.0]]),
    ],
)
def test_losses_for_their_targets_are_accepted(loss: Loss, y: list[Any]) -> None:
    check_loss(loss, torch.tensor(y))
    output = torch.zeros(len(y), len(y[0]), requires_grad=True)
    (gradient,) = torch.autograd.grad(LOSSES[loss](output, torch.tensor(y)), output)
    assert (gradient * torch.tensor(y)).sum() < 0  # towards the targets


# --- the end


def means(rows: list[dict[str, Any]], batches: int, sizes: Sequence[int]) -> list[float]:
    """The mean loss of every epoch, from a row for every step."""
    losses = [row["train/loss"] for row in rows]
    epochs = [losses[i : i + batches] for i in range(0, len(losses) - batches + 1, batches)]
    return [sum(a * b for a, b in zip(epoch, sizes, strict=True)) / sum(sizes) for epoch in epochs]


@pytest.mark.parametrize(("batch_size", "sizes"), [(None, [6]), (4, [4, 2])])
def test_training_ends_when_the_loss_of_an_epoch_is_low(
    batch_size: int | None, sizes: list[int], tmp_path: Path
) -> None:
    optim = SGD(lr=2e-2, momentum=0.5)
    trained(tmp_path / "long", optim, steps=60, batch_size=batch_size)
    found = means(logged(tmp_path / "long"), len(sizes), sizes)
    enough = found[10] * (1 + 1e-6)
    assert min(found[:10]) > enough
    flags: dict[str, Any] = {"steps": 60, "batch_size": batch_size}
    short = replace(optim, stop_loss=enough)
    for _ in range(2):  # what has ended does not go on
        every = StepCheckpoint(every_n_steps=5)
        trained(tmp_path / "short", short, **flags, callbacks=[every])
        saved = [step_of(path) for path in saved_checkpoints(tmp_path / "short")]
        assert saved[-1] == 11 * len(sizes)


@pytest.mark.filterwarnings("ignore:.*exists and is not empty")
@pytest.mark.parametrize("step", range(1, 20, 3))
def test_an_epoch_that_goes_on_has_the_mean_of_all_of_it(step: int, tmp_path: Path) -> None:
    flags: dict[str, Any] = {"batch_size": 4, "log_every_n_steps": 1000}
    optim = SGD(lr=5e-3, momentum=0.5, stop_loss=0.1)
    trained(tmp_path / "cut", optim, step, callbacks=[StepCheckpoint()], **flags)
    module, _ = trained(tmp_path / "cut", optim, 60, callbacks=[StepCheckpoint()], **flags)
    whole, _ = trained(tmp_path / "whole", optim, 60, callbacks=[StepCheckpoint()], **flags)
    assert 10 < whole.global_step < 60 and whole.global_step == module.global_step
    assert torch.equal(network(whole).readout.weight, network(module).readout.weight)
