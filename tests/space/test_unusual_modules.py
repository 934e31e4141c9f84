"""Unusual modules are traced, or refused with one clear line; never does another exception come out."""

import dataclasses
from collections import namedtuple

import numpy as np
import pytest
import torch
from torch import nn

import metanet
from metanet.errors import MetanetError, SpaceError

Pair = namedtuple("Pair", "first second")


@dataclasses.dataclass
class Out:
    logits: torch.Tensor
    extra: object = None


class Held:
    def __init__(self, value):
        self.value = value


class Net(nn.Module):
    def __init__(self, finish):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)
        object.__setattr__(self, "finish", finish)

    def forward(self, x):
        return self.finish(self, self.b(self.a(x).relu()))


READ = {
    "dataclass": lambda s, y: Out(y),
    "nested dataclass": lambda s, y: Out(y, {"more": [Out(y * 2)]}),
    "named tuple": lambda s, y: Pair(y, y * 2),
    "object": lambda s, y: Held(y),
    "objects in a list": lambda s, y: [Held(y), Held({"z": y})],
    "normal": lambda s, y: torch.distributions.Normal(y, 1 + y**2),
    "categorical": lambda s, y: torch.distributions.Categorical(logits=y),
    "independent": lambda s, y: {"policy": torch.distributions.Independent(torch.distributions.Normal(y, 1 + y**2), 1)},
}


@pytest.mark.parametrize("name", READ)
def test_tensors_are_found_in_what_is_returned(name):
    net, x = Net(READ[name]), torch.randn(2, 4)
    plain = metanet.trace(Net(lambda s, y: y), x)
    space = metanet.trace(net, x)
    assert [(a.size, a.free) for a in space.axes] == [(a.size, a.free) for a in plain.axes]
    assert metanet.certify(net, space, x).ok
    assert isinstance(net(x), type(READ[name](net, torch.randn(2, 3))))  # the module itself is as it was


def value(y):
    return y if y.sum().item() > 0 else -y


STRANGE = {
    "none": lambda s, y: None,
    "a generator": lambda s, y: (y for _ in range(2)),
    "an empty object": lambda s, y: Held(3),
    "item": lambda s, y: y * y.sum().item(),
    "control flow": lambda s, y: value(y),
    "numpy": lambda s, y: torch.from_numpy(np.tanh(y.detach().numpy())),
    "list of numbers": lambda s, y: torch.tensor(y.tolist()),
    "writes its weight": lambda s, y: s.a.weight.data.mul_(2) is not None and y,
    "nonzero": lambda s, y: y[y > 0],
    "unique": lambda s, y: torch.unique(y),
    "masked": lambda s, y: torch.masked_select(y, y > 0).sum() + y,
    "sparse": lambda s, y: y.to_sparse(),
    "nested": lambda s, y: torch.nested.nested_tensor([y, y]),
    "fft": lambda s, y: torch.fft.rfft(y).abs(),
    "vmap": lambda s, y: torch.vmap(torch.sin)(y),
    "checkpoint": lambda s, y: torch.utils.checkpoint.checkpoint(torch.tanh, y, use_reentrant=False),
    "raises": lambda s, y: 1 / 0,
    "meta mixed": lambda s, y: y + torch.zeros(3, device="meta"),
    "quantised": lambda s, y: torch.quantize_per_tensor(y, 0.1, 0, torch.qint8),
}


@pytest.mark.parametrize("name", STRANGE)
def test_strange_modules_are_traced_or_refused(name):
    net, x = Net(STRANGE[name]), torch.randn(2, 4)
    try:
        space = metanet.trace(net, x)
    except MetanetError as error:
        message = str(error)
        assert "\n" not in message
        assert "Net" in message
        return
    assert space.tensors


@pytest.mark.parametrize(
    "wrap", [torch.jit.script, nn.DataParallel, torch.compile, lambda n: torch.jit.trace(n, torch.randn(2, 4))],
    ids=["script", "data parallel", "compile", "jit trace"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_wrapped_modules_are_traced_or_refused(wrap):
    net = wrap(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)))
    message, tensors = "", ()
    try:
        tensors = metanet.trace(net, torch.randn(2, 4)).tensors
    except MetanetError as error:
        message = str(error)
    assert tensors or (message and "\n" not in message)


class Graph(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.a, self.b = make(4, 6), make(6, 3)

    def forward(self, x, edges):
        return self.b(self.a(x, edges).relu(), edges)


@pytest.mark.parametrize("name", ["GCNConv", "GATConv", "SAGEConv", "GINConv"])
def test_layers_on_graphs_trace_and_certify(name):
    layers = pytest.importorskip("torch_geometric.nn")
    make = getattr(layers, name)
    if name == "GINConv":
        make = lambda i, o: layers.GINConv(nn.Sequential(nn.Linear(i, 8), nn.ReLU(), nn.Linear(8, o)))  # noqa: E731
    given = torch.randn(4, 4), torch.tensor([[0, 1, 2, 3, 0, 2], [1, 2, 3, 0, 2, 2]])
    net = Graph(make)
    space = metanet.trace(net, given)
    assert 6 in [a.size for a in space.free_axes]
    assert metanet.certify(net, space, given).ok


def test_sizes_that_depend_on_values_are_named():
    with pytest.raises(SpaceError, match=r"Net could not be traced: .*depend.* on (the )?values|data-dependent"):
        metanet.trace(Net(lambda s, y: y[y > 0]), torch.randn(2, 4))
