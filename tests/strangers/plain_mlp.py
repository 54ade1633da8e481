"""A multilayer perceptron with dropout and batch normalisation, which the project never saw."""

from __future__ import annotations

import torch
from lightning import LightningModule
from torch import Tensor, nn


class PlainMLP(LightningModule):
    """Draws random numbers in training, and has running statistics that attacks must not move."""

    def __init__(self, d: int = 192, width: int = 96, adam: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.adam = adam
        self.net = nn.Sequential(
            *(nn.Flatten(), nn.Linear(d, width), nn.ReLU(), nn.Dropout(0.2)),
            *(nn.Linear(width, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = nn.functional.cross_entropy(self(images), labels)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.log("val_loss", nn.functional.cross_entropy(self(images), labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.adam:
            return torch.optim.Adam(self.parameters())
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)
