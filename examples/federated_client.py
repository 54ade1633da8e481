"""A federated client's update, audited by the client: python examples/federated_client.py

The client trains for some steps on its own images and sends the difference of the weights to the
server. Before it sends the file, it asks whether the server could read the images out of it.
"""

import sys

import torch
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from torch import nn

from lit_recon.__main__ import main

torch.manual_seed(0)
photograph = torch.tensor(load_sample_image("china.jpg")).permute(2, 0, 1)
corners = [(180 + 50 * (i % 4), 60 + 65 * i) for i in range(8)]
images = torch.stack([photograph[:, r : r + 32, c : c + 32] for r, c in corners])
x, labels = (images / 255 - 0.5) / 0.25, torch.arange(8) % 2

network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 128), nn.ReLU(), nn.Linear(128, 2))
received = {name: value.clone() for name, value in network.state_dict().items()}
optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
for step in range(20):  # local steps on batches of four
    batch = torch.arange(4 * step, 4 * step + 4) % 8
    optimizer.zero_grad()
    nn.functional.cross_entropy(network(x[batch]), labels[batch]).backward()
    optimizer.step()
update = {name: value - received[name] for name, value in network.state_dict().items()}
save_file(update, "update.safetensors")

scale = ["--pixels.shape", "[3, 32, 32]", "--pixels.mean", "0.5", "--pixels.std", "0.25"]
sys.exit(main(["audit", "--update", "update.safetensors", *scale]))
