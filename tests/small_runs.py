"""Small runs through Lightning and the callbacks, without a command line."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning import Callback, Trainer, seed_everything
from torch import Tensor

from callbacks import ReconstructionCallback, StepCheckpoint, StepProgressBar, WholeCheckpoints
from datamodules import Photos, ReconDataModule, Sphere
from lit_recon.methods import Reconstructor
from lit_recon.models import RandomFeatures, ReadoutModel
from lit_recon.modules import Labels, LeastSquares, Optim, Task, Training
from lit_recon.records.directory import RunDirectory
from lit_recon.records.jsonl import JsonlLogger


def data_of(kind: str, batch_size: int | None = None) -> ReconDataModule:
    if kind == "photos":
        return Photos(n=4, image_size=8, batch_size=batch_size)
    return Sphere(n=4, d=8, batch_size=batch_size)


def features(data: ReconDataModule) -> RandomFeatures:
    return RandomFeatures(d=data.d, k=data.k, n=data.n, p_over_dn=4.0)


def fit(
    path: Path,
    *,
    data: ReconDataModule | None = None,
    optim: Optim | None = None,
    steps: int = 1,
    attack: Reconstructor | None = None,
    model: Callable[[ReconDataModule], ReadoutModel] | None = None,
    task: Task | None = None,
    checkpoint: StepCheckpoint | None = None,
    extra: tuple[Callback, ...] = (),
) -> tuple[Training, Trainer]:
    """A run in a directory; without an attack it only saves checkpoints.

    Args:
        model: makes the network for the data; None: random features.
        task: the targets; None: those of the data.
    """
    seed_everything(0, verbose=False)
    data = data or data_of("sphere")
    data.setup()
    data.retarget((task or Labels()).targets)
    network = features(data) if model is None else model(data)
    module = Training(network, optim or LeastSquares())
    checkpoint = checkpoint or StepCheckpoint()
    callbacks: list[Callback] = [*extra, checkpoint]
    if attack is not None:
        callbacks.append(ReconstructionCallback([attack], checkpoint, RunDirectory(path)))
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=JsonlLogger(RunDirectory(path)),
        callbacks=callbacks,
        plugins=[WholeCheckpoints()],
        enable_progress_bar=any(isinstance(callback, StepProgressBar) for callback in extra),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        default_root_dir=path,
    )
    trainer.fit(module, data)
    return module, trainer


@contextmanager
def erased(secrets: list[Tensor]) -> Iterator[int]:
    """Without the secrets: every tensor that holds one, wherever it is kept, is overwritten."""
    known = [secret.flatten().clone() for secret in secrets]
    tensors = [thing for thing in gc.get_objects() if type(thing) is Tensor]
    found = [
        (tensor, copy)
        for tensor in tensors
        for copy in known
        if (tensor.numel(), tensor.dtype) == (copy.numel(), copy.dtype)
        and tensor is not copy
        and torch.equal(tensor.flatten(), copy)
    ]
    for tensor, _ in found:
        tensor.fill_(float("nan") if tensor.is_floating_point() else 0)
    yield len(found)
    for tensor, copy in found:
        tensor.copy_(copy.view_as(tensor))
