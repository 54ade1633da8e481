"""The order of mini-batches, their parts on several ranks, and how training goes on in an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks import StepCheckpoint
from datamodules import Sphere
from datamodules.batches import Batches
from lit_recon.distributed import Ranks
from lit_recon.records.checkpoints import saved_checkpoints

X = torch.arange(20.0).view(10, 2)
Y = torch.arange(10.0).view(10, 1)


def order(batches: Batches) -> list[list[int]]:
    """The samples of the batches of an epoch."""
    return [y.flatten().int().tolist() for _, y, _ in batches]


def test_mini_batches_cover_everything_in_a_seeded_order_of_each_epoch() -> None:
    before = torch.get_rng_state()
    batches = Batches(X, Y, 4, 5, Ranks())
    first, second = order(batches), order(batches)
    assert len(batches) == 3 and [len(batch) for batch in first] == [4, 4, 2]
    for epoch in (first, second):
        assert sorted(sample for batch in epoch for sample in batch) == list(range(10))
    assert first != second
    again = Batches(X, Y, 4, 5, Ranks())
    again.load_state_dict({"epoch": 1, "served": 0})
    assert order(again) == second
    assert order(Batches(X, Y, 4, 6, Ranks())) != first
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("seed", [None, 3])
def test_a_batch_says_which_samples_it_holds(seed: int | None) -> None:
    for x, y, samples in Batches(X, Y, 4, seed, Ranks(1, 2)):
        assert torch.equal(x, X[samples]) and torch.equal(y, Y[samples])


@pytest.mark.parametrize(("size", "seed"), [(10, None), (4, None), (4, 3), (10, 3)])
def test_ranks_share_every_batch_equally(size: int, seed: int | None) -> None:
    whole = order(Batches(X, Y, size, seed, Ranks()))
    parts = [order(Batches(X, Y, size, seed, Ranks(rank, 2))) for rank in range(2)]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole
    assert [len(batch) for batch in parts[0]] == [len(batch) for batch in parts[1]]


@pytest.mark.parametrize("served", range(7))
def test_a_state_goes_on_with_the_next_batch(served: int) -> None:
    def samples(batches: Batches) -> Iterator[Tensor]:
        while True:
            yield from (y for _, y, _ in batches)

    batches, later = (Batches(X, Y, 4, 5, Ranks()) for _ in range(2))
    stream = samples(batches)
    for _ in range(served):
        next(stream)
    later.load_state_dict(batches.state_dict())
    for expected, found in islice(zip(stream, samples(later), strict=True), 8):
        assert torch.equal(found, expected)


class Linear(LightningModule):
    """Remembers the samples that it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
        torch.nn.init.zeros_(self.layer.weight)
        torch.nn.init.zeros_(self.layer.bias)
        self.seen: list[list[int]] = []

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        x, y, samples = batch
        self.seen.append(
            list(range(5))[samples] if isinstance(samples, slice) else samples.tolist()
        )
        return (self.layer(x) - y).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Stop(Callback):
    """A run that dies between a step, with its checkpoint, and the next one."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step == self.step:
            raise ZeroDivisionError


def fit(path: Path, module: Linear, batch_size: int | None, *extra: Callback, **flags: Any) -> None:
    """Train, from the last checkpoint in the folder on if there is one."""
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=path,
        logger=False,
        callbacks=[StepCheckpoint(every_n_steps=1), *extra],
        enable_progress_bar=False,
        enable_model_summary=False,
        **flags,
    )
    saved = saved_checkpoints(path)
    last = saved[-1] if saved else None
    data = Sphere(n=5, d=3, batch_size=batch_size)
    trainer.fit(module, datamodule=data, ckpt_path=last, weights_only=True)


@pytest.mark.filterwarnings("ignore:.*exists and is not empty")
@pytest.mark.parametrize("stop", range(1, 8))
@pytest.mark.parametrize(
    ("batch_size", "flags"),
    [
        (2, {"max_epochs": 4}),
        (2, {"max_steps": 11}),
        (None, {"max_steps": 9}),
        (2, {"max_epochs": 6, "accumulate_grad_batches": 2}),
    ],
    ids=str,
)
def test_a_run_that_goes_on_sees_what_an_undisturbed_one_sees(
    stop: int, batch_size: int | None, flags: dict[str, Any], tmp_path: Path
) -> None:
    whole, cut, rest = Linear(), Linear(), Linear()
    fit(tmp_path / "whole", whole, batch_size, **flags)
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path / "cut", cut, batch_size, Stop(stop), **flags)
    fit(tmp_path / "cut", rest, batch_size, **flags)
    assert rest.seen and cut.seen + rest.seen == whole.seen
    end, again = (
        torch.load(saved_checkpoints(tmp_path / name)[-1], weights_only=True)
        for name in ("whole", "cut")
    )
    assert (end["epoch"], end["global_step"]) == (again["epoch"], again["global_step"])
    for name, value in end["state_dict"].items():
        assert torch.equal(value, again["state_dict"][name])
    states = (saved["optimizer_states"][0]["state"].values() for saved in (end, again))
    for one, other in zip(*states, strict=True):
        assert torch.equal(one["momentum_buffer"], other["momentum_buffer"])


@pytest.mark.filterwarnings("ignore:.*exists and is not empty")
@pytest.mark.parametrize(("name", "first"), [("max_epochs", 2), ("max_steps", 4), ("max_steps", 6)])
def test_a_run_that_is_made_longer_sees_what_a_long_one_sees(
    name: str, first: int, tmp_path: Path
) -> None:
    whole, short, rest = Linear(), Linear(), Linear()
    fit(tmp_path / "whole", whole, 2, max_steps=12)
    fit(tmp_path / "short", short, 2, **{name: first})
    fit(tmp_path / "short", rest, 2, max_steps=12)
    assert rest.seen and short.seen + rest.seen == whole.seen
