"""Published attacks behind one interface."""

from lit_recon.methods.base import Earlier, Reconstruction, Reconstructor
from lit_recon.methods.projection import ProjectionReconstructor

__all__ = ["Earlier", "ProjectionReconstructor", "Reconstruction", "Reconstructor"]
