"""CIFAR-10 (Krizhevsky 2009), downloaded by torchvision with its checksums."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.downloads import download_folder, fetching
from datamodules.images import (
    ImageDataModule,
    ImageSource,
    Normalize,
    check_against,
    pools_of,
)
from lit_recon.errors import InputError

CLASSES = ["airplane", "automobile", "bird", "cat", "deer"]
CLASSES += ["dog", "frog", "horse", "ship", "truck"]
FROG_AND_TRUCK = ["frog", "truck"]  # the pair of Iurada et al. (arXiv 2509.22214)
SIDE = 32  # of an image, in pixels
REMEDIES = (
    "put the archive cifar-10-python.tar.gz there, or give --data.url MIRROR, or "
    "--data ImageFolderSubset --data.root FOLDER, or --data Photos, which needs no download"
)


class CIFAR10Subset(ImageDataModule):
    """A few images of CIFAR-10, in the official order; held-out images are of the test split.

    An index is the position of an image among the 50,000 of the training split.

    Args:
        n: number of training images over all classes, a multiple of the number of classes.
        classes: class names in the order of the targets; null: all ten.
        image_size: side of the training images in pixels: 1, 2, 4, 8, 16 or 32.
        root: folder that holds, or will hold, `cifar-10-batches-py`; an archive
            `cifar-10-python.tar.gz` in it is used instead of a download.
        download: whether to download what is missing (163 MiB).
        url: address of the archive to download; null: its authors' server. The checksum is checked
            in both cases.
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
        classes: list[str] | None = FROG_AND_TRUCK,
        image_size: int = SIDE,
        root: str = "data",
        download: bool = True,
        url: str | None = None,
        selection: Literal["first", "random"] = "first",
        seed: int | None = None,
        normalize: Normalize = "standardize",
        n_val: int | None = None,
        batch_size: int | None = None,
        groups: list[list[str]] | None = None,
        norm: float | None = None,
    ) -> None:
        if groups is not None and classes == FROG_AND_TRUCK:
            classes = None  # the default pair was not asked for
        super().__init__(
            n, classes, image_size, selection, seed, normalize, n_val, batch_size, groups, norm
        )
        check_against(CLASSES, SIDE, self)
        if url is not None and not url.startswith(("https://", "http://")):
            raise InputError("--data.url", url, "give an address that starts with https://")
        self.root = root
        self.download = download
        self.url = url

    def prepare_data(self) -> None:
        """Download the archive if it is missing; Lightning calls this on one process per node.

        Raises:
            InputError: the data are missing and cannot be downloaded.
        """
        fetch(Path(self.root).expanduser(), self.download, self.url)

    def source(self) -> ImageSource:
        """Download the archive if it is missing, and open both splits."""
        from torchvision.datasets import CIFAR10

        self.prepare_data()
        splits = [CIFAR10(Path(self.root).expanduser(), train=train) for train in (True, False)]
        arrays = [split.data for split in splits]

        def read(train: list[int], val: list[int]) -> tuple[Tensor, Tensor]:
            return _pick(arrays[0], train), _pick(arrays[1], val)

        pools = [pools_of(split.targets, CLASSES) for split in splits]
        return ImageSource(pools[0], pools[1], read, order=(int, int))  # positions in the file


def fetch(root: Path, download: bool, url: str | None) -> None:
    """Provide the files of CIFAR-10 in a folder: unpack or download the archive if needed.

    Args:
        root: the folder.
        download: whether a download is allowed.
        url: address of the archive; None: torchvision's.

    Raises:
        InputError: the files are missing and cannot be provided; names the alternatives.
    """
    # Imported here: the import takes seconds, and runs on other data do not need it.
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity, download_url

    meta = (CIFAR10.meta["filename"], CIFAR10.meta["md5"])
    folder = root / CIFAR10.base_folder
    listed = [*CIFAR10.train_list, *CIFAR10.test_list, meta]
    if all(check_integrity(folder / name, md5) for name, md5 in listed):
        return
    archive = root / CIFAR10.filename
    packed = check_integrity(archive, CIFAR10.tgz_md5)
    if not packed and not download:
        raise InputError("--data.root", root, f"CIFAR-10 is not there; {REMEDIES}")
    with fetching("CIFAR-10", root, REMEDIES):
        if packed:
            _unpack(archive, folder)
            return
        with download_folder(root) as scratch:
            download_url(url or CIFAR10.url, scratch, CIFAR10.filename, CIFAR10.tgz_md5)
            _unpack(scratch / CIFAR10.filename, folder)


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack into a temporary folder, then move each file, so that other runs see whole files."""
    from torchvision.datasets.utils import extract_archive

    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="unpack-") as scratch:
        extract_archive(str(archive), scratch)
        folder.mkdir(exist_ok=True)
        for file in (Path(scratch) / folder.name).iterdir():
            os.replace(file, folder / file.name)


def _pick(array: NDArray[np.uint8], indices: list[int]) -> Tensor:
    """(m, 3, 32, 32) uint8 from (N, 32, 32, 3)."""
    return torch.from_numpy(array[indices]).permute(0, 3, 1, 2)
