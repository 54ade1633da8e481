"""Reconstruct training images from the weights of over-parameterised models."""

__version__ = "0.1.0"
