"""Gauss-Newton steps on all weights of a network that is trained on a few samples.

A step is the smallest change of the weights that removes the residuals R = Y - f(X) of the
linearised network, damped (Levenberg 1944): J^T a with (J J^T + mu) a = R, for the derivatives J
of all outputs by all weights. There are far fewer outputs than weights, so J is not formed. Its
Gram matrix is a sum over layers. A dense layer with inputs h, and derivatives g of the outputs by
what it gives, adds

    K[(i, a), (j, b)] = <g_ia, g_jb> (<h_i, h_j> + 1)        samples i, j; outputs a, b.

Of the outputs of a linear readout only its range counts: outside of it, the matrix is that of the
features, one for all outputs. So a readout that starts at zero has at most n^2 rows for n samples,
however many outputs there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

from lit_recon.errors import InputError
from lit_recon.models import Model, ReadoutModel
from lit_recon.modules.losses import evaluated
from lit_recon.solvers.gauss_newton import damping_after

LARGEST = 4096  # rows of the Gram matrix, 134 MB
RANK = 1e-6  # singular values of the readout below this share of the largest are rounding
SMALLEST, GREATEST = 1e-14, 1e6  # damping, relative to the mean diagonal
FALL, RISE = 10.0, 10.0  # factors of the damping after a good step and after one that fails

Problem = Callable[[], tuple[Model, Tensor, Tensor]]


@dataclass(frozen=True)
class Linearised:
    """A network near its weights, for the residuals of n samples.

    Attributes:
        network: in float64.
        x: (n, *input shape).
        residual: (n, k) targets minus outputs.
        basis: (k, r) orthonormal: the range of the readout; None: there is no readout, and r = k.
        gram: (n r, n r) J J^T of the outputs in coordinates of the basis, sample by sample.
        outside: (n, n) J J^T of each output outside of the basis; None: there is none.
    """

    network: Model
    x: Tensor
    residual: Tensor
    basis: Tensor | None
    gram: Tensor
    outside: Tensor | None

    @classmethod
    @torch.no_grad()
    def at(cls, network: Model, x: Tensor, y: Tensor) -> Linearised:
        """Linearise a network in float64 all of whose trained layers are in `trained_layers`.

        >>> from lit_recon.models import DeepMLP
        >>> x = torch.eye(3, dtype=torch.float64)
        >>> Linearised.at(DeepMLP(d=3, k=2, widths=[4]).double(), x, x[:, :2]).gram.shape
        torch.Size([6, 6])
        """
        output, passed = _passed(network, x, trained_layers(network))
        residual = y - output
        inputs = {layer: given for layer, (given, _) in passed.items()}
        if not isinstance(network, ReadoutModel):
            gram = _gram(network, x, torch.eye(y.shape[1]).to(y), inputs)
            return cls(network, x, residual, None, gram, None)
        features = _products(inputs.pop(network.readout), network.readout)
        basis = range_of(network.readout.weight)
        gram = _gram(network, x, basis, inputs)
        gram += torch.kron(features, torch.eye(basis.shape[1]).to(gram))
        return cls(network, x, residual, basis, gram, features)

    @property
    def energy(self) -> float:
        """||R||^2."""
        return float(self.residual.square().sum())

    def change(self, damping: float) -> tuple[list[Tensor], float]:
        """The changes of the trained parameters, and by how much ||R||^2 falls in the linear model.

        Args:
            damping: mu over the mean diagonal of J J^T, above 0.
        """
        residual, basis = self.residual, self.basis
        diagonals = [m.diagonal() for m in (self.gram, self.outside) if m is not None]
        mu = damping * float(torch.cat(diagonals).mean())
        inside = residual if basis is None else residual @ basis
        dual = _damped(self.gram, inside.reshape(-1, 1), mu).reshape(inside.shape)
        if basis is not None and self.outside is not None:
            dual = dual @ basis.T + _damped(self.outside, residual - inside @ basis.T, mu)
        trained = [p for p in self.network.parameters() if p.requires_grad]
        with torch.enable_grad():
            change = torch.autograd.grad(self.network(self.x), trained, dual)
        return list(change), self.energy - mu**2 * float(dual.square().sum())


class GaussNewtonSteps(Optimizer):
    """Damped Gauss-Newton steps on all samples, each of which lowers the sum of squared residuals.

    All is computed in float64, and the weights are stored with their own precision. The damping,
    which follows the gain ratio (Marquardt 1963), is in checkpoints.

    >>> from lit_recon.models import Autoencoder
    >>> model, x = Autoencoder(d=4, k=4, widths=[8]).double(), torch.eye(4).double()
    >>> optimiser = GaussNewtonSteps(model.parameters(), 1e-4, lambda: (model, x, x))
    >>> for _ in range(4):
    ...     _ = optimiser.step()
    >>> bool((model(x) - x).abs().max() < 1e-12)
    True

    Args:
        parameters: the trained parameters.
        damping: of the first step, relative to the mean diagonal of the Gram matrix.
        problem: gives the network, the inputs (n, *input shape) and the targets (n, k).
    """

    def __init__(self, parameters: Iterable[Parameter], damping: float, problem: Problem) -> None:
        super().__init__(parameters, {"damping": damping})
        self._problem = problem

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        loss = evaluated(closure)
        network, x, y = self._problem()
        exact, x, y = deepcopy(network).double(), x.double(), y.double()
        at = Linearised.at(exact, x, y)
        (group,) = self.param_groups
        trained: list[Tensor] = [p for p in exact.parameters() if p.requires_grad]
        start = [p.clone() for p in trained]
        while at.energy > 0 and group["damping"] <= GREATEST:
            change, promised = at.change(group["damping"])
            torch._foreach_add_(trained, change)
            gained = at.energy - float((y - exact(x)).square().sum())
            if gained > 0:
                for stored, p in zip(group["params"], trained, strict=True):
                    stored.copy_(p)
                ratio = gained / promised
                group["damping"] = damping_after(group["damping"], ratio, FALL, SMALLEST)
                return loss
            torch._foreach_copy_(trained, start)
            group["damping"] *= RISE
        group["damping"] = min(group["damping"], GREATEST)
        return loss


def trained_layers(network: nn.Module) -> list[nn.Linear]:
    """The dense layers that are trained.

    Raises:
        InputError: a layer of another kind is trained, too.
    """
    layers = []
    for layer in network.modules():
        if any(p.requires_grad for p in layer.parameters(recurse=False)):
            if not isinstance(layer, nn.Linear):
                remedy = f"trains dense layers, not {type(layer).__name__}; give Adam"
                raise InputError("--optim", "GaussNewton", remedy)
            layers.append(layer)
    return layers


@torch.no_grad()
def check_size(network: Model, n: int, k: int) -> None:
    """Refuse a network or a number of samples for which a step would take too long.

    Args:
        network: the network at its start.
        n: training samples.
        k: outputs.

    Raises:
        InputError: there are too many rows, or a layer of another kind is trained.
    """
    trained_layers(network)
    r = k
    if isinstance(network, ReadoutModel):
        start = range_of(network.readout.weight.double()).shape[1]
        r = min(start + n, network.p, k)
    if n * r > LARGEST:
        what = f"needs a matrix of {n * r} rows here, of {LARGEST} at most"
        remedy = "give fewer samples, or a readout that starts at 0"
        raise InputError("--optim", "GaussNewton", f"{what}; {remedy}")


def range_of(weight: Tensor) -> Tensor:
    """(k, r) an orthonormal basis of the range of a matrix (k, p).

    >>> range_of(torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)).shape
    torch.Size([2, 1])
    """
    values, right = torch.linalg.eigh(weight.T @ weight)
    kept = values > values[-1].clamp_min(torch.finfo(values.dtype).tiny) * RANK**2
    return torch.linalg.qr(weight @ right[:, kept]).Q


def _passed(
    network: Model, x: Tensor, layers: Iterable[nn.Linear]
) -> tuple[Tensor, dict[nn.Linear, tuple[Tensor, Tensor]]]:
    """The outputs (n, k) of a network, and the inputs and outputs (n, s) of some layers."""
    passed: dict[nn.Linear, tuple[Tensor, Tensor]] = {}

    def keep(layer: nn.Linear, given: tuple[Tensor, ...], output: Tensor) -> None:
        passed[layer] = given[0], output

    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        output: Tensor = network(x)
    finally:
        for handle in handles:
            handle.remove()
    return output, passed


def _gram(network: Model, x: Tensor, basis: Tensor, inputs: dict[nn.Linear, Tensor]) -> Tensor:
    """(n r, n r) J J^T for the parameters of the layers in `inputs`.

    Args:
        network: in float64.
        x: (n, *input shape).
        basis: (k, r) the outputs that count.
        inputs: (n, s) of every layer.
    """
    n, r = len(x), basis.shape[1]
    gram = x.new_zeros(n * r, n * r)
    if not inputs or not r:
        return gram
    with torch.enable_grad():
        output, passed = _passed(network, x, inputs)
        outputs = [passed[layer][1] for layer in inputs]
        slopes = [
            torch.autograd.grad(output, outputs, weights.expand(n, -1), retain_graph=True)
            for weights in basis.T
        ]  # r times (n, width) of every layer
    for (layer, h), parts in zip(inputs.items(), zip(*slopes, strict=True), strict=True):
        slope = torch.stack(parts, 1).flatten(0, 1)  # (n r, width)
        shared = _products(h, layer).repeat_interleave(r, 0).repeat_interleave(r, 1)
        gram += (slope @ slope.T).mul_(shared)
    return gram


def _products(h: Tensor, layer: nn.Linear) -> Tensor:
    """(n, n) products of a dense layer's inputs (n, s), to which a bias adds an input of 1."""
    products = h @ h.T
    return products if layer.bias is None else products + 1


def _damped(gram: Tensor, right: Tensor, mu: float) -> Tensor:
    """Solve (gram + mu) a = right; where rounding leaves no factor, with a larger mu."""
    eye = torch.eye(len(gram)).to(gram)
    factor, failed = torch.linalg.cholesky_ex(gram + mu * eye)
    while bool(failed):
        mu *= RISE
        factor, failed = torch.linalg.cholesky_ex(gram + mu * eye)
    return torch.cholesky_solve(right, factor)
