"""The base class of data modules: what the trainer, the callback and the scoring need.

Shapes: ``n`` training samples, ``k`` outputs, ``d`` input dimension, the product of
``input_shape``.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from lightning import LightningDataModule
from torch import Tensor

from datamodules.batches import Batches
from lit_recon.distributed import ranks
from lit_recon.errors import InputError
from lit_recon.knowledge import PixelScale


class ReconDataModule(LightningDataModule):
    """A few training samples, held in memory and served in a fixed order.

    A subclass defines `load`, which sets all attributes below. All tensors are on the CPU.

    Attributes:
        n: number of training samples.
        k: number of outputs.
        input_shape: ``(c, h, w)`` for images, ``(d,)`` for vectors.
        x: (n, *input_shape) float32 training inputs.
        y: (n, k) float32 training targets.
        val_x: (v, *input_shape) float32 held-out inputs; v may be 0.
        val_y: (v, k) float32 held-out targets.
        pixels: the map from integer pixels to ``x``; None for data that are not images.
        radius: the norm of every input, ``sqrt(d)``; None if norms differ.
        labels: (n,) int64 position of each sample's class in ``class_names``; (0,) without classes.
        class_names: names of the classes, in the order of the targets; empty without classes.
        indices: n integers, the index of each training sample in its source.
        images: (n, c, h, w) uint8 exact training pixels; None for data that are not images.
        val_images: (v, c, h, w) uint8 held-out pixels; None for data that are not images.

    Args:
        n: number of training samples, at least 1.
        n_val: number of held-out samples, at least 0; null: the subclass decides.
        seed: seed of all random choices in the data, at least 0; null: --run.seed.
        batch_size: samples in a training batch, at least 1; null: all of them in one batch.

    Raises:
        InputError: an argument is outside its range.
    """

    k: int
    input_shape: tuple[int, ...]
    x: Tensor
    y: Tensor
    val_x: Tensor
    val_y: Tensor
    pixels: PixelScale | None
    radius: float | None
    labels: Tensor
    class_names: list[str]
    indices: list[int]
    images: Tensor | None
    val_images: Tensor | None

    def __init__(
        self,
        n: int = 10,
        n_val: int | None = None,
        seed: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        super().__init__()
        check_at_least("--data.n", n, 1)
        seed = seed or 0
        check_at_least("--data.seed", seed, 0)
        if n_val is not None:
            check_at_least("--data.n_val", n_val, 0)
        if batch_size is not None:
            check_at_least("--data.batch_size", batch_size, 1)
        self.n = n
        self.n_val = n_val
        self.seed = seed
        self.batch_size = batch_size
        self._loaded = False
        self._batches: Batches | None = None
        self._place: dict[str, int] | None = None

    @property
    def d(self) -> int:
        """Number of values in one input; known after `setup`."""
        return prod(self.input_shape)

    def load(self) -> None:
        """Set the attributes that the class documents; called once.

        Raises:
            InputError: the source does not hold what the arguments ask for.
        """
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """Load the data, if they are not loaded; works without a trainer.

        Args:
            stage: Lightning's name of the next stage; the data do not depend on it.

        Raises:
            InputError: the source does not hold what the arguments ask for.
        """
        if not self._loaded:
            self.load()
            self._loaded = True

    def retarget(self, targets: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Replace the training targets; held-out samples then have none.

        Args:
            targets: function of x (n, *input_shape) and y (n, k) that returns targets (n, k'); if
                it returns y itself, nothing changes.
        """
        before = self.y
        self.y = targets(self.x, before)
        if self.y is not before:
            self.k = self.y.shape[1]
            self.val_y = self.y.new_empty(0, self.k)

    def train_dataloader(self) -> Batches:
        """One batch of all samples in order, or shuffled mini-batches with ``batch_size``.

        Batches are on the trainer's device; this rank gets its part of each.
        """
        device = self.trainer.strategy.root_device if self.trainer else self.x.device
        size = min(self.batch_size or self.n, self.n)
        seed = None if self.batch_size is None else self.seed
        self._batches = Batches(self.x.to(device), self.y.to(device), size, seed, ranks())
        if self._place is not None:
            self._batches.load_state_dict(self._place)
        return self._batches

    def transfer_batch_to_device(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the batch unchanged: it is on the device; Lightning's check would cost time."""
        return batch

    def state_dict(self) -> dict[str, int]:
        """The position in the order of mini-batches, for a checkpoint.

        Lightning also saves the loader's state, but it restores it only within an epoch.
        """
        return {} if self._batches is None else self._batches.state_dict()

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Let the next loader continue from this position."""
        self._place = state_dict


def check_at_least(flag: str, given: int, least: int) -> None:
    """Raise InputError if an integer flag is below its range."""
    if given < least:
        raise InputError(flag, given, f"give a whole number of at least {least}")
