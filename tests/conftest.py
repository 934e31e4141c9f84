"""Networks that many tests look at, each traced once."""

import functools

import pytest
import torch
from torch import nn

import metanet


class Residual(nn.Module):
    """Stem, a residual block with batch norm and a depthwise convolution, a head after flattening."""

    def __init__(self, activation=nn.ReLU):
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.conv1, self.bn1 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.act, self.pool, self.head = activation(), nn.MaxPool2d(2), nn.Linear(6 * 4, 3)

    def forward(self, x):
        x = self.act(self.stem(x))
        x = x + self.depthwise(self.act(self.bn1(self.conv1(x))))
        return self.head(self.pool(x).flatten(1))


class Grouped(nn.Module):
    """Grouped convolutions and a concatenation."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1, groups=2)
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        x = torch.tanh(self.a(x))
        return self.head(torch.cat([x, torch.tanh(self.b(x))], 1).mean((2, 3)))


NETWORKS = {
    "mlp": lambda: (nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3)), (2, 4)),
    "cnn": lambda: (
        nn.Sequential(
            nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(4, 3),
        ),
        (2, 1, 8, 8),
    ),
    "residual": lambda: (Residual(), (2, 1, 4, 4)),
    "grouped": lambda: (Grouped(), (2, 2, 4, 4)),
}  # fmt: skip


@functools.cache
def network(name):
    """The module, an example input, and the traced space of one of ``NETWORKS``."""
    torch.manual_seed(0)
    module, shape = NETWORKS[name]()
    example = torch.randn(*shape)
    return module, example, metanet.trace(module, example)


@pytest.fixture(params=list(NETWORKS))
def traced(request):
    """Every network in turn, as ``(module, example, space)``."""
    return network(request.param)


@pytest.fixture
def traced_network():
    """The function that gives one network by name."""
    return network


@pytest.fixture(scope="session")
def tiny_zoo(tmp_path_factory):
    """The default zoo in small: 40 nets of the same two architectures, trained for a few steps."""
    from metanet.zoo import build_zoo, load_recipe

    recipe = load_recipe("digits-cnn").with_(nets=40, shard_size=10, max_steps=25)
    return build_zoo(recipe, tmp_path_factory.mktemp("zoos") / "digits-cnn", workers=0)
