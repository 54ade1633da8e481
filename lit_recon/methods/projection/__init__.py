"""Reconstruction from the projection loss: inputs whose features span the trained readout."""

from lit_recon.methods.projection.reconstructor import ProjectionReconstructor

__all__ = ["ProjectionReconstructor"]
