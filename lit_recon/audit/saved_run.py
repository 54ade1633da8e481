"""The saved checkpoints of a run, as `reconstruct --run` attacks them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from torch import Tensor

from lit_recon.audit.change import Held
from lit_recon.audit.choice import Choice, chosen, settle
from lit_recon.audit.job import Job, Target, device_of
from lit_recon.audit.models import checkpoint_at, fill, make_model
from lit_recon.audit.patches import with_patches
from lit_recon.audit.recorder import of_method
from lit_recon.audit.threat import TrainingFacts, knowledge_of
from lit_recon.audit.variants import variant_name
from lit_recon.errors import InputError
from lit_recon.flags import CommandLine, Source, build
from lit_recon.knowledge import Knowledge
from lit_recon.models import Model
from lit_recon.modules import Optim, Task, keeps_span
from lit_recon.records.checkpoints import checkpoint_path, saved_checkpoints, step_of, weights_of
from lit_recon.records.directory import RESULTS, RunDirectory, refuse_older_layout
from lit_recon.records.truth import Truth

NAME = re.compile(r"[A-Za-z0-9_=.,+-]+")


def last_checkpoint(fit: CommandLine, path: str, device: torch.device) -> Held:
    """What an attacker holds of the last checkpoint of a run.

    Args:
        fit: the flags of `fit`.
        path: the run directory.
        device: where attacks run.

    Raises:
        InputError: no run directory, or wrong files.
    """
    config = fit.parse([_own_flags(fit, path)])
    steps = [step_of(file) for file in saved_checkpoints(path)]
    run = SavedRun.read(Path(path), config, device)
    ((step, epoch, known),) = run.checkpoints(chosen_steps("last", steps, Path(path)))
    held = Held(known, run.truth, step, epoch, "audit", device)
    return with_patches(held, run.initial, run.truth.shape)


def _own_flags(fit: CommandLine, path: str) -> Source:
    """The flags in a run's config.yaml.

    Raises:
        InputError: no run directory, or one of an older version or of files.
    """
    file = Path(path) / "config.yaml"
    if not file.is_file():
        raise InputError("--run", path, "is no run directory; give one, as runs/NAME")
    refuse_older_layout("--run", path)
    own = fit.read([f"--config={file}"])[0]
    if "checkpoint" in dict(own.values):
        remedy = "has results of files; give these again, as --checkpoint, and --out"
        raise InputError("--run", path, remedy)
    return own


def of_run(fit: CommandLine, given: Sequence[Source], flags: Namespace) -> Job:
    """The job for ``--run``: saved checkpoints of a run.

    Raises:
        InputError: no run directory, a wrong flag, or wrong files.
    """
    path, own = Path(flags.run), _own_flags(fit, flags.run)
    for source in given:
        for flag, value in source.only("data").values:
            raise InputError(
                f"--{flag}", source.given(value), "is for --checkpoint; the run has data"
            )
    before, config = fit.parse([own]), fit.parse([own, *given])
    config.run.name = path.name
    if flags.name is not None and not (NAME.fullmatch(flags.name) and len(flags.name) <= 100):
        remedy = "give letters, digits and any of _ = . , + -, at most 100"
        raise InputError("--name", repr(flags.name), remedy)
    directory, choice = RunDirectory(path), chosen(fit, config)
    steps = chosen_steps(flags.steps, [step_of(file) for file in saved_checkpoints(path)], path)
    run = SavedRun.read(path, config, device_of(flags.device))
    choice = choice.for_model(run.model, disabled=True)
    targets = list(targets_of(fit, path, flags.name, before, config, choice))
    settle(config, choice)
    record, held = fit.dump(config), run.checkpoints(steps)
    return Job(config.wandb, record, directory, run.truth, targets, held, run.device)


@dataclass(frozen=True)
class SavedRun:
    """A run directory, ready to be attacked.

    Attributes:
        directory: the run directory.
        config: its configuration.
        truth: its training data, for scoring.
        model: its network, with the weights of some checkpoint.
        initial: the weights at step 0.
        device: where attacks run.
    """

    directory: RunDirectory
    config: Namespace
    truth: Truth
    model: Model
    initial: Mapping[str, Tensor]
    device: torch.device

    @classmethod
    def read(cls, path: Path, config: Namespace, device: torch.device) -> SavedRun:
        """Read what all checkpoints share.

        Raises:
            InputError: wrong files.
        """
        directory, truth = RunDirectory(path), Truth.read(path)
        start = checkpoint_path(directory, 0)
        initial = weights_of(checkpoint_at("--run", str(path), start))
        if not initial:
            raise InputError("--run", start, "holds no weights of a run")
        k = len(initial["readout.weight"]) if "readout.weight" in initial else truth.k
        facts = {"d": truth.x.shape[1], "n": truth.n, "input_shape": truth.shape, "k": k}
        model = make_model(config.model, facts)
        fill(model, initial, "--run", start)
        return cls(directory, config, truth, model, initial, device)

    def checkpoints(self, steps: Sequence[int]) -> Iterator[tuple[int, int, Knowledge]]:
        """Step, epoch and knowledge of checkpoints; all files are opened at once.

        Raises:
            InputError: a checkpoint that cannot be read.
        """
        optim: Optim = build(self.config.optim)
        task: Task = build(self.config.task)
        given = str(self.directory.path)
        files = {step: checkpoint_path(self.directory, step) for step in steps}
        saved = {step: checkpoint_at("--run", given, file) for step, file in files.items()}

        def each() -> Iterator[tuple[int, int, Knowledge]]:
            for step, checkpoint in saved.items():
                fill(self.model, weights_of(checkpoint), "--run", files[step])
                training = TrainingFacts(optim.initial_share(step), keeps_span(optim, task))
                model = self.model.eval().to(self.device)
                known = knowledge_of(model, self.initial, training, self.truth)
                yield step, int(checkpoint.get("epoch", 0)), known

        return each()


def targets_of(
    fit: CommandLine,
    path: Path,
    name: str | None,
    before: Namespace,
    config: Namespace,
    choice: Choice,
) -> Iterator[Target]:
    """Find the folder of results for every method and its settings.

    Args:
        fit: the flags of `fit`.
        path: the run directory.
        name: name of the folder if settings differ from the run's; None: made from the differences.
        before: the run's own configuration.
        config: the configuration of this attack.
        choice: the methods.

    Raises:
        InputError: the folder has results of other settings.
    """
    own = {spec.class_path: spec for spec in fit.specs(before, "recon")[0]}

    def settings(base: Namespace, spec: Namespace | None) -> dict[str, Any]:
        """The flags of one method alone; empty if the run does not have the method."""
        if spec is None:
            return {}
        alone = base.clone()
        alone.recon = spec
        values = fit.values(alone)
        own = {flag: value for flag, value in values.items() if flag.startswith("recon")}
        own.pop("recon.enabled", None)  # has no effect here
        return own

    for spec, method in zip(choice.specs, choice.methods, strict=True):
        now = settings(config, spec)
        variant = name or variant_name(settings(before, own.get(spec.class_path)), now, method.name)
        if not variant:
            yield Target(method, of_method(RunDirectory(path), method.name))
            continue
        folder = f"{RESULTS}-{variant}"
        record = path / folder / "config.yaml"
        if record.exists():
            earlier = fit.parse(fit.read([f"--config={record}"]))
            (there, *_), _ = fit.specs(earlier, "recon")
            if settings(earlier, there) != now:
                remedy = "has results of other settings; give another name"
                raise InputError("--name", variant, remedy)
        alone = config.clone()
        alone.recon = spec
        directory = of_method(RunDirectory(path, folder), method.name)
        yield Target(method, directory, fit.dump(alone))


def chosen_steps(wanted: str, saved: Sequence[int], path: Path) -> list[int]:
    """The saved training steps that ``--steps`` names.

    Raises:
        InputError: there are no checkpoints, or none at a named step.
    """
    if not saved:
        raise InputError("--run", path, "has no checkpoints")
    if wanted in ("last", "all"):
        return list(saved) if wanted == "all" else [saved[-1]]
    there = ", ".join(str(step) for step in saved)
    if not re.fullmatch(r"\d+(,\d+)*", wanted):
        raise InputError("--steps", wanted, f"give last, all, or some of {there}")
    steps = sorted({int(step) for step in wanted.split(",")})
    for step in set(steps) - set(saved):
        raise InputError("--steps", step, f"has no checkpoint; there are {there}")
    return steps
