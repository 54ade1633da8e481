"""Reconstruct training images from the weights of over-parameterised models.

The names below are the library's public ones; each is imported when it is first used, so that
`import lit_recon` takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lit_recon.audit.callback import ReconstructionCallback
    from lit_recon.audit.scoring import score_reconstruction
    from lit_recon.knowledge import ChannelScale, DenseLayer, Knowledge, MeanImageScale, PixelScale
    from lit_recon.methods import (
        AttractorReconstructor,
        KKTReconstructor,
        Outcome,
        ProjectionReconstructor,
        Reconstruction,
        Reconstructor,
        RowSpaceReconstructor,
    )
    from lit_recon.models import (
        MLP,
        Autoencoder,
        ConvAutoencoder,
        DeepMLP,
        RandomFeatures,
        ResNet,
        SmallCNN,
    )
    from lit_recon.records.checkpoints import load_weights
    from lit_recon.records.truth import Truth

_PLACES = {
    "AttractorReconstructor": "lit_recon.methods",
    "Autoencoder": "lit_recon.models",
    "ChannelScale": "lit_recon.knowledge",
    "ConvAutoencoder": "lit_recon.models",
    "DeepMLP": "lit_recon.models",
    "DenseLayer": "lit_recon.knowledge",
    "KKTReconstructor": "lit_recon.methods",
    "Knowledge": "lit_recon.knowledge",
    "MLP": "lit_recon.models",
    "MeanImageScale": "lit_recon.knowledge",
    "Outcome": "lit_recon.methods",
    "PixelScale": "lit_recon.knowledge",
    "ProjectionReconstructor": "lit_recon.methods",
    "RandomFeatures": "lit_recon.models",
    "Reconstruction": "lit_recon.methods",
    "ReconstructionCallback": "lit_recon.audit.callback",
    "Reconstructor": "lit_recon.methods",
    "ResNet": "lit_recon.models",
    "RowSpaceReconstructor": "lit_recon.methods",
    "SmallCNN": "lit_recon.models",
    "Truth": "lit_recon.records.truth",
    "load_weights": "lit_recon.records.checkpoints",
    "score_reconstruction": "lit_recon.audit.scoring",
}

__all__ = [
    "MLP",
    "AttractorReconstructor",
    "Autoencoder",
    "ChannelScale",
    "ConvAutoencoder",
    "DeepMLP",
    "DenseLayer",
    "KKTReconstructor",
    "Knowledge",
    "MeanImageScale",
    "Outcome",
    "PixelScale",
    "ProjectionReconstructor",
    "RandomFeatures",
    "Reconstruction",
    "ReconstructionCallback",
    "Reconstructor",
    "ResNet",
    "RowSpaceReconstructor",
    "SmallCNN",
    "Truth",
    "__version__",
    "load_weights",
    "score_reconstruction",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
