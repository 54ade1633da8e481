"""Networks as plain ``nn.Module``; the projection attack needs one with a linear readout."""

from lit_recon.models.autoencoder import Autoencoder, ConvAutoencoder
from lit_recon.models.base import FeatureModel, Model, OneHiddenLayer, ReadoutModel
from lit_recon.models.cnn import SmallCNN
from lit_recon.models.deep_mlp import DeepMLP
from lit_recon.models.interpolator import Interpolator
from lit_recon.models.mlp import MLP
from lit_recon.models.random_features import RandomFeatures
from lit_recon.models.resnet import ResNet

__all__ = [
    "MLP",
    "Autoencoder",
    "ConvAutoencoder",
    "DeepMLP",
    "FeatureModel",
    "Interpolator",
    "Model",
    "OneHiddenLayer",
    "RandomFeatures",
    "ReadoutModel",
    "ResNet",
    "SmallCNN",
]
