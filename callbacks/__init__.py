"""When a reconstruction runs, and where its numbers go."""

from callbacks.checkpoints import StepCheckpoint
from callbacks.reconstruction import ReconstructionCallback

__all__ = ["ReconstructionCallback", "StepCheckpoint"]
