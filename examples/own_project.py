"""A Lightning project of one's own, with one more callback: python examples/own_project.py"""

import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.datasets import load_sample_image
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms import Compose, Normalize, ToTensor

from lit_recon import ReconstructionCallback

to_input = Compose([ToTensor(), Normalize([0.5, 0.45, 0.4], [0.25, 0.25, 0.25])])


class Patches(torch.utils.data.Dataset):
    transform = to_input  # where the callback finds the pixel scale

    def __len__(self):
        return 12

    def __getitem__(self, i):
        photograph = load_sample_image(["flower.jpg", "china.jpg"][i % 2])
        row, column = 60 + 32 * (i % 4), 100 + 64 * (i // 2)
        return self.transform(photograph[row : row + 32, column : column + 32].copy()), i % 2


class Classifier(LightningModule):
    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(
            *(nn.Flatten(), nn.Linear(3072, 256), nn.ReLU(), nn.Dropout(0.1)),
            *(nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 2)),
        )

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch, _):
        images, labels = batch
        return nn.functional.cross_entropy(self(images), labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


if __name__ == "__main__":
    seed_everything(0)
    saving = ModelCheckpoint(every_n_epochs=5, save_top_k=-1)
    trainer = Trainer(max_epochs=10, callbacks=[saving, ReconstructionCallback()])
    trainer.fit(Classifier(), DataLoader(Patches(), batch_size=4, shuffle=True))
