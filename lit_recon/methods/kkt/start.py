"""Where candidates begin, and the coordinates in which they move.

From noise, the unknowns are the inputs. Where the final first layer is dense and its row space is
that of the training inputs, the independent components c_i of this space are images already
(see `methods.rowspace`), up to errors whose expected size s_ki is known: c = (I + E) x with
E_ki ~ N(0, s_ki^2). So the unknowns are the entries of E in units of their expected size, in a
ball, and the network reads the coordinates of candidates in the row space.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_recon.errors import InputError
from lit_recon.knowledge import DenseLayer
from lit_recon.methods.kkt.problem import Problem
from lit_recon.methods.rowspace.components import component_spread
from lit_recon.methods.rowspace.final import approximate_inputs
from lit_recon.methods.rowspace.images import PHOTOGRAPH
from lit_recon.models.first_layer import first_dense_layer, read_coordinates
from lit_recon.objectives.kkt import KKTObjective

SLOPE = 100.0  # of ReLU's surrogate, in units of 1 / rms(z); from 30 to 1000 the ends are alike
BALL = 0.5  # rms of E in units of its expected size
OWN_SCALE = 0.05  # expected error of the scale of a component
ALIKE = 1e-3  # relative error of the network that reads coordinates


@dataclass(frozen=True)
class Start:
    """Candidates as unknowns z.

    Attributes:
        z: where to begin, (m, d), or (m, m) with components.
        network: a network that reads `as_inputs` of the unknowns.
        as_inputs: unknowns to the network's inputs.
        as_pixels: unknowns to candidates (m, d).
        ball: largest rms of z; None: z is free.
    """

    z: Tensor
    network: nn.Module
    as_inputs: Callable[[Tensor], Tensor]
    as_pixels: Callable[[Tensor], Tensor]
    ball: float | None = None


def from_noise(problem: Problem, m: int, std: float, unit: float, random: torch.Generator) -> Start:
    """m candidates N(0, (std unit)^2), in coordinates of which one is `unit` of an input."""
    z = std * torch.randn(m, problem.d, generator=random).to(problem.weight)
    return Start(
        z=z,
        network=problem.model,
        as_inputs=lambda z: problem.shaped(unit * z),
        as_pixels=lambda z: unit * z,
    )


def input_unit(problem: Problem) -> float:
    """The standard deviation of a photograph's pixels, in units of the inputs."""
    return 1.0 if problem.frame is None else 255 * PHOTOGRAPH / problem.frame.level


def from_components(problem: Problem, random: torch.Generator) -> Start | None:
    """The independent components of the first layer's row space; None: there are none."""
    found = _components(problem, random)
    if found is None or not len(found[0]):
        return None
    x, signed = found
    frame = problem.frame
    assert frame is not None
    if not signed:
        x = _with_signs(problem, x)
    pixels = x * frame.level * torch.tensor(frame.weights)
    if frame.offset is not None:
        pixels = pixels + torch.tensor(frame.offset)
    spread = component_spread(pixels, frame.shape)
    errors = (spread + OWN_SCALE * torch.eye(len(x))).to(problem.weight)
    rows = torch.linalg.qr(x.T).Q.T  # (r, d)
    images, inside = x.to(problem.weight), (x @ rows.T).to(problem.weight)
    reduced = _reading_coordinates(problem, rows, inside)
    read = (lambda z: inside + (errors * z) @ inside) if reduced else None
    return Start(
        z=torch.zeros(len(x), len(x)).to(problem.weight),
        network=reduced or problem.model,
        as_inputs=read or (lambda z: problem.shaped(images + (errors * z) @ images)),
        as_pixels=lambda z: images + (errors * z) @ images,
        ball=BALL,
    )


def _components(problem: Problem, random: torch.Generator) -> tuple[Tensor, bool] | None:
    """Inputs (r, d) float64 on the CPU, and whether their signs are known."""
    frame = problem.frame
    if frame is None:
        return None
    try:
        name, dense = first_dense_layer(problem.model)
    except InputError:
        return None
    bias = None if dense.bias is None else dense.bias.detach()
    return approximate_inputs(DenseLayer(name, dense.weight.detach(), bias), frame, random)


def _with_signs(problem: Problem, x: Tensor) -> Tensor:
    """Components with the sign whose gradient explains more of the weights."""
    both = torch.cat([x, -x]).to(problem.weight)
    # ReLU's own slopes are too rough for components with errors: some signs come out wrong.
    objective = KKTObjective(
        problem.model, problem.task, problem.shaped, slope=SLOPE, relative=True
    )
    share = objective.eliminated(both).multipliers.norm(dim=1).view(2, -1).to(x)
    return torch.where(share[0] >= share[1], 1.0, -1.0)[:, None] * x


def _reading_coordinates(problem: Problem, rows: Tensor, inside: Tensor) -> nn.Module | None:
    """The network on inputs ``z rows``, as one that reads z; None: it reads inputs otherwise.

    The gradient of a weight W by z is that of W rows^T, and what W has outside the rows is no
    combination of the candidates' gradients in any case.
    """
    network = copy.deepcopy(problem.model)
    read_coordinates(network, rows.T)
    try:
        with torch.no_grad():
            found = network(inside)
            expected = problem.model(problem.shaped(inside @ rows.to(inside)))
    except RuntimeError:  # it reshapes its inputs
        return None
    return network if (found - expected).norm() <= ALIKE * expected.norm() else None
