"""Images as integer vectors in the row space of a first layer; README.md tells how."""

from lit_recon.methods.rowspace.reconstructor import RowSpaceReconstructor

__all__ = ["RowSpaceReconstructor"]
