"""Reconstruct training images from the weights of over-parameterised models.

The names below are the library's public ones; each is imported when it is first used, so that
`import lit_recon` takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lit_recon.audit.scoring import score_reconstruction
    from lit_recon.knowledge import ChannelScale, DenseLayer, Knowledge, MeanImageScale, PixelScale
    from lit_recon.methods import Outcome, ProjectionReconstructor, Reconstruction, Reconstructor
    from lit_recon.models import MLP, DeepMLP, RandomFeatures, ResNet, SmallCNN
    from lit_recon.records.checkpoints import load_weights
    from lit_recon.records.truth import Truth

_PLACES = {
    "ChannelScale": "lit_recon.knowledge",
    "DeepMLP": "lit_recon.models",
    "DenseLayer": "lit_recon.knowledge",
    "Knowledge": "lit_recon.knowledge",
    "MLP": "lit_recon.models",
    "MeanImageScale": "lit_recon.knowledge",
    "Outcome": "lit_recon.methods",
    "PixelScale": "lit_recon.knowledge",
    "ProjectionReconstructor": "lit_recon.methods",
    "RandomFeatures": "lit_recon.models",
    "Reconstruction": "lit_recon.methods",
    "Reconstructor": "lit_recon.methods",
    "ResNet": "lit_recon.models",
    "SmallCNN": "lit_recon.models",
    "Truth": "lit_recon.records.truth",
    "load_weights": "lit_recon.records.checkpoints",
    "score_reconstruction": "lit_recon.audit.scoring",
}

__all__ = [
    "MLP",
    "ChannelScale",
    "DeepMLP",
    "DenseLayer",
    "Knowledge",
    "MeanImageScale",
    "Outcome",
    "PixelScale",
    "ProjectionReconstructor",
    "RandomFeatures",
    "Reconstruction",
    "Reconstructor",
    "ResNet",
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
