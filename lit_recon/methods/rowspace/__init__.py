"""Images as integer vectors in the row space of a first layer; README.md tells how."""

from lit_recon.methods.rowspace.images import Frame
from lit_recon.methods.rowspace.pairs import best_pair
from lit_recon.methods.rowspace.reconstructor import RowSpaceReconstructor

__all__ = ["Frame", "RowSpaceReconstructor", "best_pair"]
