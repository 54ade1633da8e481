"""Training with Lightning: losses, optimisers, tasks, and the LightningModule."""

from lit_recon.modules.construct import Construct
from lit_recon.modules.losses import check_loss
from lit_recon.modules.optimisers import (
    LBFGS,
    SGD,
    Adam,
    Current,
    GaussNewton,
    LeastSquares,
    Margin,
    Optim,
    TensorAdam,
)
from lit_recon.modules.tasks import Autoencode, Labels, Next, RandomLabels, Task
from lit_recon.modules.training import Training, epochs_over, keeps_span

__all__ = [
    "LBFGS",
    "SGD",
    "Adam",
    "Autoencode",
    "Construct",
    "Current",
    "GaussNewton",
    "Labels",
    "LeastSquares",
    "Margin",
    "Next",
    "Optim",
    "RandomLabels",
    "Task",
    "TensorAdam",
    "Training",
    "check_loss",
    "epochs_over",
    "keeps_span",
]
