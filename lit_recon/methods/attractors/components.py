"""Approximate images from the readout's range alone, as places to search near.

Training from a readout of zeros, by gradients or by steps that are one number for each tensor,
leaves the readout's columns in the span of the training inputs. So its range is the row space that
the `rowspace` method looks at, and its independent components are approximate images, up to their
norm and sign. Where they are near enough, the map or Newton's method does the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lit_recon.knowledge import DenseLayer, PixelScale
from lit_recon.methods.attractors.maps import ReducedMap
from lit_recon.methods.rowspace import Frame
from lit_recon.methods.rowspace.final import approximate_inputs
from lit_recon.models import ReadoutModel

SECONDS = 2e-3  # for r^2 components; 50 s for 200 on one core
NORMS = (0.3, 2.5)  # norms that are tried, in units of a typical point
TRIED = 23


def predicted_seconds(map: ReducedMap) -> float:
    """How long the components will take, roughly."""
    return SECONDS * map.r**2


def components(
    map: ReducedMap,
    shape: tuple[int, ...],
    pixels: PixelScale | None,
    unit: float,
    random: torch.Generator,
) -> Tensor | None:
    """Coordinates (m, r) of approximate images; None: the range is not that of images.

    Args:
        map: the map of a network with a readout.
        shape: of an input.
        pixels: the pixel scale; None: not known.
        unit: the norm of a typical point.
        random: the source of randomness.
    """
    if len(shape) != 3 or not map.deficient or not isinstance(map.whole, ReadoutModel):
        return None
    frame = Frame.of((shape[0], shape[1], shape[2]), pixels)
    layer = DenseLayer("readout", map.whole.readout.weight.T.float().contiguous())
    found = approximate_inputs(layer, frame, random)
    return None if found is None or not len(found[0]) else _scaled(map, found[0], unit)


def _scaled(map: ReducedMap, x: Tensor, unit: float) -> Tensor:
    """Coordinates (m, r) of inputs (m, d), each with the norm and sign that the map moves least."""
    x = x.to(map.offset)
    lengths = unit * torch.linspace(*NORMS, TRIED).to(x)
    directions = torch.nn.functional.normalize(x)
    tried = torch.stack(
        [map.lower(length * directions) for length in torch.cat([lengths, -lengths])]
    )  # (2 TRIED, m, r)
    moved = torch.stack([(map(y) - y).norm(dim=1) / y.norm(dim=1) for y in tried])
    return tried[moved.argmin(0), torch.arange(len(x), device=x.device)]
