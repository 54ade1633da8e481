"""The true training data, for scoring: in memory and as a file of the run directory."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lit_recon.errors import InputError
from lit_recon.knowledge import ChannelScale, MeanImageScale, PixelScale
from lit_recon.records.directory import RunDirectory

FILE = "data.safetensors"
MEAN_IMAGE = "mean_image"
"""Name of a tensor (c, h, w) in that file; only for a scale with one mean per pixel."""


@dataclass(frozen=True)
class Truth:
    """The true training data; methods never see it.

    It holds copies, so that later changes of the data module do not change a score.

    >>> import torch
    >>> x = torch.zeros(2, 4)
    >>> Truth(x, x[:0], None, None, None, [], [], indices=[0, 1]).n
    2

    Attributes:
        x: (n, d) training inputs.
        held_out: (v, d) inputs of the same source that were not trained on.
        images: (n, c, h, w) uint8 training pixels; None for other data.
        pixels: the map from pixels to inputs; None for other data.
        radius: the norm of every input; None if norms differ.
        labels: position of each sample's class in ``class_names``; empty without classes.
        class_names: names of the classes.
        indices: the index of each sample in its source.
        input_shape: shape of one input before it was flattened; None: that of `images`, or (d,).
        k: number of outputs of the trained network; None: not recorded.
    """

    x: Tensor
    held_out: Tensor
    images: Tensor | None
    pixels: PixelScale | None
    radius: float | None
    labels: list[int]
    class_names: list[str]
    indices: list[int]
    input_shape: tuple[int, ...] | None = None
    k: int | None = None

    @classmethod
    def of(cls, data: Any) -> Truth:
        """Copy the data of a data module that is set up."""
        return cls(
            x=data.x.flatten(1).clone(),
            held_out=data.val_x.flatten(1).clone(),
            images=None if data.images is None else data.images.clone(),
            pixels=data.pixels,
            radius=data.radius,
            labels=data.labels.tolist(),
            class_names=list(data.class_names),
            indices=[int(i) for i in data.indices],
            input_shape=tuple(data.x.shape[1:]),
            k=data.k,
        )

    @property
    def n(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input before it was flattened."""
        known = self.x if self.images is None else self.images
        return self.input_shape or tuple(known.shape[1:])

    @property
    def names(self) -> list[str]:
        """The class of each sample; empty without classes."""
        return [self.class_names[label] for label in self.labels]

    def scaled(self, pixels: PixelScale) -> Truth:
        """The same images as inputs by another pixel scale.

        Raises:
            InputError: the data are no images.
        """
        if self.pixels is None or self.images is None:
            raise InputError("--pixels", "", "these data are no images; leave it out")
        held_out = self.pixels.values(self.held_out)
        x, others = (
            ((values - pixels.mean) / pixels.std).flatten(1).float()
            for values in (self.images.double() / 255, held_out.double())
        )
        return replace(self, x=x, held_out=others, pixels=pixels, radius=None)

    def write(self, directory: RunDirectory) -> None:
        """Write data.safetensors; later commands score from it without the data's source."""
        tensors = {"x": self.x, "held_out": self.held_out}
        if self.images is not None:
            tensors["images"] = self.images
        pixels: dict[str, Any] | None = None
        if self.pixels is not None:
            pixels = {"shape": self.pixels.shape}
            for name in ("mean", "std"):
                value = getattr(self.pixels, name)
                if isinstance(self.pixels, MeanImageScale) and name == "mean":
                    tensors[MEAN_IMAGE] = value
                else:
                    pixels[name] = value.flatten().tolist() if isinstance(value, Tensor) else value
        facts = {
            "labels": self.labels,
            "class_names": self.class_names,
            "indices": self.indices,
            "pixels": pixels,
            "radius": self.radius,
            "input_shape": self.input_shape,
            "k": self.k,
        }
        directory.write_bytes(FILE, save(tensors, {"data": json.dumps(facts)}))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Truth:
        """Read data.safetensors of a run directory.

        Raises:
            InputError: the file is missing or damaged.
        """
        path = Path(path)
        try:
            with safe_open(path / FILE, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                facts = json.loads(file.metadata()["data"])
            return cls(
                x=tensors["x"],
                held_out=tensors["held_out"],
                images=tensors.get("images"),
                pixels=_pixels(facts["pixels"], tensors.get(MEAN_IMAGE)),
                radius=facts["radius"],
                labels=facts["labels"],
                class_names=facts["class_names"],
                indices=facts["indices"],
                input_shape=tuple(facts.get("input_shape") or ()) or None,
                k=facts.get("k"),
            )
        except FileNotFoundError as error:
            raise InputError("--run", path, f"has no {FILE}; give a run directory") from error
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError("--run", path / FILE, f"cannot be read ({error})") from error


def _pixels(facts: dict[str, Any] | None, mean_image: Tensor | None) -> PixelScale | None:
    """The pixel scale in a file; None for data that are not images."""
    if facts is None:
        return None
    c, h, w = facts["shape"]
    if mean_image is not None:
        return MeanImageScale((c, h, w), mean_image, facts["std"])
    kind = ChannelScale.of if isinstance(facts["std"], list) else PixelScale
    return kind((c, h, w), facts["mean"], facts["std"])
