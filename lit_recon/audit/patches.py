"""The patches that a first layer reads, as small images that an attack looks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from lit_recon.audit.change import Held, module_of
from lit_recon.knowledge import DenseLayer, Knowledge, MeanImageScale
from lit_recon.models.patches import Patches
from lit_recon.records.truth import Truth

FOLDER = "patches"  # for the results of such attacks, inside that of the others


@dataclass(frozen=True)
class PatchView:
    """What an attacker of a network holds, with the patches of its first layer as the images.

    Attributes:
        patches: what the layer reads.
        layer: the layer as a dense one.
        known: facts for methods that look at the first layer alone.
    """

    patches: Patches
    layer: DenseLayer
    known: Knowledge

    @classmethod
    def of(
        cls, known: Knowledge, start: Mapping[str, Tensor], shape: tuple[int, ...], step: int = 0
    ) -> PatchView | None:
        """The view of a network; None: its first layer reads no patches.

        Args:
            known: what the attacker holds of the network.
            start: its weights at an earlier step, by name; empty: not known.
            shape: of an input.
            step: the earlier step.
        """
        patches = Patches.of(known.model, shape)
        if patches is None:
            return None
        layer = _dense(patches, known.model.state_dict())
        unseen = known.pixels is None or isinstance(known.pixels, MeanImageScale)
        pixels = None if unseen else replace(known.pixels, shape=patches.shape)  # type: ignore[type-var]
        facts = Knowledge(
            _trained(module_of(layer), known.model.get_submodule(patches.name)),
            earlier_first_layer=_dense(patches, start, step) if start else None,
            pixels=pixels,
            shape=patches.shape if unseen else None,
        )
        return cls(patches, layer, facts)

    @property
    def words(self) -> str:
        """What is attacked, and how many patches can come back."""
        shape, (units, d) = "x".join(map(str, self.patches.shape)), self.layer.weight.shape
        most = min(units, d - self.patches.shape[0] - 1)
        return (
            f"the first layer reads patches of {shape}, {self.patches.count} in an image, which are"
            f" attacked as small images; it can give back at most {most} different ones"
        )

    def truth(self, truth: Truth) -> Truth:
        """The different patches of the training images, and those of held-out images alone."""
        x, held_out = (self._cut(inputs) for inputs in (truth.x, truth.held_out))
        _, first = np.unique(torch.cat([x, held_out]).numpy(), axis=0, return_index=True)
        first.sort()
        kept = torch.as_tensor(first[first < len(x)])
        others = torch.as_tensor(first[first >= len(x)]) - len(x)
        images = None if truth.images is None else self._cut(truth.images.flatten(1))
        labels = [label for label in truth.labels for _ in range(self.patches.count)]
        return Truth(
            x=x[kept],
            held_out=held_out[others],
            images=None if images is None else images[kept].reshape(-1, *self.patches.shape),
            pixels=self.known.pixels,
            radius=None,
            labels=[labels[i] for i in kept.tolist()] if labels else [],
            class_names=truth.class_names,
            indices=kept.tolist(),
            input_shape=self.patches.shape,
        )

    def _cut(self, flat: Tensor) -> Tensor:
        """(n, d) images to (n patches, values)."""
        return flat[:, self.patches.index].flatten(0, 1)


def with_patches(
    held: Held, start: Mapping[str, Tensor], shape: tuple[int, ...], step: int = 0
) -> Held:
    """What an attacker of a network holds, with the patches that its first layer reads, if any.

    Args:
        held: without patches.
        start: the network's weights at an earlier step, by name; empty: not known.
        shape: of an input.
        step: the earlier step.
    """
    view = PatchView.of(held.knowledge, start, shape, step)
    if view is None:
        return held
    print(view.words)
    parts = None if held.truth is None else view.truth(held.truth)
    return replace(held, patches=replace(held, knowledge=view.known, truth=parts))


def _dense(patches: Patches, weights: Mapping[str, Tensor], step: int | None = None) -> DenseLayer:
    """The layer on patches as a dense one."""
    layer = DenseLayer.of(weights, patches.name, step)
    order = patches.order.to(layer.weight.device)
    return replace(layer, weight=layer.weight.detach().flatten(1)[:, order])


def _trained(dense: nn.Module, layer: nn.Module) -> nn.Module:
    """The dense layer, on the same device, and trained if the layer is."""
    weight = next(layer.parameters())
    return dense.eval().to(weight.device).requires_grad_(weight.requires_grad)
