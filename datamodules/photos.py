"""Patches of two photographs that are part of scikit-learn: real images without a download."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.images import ImageDataModule, ImageSource, Normalize, Pools, check_against

CLASSES = ["china", "flower"]
SIDE = 32  # of a patch, in pixels
ROWS, COLUMNS = 13, 20  # whole patches in a photograph of 427 by 640 pixels
CELLS = ROWS * COLUMNS
TRAIN_ROWS = 9  # the upper nine rows are training patches, the lower four held-out patches
# Standard deviation of a patch's values in 0..255. Patches below it are clear sky or blurred
# background, and all look alike; 474 of the 520 patches are above it.
FLAT = 8.0


class Photos(ImageDataModule):
    """32 by 32 patches of two photographs, a temple (`china`) and a dahlia (`flower`).

    The photographs are those of `sklearn.datasets.load_sample_images` (CC BY 2.0). Training patches
    come from the upper 288 rows of pixels (143 of `china`, 178 of `flower`) and held-out ones from
    the 128 rows below (80 and 73): both parts show the subject, and no pixel is in both.
    `selection first` takes patches with much detail that differ from each other (see
    `varied_order`). An index is ``260 photograph + 20 row + column``.

    Args:
        n: number of training images over all classes, a multiple of the number of classes.
        classes: `china`, `flower` or both, in the order of the targets; null: both.
        image_size: side of the training images in pixels: 1, 2, 4, 8, 16 or 32.
        selection: `first`: the most varied patches of each photograph; `random`: random patches.
        seed: seed of the random selection and of the order of mini-batches, at least 0;
            null: --run.seed.
        normalize: `standardize`: mean 0 and standard deviation 1 over all images; `sphere`: every
            image also scaled to norm sqrt(d); `mean_image`: the mean image subtracted, no division;
            `norm`: mean 0.501, and the largest norm of an image is `norm`; `raw`: pixels in [0, 1].
        n_val: number of held-out images over all classes, at least 0; null: n, or all that the
            source has if these are fewer.
        batch_size: images in a training batch, at least 1; null: all of them in one batch.
        groups: groups of class names, each of which is one class of the task, instead of classes:
            `[[cat, dog], [ship, truck]]`; null: every class for itself. `selection first` takes the
            first images of all classes of a group.
        norm: with `norm`, `mean_image` or `raw`, the largest norm of an input, above 0; null: 32
            with `norm`, else whatever it is.

    Raises:
        InputError: an argument is outside its range.
    """

    def __init__(
        self,
        n: int = 10,
        classes: list[str] | None = None,
        image_size: int = SIDE,
        selection: Literal["first", "random"] = "first",
        seed: int | None = None,
        normalize: Normalize = "standardize",
        n_val: int | None = None,
        batch_size: int | None = None,
        groups: list[list[str]] | None = None,
        norm: float | None = None,
    ) -> None:
        super().__init__(
            n, classes, image_size, selection, seed, normalize, n_val, batch_size, groups, norm
        )
        check_against(CLASSES, SIDE, self)

    def source(self) -> ImageSource:
        """Cut both photographs into patches and sort those that are not flat."""
        patches = [cut(photo) for photo in _photographs()]
        upper = range(TRAIN_ROWS * COLUMNS)
        lower = range(TRAIN_ROWS * COLUMNS, CELLS)
        every = torch.from_numpy(np.concatenate(patches)).permute(0, 3, 1, 2)  # (520, 3, 32, 32)

        def read(train: list[int], val: list[int]) -> tuple[Tensor, Tensor]:
            return every[train], every[val]

        return ImageSource(_pools(patches, upper), _pools(patches, lower), read)


def cut(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Cut a photograph into patches, row by row; the rest at the lower edge is dropped.

    Args:
        photo: (427, 640, 3).

    Returns:
        (260, 32, 32, 3) non-overlapping patches.
    """
    grid = photo[: ROWS * SIDE, : COLUMNS * SIDE].reshape(ROWS, SIDE, COLUMNS, SIDE, 3)
    return grid.transpose(0, 2, 1, 3, 4).reshape(CELLS, SIDE, SIDE, 3)


def varied_order(patches: NDArray[np.uint8], region: range) -> list[int]:
    """Sort the patches of a region so that the first few are detailed and differ; drop flat ones.

    The order is greedy: the next patch has the largest product of three numbers. The first is its
    detail, the mean absolute difference between neighbouring pixels. The second is the distance to
    the most similar chosen patch, both blurred to 4 by 4 pixels. The third is the distance to the
    nearest chosen patch in the photograph, in cells, at most 4. The first patch is the one with
    most detail.

    Args:
        patches: (260, 32, 32, 3) of one photograph.
        region: the cells to sort.

    Returns:
        Cells of the region that are not flat, each once.
    """
    values = patches.astype(np.float64)
    detail = _detail(values)
    blurred = values.reshape(CELLS, 4, SIDE // 4, 4, SIDE // 4, 3).mean(axis=(2, 4))
    look = blurred.reshape(CELLS, -1)  # (260, 48)
    place = np.stack(np.divmod(np.arange(CELLS), COLUMNS), axis=1).astype(np.float64)  # (260, 2)
    unlike, apart = np.ones(CELLS), np.ones(CELLS)
    left = [cell for cell in region if values[cell].std() > FLAT]
    order: list[int] = []
    while left:
        chosen = max(left, key=lambda cell: float(detail[cell] * unlike[cell] * apart[cell]))
        first = not order
        order.append(chosen)
        left.remove(chosen)
        difference = np.linalg.norm(look - look[chosen], axis=1)
        distance = np.minimum(np.linalg.norm(place - place[chosen], axis=1), 4.0)
        unlike = difference if first else np.minimum(unlike, difference)
        apart = distance if first else np.minimum(apart, distance)
    return order


def _detail(values: NDArray[np.float64]) -> NDArray[np.float64]:
    grey = values.mean(axis=3)  # (260, 32, 32)
    down = np.abs(np.diff(grey, axis=1)).mean(axis=(1, 2))
    across = np.abs(np.diff(grey, axis=2)).mean(axis=(1, 2))
    return down + across


def _pools(patches: list[NDArray[np.uint8]], region: range) -> Pools:
    return {
        name: [CELLS * photo + cell for cell in varied_order(patches[photo], region)]
        for photo, name in enumerate(CLASSES)
    }


def _photographs() -> list[NDArray[np.uint8]]:
    """Both photographs, (427, 640, 3) each, in the order of ``CLASSES``."""
    # Imported here: the import takes a second, and runs on other data do not need it.
    from sklearn.datasets import load_sample_images

    bunch = load_sample_images()
    by_name = {
        Path(name).stem: image for name, image in zip(bunch.filenames, bunch.images, strict=True)
    }
    return [by_name[name] for name in CLASSES]
