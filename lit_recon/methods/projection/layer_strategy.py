"""The projection attack on a network with one hidden layer, whose first layer is linear."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lit_recon.linalg import least_squares_rows, spectral_directions
from lit_recon.linear_map import LinearMap
from lit_recon.methods.projection.layer import LayerProblem, coarse_blocks, proposals, with_signs
from lit_recon.methods.projection.problem import all_certified
from lit_recon.methods.projection.strategy import Ending, Strategy
from lit_recon.objectives.projection import Linearisation, ProjectionObjective
from lit_recon.objectives.refined import RefinedObjective
from lit_recon.solvers import GaussNewton, Solution, Status, Stop, minimise
from lit_recon.solvers.gauss_newton import MIN_DAMPING
from lit_recon.solvers.search import Move, Perturbation, SpareCandidates
from lit_recon.tall_matrix import TallMatrix

# The even stage spends k d of the k p equations on the linear rows. Below this many equations per
# unknown the plain loss goes first (measured: synthetic data at p = 1.5 d n are complete in half
# the applications then, images at p = 2 d n in twice as many).
EVEN_FIRST = 1.7
# Below this many equations per unknown most candidates of a stuck fit are wrong, so all candidates
# are perturbed before single ones are replaced.
HOP_BELOW = 2.2
HOP_SCALE = 1.2
COARSE_STARTS = 3
# A subspace with more than this share of the dimensions is not searched: it would save nothing
# against a search in all dimensions.
SEARCHED = 0.2
# Rows of V that the subspace search reads, per unknown; more change its result little.
COARSE_ROWS = 150
COARSE_TRIES = Stop(min_decrease=1e-3, max_steps=80)
# Directions of the spectral subspace per candidate; a few more than needed cost little.
SUBSPACE = 1.4
# Loss of the even part at which the signs are determined and the plain loss takes over.
HANDOVER = 1e-7
# The last steps, with residuals in float64.
POLISH = Stop(min_decrease=0.3, max_steps=6)
POLISH_TOLERANCE = 1e-2
DRIFT_ROUNDS = 2


@dataclass(frozen=True)
class LayerStrategy(Strategy[LayerProblem]):
    """The strategy in stages: remove the linear part, coarse to fine, search, polish.

    Attributes:
        counted: a solution of the first stage where the first attempt begins; None: from noise.
    """

    counted: Solution | None = None

    def with_candidates(self, m: int) -> LayerStrategy:
        """The same attack with m candidates."""
        return replace(self, problem=replace(self.problem, m=m))

    def finish(self, ending: Ending) -> Ending:
        """Polish a solution at the floor of float32 with residuals in float64."""
        return replace(ending, solution=self._polished(ending.solution))

    def attempt(self, number: int) -> Solution:
        """One attempt; even and odd numbers alternate whether the even stage comes first."""
        if number == 0 and self.counted is not None:
            even, start = self.has_even_stage, self.counted.at.z
        else:
            even = self.has_even_stage and self._even_first == (number % 2 == 0)
            start = self.start(even=even)
        return self.plain(self._even_stage(start) if even else start)

    def moves(self, *, both_signs: bool = True) -> list[Move]:
        moves: list[Move] = []
        if self._hops_first:
            moves.append(Perturbation(HOP_SCALE, self.generator, self.settings.hops))
        if self.settings.spare and self.settings.rounds:
            propose = proposals(self.problem, self.generator, both_signs=both_signs)
            # If features drift, the loss has no known floor, so a search ends only when it fails,
            # even with all samples found. Few rounds are enough: the next attempt confirms them.
            most = DRIFT_ROUNDS if self.problem.drifts else self.settings.rounds
            rounds = min(self.settings.rounds, most)
            moves.append(SpareCandidates(self.settings.spare, propose, rounds))
        return moves

    @property
    def has_even_stage(self) -> bool:
        """Whether the attack removes the activation's linear part."""
        return self.settings.even_stage == "auto" and self.problem.activation.even_part is not None

    @property
    def _even_first(self) -> bool:
        return self.problem.per_unknown >= EVEN_FIRST

    @property
    def _hops_first(self) -> bool:
        return self.settings.hops > 0 and self.problem.per_unknown < HOP_BELOW

    @property
    def _width(self) -> int:
        """Number of candidates at the start."""
        return self.problem.m if self._hops_first else self.problem.m + self.settings.spare

    def _polished(self, found: Solution) -> Solution:
        at = found.at
        if not (
            self.settings.polish
            and found.status is Status.CONVERGED
            and isinstance(self.settings.solver, GaussNewton)
            and isinstance(at, Linearisation)
            and at.z.dtype == torch.float32
            and self.monitor.agreed(float(at.loss) <= at.floor())
        ):
            return found
        objective = RefinedObjective(at.objective)
        solver = replace(self.settings.solver, damping=MIN_DAMPING, cg_tolerance=POLISH_TOLERANCE)
        stop = replace(POLISH, satisfied=all_certified(self.problem))
        polished = minimise(objective, at.z, solver, stop, self.monitor, "polish")
        satisfied = polished.status is Status.SATISFIED
        return polished if satisfied else replace(polished, status=found.status)

    def _even_stage(self, start: Tensor) -> Tensor:
        """(m, unknowns) candidates with signs, from the loss of the activation's even part."""
        objective = self.problem.even_objective()
        stop = replace(self.settings.stop, loss=max(self.settings.stop.loss, HANDOVER))
        found = self.search(objective, start, stop, self.moves(both_signs=False), "even")
        return with_signs(self.problem, found.at.candidates)

    def start(self, *, even: bool) -> Tensor:
        """The first point (m' + l, unknowns) m' >= m; l = k linear rows if even, else 0."""
        if not even:
            return self.problem.noise(self._width, self.generator)
        linear = least_squares_rows(self.problem.map, self.problem.target)
        if not self.settings.spectral_start:
            return torch.cat([self.problem.noise(self._width, self.generator), linear])
        return self._coarse_start(linear)

    def _coarse_start(self, linear: Tensor) -> Tensor:
        """(m' + k, unknowns): m' >= m candidates from a spectral subspace, and the linear rows.

        The subspace has few dimensions, so a Gauss-Newton step in it takes milliseconds; several
        starts are tried and the best is taken.
        """
        problem, generator = self.problem, self.generator
        map, count = problem.map, self._width
        rest = problem.target - map.apply(linear)
        blocks = coarse_blocks(problem)
        dimensions = min(round(SUBSPACE * problem.m) + 1, blocks.dimension)
        basis = blocks.up(
            spectral_directions(map, rest, dimensions, generator, blocks.down, blocks.up)
        )  # (r, unknowns)
        if dimensions > SEARCHED * problem.unknowns:
            z = torch.randn(count, dimensions, generator=generator, dtype=basis.dtype).to(basis)
            return torch.cat([z @ basis, linear])
        # The first rows of every rank, so that all ranks have the same work.
        head = map.head(-(-COARSE_ROWS * count * dimensions // map.ranks.size))
        weight = head.apply(basis).T.contiguous()  # (rows, r)
        objective = ProjectionObjective(
            LinearMap(TallMatrix.of(weight), map.ranks),
            problem.even_part,
            rest[:, : len(weight)],
            linear=True,
            radius=problem.norm,
        )
        tries = []
        for _ in range(COARSE_STARTS):
            z = torch.randn(count, dimensions, generator=generator, dtype=weight.dtype)
            z = torch.cat([z.to(weight.device), linear.new_zeros(len(linear), dimensions)])
            tries.append(
                minimise(objective, z, GaussNewton(), COARSE_TRIES, self.monitor, "coarse")
            )
        z = min(tries, key=lambda solution: float(solution.at.loss)).at.z @ basis
        return torch.cat([z[:count], z[count:] + linear])
