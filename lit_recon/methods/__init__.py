"""Published attacks behind one interface."""

from lit_recon.methods.base import Reconstruction, Reconstructor
from lit_recon.methods.projection import ProjectionReconstructor

__all__ = ["ProjectionReconstructor", "Reconstruction", "Reconstructor"]
