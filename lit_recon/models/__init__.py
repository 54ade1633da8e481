"""Plain networks that end in a linear readout."""

from lit_recon.models.base import OneHiddenLayer, ReadoutModel
from lit_recon.models.mlp import MLP
from lit_recon.models.random_features import RandomFeatures
from lit_recon.models.resnet import ResNet

__all__ = ["MLP", "OneHiddenLayer", "RandomFeatures", "ReadoutModel", "ResNet"]
