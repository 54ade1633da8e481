"""Noisy copies of inputs: a network that is trained to map them to the clean targets contracts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lit_recon.randomness import generator

Geometry = Literal["isotropic", "neighbours", "span"]
RANK_TOLERANCE = 1e-6  # of singular values of the inputs, over the largest one


@dataclass(frozen=True)
class Noise:
    """How far and where to noisy copies of the inputs are moved.

    Attributes:
        size: largest length, as a share of what `geometry` says.
        geometry: as in `lit_recon.modules.Autoencode`.
        copies: of every input.
        clean_share: the share of the steps, at the end, without noise.
        seed: of the draws.
    """

    size: float
    geometry: Geometry = "isotropic"
    copies: int = 2
    clean_share: float = 0.2
    seed: int = 0


class NoisyCopies:
    """Draws noisy copies of the training inputs.

    Every draw depends on the seed, the step and the rank alone, so a resumed run draws the same.

    >>> draw = NoisyCopies(Noise(size=0.5, geometry="neighbours"), torch.eye(4))
    >>> x, y = draw(torch.eye(4), torch.eye(4), slice(None), step=7, rank=0, ranks=1)
    >>> x.shape, bool(((x - y).norm(dim=1) <= 0.5 * 2**0.5).all())
    (torch.Size([12, 4]), True)

    Args:
        noise: what to draw.
        inputs: (n, *input shape) all training inputs.
    """

    def __init__(self, noise: Noise, inputs: Tensor) -> None:
        self.noise = noise
        x = inputs.flatten(1)  # (n, d)
        if noise.geometry == "isotropic":
            length = x.square().sum(1).mean().sqrt().expand(len(x))
        else:
            distances = torch.cdist(x.double(), x.double()).fill_diagonal_(torch.inf)
            length = distances.amin(1).to(x)
        self._length = noise.size * length  # (n,)
        self._basis: Tensor | None = None
        if noise.geometry == "span":
            _, values, rows = torch.linalg.svd(x.double(), full_matrices=False)
            self._basis = rows[values > RANK_TOLERANCE * values[0]].to(x)  # (r, d)

    def __call__(
        self, x: Tensor, y: Tensor, samples: slice | Tensor, *, step: int, rank: int, ranks: int
    ) -> tuple[Tensor, Tensor]:
        """A batch, followed by its noisy copies.

        Args:
            x: (b, *input shape) inputs.
            y: (b, k) targets.
            samples: their indices among the training samples.
            step: the step of training.
            rank: this process.
            ranks: number of processes.

        Returns:
            Inputs and targets of b (1 + copies) samples.
        """
        random = generator(self.noise.seed, "noise", step * ranks + rank)
        basis, copies = self._basis, self.noise.copies
        moved = copies * len(x)
        directions = x[0].numel() if basis is None else len(basis)
        e = torch.randn(moved, directions, generator=random).to(x)
        lengths = torch.rand(moved, generator=random).to(x) * self._length[samples].repeat(copies)
        e *= (lengths / e.norm(dim=1))[:, None]
        shift = (e if basis is None else e @ basis).view(moved, *x.shape[1:])
        repeated = x.repeat(copies, *(1 for _ in x.shape[1:]))
        return torch.cat([x, repeated + shift]), y.repeat(1 + copies, 1)
