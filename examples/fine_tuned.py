"""A fine-tuned model, audited from two files: python examples/fine_tuned.py

A network is trained on patches of one photograph, as a model that anybody could download, and then
fine-tuned on eight patches of another. The audit needs both checkpoints and the pixel scale.
"""

import sys

import torch
from sklearn.datasets import load_sample_image
from torch import nn

from lit_recon.__main__ import main

MEAN, STD = 0.4, 0.25


def patches(name, corners):
    photograph = torch.tensor(load_sample_image(name)).permute(2, 0, 1)
    cut = [photograph[:, row : row + 32, column : column + 32] for row, column in corners]
    return ((torch.stack(cut) / 255 - MEAN) / STD).flatten(1)


def train(network, x, steps):
    labels = torch.arange(len(x)) % 2
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    for step in range(steps):
        batch = torch.arange(4 * step, 4 * step + 4) % len(x)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x[batch]), labels[batch]).backward()
        optimizer.step()


torch.manual_seed(0)
network = nn.Sequential(nn.Linear(3072, 128), nn.ReLU(), nn.Linear(128, 32), nn.ReLU())
network.append(nn.Linear(32, 2))
train(network, patches("flower.jpg", [(8 * i, 12 * i) for i in range(40)]), steps=100)
torch.save(network.state_dict(), "downloaded.pt")
secret = patches("china.jpg", [(180 + 50 * (i % 4), 60 + 65 * i) for i in range(8)])
train(network, secret, steps=20)
torch.save(network.state_dict(), "fine_tuned.pt")

files = ["--before", "downloaded.pt", "--after", "fine_tuned.pt"]
scale = ["--pixels.shape", "[3, 32, 32]", "--pixels.mean", str(MEAN), "--pixels.std", str(STD)]
sys.exit(main(["audit", *files, *scale]))
