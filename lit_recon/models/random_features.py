"""The random-features model."""

from __future__ import annotations

from typing import ClassVar

from torch import nn
from torch.nn.utils import skip_init

from lit_recon.activations import ACTIVATIONS, Name
from lit_recon.distributed import ranks
from lit_recon.errors import InputError
from lit_recon.models.base import OneHiddenLayer, feature_count, seed_of
from lit_recon.tall_matrix import SeededMatrix, TallMatrix


class RandomFeatures(OneHiddenLayer):
    """Random features: V ~ N(0, 1/d) fixed, only the readout is trained, from zero.

    The setting of Iurada, Bombari, Tommasi, Mondelli 2025 (arXiv 2509.22214): no bias, no factor
    1 / sqrt(p). V is not saved in checkpoints, because the seed determines it. V is not a buffer,
    because every rank stores other rows, and Lightning would overwrite them with those of rank 0.

    >>> model = RandomFeatures(d=12, k=1, n=4, p=100)
    >>> model.frozen, float(model.readout.weight.abs().max())
    (True, 0.0)

    Args:
        d: input dimension.
        k: outputs.
        n: training samples.
        p: number of features, at least 1; null: p_over_dn decides.
        p_over_dn: number of features as k p / (n d), above 0; null: 3, unless p is given.
        activation: the activation function s.
        seed: seed of V, 0 or more; null: --run.seed.
        stored_rows: the most rows of V that a process stores, 0 or more; null: its whole share,
            p / (number of processes). Other rows are drawn again from the seed at every read: this
            saves memory, costs time, and does not change V.

    Raises:
        InputError: p below 1, p_over_dn not above 0, or both given; stored_rows below 0.
    """

    size_flag: ClassVar[str] = "p"

    def __init__(
        self,
        d: int,
        k: int,
        n: int,
        p: int | None = None,
        p_over_dn: float | None = None,
        activation: Name = "relu",
        seed: int | None = None,
        stored_rows: int | None = None,
    ) -> None:
        super().__init__()
        p = feature_count("p", p, p_over_dn, n * d / k)
        seed = seed_of(seed)
        if stored_rows is not None and stored_rows < 0:
            raise InputError("--model.stored_rows", stored_rows, "give 0 or more")
        self.activation = ACTIVATIONS[activation]
        self.first_layer = SeededMatrix(seed, p, d)
        self.stored_rows = stored_rows
        self.readout = skip_init(nn.Linear, p, k, bias=False)
        nn.init.zeros_(self.readout.weight)

    def rows(self, share: range) -> TallMatrix:
        # Not in the constructor: the number of ranks and the device are not known there.
        like = self.readout.weight.detach()
        self.first_layer.store(ranks().share(self.p)[: self.stored_rows], like)
        return TallMatrix(self.first_layer, share, like)
