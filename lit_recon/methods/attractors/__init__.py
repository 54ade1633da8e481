"""Fixed points and cycles of an autoencoder; README.md explains how."""

from lit_recon.methods.attractors.reconstructor import AttractorReconstructor

__all__ = ["AttractorReconstructor"]
