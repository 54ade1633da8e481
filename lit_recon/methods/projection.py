"""Reconstruction from the projection loss (Iurada, Bombari, Tommasi, Mondelli 2025)."""

from __future__ import annotations

from math import isfinite, nan
from typing import Literal, cast

import torch

from lit_recon.errors import InputError
from lit_recon.knowledge import Knowledge
from lit_recon.methods.attack import Attack
from lit_recon.methods.base import Earlier, Reconstruction, Reconstructor
from lit_recon.methods.layer import layer_problem
from lit_recon.methods.layer_attack import LayerAttack
from lit_recon.methods.network import NetworkAttack, network_problem
from lit_recon.methods.problem import Problem, loss_at, on_pixels, refused
from lit_recon.metrics.certificate import certify
from lit_recon.models import OneHiddenLayer, ReadoutModel
from lit_recon.solvers import GaussNewton, Monitor, OnStep, Solver, Status, Stop


class ProjectionReconstructor(Reconstructor):
    """Inputs whose features span the trained readout.

    With the defaults: the linear part of the activation is taken out, candidates start in a
    spectral subspace at low image resolution, Gauss-Newton with spare candidates finds all of them
    up to sign, one least-squares fit tells the signs, and the plain loss is minimised until every
    candidate is an image of integer pixels or the loss is at its floor, where residuals in float64
    take it on. Close to the threshold the plain loss goes first, by basin hopping. Nothing of it
    looks at the training data.

    Args:
        solver: GaussNewton, or MomentumDescent as in the paper.
        max_seconds: time budget of one reconstruction in seconds, above 0; the best candidates so
            far are returned when it ends.
        restarts: fresh starts from noise after the first one, 0 or more.
        rounds: rounds of single-candidate restarts in a row without progress before something else
            is tried; 0 turns them off.
        hops: perturbations of all candidates in a row without progress before something else is
            tried, near the threshold; 0 turns them off.
        candidates: number of candidates m; null takes the number of training samples, ``auto``
            estimates it from the weights alone.
        spare: candidates beyond m during the search, 0 or more; 0 also turns single-candidate
            restarts off.
        even_stage: ``auto`` takes the linear part out where there are equations to spare, ``never``
            minimises the plain loss only.
        spectral_start: start in the spectral subspace; false starts from noise.
        polish: last Gauss-Newton steps with residuals in float64, where the loss is at the floor of
            float32.
        max_steps: solver steps of one phase, at least 1.
        loss: loss at which a phase ends, 0 for the numerical floor; the paper uses 1e-7.
        seed: seed of the attack's own generator, 0 or more; null: --run.seed.
        evidence: what the attacker holds. ``readout``: the final weights, and of the initial ones
            the readout; ``first_layer``: the initial first layer too, which must be a trained one:
            its change confines the candidates to the span of the training inputs.
        warm_start: begin at the candidates of the checkpoint before, where there is one.
        enabled: false trains and saves checkpoints without reconstructing.
    """

    citation = "Iurada, Bombari, Tommasi, Mondelli 2025, arXiv 2509.22214"

    def __init__(
        self,
        solver: Solver | None = None,
        max_seconds: float = 600.0,
        restarts: int = 20,
        rounds: int = 4,
        hops: int = 40,
        candidates: int | Literal["auto"] | None = None,
        spare: int = 3,
        even_stage: Literal["auto", "never"] = "auto",
        spectral_start: bool = True,
        polish: bool = True,
        max_steps: int = 1_000_000,
        loss: float = 0.0,
        seed: int | None = None,
        evidence: Literal["readout", "first_layer"] = "readout",
        warm_start: bool = True,
        enabled: bool = True,
    ) -> None:
        if not max_seconds > 0:
            raise InputError("--recon.max_seconds", max_seconds, "give seconds above 0")
        for flag, value, least in (
            ("restarts", restarts, 0),
            ("rounds", rounds, 0),
            ("hops", hops, 0),
            ("candidates", candidates if isinstance(candidates, int) else 1, 1),
            ("spare", spare, 0),
            ("max_steps", max_steps, 1),
            ("seed", seed or 0, 0),
        ):
            if value < least:
                raise InputError(f"--recon.{flag}", value, f"give {least} or more")
        if not (isfinite(loss) and loss >= 0):
            raise InputError("--recon.loss", loss, "give 0 or more")
        self.solver = solver or GaussNewton()
        self.max_seconds = max_seconds
        self.restarts = restarts
        self.rounds = rounds
        self.hops = hops
        self.candidates = candidates
        self.spare = spare
        self.even_stage = even_stage
        self.spectral_start = spectral_start
        self.polish = polish
        self.stop = Stop(loss=loss, max_steps=max_steps)
        self.seed = seed or 0
        self.evidence = evidence
        self.warm_start = warm_start
        self.enabled = enabled

    @property
    def name(self) -> str:
        return "projection" if self.evidence == "readout" else "projection_first_layer"

    def check(self, model: ReadoutModel) -> None:
        layer = isinstance(model, OneHiddenLayer)
        kind = type(model).__name__
        if self.evidence == "first_layer" and (not layer or model.frozen):
            remedy = f"needs a linear first layer that is trained; {kind} has none"
            raise InputError("--recon.evidence", "first_layer", remedy)
        if self.candidates == "auto" and not layer:
            remedy = f"needs one hidden layer, and {kind} has more; give a number"
            raise InputError("--recon.candidates", "auto", remedy)

    @torch.no_grad()
    def reconstruct(
        self,
        knowledge: Knowledge,
        generator: torch.Generator,
        on_step: OnStep | None = None,
        earlier: Earlier | None = None,
    ) -> Reconstruction:
        self.check(cast(ReadoutModel, knowledge.model))
        attack = self._attack(knowledge, generator, on_step)
        monitor, refusal = attack.monitor, refused(attack.problem)
        if refusal is None:
            solution = attack.run(earlier if self.warm_start else None)
            candidates, loss = solution.at.candidates, float(solution.at.loss)
            status = solution.status
        else:
            candidates = attack.problem.noise(attack.problem.m, generator)
            loss, status = nan, refusal
        problem = attack.problem  # by now with the number of candidates
        exact = status in (Status.CONVERGED, Status.AGREED)
        if exact and problem.equations < problem.m * problem.unknowns:
            status = Status.UNDERDETERMINED
        candidates, certificates = problem.inputs(candidates), None
        if problem.pixels is not None:
            certificates = certify(candidates.cpu(), problem.pixels)
            candidates = on_pixels(candidates, certificates, problem.pixels, problem.radius)
        return Reconstruction(
            candidates=candidates.cpu(),
            projection_loss=loss,
            oracle=lambda x: loss_at(problem, x),
            status=status,
            certificates=certificates,
            sign_blind=problem.sign_blind,
            warm=attack.warm,
            p_over_dn=problem.equations / (knowledge.n * problem.d),
            rows=monitor.rows,
            applications=monitor.applications,
            restarts=monitor.restarts,
            seconds=monitor.seconds,
        )

    def _attack(
        self, knowledge: Knowledge, generator: torch.Generator, on_step: OnStep | None
    ) -> Attack:
        m = None if self.candidates == "auto" else self.candidates or knowledge.n
        if isinstance(knowledge.model, OneHiddenLayer):
            problem = layer_problem(knowledge, m, generator)
            return LayerAttack(self, problem, self._monitor(problem, on_step), generator)
        assert m is not None
        network = network_problem(knowledge, m)
        return NetworkAttack(self, network, self._monitor(network, on_step), generator)

    def _monitor(self, problem: Problem, on_step: OnStep | None) -> Monitor:
        return Monitor(self.max_seconds, on_step, problem.ranks)
