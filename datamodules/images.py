"""Makes a normalised training set from any source of integer images.

Shapes: ``m`` images with ``c`` channels, ``h`` by ``w`` pixels; ``n`` training images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from math import gcd
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from datamodules.base import ReconDataModule
from lit_recon.errors import InputError
from lit_recon.knowledge import MeanImageScale, PixelScale
from lit_recon.randomness import generator

Groups = dict[str, list[str]]  # class of the task -> the source's classes in it
Normalize = Literal["standardize", "sphere", "mean_image", "norm", "raw"]
SCALED = ("norm", "mean_image", "raw")  # normalisations that take a norm
LARGEST_NORM = 32.0  # of an input with `normalize norm`
# The mean of `normalize norm`. At 1/2, an image and its negative would both be whole pixels, and no
# certificate could say which of the two was trained on; levels of 127.755 are far from that.
GREY = 0.501
Pools = dict[str, list[int]]  # class name -> indices of its images, in the order of `first`


@dataclass(frozen=True)
class ImageSource:
    """The images of a source, from which some are chosen.

    Attributes:
        train: indices of possible training images, by class; unique over all classes.
        val: indices of possible held-out images, by class, numbered separately; None: held-out
            images are images of ``train`` that were not chosen.
        order: two functions, of training indices and of held-out ones, to what sorts images of
            several classes that form one group; None: the first of every class, then the second
            of every class, and so on.
        read: function of training indices and held-out indices that returns both sets of images as
            (m, c, H, W) uint8 in the given order, all of one shape.
    """

    train: Pools
    val: Pools | None
    read: Callable[[list[int], list[int]], tuple[Tensor, Tensor]]
    order: tuple[Callable[[int], Any], Callable[[int], Any]] | None = None


class ImageDataModule(ReconDataModule):
    """n images of some classes, down-sampled to integer pixels and normalised.

    Samples are sorted by class. Two classes give one output, -1 for the first and +1 for the
    second; any other number of classes gives one-hot targets. With `groups` every group is a class,
    as in the tasks of Haim et al. (2022, arXiv 2206.07758): vehicles against animals, even digits
    against odd ones. Inputs are ``(u / 255 - mean) / std``
    with one mean and one std over all pixels of the n images, as in Iurada et al.
    (arXiv 2509.22214, code data/cifar10.py). With ``normalize="mean_image"`` the mean is the mean
    image of the n images and std is 1, as in Haim et al. (2022, arXiv 2206.07758); an image equal
    to the mean image is refused, because its input would be zero. With ``normalize="norm"`` the
    mean is 0.501 and one number scales all images: how strongly an autoencoder contracts depends on
    the norm of its inputs. With ``normalize="raw"`` nothing is subtracted. A subclass defines
    `source`.

    Args:
        n: number of training images over all classes, a multiple of the number of classes.
        classes: names of the classes, in the order of the targets; null: all classes.
        image_size: height of the training images in pixels: the source's height divided by a whole
            number that also divides its width; null: the source's size.
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
        classes: list[str] | None = None,
        image_size: int | None = None,
        selection: Literal["first", "random"] = "first",
        seed: int | None = None,
        normalize: Normalize = "standardize",
        n_val: int | None = None,
        batch_size: int | None = None,
        groups: list[list[str]] | None = None,
        norm: float | None = None,
    ) -> None:
        super().__init__(n=n, n_val=n_val, seed=seed, batch_size=batch_size)
        _check_choice("--data.selection", selection, ("first", "random"))
        _check_choice("--data.normalize", normalize, get_args(Normalize))
        if norm is not None and normalize not in SCALED:
            raise InputError("--data.norm", norm, f"needs --data.normalize {', '.join(SCALED)}")
        if norm is not None and not 0 < norm < float("inf"):
            raise InputError("--data.norm", norm, "give a number above 0")
        if classes is not None:
            _check_class_list(classes)
            share_of(n, len(classes))
        if groups is not None:
            _check_groups(groups, classes)
            share_of(n, len(groups))
        self.classes = classes
        self.groups = groups
        self.image_size = image_size
        self.selection = selection
        self.normalize = normalize
        self.norm = LARGEST_NORM if norm is None and normalize == "norm" else norm

    def source(self) -> ImageSource:
        """Open the source of images.

        Raises:
            InputError: it is missing or cannot be read.
        """
        raise NotImplementedError

    def load(self) -> None:
        """Choose, read, down-sample and normalise the images, and set their targets."""
        source = self.source()
        groups = self.groups_among(list(source.train))
        self.class_names = list(groups)
        chosen, held_out = self._select(source, groups)
        self.indices = [index for pool in chosen for index in pool]
        raw, raw_val = source.read(self.indices, [index for pool in held_out for index in pool])
        factor = downsampling_factor(raw.shape[-2], raw.shape[-1], self.image_size)
        self.images = downsample(raw, factor)
        self.val_images = downsample(raw_val, factor)
        self._set_inputs(self.images, self.val_images)
        self._set_targets(chosen, held_out)

    def groups_among(self, there: list[str]) -> Groups:
        """The classes of the task, each with the source's classes that it consists of.

        Args:
            there: the source's classes.

        Raises:
            InputError: a class does not exist.
        """
        if self.groups is None:
            return {name: [name] for name in choose_classes(self.classes, there)}
        chosen = [choose_classes(names, there, "--data.groups") for names in self.groups]
        return {"+".join(names): names for names in chosen}

    def _select(
        self, source: ImageSource, groups: Groups
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Training indices and held-out indices, one list for each class."""
        share = share_of(self.n, len(self.class_names))
        random = generator(self.seed, "selection") if self.selection == "random" else None
        sort = source.order or (None, None)
        pools = [_merged(source.train, names, sort[0]) for names in groups.values()]
        train = [_ordered(pool, random) for pool in pools]
        for name, pool in zip(self.class_names, train, strict=True):
            if len(pool) < share:
                remedy = f"class {name} holds {len(pool)} images, not {share}; take fewer"
                raise InputError("--data.n", self.n, remedy)
        if source.val is None:
            spare = [pool[share:] for pool in train]
        else:
            pools = [_merged(source.val, names, sort[1]) for names in groups.values()]
            spare = [_ordered(pool, random) for pool in pools]
        return [pool[:share] for pool in train], self._hold_out(spare)

    def _hold_out(self, spare: list[list[int]]) -> list[list[int]]:
        """The first ``n_val`` spare indices, spread over the classes as evenly as possible."""
        total = self.n if self.n_val is None else self.n_val
        base, rest = divmod(total, len(spare))
        shares = [base + (position < rest) for position in range(len(spare))]
        for name, pool, share in zip(self.class_names, spare, shares, strict=True):
            if self.n_val is not None and len(pool) < share:
                remedy = f"class {name} has {len(pool)} images to hold out, not {share}; take fewer"
                raise InputError("--data.n_val", self.n_val, remedy)
        return [pool[:share] for pool, share in zip(spare, shares, strict=True)]

    def _set_inputs(self, images: Tensor, val_images: Tensor) -> None:
        channels, height, width = images.shape[1:]
        self.input_shape = (channels, height, width)
        self.pixels = self._measured(images)
        self.radius = self.d**0.5 if self.normalize == "sphere" else None
        self.x = to_inputs(images, self.pixels, self.radius)
        # With the constants of the training images, as for all later inputs of the model.
        self.val_x = to_inputs(val_images, self.pixels, self.radius)

    def _measured(self, images: Tensor) -> PixelScale:
        if self.normalize not in SCALED:
            return measure(images)
        shape = (images.shape[1], images.shape[2], images.shape[3])
        scale = PixelScale(shape, GREY if self.normalize == "norm" else 0.0, 1.0)
        if self.normalize == "mean_image":
            scale = measure_mean_image(images)
        return scale if self.norm is None else scale_to_norm(images, scale, self.norm)

    def _set_targets(self, chosen: list[list[int]], held_out: list[list[int]]) -> None:
        classes = len(self.class_names)
        self.k = 1 if classes == 2 else classes
        self.labels = _labels(chosen)
        self.y = to_targets(self.labels, classes)
        self.val_y = to_targets(_labels(held_out), classes)


def pools_of(targets: ArrayLike, names: Sequence[str]) -> Pools:
    """The positions of each class in a list of class numbers (N,).

    >>> pools_of([1, 0, 1], ["cat", "dog"])
    {'cat': [1], 'dog': [0, 2]}
    """
    numbers = np.asarray(targets)
    return {name: np.flatnonzero(numbers == c).tolist() for c, name in enumerate(names)}


def choose_classes(
    wanted: list[str] | None, there: list[str], flag: str = "--data.classes"
) -> list[str]:
    """The classes to train on: the wanted ones, or all classes of the source.

    Raises:
        InputError: a wanted class does not exist; the message lists up to ten that do.
    """
    for name in wanted or []:
        if name not in there:
            more = ", ..." if len(there) > 10 else ""
            remedy = f"no such class; there are {', '.join(there[:10])}{more}"
            raise InputError(flag, name, remedy)
    return list(there if wanted is None else wanted)


def share_of(n: int, classes: int) -> int:
    """The number of images of each class.

    Raises:
        InputError: n is not a multiple of the number of classes.
    """
    if n % classes:
        below = n - n % classes
        fitting = f"{below} or {below + classes}" if below else f"{classes}"
        raise InputError("--data.n", n, f"does not divide among {classes} classes; give {fitting}")
    return n // classes


def downsampling_factor(height: int, width: int, image_size: int | None) -> int:
    """The integer factor by which height and width of the source images are divided.

    Args:
        height: height of the source images in pixels.
        width: width of the source images in pixels.
        image_size: wanted height in pixels; None: the source's.

    Raises:
        InputError: no integer factor divides both sides and gives the wanted height.
    """
    if image_size is None or image_size == height:
        return 1
    common = gcd(height, width)
    factors = [factor for factor in range(1, common + 1) if common % factor == 0]
    sizes = {height // factor: factor for factor in factors}
    if image_size not in sizes:
        listed = ", ".join(str(size) for size in list(sizes)[:10])
        remedy = f"the source images are {height} by {width} pixels; give one of {listed}"
        raise InputError("--data.image_size", image_size, remedy)
    return sizes[image_size]


def check_against(there: list[str], side: int, data: ImageDataModule) -> None:
    """Check arguments early against a source with known classes and image size.

    Args:
        there: the source's classes.
        side: side of its square images in pixels.
        data: the module with its arguments set.

    Raises:
        InputError: an unknown class, an n that does not divide among the classes, or an image size
            that does not divide `side`.
    """
    share_of(data.n, len(data.groups_among(there)))
    downsampling_factor(side, side, data.image_size)


def downsample(images: Tensor, factor: int) -> Tensor:
    """Average square blocks of pixels and round halves up, so that pixels stay integers.

    Args:
        images: (m, c, H, W) uint8.
        factor: side of the blocks in pixels; divides H and W.

    Returns:
        (m, c, H / factor, W / factor) uint8.
    """
    m, c, height, width = images.shape
    squares = images.reshape(m, c, height // factor, factor, width // factor, factor)
    total = squares.sum(dim=(3, 5), dtype=torch.int64)  # (m, c, h, w)
    return ((2 * total + factor**2) // (2 * factor**2)).to(torch.uint8).contiguous()


def measure(images: Tensor) -> PixelScale:
    """One mean and one standard deviation over all pixels, for pixels in [0, 1].

    The standard deviation divides by the number of pixels minus one, as the paper's code does.

    Args:
        images: (n, c, h, w) uint8.

    Raises:
        InputError: all pixels are equal.
    """
    values = images.double() / 255
    channels, height, width = images.shape[1:]
    std = values.std().item() if values.numel() > 1 else 0.0
    if std == 0:
        remedy = "all pixels of the selected images are the same; take more or other images"
        raise InputError("--data.n", len(images), remedy)
    return PixelScale((channels, height, width), values.mean().item(), std)


def measure_mean_image(images: Tensor) -> MeanImageScale:
    """The mean image of a training set, for pixels in [0, 1], with a std of 1.

    >>> images = torch.tensor([[[[0, 10]]], [[[255, 10]]]], dtype=torch.uint8)
    >>> measure_mean_image(images).offset.tolist()
    [127.5, 10.0]

    Args:
        images: (n, c, h, w) uint8.

    Raises:
        InputError: an image equals the mean image, so its input would be zero.
    """
    n = len(images)
    total = images.sum(0, dtype=torch.int64)  # (c, h, w)
    if (n * images.long() == total).flatten(1).all(1).any():
        remedy = (
            f"an image is the mean of all {n}: its input would be zero; take more or other images"
        )
        raise InputError("--data.n", n, remedy)
    channels, height, width = images.shape[1:]
    return MeanImageScale((channels, height, width), total.double() / n / 255)


def scale_to_norm(images: Tensor, scale: PixelScale, norm: float) -> PixelScale:
    """The scale with the same mean at which the largest norm of an image is `norm`.

    >>> images = torch.tensor([[[[0, 255]]], [[[100, 100]]]], dtype=torch.uint8)
    >>> scale = scale_to_norm(images, PixelScale((1, 1, 2), GREY, 1.0), 8.0)
    >>> float(to_inputs(images, scale, None).flatten(1).norm(dim=1).max())
    8.0

    Args:
        images: (n, c, h, w) uint8.
        scale: gives the mean; its std is 1.
        norm: above 0.

    Raises:
        InputError: all images are equal to the mean.
    """
    largest = (images.double() / 255 - scale.mean).flatten(1).norm(dim=1).max().item()
    if largest == 0:
        raise InputError("--data.norm", norm, "all images are black; take others")
    return replace(scale, std=largest / norm)


def to_inputs(images: Tensor, pixels: PixelScale, radius: float | None) -> Tensor:
    """Convert integer pixels to network inputs, in float64 arithmetic.

    Args:
        images: (m, c, h, w) uint8.
        pixels: mean and std.
        radius: the norm of every input after scaling; None: no scaling.

    Returns:
        (m, c, h, w) float32.

    Raises:
        InputError: an input has norm 0 and cannot be scaled.
    """
    x = (images.double() / 255 - pixels.mean) / pixels.std
    if radius is not None:
        norms = x.flatten(1).norm(dim=1)  # (m,)
        if (norms == 0).any():
            remedy = "an image is flat at the mean of all and has no direction; use standardize"
            raise InputError("--data.normalize", "sphere", remedy)
        x = x * (radius / norms)[:, None, None, None]
    return x.float()


def to_targets(labels: Tensor, classes: int) -> Tensor:
    """Convert class numbers to targets.

    Args:
        labels: (m,) int64, from 0 to ``classes - 1``.
        classes: number of classes.

    Returns:
        (m, 1) float32 of -1 and +1 for two classes, else (m, classes) float32 one-hot.
    """
    if classes == 2:
        return (2 * labels - 1).float()[:, None]
    return torch.nn.functional.one_hot(labels, classes).float()


def _merged(pools: Pools, names: list[str], sort: Callable[[int], Any] | None) -> list[int]:
    """The indices of several classes in one order; classes that have none there add nothing."""
    parts = [pools.get(name, []) for name in names]
    if len(parts) > 1 and sort is not None:
        return sorted((index for part in parts for index in part), key=sort)
    return [i for together in zip_longest(*parts) for i in together if i is not None]


def _ordered(pool: list[int], generator: torch.Generator | None) -> list[int]:
    if generator is None:
        return pool
    return [pool[i] for i in torch.randperm(len(pool), generator=generator).tolist()]


def _labels(pools: list[list[int]]) -> Tensor:
    return torch.tensor([c for c, pool in enumerate(pools) for _ in pool], dtype=torch.int64)


def _check_class_list(classes: list[str]) -> None:
    if not classes:
        raise InputError("--data.classes", "[]", "name at least one class, or null for all")
    for name in classes:
        if classes.count(name) > 1:
            raise InputError("--data.classes", name, "name every class once")


def _check_groups(groups: list[list[str]], classes: list[str] | None) -> None:
    if classes is not None:
        raise InputError("--data.groups", groups, "give either this or --data.classes, not both")
    if len(groups) < 2 or not all(groups):
        remedy = "give two groups or more, each with a class, such as '[[cat, dog], [ship]]'"
        raise InputError("--data.groups", groups, remedy)
    names = [name for group in groups for name in group]
    for name in names:
        if names.count(name) > 1:
            raise InputError("--data.groups", name, "name every class once over all groups")


def _check_choice(flag: str, given: str, choices: tuple[str, ...]) -> None:
    if given not in choices:
        raise InputError(flag, given, f"give {', '.join(choices[:-1])} or {choices[-1]}")
