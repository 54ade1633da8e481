"""What is attacked: a copy of the network, what its scalars are, and the evidence against it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from math import nan, prod

import torch
from torch import Tensor, nn

from lit_recon.errors import InputError
from lit_recon.knowledge import Knowledge
from lit_recon.methods.base import Outcome
from lit_recon.methods.kkt import outcomes
from lit_recon.methods.kkt.settings import Prior, Settings
from lit_recon.methods.rowspace import Frame
from lit_recon.models.base import class_name
from lit_recon.models.first_layer import first_dense_layer
from lit_recon.objectives.balance import imbalance, relu_chain
from lit_recon.objectives.kkt import Bounds, KKTObjective, Task, own_targets
from lit_recon.objectives.stationarity import gradient_products, trained_parameters

PROBES = 8  # random inputs at which the network is looked at
# Haim et al.'s network (n = 50) has an imbalance of .999 before training, .97 at a margin of 3, .95
# at 12, about where their training ends, and .14 at 4e4: its second layer moves late.
MOST_IMBALANCE = 0.98


@dataclass(frozen=True)
class Problem:
    """A network to be attacked.

    Attributes:
        model: a copy of it in eval mode.
        task: what its scalars are.
        shape: of an input.
        k: number of outputs.
        frame: how inputs lie in pixels; None: they are no images.
        bounds: the range of inputs; None: not known.
        imbalance: lower bound of the stationarity; NaN: the network is no chain of ReLU layers.
    """

    model: nn.Module
    task: Task
    shape: tuple[int, ...]
    k: int
    frame: Frame | None
    bounds: Bounds | None
    imbalance: float

    @classmethod
    def of(cls, knowledge: Knowledge, settings: Settings) -> Problem:
        """What the attacker knows, with a copy of the network.

        Raises:
            InputError: the shape of an input is not known.
        """
        model = copy.deepcopy(knowledge.model).eval()
        shape = knowledge.input_shape or _dense_shape(model)
        first = trained_parameters(model)[0]
        random = torch.Generator().manual_seed(0)
        probe = torch.randn(PROBES, *shape, generator=random).to(first)
        with torch.no_grad():
            k = model(probe[:1]).shape[1]
        task: Task = "binary" if k == 1 else "multiclass" if settings.trained else "general"
        if settings.task != "auto":
            task = settings.task
        if (task == "binary") > (k == 1) or (task == "multiclass") > (k > 1):
            remedy = f"the network has {k} outputs; give {'binary' if k == 1 else 'multiclass'}"
            raise InputError("--recon.task", task, remedy)
        chain = relu_chain(model, probe)
        plain = chain is not None and all(p.requires_grad for p in model.parameters())
        frame = Frame.of(shape, knowledge.pixels) if len(shape) == 3 else None
        return cls(
            model=model,
            task=task,
            shape=shape,
            k=k,
            frame=frame,
            bounds=_bounds(settings.prior, frame, first),
            imbalance=imbalance(chain) if chain is not None and plain else nan,
        )

    @property
    def d(self) -> int:
        """Numbers of one input."""
        return prod(self.shape)

    @property
    def weight(self) -> Tensor:
        """A trained parameter, whose type and device the candidates have."""
        return trained_parameters(self.model)[0].detach()

    @property
    def q(self) -> int:
        """Multipliers of each candidate."""
        return self.k if self.task == "general" else 1

    def shaped(self, x: Tensor) -> Tensor:
        """(m, *input shape) from candidates (m, d)."""
        return x.view(-1, *self.shape)

    def against(self) -> Outcome | None:
        """The outcome if it is known, without data, that the attack cannot succeed."""
        theta = trained_parameters(self.model)
        if not all(bool(p.isfinite().all()) for p in theta):
            return outcomes.NONFINITE
        if not any(bool(p.any()) for p in theta):
            return outcomes.NO_SIGNAL
        if self.task != "general" and not self._homogeneous():
            return outcomes.NOT_HOMOGENEOUS
        if self.imbalance > MOST_IMBALANCE:
            return outcomes.not_stationary(self.imbalance, MOST_IMBALANCE)
        return None

    def stationarity(self, x: Tensor) -> float:
        """||theta - sum lambda grad|| / ||theta|| at inputs (m, d), with the network's own slopes.

        Class targets are those of the network's outputs.
        """
        return KKTObjective(self.model, self.task, self.shaped).eliminated(x).residual

    def _homogeneous(self) -> bool:
        """Whether Euler's theorem holds for the outputs at random inputs."""
        random = torch.Generator().manual_seed(1)
        probe = torch.randn(PROBES, *self.shape, generator=random).to(self.weight)
        products = gradient_products(
            self.model, probe, lambda f: (own_targets(f.detach()) * f).sum(1)
        )
        return products.degree is not None


def _dense_shape(model: nn.Module) -> tuple[int, ...]:
    """The shape of an input that a dense first layer shows."""
    try:
        return (first_dense_layer(model)[1].in_features,)
    except InputError as error:
        remedy = "its attack needs the shape of an input"
        raise InputError("--model", class_name(model), remedy) from error


def _bounds(prior: Prior, frame: Frame | None, like: Tensor) -> Bounds | None:
    """The pixel prior in units of the inputs."""
    if prior == "unit":
        return Bounds(-1.0, 1.0)
    if prior == "none" or frame is None or frame.unit is None or frame.offset is None:
        return None
    ends = [torch.as_tensor((level - frame.offset) / frame.unit) for level in (0.0, 255.0)]
    return Bounds(ends[0].to(like), ends[1].to(like))
