"""Handwritten digits: the small ones of scikit-learn, and MNIST."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.downloads import download_folder, fetching, one_line
from datamodules.images import (
    ImageDataModule,
    ImageSource,
    Normalize,
    check_against,
    pools_of,
)
from lit_recon.errors import InputError

CLASSES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
LEVELS = 16  # the brightest value of a pixel in scikit-learn's digits
DIGITS_SIDE = 8  # of an image of scikit-learn's digits, in pixels
MNIST_SIDE = 28  # of an image of MNIST, in pixels


class Digits(ImageDataModule):
    """A few of the 1,797 handwritten digits of 8 by 8 pixels that are part of scikit-learn.

    The data of `sklearn.datasets.load_digits` (Alpaydin and Kaynak 1998), in the order of its file.
    Their grey levels 0 to 16 become the nearest pixels of 0 to 255. No download is needed. An index
    is the position of an image in the file, from which held-out images come too.

    Args:
        n: number of training images over all classes, a multiple of the number of classes.
        classes: class names in the order of the targets, from `zero` to `nine`; null: all ten.
        image_size: side of the training images in pixels: 1, 2, 4 or 8.
        selection: `first`: the first images of every class; `random`: random images.
        seed: seed of the random selection and of the order of mini-batches, at least 0;
            null: --run.seed.
        normalize: `standardize`: mean 0 and standard deviation 1 over all images; `sphere`: every
            image also scaled to norm sqrt(d); `mean_image`: the mean image subtracted, no division;
            `norm`: mean 0.501, and the largest norm of an image is `norm`; `raw`: pixels in [0, 1].
        n_val: number of held-out images over all classes, at least 0; null: n, or all that the
            source has if these are fewer.
        batch_size: images in a training batch, at least 1; null: all of them in one batch.
        groups: groups of class names, each of which is one class of the task, instead of classes:
            `[[zero, two], [one, three]]`; null: every class for itself. `selection first` takes the
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
        image_size: int = DIGITS_SIDE,
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
        check_against(CLASSES, DIGITS_SIDE, self)

    def source(self) -> ImageSource:
        """Load all digits; they are small."""
        # Imported here: the import takes a second, and runs on other data do not need it.
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images = np.rint(bunch.images * (255 / LEVELS)).astype(np.uint8)  # (1797, 8, 8)

        def read(train: list[int], val: list[int]) -> tuple[Tensor, Tensor]:
            return _pick(images, train), _pick(images, val)

        return ImageSource(pools_of(bunch.target, CLASSES), None, read, order=(int, int))


class MNIST(ImageDataModule):
    """A few images of MNIST (LeCun and others 1998); held-out images are of the test split.

    An index is the position of an image among the 60,000 of the training split.

    Args:
        n: number of training images over all classes, a multiple of the number of classes.
        classes: class names in the order of the targets, from `zero` to `nine`; null: all ten.
        image_size: side of the training images in pixels: 1, 2, 4, 7, 14 or 28.
        root: folder that holds, or will hold, `MNIST/raw` with the four files of MNIST.
        download: whether to download what is missing (11 MiB).
        selection: `first`: the first images of every class; `random`: random images.
        seed: seed of the random selection and of the order of mini-batches, at least 0;
            null: --run.seed.
        normalize: `standardize`: mean 0 and standard deviation 1 over all images; `sphere`: every
            image also scaled to norm sqrt(d); `mean_image`: the mean image subtracted, no division;
            `norm`: mean 0.501, and the largest norm of an image is `norm`; `raw`: pixels in [0, 1].
        n_val: number of held-out images over all classes, at least 0; null: n, or all that the
            source has if these are fewer.
        batch_size: images in a training batch, at least 1; null: all of them in one batch.
        groups: groups of class names, each of which is one class of the task, instead of classes:
            `[[zero, two], [one, three]]`; null: every class for itself. `selection first` takes the
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
        image_size: int = MNIST_SIDE,
        root: str = "data",
        download: bool = True,
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
        check_against(CLASSES, MNIST_SIDE, self)
        self.root = root
        self.download = download

    def prepare_data(self) -> None:
        """Download the files if they are missing; Lightning calls this on one process per node.

        Raises:
            InputError: the data are missing and cannot be downloaded.
        """
        fetch_mnist(Path(self.root).expanduser(), self.download)

    def source(self) -> ImageSource:
        """Download the files if they are missing, and open both splits."""
        from torchvision import datasets

        self.prepare_data()
        root = Path(self.root).expanduser()
        try:
            splits = [datasets.MNIST(root, train=train) for train in (True, False)]
        except (OSError, RuntimeError, ValueError, AssertionError) as error:
            remedy = f"the files of MNIST cannot be read ({one_line(error)}); delete MNIST/raw"
            raise InputError("--data.root", root, remedy) from error
        arrays = [split.data.numpy() for split in splits]

        def read(train: list[int], val: list[int]) -> tuple[Tensor, Tensor]:
            return _pick(arrays[0], train), _pick(arrays[1], val)

        pools = [pools_of(split.targets.numpy(), CLASSES) for split in splits]
        return ImageSource(pools[0], pools[1], read, order=(int, int))


def fetch_mnist(root: Path, download: bool) -> None:
    """Provide the files of MNIST in a folder: download them if needed.

    Args:
        root: the folder.
        download: whether a download is allowed.

    Raises:
        InputError: the files are missing and cannot be provided; names the alternatives.
    """
    from torchvision import datasets

    folder = root / "MNIST" / "raw"
    names = [name.removesuffix(".gz") for name, _ in datasets.MNIST.resources]
    if all((folder / name).is_file() for name in names):
        return
    remedies = f"put {', '.join(names)} into {folder}, or give --data Digits, without a download"
    if not download:
        raise InputError("--data.root", root, f"MNIST is not there; {remedies}")
    with fetching("MNIST", root, remedies), download_folder(root) as scratch:
        datasets.MNIST(scratch, download=True)
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            os.replace(scratch / "MNIST" / "raw" / name, folder / name)


def _pick(array: NDArray[np.uint8], indices: list[int]) -> Tensor:
    """(m, 1, h, w) uint8 from (N, h, w)."""
    return torch.from_numpy(array[indices])[:, None]
