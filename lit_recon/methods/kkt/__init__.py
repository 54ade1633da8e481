"""Weights as a combination of the gradients of candidates; README.md tells how."""

from lit_recon.methods.kkt.reconstructor import KKTReconstructor

__all__ = ["KKTReconstructor"]
