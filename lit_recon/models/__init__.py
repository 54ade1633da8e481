"""Plain networks, without Lightning."""

from lit_recon.models.base import OneHiddenLayer, ReadoutModel
from lit_recon.models.random_features import RandomFeatures

__all__ = ["OneHiddenLayer", "RandomFeatures", "ReadoutModel"]
