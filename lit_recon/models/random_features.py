"""The random-features model."""

from __future__ import annotations

from torch import nn

from lit_recon.activations import ACTIVATIONS, Name
from lit_recon.errors import InputError
from lit_recon.linalg import gaussian_rows
from lit_recon.models.base import OneHiddenLayer

DEFAULT_P_OVER_DN = 3.0


class RandomFeatures(OneHiddenLayer):
    """Random features: V ~ N(0, 1/d) fixed, only the readout is trained, from zero.

    The setting of Iurada, Bombari, Tommasi, Mondelli 2025 (arXiv 2509.22214): no bias, no factor
    1 / sqrt(p). V is not saved in checkpoints: it follows from the seed.

    Args:
        d: input dimension.
        k: outputs.
        n: training samples.
        p: number of features, at least 1; null: p_over_dn decides.
        p_over_dn: number of features as k p / (n d), above 0; null: 3, unless p is given.
        activation: s.
        seed: seed of V, 0 or more; null: --run.seed.

    Raises:
        InputError: p below 1, p_over_dn not above 0, or both given.
    """

    def __init__(
        self,
        d: int,
        k: int,
        n: int,
        p: int | None = None,
        p_over_dn: float | None = None,
        activation: Name = "relu",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.p = feature_count(p, p_over_dn, n * d / k)
        seed = seed or 0
        if seed < 0:
            raise InputError("--model.seed", seed, "give 0 or more")
        self.activation = ACTIVATIONS[activation]
        self.register_buffer("first_layer", gaussian_rows(seed, self.p, d), persistent=False)
        self.readout = nn.Linear(self.p, k, bias=False)
        nn.init.zeros_(self.readout.weight)


def feature_count(p: int | None, p_over_dn: float | None, per_unit: float) -> int:
    """p from either of its two flags; ``per_unit`` is n d / k."""
    if p is not None and p_over_dn is not None:
        raise InputError("--model.p_over_dn", p_over_dn, "give either this or --model.p, not both")
    if p is None:
        p_over_dn = DEFAULT_P_OVER_DN if p_over_dn is None else p_over_dn
        if not 0 < p_over_dn < float("inf"):
            raise InputError("--model.p_over_dn", p_over_dn, "give a finite number above 0")
        return max(1, round(p_over_dn * per_unit))
    if p < 1:
        raise InputError("--model.p", p, "give at least 1 feature")
    return p
