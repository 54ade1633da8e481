"""Where iterations begin: noise at first, and then places that what was found suggests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_recon.methods.attractors.maps import ReducedMap

LONGEST = 2.0  # norm of a start, in units of a typical point
JITTER = 0.3  # norm of the noise that is added to places near points found
NORMS = (0.6, 1.6)  # factors of a place's norm
STRETCH = 1.2  # of differences of two points


@dataclass(frozen=True)
class Starts:
    """Draws starts in coordinates of a map.

    Attributes:
        map: the map, in float64.
        noise_std: standard deviation of noise inputs.
        generator: the source of randomness.
        unit: the norm of a typical point.
    """

    map: ReducedMap
    noise_std: float
    generator: torch.Generator
    unit: float

    def noise(self, count: int, found: Tensor) -> Tensor:
        """(count, r) first images of Gaussian inputs; `found` is of no matter."""
        return self.map.lower(self.map.image(self.noise_inputs(count)))

    def noise_inputs(self, count: int) -> Tensor:
        """(count, d) Gaussian inputs."""
        return self.noise_std * self._normal(count, self.map.d)

    def range(self, count: int, found: Tensor) -> Tensor:
        """(count, r) random directions in the readout's range, of norms in [0, 2] units."""
        return self._lengths(count) * _directions(self._normal(count, self.map.r))

    def covariance(self, count: int, found: Tensor) -> Tensor:
        """(count, r) Gaussian with mean and covariance of the points found (k, r)."""
        mean = found.mean(0)
        weights = self._normal(count, len(found)) / max(1, len(found) - 1) ** 0.5
        return mean + weights @ (found - mean)

    def mirror(self, count: int, found: Tensor) -> Tensor:
        """(count, r) near the points found, reflected at the origin or at their mean."""
        centre = found.mean(0) * self._choice(count, 2)[:, None]
        return 2 * centre - found[self._choice(count, len(found))] + self._jitter(count)

    def orthogonal(self, count: int, found: Tensor) -> Tensor:
        """(count, r) directions orthogonal to the points found, added to a share of their mean.

        Where nothing is orthogonal to them, directions are random.
        """
        normal = self._normal(count, self.map.r)
        values, vectors = torch.linalg.svd(found, full_matrices=False)[1:]
        inside = vectors[values > 1e-6 * self.unit]
        if len(inside) < self.map.r:
            normal = normal - (normal @ inside.T) @ inside
        return self._lengths(count) * _directions(normal) + self._uniform(count) * found.mean(0)

    def mixtures(self, count: int, found: Tensor) -> Tensor:
        """(count, r) points found, moved by the difference of two others."""
        a, b, c = (found[self._choice(count, len(found))] for _ in "abc")
        return a + STRETCH * (b - c) + self._jitter(count)

    def beside(self, places: Tensor, copies: int) -> Tensor:
        """(copies k, r) places (k, r) with other norms, and some noise."""
        copied = places.repeat(copies, 1)
        norms = NORMS[0] * (NORMS[1] / NORMS[0]) ** self._uniform(len(copied))
        return norms * copied + self._uniform(len(copied)) * self._jitter(len(copied))

    def _jitter(self, count: int) -> Tensor:
        return JITTER * self.unit * _directions(self._normal(count, self.map.r))

    def _lengths(self, count: int) -> Tensor:
        return LONGEST * self.unit * self._uniform(count)

    # Drawn on the CPU, so that a seed means the same on every device.
    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64).to(
            self.map.offset
        )

    def _uniform(self, count: int) -> Tensor:
        return torch.rand(count, 1, generator=self.generator, dtype=torch.float64).to(
            self.map.offset
        )

    def _choice(self, count: int, below: int) -> Tensor:
        return torch.randint(below, (count,), generator=self.generator).to(self.map.offset.device)


Place = Callable[[Starts, int, Tensor], Tensor]

RANDOM: tuple[Place, ...] = (Starts.noise, Starts.range)
NEAR_FOUND: tuple[Place, ...] = (
    Starts.covariance,
    Starts.orthogonal,
    Starts.mirror,
    Starts.mixtures,
)


def _directions(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True).clamp_min(1e-300)
