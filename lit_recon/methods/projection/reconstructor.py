"""Reconstruction from the projection loss (Iurada, Bombari, Tommasi, Mondelli 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite, nan
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from lit_recon.errors import InputError
from lit_recon.knowledge import Knowledge
from lit_recon.methods.base import Earlier, Outcome, Reconstruction, Reconstructor, check_numbers
from lit_recon.methods.projection import outcomes
from lit_recon.methods.projection.count import run_counted
from lit_recon.methods.projection.layer import LayerProblem, layer_problem
from lit_recon.methods.projection.layer_strategy import LayerStrategy
from lit_recon.methods.projection.network import NetworkStrategy, network_problem
from lit_recon.methods.projection.numbers import DESCRIBED
from lit_recon.methods.projection.problem import Problem, loss_at, on_pixels, refused
from lit_recon.methods.projection.settings import EvenStage, Settings
from lit_recon.methods.projection.strategy import Ending, Strategy
from lit_recon.metrics.certificate import certify
from lit_recon.metrics.numbers import Number
from lit_recon.metrics.scores import matched_error_abs
from lit_recon.models import OneHiddenLayer, ReadoutModel
from lit_recon.models.base import class_name
from lit_recon.solvers import GaussNewton, Monitor, OnStep, Solver, Status, Stop


class ProjectionReconstructor(Reconstructor):
    """Inputs whose features span the trained readout.

    With the defaults, the attack first removes the linear part of the activation. Candidates start
    in a spectral subspace at low image resolution. Gauss-Newton with spare candidates finds them up
    to sign, and one least-squares fit finds the signs. Then the plain loss is minimised until every
    candidate is an image of integer pixels, or the loss reaches its floor in float32; last steps
    use residuals in float64. Close to the threshold, basin hopping on the plain loss comes first.
    The attack never uses the training data.

    >>> from lit_recon.models import RandomFeatures
    >>> model = RandomFeatures(d=8, k=1, n=2, p=64)  # its readout is 0 as long as it is not trained
    >>> ProjectionReconstructor().reconstruct(Knowledge(model, n=2)).status
    'no_signal'

    Args:
        solver: GaussNewton, or MomentumDescent as in the paper.
        max_seconds: time budget of one reconstruction in seconds, above 0; when it is over, the
            best candidates so far are returned.
        restarts: new starts from noise after the first one, 0 or more.
        rounds: number of rounds of single-candidate restarts without progress after which the
            search stops them, 0 or more; 0 turns them off.
        hops: number of perturbations of all candidates without progress after which the search
            stops them, 0 or more; used near the threshold; 0 turns them off.
        candidates: number of candidates m; null: the number of training samples; ``auto`` estimates
            it from the weights.
        spare: additional candidates during the search, 0 or more; 0 also turns single-candidate
            restarts off.
        even_stage: ``auto`` first removes the activation's linear part if there are enough
            equations, ``never`` only minimises the plain loss.
        spectral_start: true starts in the spectral subspace, false starts from noise.
        polish: true adds last Gauss-Newton steps with residuals in float64, once the loss is at the
            floor of float32.
        max_steps: largest number of solver steps in one phase, at least 1.
        loss: loss at which a phase ends, 0 or more; 0: the numerical floor; the paper uses 1e-7.
        seed: seed of the attack's own generator, 0 or more; null: --run.seed.
        evidence: what the attacker has. ``readout``: the final weights and the initial readout;
            ``first_layer``: also the initial first layer, whose change during training restricts
            the candidates to the span of the training inputs; the first layer must be trained.
        warm_start: begin at the candidates of the previous checkpoint, if there is one.
        evidence_against: ``stop`` ends an attack at once if it cannot succeed: after an optimiser
            that breaks the span property, or if the first layer's change has no low rank;
            ``strict`` ends it also where there are fewer equations than unknown values (p below
            d n), so that wrong inputs fit too; ``ignore`` attacks nevertheless.
        enabled: false trains and saves checkpoints without reconstructing.
    """

    citation: ClassVar[str] = "Iurada, Bombari, Tommasi, Mondelli 2025, arXiv 2509.22214"
    cost: ClassVar[float] = 100.0
    describes: ClassVar[tuple[Number, ...]] = DESCRIBED

    def __init__(
        self,
        solver: Solver | None = None,
        max_seconds: float = 600.0,
        restarts: int = 20,
        rounds: int = 4,
        hops: int = 40,
        candidates: int | Literal["auto"] | None = None,
        spare: int = 3,
        even_stage: EvenStage = "auto",
        spectral_start: bool = True,
        polish: bool = True,
        max_steps: int = 1_000_000,
        loss: float = 0.0,
        seed: int | None = None,
        evidence: Literal["readout", "first_layer"] = "readout",
        warm_start: bool = True,
        evidence_against: Literal["stop", "strict", "ignore"] = "stop",
        enabled: bool = True,
    ) -> None:
        check_numbers(
            max_seconds,
            seed,
            restarts=(restarts, 0),
            rounds=(rounds, 0),
            hops=(hops, 0),
            candidates=(candidates if isinstance(candidates, int) else 1, 1),
            spare=(spare, 0),
            max_steps=(max_steps, 1),
        )
        if not (isfinite(loss) and loss >= 0):
            raise InputError("--recon.loss", loss, "give 0 or more")
        self.settings = Settings(
            solver=solver or GaussNewton(),
            stop=Stop(loss=loss, max_steps=max_steps),
            restarts=restarts,
            rounds=rounds,
            hops=hops,
            candidates=candidates,
            spare=spare,
            even_stage=even_stage,
            spectral_start=spectral_start,
            polish=polish,
            evidence_against=evidence_against,
        )
        self.evidence = evidence
        self.max_seconds = max_seconds
        self.seed = seed or 0
        self.warm_start = warm_start
        self.enabled = enabled

    @property
    def name(self) -> str:
        return "projection" if self.evidence == "readout" else "projection_first_layer"

    @property
    def asks(self) -> frozenset[str]:
        asked = {*self.needs, "initial_share", "pixels", "radius", "shape"}
        if self.settings.evidence_against != "ignore":
            asked.add("optimiser_keeps_span")
        return frozenset(asked)

    @property
    def needs(self) -> frozenset[str]:
        needed = {"initial_readout"}
        if self.evidence == "first_layer":
            needed.add("earlier_first_layer")
        if self.settings.candidates is None:
            needed.add("n")
        return frozenset(needed)

    def check(self, model: nn.Module) -> None:
        kind = class_name(model)
        if not isinstance(model, ReadoutModel):
            remedy = f"attacks a linear readout; {kind} has none"
            raise InputError("--recon", type(self).__name__, remedy)
        layer = isinstance(model, OneHiddenLayer)
        if self.evidence == "first_layer" and (not layer or model.frozen):
            remedy = f"needs one hidden layer without biases, which is trained; {kind} has none"
            raise InputError("--recon.evidence", "first_layer", remedy)
        if self.settings.candidates == "auto" and not layer:
            remedy = f"needs one hidden layer, and {kind} has more; give a number"
            raise InputError("--recon.candidates", "auto", remedy)

    @torch.no_grad()
    def attack(
        self,
        knowledge: Knowledge,
        generator: torch.Generator,
        on_step: OnStep | None,
        earlier: Earlier | None,
    ) -> Reconstruction:
        strategy = self._strategy(knowledge, generator, on_step)
        monitor = strategy.monitor
        against = refused(strategy.problem) or self._evidence_against(knowledge, strategy.problem)
        warm = False
        if against is None:
            strategy, ending = self._run(strategy, earlier)
            warm = ending.warm
            candidates, loss = ending.solution.at.candidates, float(ending.solution.at.loss)
            outcome = outcome_of(ending, strategy.problem)
        else:
            candidates = strategy.problem.noise(strategy.problem.m, generator)
            loss, outcome = nan, against
        problem = strategy.problem
        candidates, certificates = problem.inputs(candidates), None
        if problem.pixels is not None:
            certificates = certify(candidates.cpu(), problem.pixels)
            candidates = on_pixels(candidates, certificates, problem.pixels, problem.radius)
        return Reconstruction(
            candidates=candidates.cpu(),
            outcome=outcome,
            certificates=certificates,
            numbers={
                "projection_loss": loss,
                "steps": len(monitor.rows),
                "applications": monitor.applications,
                "restarts": monitor.restarts,
            },
            at_truth=lambda x: numbers_at(problem, candidates, x),
            curve=monitor.rows,
            sign_blind=problem.sign_blind,
            warm=warm,
            seconds=monitor.seconds,
        )

    def _strategy(
        self, knowledge: Knowledge, generator: torch.Generator, on_step: OnStep | None
    ) -> Strategy:
        settings = self.settings
        m = knowledge.n if settings.candidates is None else settings.candidates
        if m is None:
            remedy = "needs the number of training samples; give a number or auto"
            raise InputError("--recon.candidates", "null", remedy)
        if self.evidence == "first_layer" and knowledge.earlier_first_layer is None:
            remedy = "needs the first layer at an earlier checkpoint, which is not known here"
            raise InputError("--recon.evidence", "first_layer", remedy)
        if isinstance(knowledge.model, OneHiddenLayer):
            problem = layer_problem(knowledge, None if m == "auto" else m, generator)
            monitor = Monitor(self.max_seconds, on_step, problem.ranks)
            return LayerStrategy(settings, problem, monitor, generator)
        assert m != "auto"  # `check` has refused it
        network = network_problem(knowledge, m)
        monitor = Monitor(self.max_seconds, on_step, network.ranks)
        return NetworkStrategy(settings, network, monitor, generator)

    def _evidence_against(self, knowledge: Knowledge, problem: Problem) -> Outcome | None:
        """The outcome if success is known to be impossible; None otherwise."""
        if self.settings.evidence_against == "ignore":
            return None
        if knowledge.optimiser_keeps_span is False:
            return outcomes.SPAN_BROKEN
        if isinstance(problem, LayerProblem) and not problem.low_rank:
            return outcomes.NO_LOW_RANK
        if self.settings.evidence_against == "strict" and not _determined(problem):
            return outcomes.TOO_FEW
        return None

    def _run(self, strategy: Strategy, earlier: Earlier | None) -> tuple[Strategy, Ending]:
        """Run the attack; returns the strategy with its final number of candidates, and its end."""
        auto = self.settings.candidates == "auto"
        if auto and isinstance(strategy, LayerStrategy) and strategy.problem.basis is None:
            return run_counted(strategy, earlier)
        return strategy, strategy.finish(strategy.run(earlier))


def outcome_of(ending: Ending, problem: Problem) -> Outcome:
    """The outcome of an attack from the end of its iteration."""
    status = ending.solution.status
    outcome = outcomes.AGREED if ending.agreed else outcomes.OF_STATUS[status]
    at_floor = ending.agreed or status is Status.CONVERGED
    return outcomes.UNDERDETERMINED if at_floor and not _determined(problem) else outcome


def _determined(problem: Problem) -> bool:
    """Whether there are at least as many equations as unknown values."""
    return problem.equations >= problem.m * problem.unknowns


def numbers_at(problem: Problem, candidates: Tensor, x: Tensor) -> Mapping[str, Any]:
    """The numbers of candidates (m, d) that need the true inputs (n, d)."""
    return {
        "oracle_loss": loss_at(problem, x),
        "matched_error_abs": matched_error_abs(x, candidates),
        "p_over_dn": problem.equations / (len(x) * problem.d),
    }
