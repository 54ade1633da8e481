"""What the `reconstruct` command does, whatever it attacks: methods, checkpoints, results."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jsonargparse import Namespace

from lit_recon.audit.loggers import wandb_run
from lit_recon.audit.recorder import Recorder, named_numbers, read_results, sentence
from lit_recon.errors import InputError
from lit_recon.knowledge import Knowledge
from lit_recon.methods import Reconstructor
from lit_recon.records.directory import RunDirectory
from lit_recon.records.jsonl import JsonlLogger
from lit_recon.records.provenance import FILE as PROVENANCE
from lit_recon.records.provenance import provenance
from lit_recon.records.tracking import choose_wandb_mode
from lit_recon.records.truth import Truth
from lit_recon.report.page import write_run_report


@dataclass(frozen=True)
class Target:
    """One method and where its results go.

    Attributes:
        method: the method.
        directory: the run directory, with the method's folder of results.
        record: content of a config.yaml for the folder, if its settings differ from the run's; None
            if they do not.
    """

    method: Reconstructor
    directory: RunDirectory
    record: str | None = None

    @property
    def folder(self) -> str:
        """The folder of these settings, ``recon`` or ``recon-VARIANT``."""
        return self.directory.results.rpartition("/")[0]


@dataclass(frozen=True)
class Job:
    """What to attack, and where the results go.

    Attributes:
        wandb: the flags of W&B.
        record: the configuration as YAML.
        directory: the run directory.
        truth: the training data, for scoring; None: not known.
        targets: the methods.
        checkpoints: (step, epoch, knowledge) of each checkpoint.
        device: where attacks run.
    """

    wandb: Namespace
    record: str
    directory: RunDirectory
    truth: Truth | None
    targets: Sequence[Target]
    checkpoints: Iterator[tuple[int, int, Knowledge]]
    device: torch.device


def attack(job: Job) -> None:
    """Attack every checkpoint that has no results yet; score and log the results."""
    mode, reason = choose_wandb_mode(job.wandb.mode)
    print(reason)
    numbers = [
        name
        for target in job.targets
        for name in named_numbers(RunDirectory(job.directory.path, target.folder), [target.method])
    ]
    with wandb_run(job.wandb, job.record, job.directory, mode, numbers) as logger:
        loggers = [entry for entry in (JsonlLogger(job.directory), logger) if entry is not None]
        recorders = [
            Recorder(target.method, target.directory, job.truth, loggers) for target in job.targets
        ]
        for step, epoch, knowledge in job.checkpoints:
            for target, recorder in zip(job.targets, recorders, strict=True):
                if recorder.done(step):
                    print(f"{sentence(step, read_results(target.directory, step))}, done before")
                    continue
                if target.record is not None:
                    origin = provenance(sys.argv, target.method.seed, job.device)
                    job.directory.write_text(f"{target.folder}/config.yaml", target.record)
                    job.directory.write_json(f"{target.folder}/{PROVENANCE}", origin)
                recorder.attack(step, epoch, knowledge)
    print()
    for folder in dict.fromkeys(target.folder for target in job.targets):
        print(f"results        {job.directory.path / folder}")
    print(f"report         {write_run_report(job.directory.path)}")


def device_of(name: str) -> torch.device:
    """The device of that name; ``auto`` is a GPU if there is one.

    Raises:
        InputError: the device is missing or has no float64, which attacks need.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        one = torch.ones((), device=name, dtype=torch.float64)
        float(one)
    except Exception as error:  # every backend has its own types
        reason = re.split(r"\n|\. ", str(error))[0]
        remedy = f"cannot be used here ({reason}); give cpu, cuda or auto"
        raise InputError("--device", name, remedy) from error
    return one.device
