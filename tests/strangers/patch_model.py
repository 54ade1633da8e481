"""A small vision transformer on patches, which the project never saw."""

from __future__ import annotations

import torch
from lightning import LightningModule
from torch import Tensor, nn


class PatchModel(LightningModule):
    def __init__(
        self,
        side: int = 8,
        patch: int = 4,
        width: int = 64,
        lr: float = 0.01,
        convolution: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.patch, self.lr = patch, lr
        self.embedding: nn.Module = nn.Linear(3 * patch * patch, width)
        if convolution:
            self.embedding = nn.Conv2d(3, width, patch, stride=patch)
        self.position = nn.Parameter(0.02 * torch.randn((side // patch) ** 2, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.embedding, nn.Conv2d):
            tokens = self.embedding(x).flatten(2).transpose(1, 2)
        else:
            patches = nn.functional.unfold(x, self.patch, stride=self.patch).transpose(1, 2)
            tokens = self.embedding(patches)
        return self.head(self.encoder(tokens + self.position).mean(1))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)
