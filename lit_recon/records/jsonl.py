"""A Lightning logger that writes metrics.jsonl."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from lit_recon.records.directory import RunDirectory


class JsonlLogger(Logger):
    """One line of metrics.jsonl for every row that is logged: step, epoch, numbers.

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
        self._directory.append_jsonl("metrics.jsonl", row)

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml holds them."""
