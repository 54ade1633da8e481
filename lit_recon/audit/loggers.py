"""The W&B run of a command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import yaml
from lightning.pytorch.loggers import WandbLogger

from lit_recon.records.directory import RunDirectory
from lit_recon.records.tracking import Mode, make_wandb_logger


@contextmanager
def wandb_run(
    flags: Any, record: str, directory: RunDirectory, mode: Mode, metrics: Sequence[str]
) -> Iterator[WandbLogger | None]:
    """Yield a logger with the W&B run, or None without W&B; the run ends with exit code 0 or 1.

    Args:
        flags: the flags of ``--wandb``.
        record: the content of config.yaml.
        directory: the run directory; its name is the name of the W&B run.
        mode: from `choose_wandb_mode`.
        metrics: names of the numbers that get a chart over training steps.
    """
    logger = make_wandb_logger(
        directory.path,
        mode,
        project=flags.project,
        name=directory.path.name,
        entity=flags.entity,
        group=flags.group,
        tags=flags.tags,
        config=yaml.safe_load(record),
        metrics=list(metrics),
    )
    status = 1
    try:
        yield logger
        status = 0
    finally:
        if logger is not None:
            logger.experiment.finish(exit_code=status)
