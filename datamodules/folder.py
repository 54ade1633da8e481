"""Any folder of class folders of images, as torchvision's ImageFolder expects it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.images import ImageDataModule, ImageSource, Normalize, Pools
from lit_recon.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
LAYOUT = "give a folder that holds CLASS/IMAGE.png, or train/CLASS/IMAGE.png beside test/ or val/"


class ImageFolderSubset(ImageDataModule):
    """A few images of a folder ``ROOT/CLASS/IMAGE.png``, in the natural order of their names.

    If ROOT has class folders in ``train/`` and in ``test/`` or ``val/``, training images come from
    the first and held-out images from the second; otherwise both come from the same class folders,
    and no image is in both. Only the chosen images are opened. They must have one size; they have
    one channel if all are greyscale, otherwise three. An index is the position of an image among
    all images of all classes, as in torchvision's ImageFolder, but in natural order (`2.png` before
    `10.png`).

    Args:
        n: number of training images over all classes, a multiple of the number of classes.
        classes: names of class folders, in the order of the targets; null: all of them.
        image_size: height of the training images in pixels: the files' height divided by a whole
            number that also divides their width; null: as in the files.
        root: the folder; required.
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
        InputError: an argument is missing or outside its range.
    """

    def __init__(
        self,
        n: int = 10,
        classes: list[str] | None = None,
        image_size: int | None = None,
        root: str | None = None,
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
        if root is None:
            raise InputError("--data.root", "null", f"ImageFolderSubset needs it; {LAYOUT}")
        self.root = root

    def source(self) -> ImageSource:
        """List the image files of both parts; none is opened before it is chosen."""
        root = Path(self.root).expanduser()
        if not root.is_dir():
            raise InputError("--data.root", root, f"there is no such folder; {LAYOUT}")
        train_root, val_root = split_folders(root)
        train = Listing.of(train_root)
        if not train.files:
            raise InputError("--data.root", root, f"no class folder with images in it; {LAYOUT}")
        val = Listing.of(val_root) if val_root else None

        def read(chosen: list[int], held_out: list[int]) -> tuple[Tensor, Tensor]:
            paths = [train.files[i] for i in chosen]
            paths += [(val or train).files[i] for i in held_out]
            images = read_images(paths)
            return images[: len(chosen)], images[len(chosen) :]

        # In the order of names: files that were numbered over all classes are in that order again.
        order = (train.sort_key, (val or train).sort_key)
        return ImageSource(train.pools, val.pools if val else None, read, order)


@dataclass(frozen=True)
class Listing:
    """The image files below a folder of class folders.

    Attributes:
        files: all files, class after class.
        pools: class name to positions in ``files``.
    """

    files: list[Path]
    pools: Pools

    @classmethod
    def of(cls, folder: Path) -> Listing:
        """List a folder; classes and files in natural order."""
        files: list[Path] = []
        pools: Pools = {}
        for class_folder in _class_folders(folder):
            found = [file for file in class_folder.iterdir() if file.suffix.lower() in SUFFIXES]
            pools[class_folder.name] = list(range(len(files), len(files) + len(found)))
            files += sorted(found, key=_natural)
        return cls(files, pools)

    def sort_key(self, index: int) -> tuple[list[tuple[int, str]], str]:
        """What sorts the files of several classes by their names."""
        return _natural(self.files[index])


def split_folders(root: Path) -> tuple[Path, Path | None]:
    """The folders of training images and of held-out images.

    Args:
        root: an existing folder.

    Returns:
        ``train/`` and ``test/`` (or else ``val/``) below root if both have class folders, otherwise
        root and None.
    """
    if (root / "train").is_dir() and _class_folders(root / "train"):
        for part in ("test", "val"):
            if (root / part).is_dir() and _class_folders(root / part):
                return root / "train", root / part
    return root, None


def read_images(paths: list[Path]) -> Tensor:
    """Read images of one size, with one channel if all are greyscale and three otherwise.

    Args:
        paths: m image files, at least one.

    Returns:
        (m, c, H, W) uint8.

    Raises:
        InputError: a file is not an image, has more than 8 bits per channel, or another size than
            the first.
    """
    images = [_open(path) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if image.size != images[0].size:
            sizes = "{} by {} pixels, where {} has {} by {}".format(
                *image.size, paths[0].name, *images[0].size
            )
            raise InputError("--data.root", path, f"{sizes}; all chosen images need one size")
    mode = "L" if all(image.mode == "L" for image in images) else "RGB"
    arrays = np.stack([np.asarray(image.convert(mode)) for image in images])  # (m, H, W[, 3])
    return torch.from_numpy(arrays.reshape(*arrays.shape[:3], -1)).permute(0, 3, 1, 2)


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        remedy = f"cannot be read as an image ({reason}); repair it or take it out of the folder"
        raise InputError("--data.root", path, remedy) from error
    if image.mode[0] in "IF":
        # Pillow's conversion of these to 8 bits clips at 255 without a warning.
        remedy = f"has more than 8 bits a pixel (mode {image.mode}); convert it to 8 bits"
        raise InputError("--data.root", path, remedy)
    return image


def _class_folders(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."]
    return sorted(found, key=_natural)


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Sort key that compares digits in names as numbers; the name itself breaks ties."""
    parts = re.findall(r"[0-9]+|[^0-9]+", path.name)
    return [(int(part), "") if part[0] in "0123456789" else (-1, part) for part in parts], path.name
