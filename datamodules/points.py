"""Points with two or more classes that are no images: two moons, and a table of one's own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from datamodules.base import ReconDataModule, check_at_least
from datamodules.images import to_targets
from lit_recon.errors import InputError
from lit_recon.randomness import generator

MOST_HELD_OUT = 1000  # unless they are asked for


class PointDataModule(ReconDataModule):
    """Points with classes, moved and scaled by the training points. A subclass defines `points`.

    Args:
        n: number of training points, at least 2.
        center: whether the mean of the training points is subtracted.
        norm: largest norm of a training point after that, above 0; null: whatever it is.
        seed: seed of the points and of the order of mini-batches, at least 0; null: --run.seed.
        n_val: number of held-out points, at least 0; null: n, 1000 or as many as there are.
        batch_size: points in a training batch, at least 1; null: all of them in one batch.
    """

    def __init__(
        self,
        n: int,
        center: bool,
        norm: float | None,
        seed: int | None,
        n_val: int | None,
        batch_size: int | None,
    ) -> None:
        super().__init__(n=n, n_val=n_val, seed=seed, batch_size=batch_size)
        check_at_least("--data.n", n, 2)
        if norm is not None and not 0 < norm < math.inf:
            raise InputError("--data.norm", norm, "give a number above 0, or null")
        self.center = center
        self.norm = norm

    def points(self) -> tuple[NDArray[np.float64], NDArray[np.int64], list[str]]:
        """Points (n + v, d), training ones first, their classes, and the names of the classes.

        Sets `indices`.

        Raises:
            InputError: they cannot be read, or are too few.
        """
        raise NotImplementedError

    def load(self) -> None:
        """Read or draw the points, move and scale them."""
        x, labels, self.class_names = self.points()
        train = x[: self.n]
        x = x - train.mean(0) if self.center else x
        if self.norm is not None:
            largest = np.linalg.norm(x[: self.n], axis=1).max()
            if largest == 0:
                raise InputError("--data.norm", self.norm, "all points are 0; give null")
            x = x * (self.norm / largest)
        values = torch.from_numpy(x).float()
        targets = to_targets(torch.from_numpy(labels), len(self.class_names))
        self.x, self.val_x = values[: self.n], values[self.n :]
        self.y, self.val_y = targets[: self.n], targets[self.n :]
        self.labels = torch.from_numpy(labels[: self.n])
        self.input_shape, self.k = (x.shape[1],), self.y.shape[1]
        self.radius = self.pixels = self.images = self.val_images = None

    @property
    def _held_out(self) -> int:
        """How many points to hold out, if there are so many."""
        return min(self.n, MOST_HELD_OUT) if self.n_val is None else self.n_val


class TwoMoons(PointDataModule):
    """The two moons of scikit-learn: interleaved half circles in the plane.

    Genzel, Finke and Dirksen (2023, arXiv 2310.00327) draw 1,000 of them with a noise of 0.05 and
    scale them into the unit disc.

    Args:
        n: number of training points, at least 2.
        noise: standard deviation of the points' noise, at least 0; the circles have radius 1.
        center: whether the mean of the training points is subtracted.
        norm: largest norm of a training point after that, above 0; null: whatever it is.
        seed: seed of the points and of the order of mini-batches, at least 0; null: --run.seed.
        n_val: number of held-out points, at least 0; null: as many as n, at most 1,000.
        batch_size: points in a training batch, at least 1; null: all of them in one batch.

    Raises:
        InputError: an argument is outside its range.
    """

    def __init__(
        self,
        n: int = 1000,
        noise: float = 0.05,
        center: bool = False,
        norm: float | None = 1.0,
        seed: int | None = None,
        n_val: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(n, center, norm, seed, n_val, batch_size)
        if not 0 <= noise < math.inf:
            raise InputError("--data.noise", noise, "give a number of at least 0")
        self.noise = noise

    def points(self) -> tuple[NDArray[np.float64], NDArray[np.int64], list[str]]:
        """Draw the training points, then the held-out ones."""
        # Imported here: the import takes a second, and runs on other data do not need it.
        from sklearn.datasets import make_moons

        x, labels = make_moons(self.n, noise=self.noise, random_state=2 * self.seed % 2**32)
        if self._held_out:
            other = (2 * self.seed + 1) % 2**32
            more = make_moons(self._held_out, noise=self.noise, random_state=other)
            x, labels = np.concatenate([x, more[0]]), np.concatenate([labels, more[1]])
        self.indices = list(range(self.n))
        return x, labels.astype(np.int64), ["upper", "lower"]


class Table(PointDataModule):
    """The rows of a CSV file of one's own: numbers, and a column with the class of each row.

    Classes are in the order of their names. An index is the position of a row in the file, from 0.

    Args:
        n: number of training rows, at least 2.
        root: the file, with names of columns in its first line.
        label: name of the column with the classes; null: the last column.
        selection: `first`: the first rows; `random`: random rows.
        center: whether the mean of the training rows is subtracted.
        norm: largest norm of a training row after that, above 0; null: whatever it is.
        seed: seed of the random selection and of the order of mini-batches, at least 0;
            null: --run.seed.
        n_val: number of held-out rows, at least 0; null: n, 1,000 or as many as are left.
        batch_size: rows in a training batch, at least 1; null: all of them in one batch.

    Raises:
        InputError: an argument is outside its range.
    """

    def __init__(
        self,
        n: int = 10,
        root: str | None = None,
        label: str | None = None,
        selection: Literal["first", "random"] = "first",
        center: bool = False,
        norm: float | None = 1.0,
        seed: int | None = None,
        n_val: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(n, center, norm, seed, n_val, batch_size)
        if root is None:
            raise InputError("--data.root", "missing", "Table needs it: a CSV file")
        self.root = root
        self.label = label
        self.selection = selection

    def points(self) -> tuple[NDArray[np.float64], NDArray[np.int64], list[str]]:
        """Read the file, and choose rows."""
        frame = read_table(self.root)
        label = frame.columns[-1] if self.label is None else self.label
        if label not in frame:
            there = ", ".join(map(str, frame.columns[:10]))
            raise InputError("--data.label", label, f"no such column; there are {there}")
        spare = len(frame) - self.n
        if spare < 0:
            raise InputError("--data.n", self.n, f"{self.root} has {len(frame)} rows; take fewer")
        if self.n_val is not None and self.n_val > spare:
            raise InputError("--data.n_val", self.n_val, f"only {spare} rows are left; take fewer")
        order = np.arange(len(frame))
        if self.selection == "random":
            random = generator(self.seed, "selection")
            order = torch.randperm(len(frame), generator=random).numpy()
        rows = order[: self.n + min(self._held_out, spare)]
        names, labels = np.unique(frame[label].astype(str).to_numpy(), return_inverse=True)
        self.indices = rows[: self.n].tolist()
        x = numbers_of(frame.drop(columns=label), self.root)
        return x[rows], labels[rows].astype(np.int64), names.tolist()


def read_table(file: str) -> pd.DataFrame:
    """A CSV file with rows and at least two columns, none of them empty in its last column.

    Raises:
        InputError: it cannot be read.
    """
    try:
        frame = pd.read_csv(Path(file).expanduser())
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError("--data.root", file, f"cannot be read ({reason}); give a CSV") from error
    if len(frame.columns) < 2 or not len(frame):
        raise InputError("--data.root", file, "needs a row, and a column besides the classes")
    return frame


def numbers_of(frame: pd.DataFrame, file: str) -> NDArray[np.float64]:
    """The values of a table, which must be finite numbers.

    Raises:
        InputError: names the first one that is not, by its column and its row from 1 on.
    """
    values = frame.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        row, column = wrong[0]
        given = frame.iloc[row, column]
        remedy = f"row {row + 1} has {given} in {frame.columns[column]}; give finite numbers"
        raise InputError("--data.root", file, remedy)
    return values
