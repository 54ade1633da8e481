"""How far a map is from leaving points in their place.

For candidates z (m, d) and a map f from (m, d) to (m, d)

    L(z) = ||f(z) - z||^2 / (m scale).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Rounding of f(z) - z, in units of eps times the norm of z. Measured in float32: the iteration of
# fully connected maps that contract, with 2 to 20 layers of width 64 or 1024, ends at 0.5 to 9.
FLOOR_UNITS = 16.0


def _identity(z: Tensor) -> Tensor:
    return z


@dataclass(frozen=True)
class FixedPointValue:
    """The objective at one point.

    Attributes:
        objective: the objective.
        z: (m, d) the point, of which all rows are candidates.
        image: (m, d) f(z).
        loss: ().
    """

    objective: FixedPointObjective
    z: Tensor
    image: Tensor
    loss: Tensor

    @property
    def candidates(self) -> Tensor:
        """(m, d)"""
        return self.z

    @property
    def residual(self) -> Tensor:
        """(m, d) f(z) - z."""
        return self.image - self.z

    def gradient(self) -> Tensor:
        """(m, d) gradient of the loss; runs the map once more, and back."""
        residual = self.residual
        back = torch.func.vjp(self.objective.map, self.z)[1]
        slope: Tensor = back(residual)[0] - residual
        return 2 / (len(self.z) * self.objective.scale) * slope

    def floor(self) -> float:
        """The loss that the rounding of f(z) and z leaves."""
        unit = FLOOR_UNITS * torch.finfo(self.z.dtype).eps
        size = self.z.double().square().sum(1).mean()
        return float(unit**2 * size / self.objective.scale)


class FixedPointObjective:
    """The mean squared distance by which a map moves candidates.

    >>> halved = FixedPointObjective(lambda z: z / 2)
    >>> at = halved.linearise(torch.tensor([[2.0, 0.0], [0.0, 4.0]]))
    >>> at.loss  # the mean of 1 and 4
    tensor(2.5000)
    >>> at.residual
    tensor([[-1.,  0.],
            [ 0., -2.]])

    Args:
        map: f, (m, d) to (m, d).
        scale: what the squared distances are divided by, above 0: 1, or d for the mean over the
            coordinates.
        retract: brings (m, d) back to a constraint, such as pixels to [0, 1].
        first: gives rank 0's tensor to all ranks. All ranks do the same, and where their points
            differ in the last bits, they would soon take different turns.
    """

    rates = 1.0

    def __init__(
        self,
        map: Callable[[Tensor], Tensor],
        *,
        scale: float = 1.0,
        retract: Callable[[Tensor], Tensor] = _identity,
        first: Callable[[Tensor], Tensor] = _identity,
    ) -> None:
        self.map = map
        self.scale = scale
        self.retract = retract
        self.first = first

    def linearise(self, z: Tensor) -> FixedPointValue:
        """Image and loss at z (m, d)."""
        z = self.first(z)
        image = self.first(self.map(z))
        loss = (image - z).square().sum(1).mean() / self.scale
        return FixedPointValue(self, z, image, loss)
