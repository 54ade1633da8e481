"""LightningModules: how models are trained."""

from lit_recon.modules.losses import check_loss
from lit_recon.modules.optimisers import LBFGS, SGD, Adam, LeastSquares, Optim
from lit_recon.modules.training import Training, epochs_over

__all__ = ["LBFGS", "SGD", "Adam", "LeastSquares", "Optim", "Training", "check_loss", "epochs_over"]
