"""Reconstruction from the KKT conditions of training (Haim et al. 2022, Buzaglo et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from lit_recon.activations import Activation
from lit_recon.errors import InputError
from lit_recon.knowledge import Knowledge
from lit_recon.methods.base import Earlier, Outcome, Reconstruction, Reconstructor, check_numbers
from lit_recon.methods.kkt import outcomes
from lit_recon.methods.kkt.numbers import DESCRIBED
from lit_recon.methods.kkt.problem import Problem
from lit_recon.methods.kkt.settings import Duals, Prior, Settings, StartFlag, TaskFlag
from lit_recon.methods.kkt.start import SLOPE, Start, from_components, from_noise, input_unit
from lit_recon.metrics.numbers import Number
from lit_recon.models import Interpolator
from lit_recon.models.base import class_name
from lit_recon.models.first_layer import has_weights
from lit_recon.objectives.kkt import (
    KKTObjective,
    KKTPoint,
    TrainedMultipliers,
    block_targets,
)
from lit_recon.solvers import MomentumDescent, Monitor, OnStep, Solution, Solver, Stop, minimise
from lit_recon.solvers.adam import AdaptiveDescent

# The authors' settings of their better CIFAR-10 run (Haim et al., run b9dfyspx).
PUBLISHED_LR, PUBLISHED_STD, PUBLISHED_SLOPE = 0.5549, 8.857e-4, 19.14
# With eliminated multipliers.
COMPONENTS_LR = 0.05  # of errors in units of their expected size
NOISE_LR = 0.02  # of inputs in units of a photograph's standard deviation
NOISE_STD = 1e-3
SLOW, PATIENCE = 1e-3, 20  # a start has ended after so many steps that lower the loss by less
SAME = 0.1  # direction error up to which two starts have found the same candidate

# Of PyTorch's own modules; others have weights or slopes that the objective does not know.
KNOWN = (
    *(nn.Linear, nn.Conv2d, nn.ReLU, nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout),
    *(nn.Sequential, nn.ModuleList),
)


class KKTReconstructor(Reconstructor):
    """Inputs whose gradients add up to the trained weights.

    Training on a margin, or with weight decay, ends where the weights are a combination of the
    training samples' gradients. Candidates are sought for which this holds. With the defaults they
    begin at the independent components of the final first layer's row space, where the network has
    one, or at noise, and the multipliers of the combination are eliminated; class labels are those
    of the network's own outputs. With ``duals: trained`` it is the authors' attack.

    >>> from lit_recon.models import DeepMLP
    >>> model = DeepMLP(d=12, k=1, widths=[8], first_layer_std=1e-4)
    >>> KKTReconstructor().reconstruct(Knowledge(model, n=2)).status  # it is not trained
    'not_stationary'

    Args:
        task: what the weights are a combination of: ``binary``, gradients of y f; ``multiclass``,
            of the margin to the runner-up; ``general``, of all outputs, with multipliers of any
            sign, as with weight decay and any loss; ``auto`` is ``binary`` for one output, and for
            several ``multiclass`` with trained multipliers and else ``general``, which includes it.
        duals: ``eliminated`` solves for the multipliers at every step; ``trained`` learns them
            beside the candidates, with fixed labels in equal blocks, as published.
        start: ``rowspace`` begins at the independent components of the final first layer's row
            space, ``noise`` at noise; ``auto`` at components where there are some, and with
            trained multipliers always at noise.
        prior: the range that pixels should be in: ``pixels`` is 0..255 where the pixel scale is
            known; ``unit`` is [-1, 1] of the inputs, as published; ``none``.
        candidates: their number m at a start from noise, at least 1; null: two for each training
            sample, as published.
        surrogate_slope: a in the slope sigmoid(a z) of ReLU, above 0; with eliminated multipliers
            in units of 1 / rms(z); null: 100, or 19.14 with trained multipliers.
        lr: learning rate of the candidates, above 0; with eliminated multipliers Adam's, in units
            of a photograph's contrast or of the components' expected error; null: 0.05 for
            components and 0.02 for noise, or 0.5549 with trained multipliers.
        dual_lr: learning rate of trained multipliers, above 0.
        start_std: standard deviation of a start from noise, above 0; null: 1e-3, or 8.857e-4 with
            trained multipliers.
        min_dual: floor of trained multipliers of margins, 0 or more.
        starts: independent starts from noise, at least 1; the one with the least loss counts, and
            whether two agree is evidence.
        steps: largest number of solver steps of a start, at least 1.
        max_seconds: time budget of one reconstruction in seconds, above 0.
        seed: seed of the attack's own generator, 0 or more; null: --run.seed.
        evidence_against: ``stop`` ends an attack at once on weights that are no combination of
            gradients at any inputs, by the norms of their neurons, or whose output is not
            homogeneous where the task is a margin; ``ignore`` attacks nevertheless.
        enabled: false trains and saves checkpoints without reconstructing.

    Raises:
        InputError: a number is out of its range, or settings exclude each other.
    """

    citation: ClassVar[str] = (
        "Haim, Vardi, Yehudai, Shamir, Irani 2022, arXiv 2206.07758; Buzaglo et al. 2023, arXiv"
        " 2307.01827"
    )
    cost: ClassVar[float] = 1000.0
    automatic: ClassVar[bool] = False
    describes: ClassVar[tuple[Number, ...]] = DESCRIBED

    def __init__(
        self,
        task: TaskFlag = "auto",
        duals: Duals = "eliminated",
        start: StartFlag = "auto",
        prior: Prior = "pixels",
        candidates: int | None = None,
        surrogate_slope: float | None = None,
        lr: float | None = None,
        dual_lr: float = 1e-4,
        start_std: float | None = None,
        min_dual: float = 0.4983,
        starts: int = 2,
        steps: int = 50_000,
        max_seconds: float = 60.0,
        seed: int | None = None,
        evidence_against: Literal["stop", "ignore"] = "stop",
        enabled: bool = True,
    ) -> None:
        for flag, value in (
            ("surrogate_slope", surrogate_slope),
            ("lr", lr),
            ("dual_lr", dual_lr),
            ("start_std", start_std),
        ):
            if value is not None and not (isfinite(value) and value > 0):
                raise InputError(f"--recon.{flag}", value, "give a finite number above 0")
        if not (isfinite(min_dual) and min_dual >= 0):
            raise InputError("--recon.min_dual", min_dual, "give 0 or more")
        count = 1 if candidates is None else candidates
        check_numbers(
            max_seconds, seed, candidates=(count, 1), starts=(starts, 1), steps=(steps, 1)
        )
        if duals == "trained" and start == "rowspace":
            remedy = "needs --recon.duals eliminated: components have no labels in blocks"
            raise InputError("--recon.start", start, remedy)
        self.settings = Settings(
            task=task,
            duals=duals,
            start=start,
            prior=prior,
            candidates=candidates,
            surrogate_slope=surrogate_slope,
            lr=lr,
            dual_lr=dual_lr,
            start_std=start_std,
            min_dual=min_dual,
            starts=starts,
            steps=steps,
            ignore_evidence=evidence_against == "ignore",
        )
        self.max_seconds = max_seconds
        self.seed = seed or 0
        self.enabled = enabled

    @property
    def name(self) -> str:
        return "kkt"

    @property
    def asks(self) -> frozenset[str]:
        asked = {"pixels", "shape"}
        if self.settings.candidates is None and self.settings.start != "rowspace":
            asked.add("n")
        return frozenset(asked)

    def check(self, model: nn.Module) -> None:
        """Refuse a network that is no chain of dense and convolutional layers with ReLU.

        Raises:
            InputError: the network cannot be attacked.
        """
        kind, method = class_name(model), type(self).__name__
        if isinstance(model, Interpolator):
            raise InputError("--recon", method, f"follows gradients, and {kind} has none")
        layers = [module for module in model.modules() if has_weights(module)]
        if sum(any(p.requires_grad for p in layer.parameters()) for layer in layers) < 2:
            raise InputError("--recon", method, f"needs two trained layers; {kind} has fewer")
        activation = getattr(model, "activation", None)
        if isinstance(activation, Activation) and activation.name != "relu":
            remedy = f"attacks ReLU networks, and {kind} has {activation.name}"
            raise InputError("--recon", method, remedy)
        other = (m for m in model.modules() if type(m).__module__.startswith("torch.nn"))
        odd = next((m for m in other if not isinstance(m, KNOWN)), None)
        if odd is not None:
            remedy = f"attacks dense and convolutional layers with ReLU, and {kind} has"
            remedy += f" a {type(odd).__name__}"
            raise InputError("--recon", method, remedy)

    def attack(
        self,
        knowledge: Knowledge,
        generator: torch.Generator,
        on_step: OnStep | None,
        earlier: Earlier | None,
    ) -> Reconstruction:
        monitor = Monitor(self.max_seconds, on_step)
        problem = Problem.of(knowledge, self.settings)
        against = problem.against()
        usable = against is None
        if against is not None and self.settings.ignore_evidence:
            against = None if against.status.startswith("not_") else against
        found = None
        if against is None:
            found = _Attack(self.settings, problem, monitor, generator).run(knowledge.n)
            against = found.outcome

        def at_truth(x: Tensor) -> Mapping[str, Any]:
            value = problem.stationarity(x.to(problem.weight)) if usable else None
            return {"oracle_stationarity": value}

        candidates = problem.weight.new_zeros(0, problem.d) if found is None else found.candidates
        return Reconstruction(
            candidates=candidates.cpu().float(),
            outcome=against,
            numbers={
                "kkt_loss": nan if found is None else found.loss,
                "stationarity": nan if found is None else found.stationarity,
                "imbalance": problem.imbalance,
                "steps": len(monitor.rows),
            },
            at_truth=at_truth,
            curve=monitor.rows,
            seconds=monitor.seconds,
        )


@dataclass(frozen=True)
class _Found:
    """The end of an attack.

    Attributes:
        candidates: (m, d).
        loss: the objective there.
        stationarity: the same without prior and surrogate slope.
        outcome: how it ended.
    """

    candidates: Tensor
    loss: float
    stationarity: float
    outcome: Outcome


@dataclass(frozen=True)
class _Attack:
    """One attack on a problem."""

    settings: Settings
    problem: Problem
    monitor: Monitor
    generator: torch.Generator

    def run(self, n: int | None) -> _Found:
        """Candidates from components, or else from noise; n is the number of training samples."""
        settings, components = self.settings, None
        if not settings.trained and settings.start != "noise":
            components = from_components(self.problem, self.generator)
        if components is not None:
            end = self._descend(components, settings.lr or COMPONENTS_LR, "components")
            return self._told([(components, end)])
        if settings.start == "rowspace":
            empty = self.problem.weight.new_zeros(0, self.problem.d)
            return _Found(empty, nan, nan, outcomes.NO_COMPONENTS)
        m = settings.candidates or (2 * n if n is not None else None)
        if m is None:
            remedy = "needs the number of training samples; give a number"
            raise InputError("--recon.candidates", "null", remedy)
        if settings.trained:
            return self._told([self._published(m)])
        ends = []
        for i in range(settings.starts):
            start = from_noise(
                self.problem,
                m,
                settings.start_std or NOISE_STD,
                input_unit(self.problem),
                self.generator,
            )
            left = self.monitor.max_seconds - self.monitor.seconds
            until = self.monitor.seconds + left / (settings.starts - i)
            ends.append((start, self._descend(start, settings.lr or NOISE_LR, "noise", until)))
        return self._told(ends)

    def _descend(
        self, start: Start, lr: float, phase: str, until: float | None = None
    ) -> Solution[KKTPoint]:
        """Adam with eliminated multipliers."""
        noise = start.ball is None
        objective = KKTObjective(
            start.network,
            self.problem.task,
            start.as_inputs,
            # From noise, outputs would put all candidates into one class.
            targets=block_targets(len(start.z), self.problem.k) if noise else None,
            slope=self.settings.surrogate_slope or SLOPE,
            relative=True,
            bounds=self.problem.bounds,
            as_pixels=start.as_pixels,
            ball=start.ball,
        )
        solver: Solver[KKTPoint] = AdaptiveDescent(lr=lr)
        stop = Stop(min_decrease=SLOW, patience=PATIENCE, max_steps=self.settings.steps)
        whole = self.monitor.max_seconds
        self.monitor.max_seconds = whole if until is None else until
        try:
            return minimise(objective, start.z, solver, stop, self.monitor, phase)
        finally:
            self.monitor.max_seconds = whole

    def _published(self, m: int) -> tuple[Start, Solution[KKTPoint]]:
        """The authors' attack: two gradient descents with momentum 0.9, labels in blocks."""
        settings, problem = self.settings, self.problem
        lr = settings.lr or PUBLISHED_LR
        std = settings.start_std or PUBLISHED_STD
        start = from_noise(problem, m, std, 1.0, self.generator)
        multipliers = TrainedMultipliers(
            m, problem.q, problem.d, settings.min_dual, settings.dual_lr / lr
        )
        draw = torch.randn if problem.task == "general" else torch.rand
        values = draw(m, problem.q, generator=self.generator).to(problem.weight)
        objective = KKTObjective(
            problem.model,
            problem.task,
            start.as_inputs,
            targets=block_targets(m, problem.k),
            multipliers=multipliers,
            slope=settings.surrogate_slope or PUBLISHED_SLOPE,
            bounds=problem.bounds,
        )
        z = multipliers.joined(start.z, values)
        solver: Solver[KKTPoint] = MomentumDescent(lr=lr, momentum=0.9)
        stop = Stop(max_steps=settings.steps)
        return start, minimise(objective, z, solver, stop, self.monitor, "published")

    def _told(self, ends: list[tuple[Start, Solution[KKTPoint]]]) -> _Found:
        """The best of several ends, and whether the two best agree."""
        ends = sorted(ends, key=lambda end: float(end[1].at.loss))
        found = [start.as_pixels(end.at.candidates) for start, end in ends]
        agreed = _shared(found[0], found[1]) if len(found) > 1 else None
        at, status = ends[0][1].at, ends[0][1].status
        loss, x = float(at.loss), found[0]
        if not isfinite(loss):
            return _Found(x, loss, nan, outcomes.NONFINITE)
        stationarity = self.problem.stationarity(x)
        return _Found(x, loss, stationarity, outcomes.ended(status.sentence, stationarity, agreed))


def _shared(x: Tensor, other: Tensor) -> float:
    """The share of candidates (m, d) that are also among others (l, d), up to their norm."""
    units = [nn.functional.normalize(part.double()) for part in (x, other)]
    cosines = (units[0] @ units[1].T).amax(1)
    return float(((2 - 2 * cosines).clamp_min(0).sqrt() < SAME).double().mean())
