"""Finds the number of training samples from the weights alone, before the attack."""

from __future__ import annotations

from dataclasses import replace

from lit_recon.methods.base import Earlier
from lit_recon.methods.projection.layer import FIRST
from lit_recon.methods.projection.layer_strategy import HANDOVER, LayerStrategy
from lit_recon.methods.projection.strategy import Ending
from lit_recon.objectives.projection import ProjectionObjective
from lit_recon.solvers import Solution, Status, Stop, minimise
from lit_recon.solvers.search import fewest

# Equations per unknown below which the number of candidates cannot be found.
IDENTIFIABLE = 1.2


def run_counted(strategy: LayerStrategy, earlier: Earlier | None) -> tuple[LayerStrategy, Ending]:
    """Find the number of candidates, then attack with it.

    Returns:
        The strategy with this number of candidates, and its ending.
    """
    if earlier is not None and earlier.sure:
        strategy = strategy.with_candidates(len(earlier.candidates))
        return strategy, strategy.finish(strategy.run(earlier))
    counted = count_samples(strategy)
    strategy = replace(strategy.with_candidates(len(counted.at.candidates)), counted=counted)
    if counted.status not in (Status.STALLED, Status.CONVERGED):
        return strategy, Ending(counted)
    ending = strategy.run(None)
    # Stalled: m is the largest number that can be identified, so remove needless candidates.
    if counted.status is Status.STALLED:
        objective = strategy.problem.objective()
        best = _fewest(strategy, ending.solution, objective, strategy.settings.stop)
        strategy = strategy.with_candidates(len(best.at.candidates))
        ending = replace(ending, solution=best)
    return strategy, strategy.finish(ending)


def count_samples(strategy: LayerStrategy) -> Solution:
    """Solve the first stage with as few candidates as possible.

    A fit with more candidates than samples is easier, so one descent for each power of two usually
    succeeds. If all fail, each number is tried again with the search's moves.
    """
    problem, settings = strategy.problem, strategy.settings
    most = max(int(problem.equations / (IDENTIFIABLE * problem.unknowns)), FIRST)
    sizes = [m for m in (FIRST * 2**i for i in range(64)) if m < most] + [most]
    even = strategy.has_even_stage
    stop = replace(
        settings.stop, loss=max(settings.stop.loss, HANDOVER), min_decrease=0.05, patience=2
    )
    objective = problem.even_objective() if even else problem.objective()
    for searched in (False, True):
        for m in sizes:
            trial = strategy.with_candidates(m)
            z = trial.start(even=even)
            if searched:
                found = trial.search(objective, z, stop, trial.moves(both_signs=not even), "count")
            else:
                found = minimise(objective, z, settings.solver, stop, strategy.monitor, "count")
            if found.status is not Status.STALLED:
                return _fewest(strategy, found, objective, stop)
    return found


def _fewest(
    strategy: LayerStrategy, found: Solution, objective: ProjectionObjective, stop: Stop
) -> Solution:
    return fewest(found, objective, strategy.settings.solver, stop, strategy.monitor, "count")
