"""Methods of reconstruction behind one contract; README.md says how to add one."""

from lit_recon.methods.base import Earlier, Outcome, Reconstruction, Reconstructor
from lit_recon.methods.projection import ProjectionReconstructor

__all__ = [
    "Earlier",
    "Outcome",
    "ProjectionReconstructor",
    "Reconstruction",
    "Reconstructor",
]
