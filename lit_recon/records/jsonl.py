"""A Lightning logger that writes metrics.jsonl."""

from __future__ import annotations

import json
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from lit_recon.records.directory import RESULTS, RunDirectory

FILE = "metrics.jsonl"


class JsonlLogger(Logger):
    """Writes one line of metrics.jsonl for every logged row: step, epoch, numbers.

    Args:
        directory: the run directory.
    """

    def __init__(self, directory: RunDirectory) -> None:
        super().__init__()
        self._directory = directory

    @property
    def name(self) -> str:
        return "jsonl"

    @property
    def version(self) -> str:
        return self._directory.path.name

    @property
    def save_dir(self) -> str:
        return str(self._directory.path)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        metrics = dict(metrics)
        row = {"step": step, "epoch": metrics.pop("epoch", None), **metrics}
        self._directory.append_jsonl(FILE, row)

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: config.yaml holds the hyper-parameters."""


def rewind(directory: RunDirectory, step: int) -> None:
    """Remove the rows that a run resumed at `step` writes again.

    These are the rows of training from that step on, and of reconstructions without results.
    """
    path = directory.path / FILE
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    kept = [line for line in whole if _stays(json.loads(line), directory, step)]
    directory.write_text(FILE, "".join(kept))


def _stays(row: dict[str, Any], directory: RunDirectory, step: int) -> bool:
    folder = next((name.rpartition("/")[0] for name in row if name.startswith(RESULTS)), None)
    if folder is not None:  # recon/METHOD, or recon-VARIANT/METHOD
        return RunDirectory(directory.path, folder).has_step(row["step"])
    return row["step"] < step
