"""LightningModules: how models are trained."""

from lit_recon.modules.optimisers import LBFGS, SGD, Adam, LeastSquares, Optim
from lit_recon.modules.training import Regression

__all__ = ["LBFGS", "SGD", "Adam", "LeastSquares", "Optim", "Regression"]
