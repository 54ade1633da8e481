"""When a reconstruction runs, and where its numbers go."""

from callbacks.checkpoints import StepCheckpoint, WholeCheckpoints, saved_checkpoints, step_of
from callbacks.loggers import wandb_run
from callbacks.profiler import NoProfiler
from callbacks.reconstruction import ReconstructionCallback
from callbacks.terminal import StepProgressBar, only_our_lines

__all__ = [
    "NoProfiler",
    "ReconstructionCallback",
    "StepCheckpoint",
    "StepProgressBar",
    "WholeCheckpoints",
    "only_our_lines",
    "saved_checkpoints",
    "step_of",
    "wandb_run",
]
