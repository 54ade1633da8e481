"""The attack's mathematics, dense, slow and in float64: read this file first.

A model f(x) = theta s(V x) was trained from theta = 0 by gradient descent, so the rows of the
target T (k, p), the trained readout, are combinations of the training samples' features. The attack
looks for candidates x (m, d) whose features Phi = s(x V^T) (m, p) span T:

    L(x) = min_A ||T - A^T Phi||^2 / ||T||^2

With linear rows W (k, d) the target is fitted by A^T Phi + W V^T instead.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]


def projector(phi: Tensor) -> Tensor:
    """(p, p) projection onto the complement of the rows of phi (m, p)."""
    return torch.eye(phi.shape[1], dtype=phi.dtype) - torch.linalg.pinv(phi) @ phi


def residual(x: Tensor, v: Tensor, s: Function, target: Tensor, w: Tensor | None = None) -> Tensor:
    """(k, p) what candidates x (m, d) and linear rows w (k, d) leave of the target."""
    fitted = target if w is None else target - w @ v.T
    return fitted @ projector(s(x @ v.T))


def loss(x: Tensor, v: Tensor, s: Function, target: Tensor, w: Tensor | None = None) -> Tensor:
    """() the projection loss."""
    return residual(x, v, s, target, w).square().sum() / target.square().sum()


def jacobian(
    x: Tensor, v: Tensor, s: Function, slope: Function, target: Tensor, w: Tensor | None = None
) -> Tensor:
    """(k, p, m + l, d) Kaufman's Jacobian of the fit: coefficients fixed, then projected."""
    fitted = target if w is None else target - w @ v.T
    phi = s(x @ v.T)
    coefficients = fitted @ torch.linalg.pinv(phi)  # (k, m)
    inner = torch.einsum("km,mp,pd->kpmd", coefficients, slope(x @ v.T), v)
    if w is not None:
        rows = torch.einsum("kl,pd->kpld", torch.eye(len(w), dtype=v.dtype), v)
        inner = torch.cat([inner, rows], dim=2)
    return torch.einsum("kpmd,pq->kqmd", inner, projector(phi))
