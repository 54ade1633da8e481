"""Methods of reconstruction, subclasses of `Reconstructor`; README.md explains how to add one."""

from lit_recon.methods.attractors import AttractorReconstructor
from lit_recon.methods.base import Earlier, Outcome, Picture, Reconstruction, Reconstructor
from lit_recon.methods.kkt import KKTReconstructor
from lit_recon.methods.projection import ProjectionReconstructor
from lit_recon.methods.rowspace import RowSpaceReconstructor

__all__ = [
    "AttractorReconstructor",
    "Earlier",
    "KKTReconstructor",
    "Outcome",
    "Picture",
    "ProjectionReconstructor",
    "Reconstruction",
    "Reconstructor",
    "RowSpaceReconstructor",
]
