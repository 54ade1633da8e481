"""Attacks the checkpoints of anybody's Trainer."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import yaml
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.optim import LBFGS, SGD

from lit_recon.audit.choice import every_method
from lit_recon.audit.loaders import datasets_in, inputs_in, scale_from, truth_of
from lit_recon.audit.patches import FOLDER, PatchView
from lit_recon.audit.recorder import Recorder, of_method
from lit_recon.audit.threat import InputFacts, TrainingFacts, knowledge_of
from lit_recon.errors import InputError
from lit_recon.knowledge import Knowledge, PixelScale
from lit_recon.methods import Reconstructor
from lit_recon.models.wrapped import as_attacked, as_named
from lit_recon.records.directory import RunDirectory
from lit_recon.records.jsonl import JsonlLogger
from lit_recon.records.truth import Truth
from lit_recon.report.page import write_run_report

NAME = "ReconstructionCallback"


class ReconstructionCallback(Callback):
    """Attacks the weights of any `Trainer` after every checkpoint that it saves.

    It notes when a checkpoint is saved, by whichever callback or call, and attacks the weights in
    memory before the next training step. Training is the same as without it, to the bit: the attack
    works on a copy of the module and draws no random number of the training. Numbers go to the
    Trainer's loggers as ``recon/METHOD/NAME``; numbers, candidates, pictures and report.html go to
    a folder.

    The attacker holds the weights at the start of `fit` and at the checkpoint, the shape of an
    input and the pixel scale; with SGD, also that. The training data are used for scores alone,
    after the attack, where the training set can be read, holds at most 2,000 samples, and has no
    random transforms. Without them, certificates say what came back.

    Where the first layer reads patches of an image without overlap, as in a vision transformer, the
    row space looks for the patches, and their results are in the folder ``patches``.

    >>> from lightning import Trainer
    >>> from lightning.pytorch.callbacks import ModelCheckpoint
    >>> audit = ReconstructionCallback(pixels=PixelScale((1, 8, 8), 0.5, 0.5), max_seconds=10)
    >>> trainer = Trainer(callbacks=[ModelCheckpoint(), audit], logger=False)

    Args:
        method: a method of reconstruction, its class name, or a list of them; None: all that apply
            to the module, but for costly ones, the cheapest first, until one is sure that all has
            come back.
        pixels: how whole pixel levels became inputs; None: as the training set's torchvision
            transforms say, if they do.
        max_seconds: time budget of all methods together at one checkpoint, above 0.
        folder: where results go; None: a new folder below the Trainer's log directory.
        score: whether the training data may be read, for scores.

    Raises:
        InputError: a number out of its range, or no such method.
    """

    def __init__(
        self,
        method: str | Reconstructor | Sequence[str | Reconstructor] | None = None,
        pixels: PixelScale | None = None,
        max_seconds: float = 60.0,
        folder: str | Path | None = None,
        *,
        score: bool = True,
    ) -> None:
        if not max_seconds > 0:
            raise InputError(f"{NAME}.max_seconds", max_seconds, "give seconds above 0")
        self.methods = every_method() if method is None else _methods(method)
        self.pixels, self.max_seconds, self.score = pixels, max_seconds, score
        self.folder = None if folder is None else Path(folder)
        self._auto = method is None
        self._saved = -1  # the step of the last checkpoint
        self._attacked = -1
        self._began = 0
        self._start: dict[str, Tensor] = {}
        self._example: Tensor | None = None
        self._scale: PixelScale | None = None
        self._recorders: list[Recorder] | None = None
        self._truth: Truth | None = None
        self._unscored = ""  # why the truth is not known
        self._directories: list[RunDirectory] = []  # of results on images, and on patches of them

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot be attacked, and watch for checkpoints.

        Raises:
            InputError: the strategy keeps weights in parts.
        """
        if stage != "fit":
            return
        if not _whole_weights(trainer.strategy):
            kind = type(trainer.strategy).__name__
            remedy = "may keep weights in parts, and whole ones are attacked; use one device or DDP"
            raise InputError(NAME, f"with {kind}", remedy)
        save = trainer.save_checkpoint

        def save_and_note(*args: Any, **kwargs: Any) -> None:
            save(*args, **kwargs)
            self._saved = trainer.global_step

        # Callbacks are told of whole checkpoints only, not of those with the weights alone.
        trainer.save_checkpoint = save_and_note  # type: ignore[method-assign]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the Trainer as it was."""
        if stage == "fit":
            vars(trainer).pop("save_checkpoint", None)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights before the first step."""
        self._began = self._saved = self._attacked = trainer.global_step
        self._recorders, self._directories, self._example = None, [], None
        self._start = {
            name: value.detach().cpu().clone() for name, value in pl_module.named_parameters()
        }

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the shape of an input, and attack a checkpoint that a later callback has saved."""
        if self._example is None:
            inputs = inputs_in(batch)
            if inputs is not None:
                self._example = torch.zeros_like(inputs[:1], device="cpu", dtype=torch.float32)
        self._attack_if_saved(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._attack_if_saved(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._attack_if_saved(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._attack_if_saved(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._attack_if_saved(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attack the last checkpoint and write the report."""
        self._attack_if_saved(trainer, pl_module)
        for directory in self._directories if trainer.is_global_zero else ():
            print(f"reconstruction {write_run_report(directory.path)}")

    def _attack_if_saved(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step = self._saved
        if step <= self._attacked or self._example is None:
            return
        self._attacked = step
        with isolate_rng(), torch.inference_mode(False), torch.autocast("cpu", enabled=False):
            self._attack(trainer, pl_module, step)

    def _attack(self, trainer: Trainer, pl_module: LightningModule, step: int) -> None:
        assert self._example is not None
        module = copy.deepcopy(pl_module).float().eval().requires_grad_(True)
        example = self._example.to(pl_module.device)
        try:
            network = as_attacked(module, example)
        except InputError:  # it takes more than an input; its first layer can be attacked unseen
            network = module
        if self._recorders is None:
            self._read_data(trainer)
        start = as_named(network, module, self._start)
        training = TrainingFacts(None, _keeps_span(trainer.optimizers))
        shape = tuple(example.shape[1:])
        inputs = self._truth or InputFacts(shape, self._scale)
        whole = knowledge_of(network, start, training, inputs, self._began)
        patches = PatchView.of(whole, start, shape, self._began)
        if self._recorders is None:
            self._recorders = self._prepare(trainer, pl_module, whole, patches)
        deadline = perf_counter() + self.max_seconds
        for recorder in list(self._recorders):
            known = _seen_by(recorder.reconstructor, whole, patches)
            missing = recorder.reconstructor.missing(known)
            if missing:  # it will be at later checkpoints too
                self._recorders.remove(recorder)
                if trainer.is_global_zero:
                    name, needed = recorder.reconstructor.name, ", ".join(missing)
                    print(f"reconstruction: {name} does not apply, it needs: {needed}")
                continue
            left = trainer.strategy.broadcast(deadline - perf_counter())
            if left <= 0 or recorder.done(step):
                continue
            recorder.reconstructor.max_seconds = left
            recorder.attack(step, trainer.current_epoch, known)
            results = recorder.results[step]
            if results["sure"] and results["certified_fraction"] in (1, None):
                break  # all has come back; other methods could only say so again

    def _read_data(self, trainer: Trainer) -> None:
        """Find the pixel scale and the true data, before the first attack."""
        assert self._example is not None
        shape = tuple(self._example.shape[1:])
        training_sets = datasets_in(trainer.train_dataloader)
        scale = self.pixels
        if scale is None and training_sets:
            scale = scale_from(training_sets[0], shape)
        if scale is not None and prod(scale.shape) != prod(shape):
            remedy = f"are of the shape {list(scale.shape)}, and an input is {list(shape)}"
            raise InputError(f"{NAME}.pixels", "", remedy)
        self._scale = scale
        self._truth, self._unscored = None, "they are not to be read (score=False)"
        if self.score and training_sets:
            held_out = datasets_in(trainer.val_dataloaders)
            self._truth, self._unscored = truth_of(training_sets[0], held_out, scale)

    def _prepare(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        whole: Knowledge,
        patches: PatchView | None,
    ) -> list[Recorder]:
        """Choose the methods and make the folders, before the first attack."""
        applying = []
        for method in self.methods:
            try:
                method.check(_seen_by(method, whole, patches).model)
                applying.append(method)
            except InputError as error:
                if not self._auto:
                    raise
                if trainer.is_global_zero:
                    print(f"reconstruction: {method.name} does not apply, {error.remedy}")
        self._directories = [self._make_folder(trainer)]
        truths = [self._truth]
        if patches is not None:
            self._directories.append(RunDirectory(self._directories[0].path / FOLDER))
            truths.append(None if self._truth is None else patches.truth(self._truth))
        if trainer.is_global_zero:
            words = [*_words(applying, self._truth, self._unscored, self._scale)]
            for line in words if patches is None else [*words, patches.words]:
                print(f"reconstruction: {line}")
            told = {"module": type(pl_module).__name__, "methods": [m.name for m in applying]}
            shapes = [whole.input_shape, None if patches is None else patches.patches.shape]
            for directory, truth, shape in zip(self._directories, truths, shapes, strict=False):
                directory.path.mkdir(exist_ok=True)
                record = {**told, "shape": list(shape or ())}
                directory.write_text("config.yaml", yaml.safe_dump(record))
                if truth is not None:
                    truth.write(directory)
        recorders = []
        for method in applying:
            at = -1 if method.first_layer_alone else 0  # the patches, where there are any
            directory = self._directories[at]
            recorders.append(
                Recorder(
                    method,
                    of_method(directory, method.name),
                    truths[at],
                    [JsonlLogger(directory), *trainer.loggers],
                    trainer.is_global_zero,
                    trainer.strategy.broadcast,
                )
            )
        return recorders

    def _make_folder(self, trainer: Trainer) -> RunDirectory:
        """The folder of results, the same on every rank; rank 0 makes it."""
        root = Path(trainer.log_dir or trainer.default_root_dir)
        path = root
        if trainer.is_global_zero:
            named = self.folder
            parent, name = (root, None) if named is None else (named.parent, named.name)
            made = RunDirectory.create(parent, name, stem="reconstruction", resume=name is not None)
            path = made.path
        return RunDirectory(trainer.strategy.broadcast(path))


def _seen_by(method: Reconstructor, whole: Knowledge, patches: PatchView | None) -> Knowledge:
    """What a method attacks: the network, or its first layer as one that reads small images."""
    return patches.known if patches is not None and method.first_layer_alone else whole


def _methods(given: str | Reconstructor | Sequence[str | Reconstructor]) -> list[Reconstructor]:
    """The methods that are given, by themselves or by the names of their classes."""
    classes = {type(method).__name__: type(method) for method in every_method(costly=True)}
    found = []
    for entry in [given] if isinstance(given, str | Reconstructor) else given:
        if isinstance(entry, str) and entry not in classes:
            raise InputError(f"{NAME}.method", entry, f"there are {', '.join(classes)}")
        found.append(classes[entry]() if isinstance(entry, str) else entry)
    return found


def _whole_weights(strategy: Strategy) -> bool:
    """Whether every process holds all weights of the module."""
    return isinstance(strategy, SingleDeviceStrategy | DDPStrategy)


def _keeps_span(optimizers: Sequence[Any]) -> bool | None:
    """Whether updates are combinations of the samples' gradients; None: not known."""
    kinds = [type(getattr(optimizer, "optimizer", optimizer)) for optimizer in optimizers]
    if kinds and all(issubclass(kind, SGD | LBFGS) for kind in kinds):
        return True
    scaled = (torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad)
    return False if kinds and all(issubclass(kind, scaled) for kind in kinds) else None


def _words(
    applying: Sequence[Reconstructor], truth: Truth | None, why: str, scale: PixelScale | None
) -> Iterator[str]:
    """What is attacked, how, and what the results can say."""
    yield f"attacks by {', '.join(method.name for method in applying) or 'no method'}"
    if scale is None:
        yield "the pixel scale is not known, so nothing is certified; give pixels=PixelScale(...)"
    if truth is None:
        yield f"not scored against the training data: {why}"
    elif scale is not None and truth.images is None:
        yield "the training inputs are no whole pixels at this pixel scale; is it the right one?"
