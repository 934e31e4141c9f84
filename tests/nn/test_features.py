"""Features of links and nodes of two small networks, written out by hand: any change of them changes predictions."""

import math

import pytest
import torch
from torch import nn

import metanet
from metanet.graph.layout import layout_of
from metanet.nn.features import LINK_FEATURES, NODE_FEATURES, layout_features, signed_log

NETWORKS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), (1, 3)),
    "cnn": (  # images 9 x 9, then 4 x 4, then 3 x 3
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2), nn.BatchNorm2d(4), nn.GELU(), nn.Conv2d(4, 6, 2, groups=2), nn.Softplus(),
            nn.Flatten(), nn.Linear(6 * 9, 3),
        ),
        (1, 2, 9, 9),
    ),
}  # fmt: skip

RELU, GELU, NONE, OTHER = (torch.eye(10)[place].tolist() for place in (0, 2, 8, 9))  # relu first, gelu third
ORDERLESS = [0.0] * 8


def log(number):
    """Sizes are told as an eighth of their logarithm."""
    return math.log(number) / 8


def order(place, size):
    """Eight cosines that tell the place of an input or output."""
    return [math.cos(math.pi * (place + 0.5) / size * wave) for wave in range(1, 9)]


# linear, convolution or embedding; depth by that of the outputs; fan-in; entries of one connection; stride; activation
LINKS = {
    "mlp": [
        [1, 0, 0, 1 / 2, log(3), log(1), log(1), *RELU],
        [1, 0, 0, 2 / 2, log(4), log(1), log(1), *NONE],
    ],
    "cnn": [
        [0, 1, 0, 1 / 3, log(2 * 9), log(9), log(2 * 2), *GELU],
        [0, 1, 0, 2 / 3, log(4 // 2 * 4), log(4), log(1), *OTHER],
        [1, 0, 0, 3 / 3, log(6 * 9), log(9), log(1), *NONE],
    ],
}
# neuron, input, output or fixed; depth by that of the outputs; distance to them, plus one; size; activation; order
NODES = {
    "mlp": [
        *([0, 1, 0, 0, 0 / 2, log(3), log(3), *NONE, *order(place, 3)] for place in range(3)),
        *([1, 0, 0, 0, 1 / 2, log(2), log(4), *RELU, *ORDERLESS] for _ in range(4)),
        *([0, 0, 1, 0, 2 / 2, log(1), log(2), *NONE, *order(place, 2)] for place in range(2)),
    ],
    "cnn": [
        *([0, 1, 0, 0, 0 / 3, log(4), log(2), *NONE, *order(place, 2)] for place in range(2)),
        *([1, 0, 0, 0, 1 / 3, log(3), log(4), *GELU, *ORDERLESS] for _ in range(4)),
        *([1, 0, 0, 0, 2 / 3, log(2), log(6), *OTHER, *ORDERLESS] for _ in range(6)),
        *([0, 0, 1, 0, 3 / 3, log(1), log(3), *NONE, *order(place, 3)] for place in range(3)),
    ],
}


@pytest.fixture(params=list(NETWORKS))
def case(request):
    """The name and the traced space of each network."""
    make, shape = NETWORKS[request.param]
    return request.param, metanet.trace(make(), torch.zeros(shape))


def test_features_are_those_of_the_tables(case):
    name, space = case
    links, nodes = layout_features(space)
    assert links.shape[1] == LINK_FEATURES
    assert nodes.shape[1] == NODE_FEATURES
    torch.testing.assert_close(links, torch.tensor(LINKS[name]), rtol=0, atol=5e-6)
    torch.testing.assert_close(nodes, torch.tensor(NODES[name]), rtol=0, atol=5e-6)


def test_without_sizes_only_fan_ins_and_numbers_of_neurons_are_zero(case):
    """Entries of one connection, strides and depths do not change when a network is widened."""
    name, space = case
    links, nodes = torch.tensor(LINKS[name]), torch.tensor(NODES[name])
    links[:, 4], nodes[:, 6] = 0, 0
    found = layout_features(space, sizes=False)
    torch.testing.assert_close(found[0], links, rtol=0, atol=5e-6)
    torch.testing.assert_close(found[1], nodes, rtol=0, atol=5e-6)


def test_blocks_and_vectors_of_the_cnn():
    """What each tensor connects, ``(groups, targets, sources, taps)``, its fan-in, depth and stride."""
    make, shape = NETWORKS["cnn"]
    layout = layout_of(metanet.trace(make(), torch.zeros(shape)))
    found = [(b.link.tensor, b.source, b.target, b.shape, b.fan_in, b.link.depth, b.link.stride) for b in layout.blocks]
    assert found == [
        ("0.weight", 0, 1, (1, 4, 2, 9), 18, 1, (2, 2)),
        ("3.weight", 1, 2, (2, 3, 2, 4), 8, 2, (1, 1)),
        ("6.weight", 2, 3, (1, 3, 6, 9), 54, 3, ()),
    ]
    kernel = [(0.0, float(y), float(x)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    corners = [(0.0, float(y), float(x)) for y in (-1, 1) for x in (-1, 1)]
    assert [list(b.coordinates) for b in layout.blocks] == [kernel, corners, kernel]  # the last: a map of 3 x 3
    assert [(v.link.tensor, v.link.kind, v.target, v.piece.shape) for v in layout.vectors] == [
        ("0.bias", "bias", 1, (4, 1)),
        ("1.running_mean", "mean", 1, (4, 1)),
        ("1.running_var", "variance", 1, (4, 1)),
        ("1.weight", "scale", 1, (4, 1)),
        ("1.bias", "bias", 1, (4, 1)),
        ("3.bias", "bias", 2, (6, 1)),
        ("6.bias", "bias", 3, (3, 1)),
    ]


def test_depth_is_that_of_the_longest_path():
    """The sum of a long branch and a short one is as deep as the long one."""

    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.long, self.longer, self.head = (nn.Linear(4, 4) for _ in range(4))

        def forward(self, x):
            x = torch.relu(self.stem(x))
            return self.head(x + self.longer(torch.tanh(self.long(x))))

    space = metanet.trace(Branches(), torch.zeros(1, 4))
    wanted = {"stem": 1, "long": 2, "longer": 3, "head": 4}
    assert {link.tensor.split(".")[0]: link.depth for link in space.links} == wanted
    assert all(link.depth == wanted[link.tensor.split(".")[0]] for link in space.links), "biases are as deep"


def test_signed_log():
    values = torch.tensor([-(math.e - 1), -1e-9, 0.0, 1.0, math.e**2 - 1], dtype=torch.float64)
    wanted = torch.tensor([-1.0, -1e-9, 0.0, math.log(2), 2.0], dtype=torch.float64)
    torch.testing.assert_close(signed_log(values), wanted, rtol=1e-12, atol=1e-15)
