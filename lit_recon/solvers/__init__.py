"""How an objective is minimised; knows neither networks nor images."""

from lit_recon.solvers.gauss_newton import GaussNewton
from lit_recon.solvers.loop import (
    Monitor,
    OnStep,
    Solution,
    Solver,
    SolverStep,
    Status,
    Stop,
    minimise,
)
from lit_recon.solvers.momentum import MomentumDescent

__all__ = [
    "GaussNewton",
    "MomentumDescent",
    "Monitor",
    "OnStep",
    "Solution",
    "Solver",
    "SolverStep",
    "Status",
    "Stop",
    "minimise",
]
