"""Lightning callbacks: saving checkpoints, running attacks, and the terminal's output."""

from callbacks.checkpoints import StepCheckpoint, WholeCheckpoints
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
]
