"""Pictures, curves and tables for W&B."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from lightning.pytorch.loggers import WandbLogger

CURVE_ROWS = 200
"""Maximum number of rows in the table of an inner curve; a W&B panel cannot show more."""


def to_uint8_image(image: Any) -> np.ndarray:
    """Convert an image to an (H, W, C) uint8 array; W&B would draw floats in [0, 1] black.

    Args:
        image: an array (H, W, C), or a tensor (C, H, W), or (H, W) of either; C is 1, 3 or 4.
            Floats are pixels in [0, 1], integers are pixels in 0..255; values outside are clipped,
            and NaN becomes 0.

    Raises:
        ValueError: another shape.
    """
    pixels = _channels_last(image)
    if pixels.dtype == np.uint8:
        return pixels
    if np.issubdtype(pixels.dtype, np.floating):
        pixels = np.rint(np.nan_to_num(pixels.astype(np.float64), nan=0.0).clip(0, 1) * 255)
    elif pixels.dtype == np.bool_:
        pixels = pixels * 255
    return pixels.clip(0, 255).astype(np.uint8)


def picture(image: Any, step: int) -> Any:
    """One picture of a training step, with the step as its caption; see `to_uint8_image`."""
    import wandb

    return wandb.Image(to_uint8_image(image), caption=f"step {step}")


def picture_file(path: Path, step: int) -> Any:
    """A picture from its file, PNG or, as an animation, GIF, with the step as its caption."""
    import wandb

    if path.suffix == ".gif":
        return wandb.Video(str(path), caption=f"step {step}", format="gif")
    return wandb.Image(str(path), caption=f"step {step}")


def curve(
    rows: Sequence[Mapping[str, float | str | None]],
    title: str,
    *,
    x: str,
    y: str,
    stroke: str | None = None,
) -> Any:
    """One inner curve as a line chart, with a table of at most `CURVE_ROWS` rows.

    Logged as NAME, its table with all columns is ``NAME_table``.

    Args:
        rows: one mapping per inner step, all with the same keys; at least one.
        title: of the chart.
        x: the key of the horizontal axis.
        y: the key of the vertical axis.
        stroke: the key whose values become separate lines; None: one line.
    """
    import wandb

    columns: list[str | int] = list(rows[0])
    data = [[_finite(row[column]) for column in rows[0]] for row in thin(rows, CURVE_ROWS)]
    return wandb.plot.line(wandb.Table(columns=columns, data=data), x, y, stroke, title=title)


def image_table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A table with one row per image.

    Args:
        rows: one mapping per image, all with the same keys; at least one. Arrays and tensors of two
            dimensions or more are pictures (see `to_uint8_image`); NaN becomes an empty cell.
    """
    import wandb

    columns: list[str | int] = list(rows[0])
    return wandb.Table(
        columns=columns, data=[[_cell(row[column]) for column in rows[0]] for row in rows]
    )


@contextmanager
def one_log(logger: WandbLogger, step: int) -> Iterator[dict[str, Any]]:
    """Yield a mapping to be filled with numbers, pictures and tables of a step; log all at once.

    W&B counts log calls, and a history with one row for each training step is easy to read back.

    >>> from unittest.mock import Mock
    >>> logger = Mock(save_dir=None)
    >>> with one_log(logger, step=3) as values:
    ...     values["loss"] = 0.5
    >>> logger.log_metrics.call_args
    call({'loss': 0.5}, step=3)
    """
    with _staging_in(logger.save_dir):
        values: dict[str, Any] = {}
        yield values
        logger.log_metrics(values, step=step)


def thin(rows: Sequence[Any], limit: int) -> list[Any]:
    """At most `limit` evenly spaced rows, with the first and the last; `limit` is 2 or more."""
    if len(rows) <= limit:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (limit - 1))] for i in range(limit)]


@contextmanager
def _staging_in(directory: str | None) -> Iterator[None]:
    """Keep the files of tables in the run directory.

    By default W&B copies them to the home directory. On a cluster that may be full or read-only,
    and an offline run must find them there when it is uploaded.
    """
    if directory is None or "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(Path(directory, "wandb").absolute())
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]


def _channels_last(image: Any) -> np.ndarray:
    tensor = hasattr(image, "detach")
    if tensor:
        image = image.detach().cpu()
        image = image.double() if image.is_floating_point() else image  # numpy has no bfloat16
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[..., None]  # (H, W) -> (H, W, 1)
    elif tensor and pixels.ndim == 3:
        pixels = np.moveaxis(pixels, 0, -1)  # (C, H, W) -> (H, W, C)
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3, 4):
        raise ValueError(f"a picture needs 1, 3 or 4 channels; its shape is {pixels.shape}")
    return pixels


def _cell(value: Any) -> Any:
    if getattr(value, "ndim", 0) >= 2:
        import wandb

        return wandb.Image(to_uint8_image(value))
    return _finite(value)


def _finite(value: Any) -> Any:
    """None for NaN and infinity, which W&B tables write as strings."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
