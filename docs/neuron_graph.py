"""``python docs/neuron_graph.py`` draws the picture of the README.

Trains a small residual network on scikit-learn's digits for a few seconds (fixed seed) and draws its neuron graph.
"""

from __future__ import annotations

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import metanet
from metanet.graph.draw import draw


class Digits(nn.Module):
    """A stem, one residual block, a head: 8x8 images to ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.conv1 = nn.Conv2d(8, 6, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.pool, self.fc = nn.AvgPool2d(2), nn.Linear(8 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, 1, 8, 8] -> [B, 10]``."""
        x = torch.relu(self.stem(x))
        x = torch.relu(self.pool(x) + self.bn2(self.conv2(torch.relu(self.conv1(x)))))
        return self.fc(self.pool(x).flatten(1))


def train(net: nn.Module, steps: int = 400) -> float:
    """Train on three quarters of the digits; the accuracy on the rest."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels))
    seen, rest = order[:1348], order[1348:]
    optimiser = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.05)
    for _ in range(steps):
        batch = seen[torch.randint(len(seen), (128,))]
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(images[batch]), labels[batch]).backward()
        optimiser.step()
    net.eval()
    with torch.no_grad():
        return (net(images[rest]).argmax(1) == labels[rest]).double().mean().item()


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = Digits()
    accuracy = train(network)
    path = Path(__file__).with_suffix(".svg")
    graph = metanet.build(network, torch.zeros(1, 1, 8, 8))
    draw(graph, path, title=f"A residual CNN that reads digits ({accuracy:.1%} right), as a neuron graph")
    print(f"{path}: test accuracy {accuracy:.3f}, {path.stat().st_size // 1000} kB")
