"""The map of a network in the coordinates of its readout's range, so that no step is d-sized.

The output of a network with a linear readout is b + W phi(x). With the singular vectors U (d, r)
of W, every output is x = b + U y, and the map is y -> U^T W phi(b + U y): r coordinates to r. Where
the first layer is dense, b and U go into its weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from lit_recon.models import ReadoutModel
from lit_recon.models.first_layer import read_coordinates

RANK = 1e-6  # singular values of the readout below this share of the largest are rounding
LARGEST = 4096  # of the smaller side of a readout, for its singular vectors
ALIKE = 1e-6  # relative error of a network that reads coordinates
CHUNK = 8192  # rows that go through the network at once when it is differentiated


@dataclass(frozen=True)
class ReducedMap:
    """A map x -> f(x) in coordinates y of its range, x = offset + basis y.

    Attributes:
        whole: the network on inputs, in eval mode.
        reading: the network on coordinates; None: it does not read them, and they are lifted.
        shape: of an input.
        offset: (d,).
        basis: (d, r) orthonormal; None: the coordinates are the inputs themselves.
        head: (r, p) features to coordinates; None with `basis`.
    """

    whole: nn.Module
    reading: ReadoutModel | None
    shape: tuple[int, ...]
    offset: Tensor
    basis: Tensor | None
    head: Tensor | None

    @classmethod
    @torch.no_grad()
    def of(cls, model: nn.Module, shape: tuple[int, ...]) -> ReducedMap:
        """The map of a network, in float64 on its device; the network is copied."""
        whole = copy.deepcopy(model).double().eval().requires_grad_(False)
        parameter = next(whole.parameters(), torch.zeros((), dtype=torch.float64))
        offset = parameter.new_zeros(torch.Size(shape).numel())
        plain = cls(whole, None, shape, offset, None, None)
        if not isinstance(whole, ReadoutModel) or min(whole.readout.weight.shape) > LARGEST:
            return plain
        weight = whole.readout.weight
        basis, values, _ = torch.linalg.svd(weight, full_matrices=False)
        basis = basis[:, values > RANK * values[0]]
        if whole.readout.bias is not None:
            offset = whole.readout.bias
        reduced = cls(whole, None, shape, offset, basis, basis.T @ weight)
        return replace(reduced, reading=_reading_coordinates(reduced, model))

    @property
    def d(self) -> int:
        """The number of values in an input."""
        return len(self.offset)

    @property
    def r(self) -> int:
        """The number of coordinates."""
        return self.d if self.basis is None else self.basis.shape[1]

    @property
    def deficient(self) -> bool:
        """Whether the readout's range has fewer dimensions than there are features and inputs."""
        return self.head is not None and self.r < min(self.head.shape[1], self.d)

    def single(self) -> ReducedMap:
        """The same map in float32."""
        return ReducedMap(
            copy.deepcopy(self.whole).float(),
            None if self.reading is None else copy.deepcopy(self.reading).float(),
            self.shape,
            self.offset.float(),
            None if self.basis is None else self.basis.float(),
            None if self.head is None else self.head.float(),
        )

    def lift(self, y: Tensor) -> Tensor:
        """Coordinates (m, r) to inputs (m, d)."""
        return y if self.basis is None else self.offset + y @ self.basis.T

    def lower(self, x: Tensor) -> Tensor:
        """The coordinates (m, r) of the points of the range that are nearest to x (m, d)."""
        return x if self.basis is None else (x - self.offset) @ self.basis

    def image(self, x: Tensor) -> Tensor:
        """f(x) for x (m, d), by the whole network."""
        output: Tensor = self.whole(x.reshape(-1, *self.shape))
        return output.flatten(1)

    def is_odd(self) -> bool:
        """Whether f(-x) = -f(x), so that the negative of a fixed point is one too."""
        random = torch.Generator().manual_seed(0)
        x = torch.randn(4, self.d, generator=random).to(self.offset)
        image, mirrored = self.image(x), self.image(-x)
        return bool((image + mirrored).norm() <= ALIKE * image.norm())

    def __call__(self, y: Tensor) -> Tensor:
        """The coordinates (m, r) of f at coordinates y (m, r)."""
        if self.head is None:
            return self.image(y)
        if self.reading is not None:
            return self.reading.features(y) @ self.head.T
        assert isinstance(self.whole, ReadoutModel)
        return self.whole.features(self.lift(y).reshape(-1, *self.shape)) @ self.head.T

    def jacobian(self, y: Tensor) -> Tensor:
        """(m, r, r) derivatives at coordinates (m, r)."""
        return _jacobian(self, y, torch.eye(self.r, dtype=y.dtype, device=y.device))


def _jacobian(map: Callable[[Tensor], Tensor], x: Tensor, directions: Tensor) -> Tensor:
    """Derivatives (m, r, q) at x (m, s) in q directions (q, s)."""
    at_once = max(1, CHUNK // len(directions))

    def push(part: Tensor, direction: Tensor) -> Tensor:
        return torch.func.jvp(map, (part,), (direction.expand_as(part),))[1]

    parts = [torch.vmap(partial(push, part))(directions) for part in x.split(at_once)]
    return torch.cat(parts, 1).permute(1, 2, 0)  # from (q, m, r)


def _reading_coordinates(reduced: ReducedMap, model: nn.Module) -> ReadoutModel | None:
    """The model as one that reads coordinates y instead of inputs; None: it reshapes its inputs."""
    assert reduced.basis is not None and reduced.head is not None
    try:
        network = copy.deepcopy(model).double().eval()
        assert isinstance(network, ReadoutModel)
        read_coordinates(network, reduced.basis, reduced.offset)
        network.requires_grad_(False)
        random = torch.Generator().manual_seed(0)
        probe = torch.randn(4, reduced.r, generator=random).to(reduced.offset)
        expected = reduced(probe)
        found = network.features(probe) @ reduced.head.T
    except Exception:  # a user's code can raise anything
        return None
    return network if (found - expected).norm() <= ALIKE * expected.norm() else None
