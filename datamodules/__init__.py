"""Lightning data modules with the training samples; their arguments are the flags of ``--data``."""

from datamodules.base import ReconDataModule
from datamodules.cifar import CIFAR10Subset
from datamodules.digits import MNIST, Digits
from datamodules.folder import ImageFolderSubset
from datamodules.photos import Photos
from datamodules.points import Table, TwoMoons
from datamodules.sphere import Sphere

__all__ = [
    "MNIST",
    "CIFAR10Subset",
    "Digits",
    "ImageFolderSubset",
    "Photos",
    "ReconDataModule",
    "Sphere",
    "Table",
    "TwoMoons",
]
