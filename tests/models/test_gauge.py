"""The gauge metanet is invariant under everything that its space's gauges say, in networks of every kind."""

import functools

import pytest
import torch
from torch import nn

import metanet
from metanet import testing
from metanet.errors import ConfigError
from metanet.models import GaugeMetanet, OperatorMetanet
from metanet.models import gauge as gauge_model
from metanet.nn import SignedNodeUpdate
from metanet.nn import gauge as layers
from metanet.nn.parity import parities
from metanet.symmetry.move import sample

KINDS = ("permutation", "scale", "sign")


class Signs(nn.Module):
    """Tanh and ReLU neurons, batch norms before both, a depthwise convolution, and a stream that two layers write."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.depthwise, self.conv2 = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 6, 1)
        self.conv3, self.bn3 = nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5)
        self.hidden, self.head = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x):
        x = torch.tanh(self.bn1(self.conv1(x)))
        x = torch.tanh(self.depthwise(x)) + self.conv2(x)
        x = torch.relu(self.bn3(self.conv3(x))).mean((2, 3))
        return self.head(torch.sin(self.hidden(x)))


NETWORKS = {
    "signs": lambda: (Signs(), (2, 1, 5, 5)),
    "attention": lambda: (nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True), (2, 5, 8)),
    "inr": lambda: (nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 1)), (3, 2)),
}


@functools.cache
def space_of(name):
    torch.manual_seed(0)
    module, shape = NETWORKS[name]()
    return metanet.trace(module, torch.randn(*shape))


@pytest.fixture(params=["mlp", "cnn", "residual", "grouped", *NETWORKS])
def space(request, traced_network):
    return space_of(request.param) if request.param in NETWORKS else traced_network(request.param)[2]


def model(cls=GaugeMetanet, **kwargs):
    torch.manual_seed(0)
    return testing.randomised_module(cls(**{"width": 16, "heads": 4, "rounds": 2, **kwargs}))


def error(predict, graph, kinds, seed=1):
    """How far predictions move under a random element, relative to their spread over nets."""
    with torch.no_grad():
        base = predict(graph)
        moved = predict(graph.permute(sample(graph.space, seed=seed, kinds=kinds)))
    return ((moved - base).abs() / testing.spread(base)).max().item()


@pytest.mark.parametrize("schedule", ["sweep", "parallel"])
def test_exact_under_every_gauge_of_the_space(space, schedule):
    graph, predict = testing.randomised_graph(space), model(schedule=schedule)
    for kinds in ([k] for k in KINDS):
        assert error(predict, graph, kinds) < 1e-12
    assert error(predict, graph, KINDS, seed=2) < 1e-12


def test_not_blind(space):
    graph, predict = testing.randomised_graph(space), model()
    assert testing.assert_sensitive(predict, graph) > 1e-6
    assert testing.assert_batch_independent(predict, graph) < 1e-10


@pytest.mark.parametrize(("name", "tensor"), [("signs", "hidden.weight"), ("inr", "2.weight")])
def test_one_weight_that_flips_alone_is_seen(name, tensor):
    """Evenness in each weight would pass as invariance; the function does change."""
    graph, predict = testing.randomised_graph(space_of(name)), model()
    base = predict(graph)
    changed = {n: t.clone() for n, t in graph.tensors.items()}
    changed[tensor][:, 0, 1] *= -1
    moved = predict(type(graph)(graph.space, changed))
    assert ((moved - base).abs() / testing.spread(base)).max() > 1e-6


def test_a_plain_metanet_moves(space):
    graph, predict = testing.randomised_graph(space), model(OperatorMetanet)
    for kind in {g.kind for g in space.gauges} - {"permutation"}:
        assert error(predict, graph, [kind]) > 1e-6


def test_raw_scales_are_read_and_not_claimed_to_be_ignored():
    graph, predict = testing.randomised_graph(space_of("signs")), model(raw=True)
    assert predict.claims == {"permutation", "sign"}
    assert GaugeMetanet.claims == {"permutation", "scale", "sign"}
    assert error(predict, graph, ["permutation", "sign"]) < 1e-12
    assert error(predict, graph, ["scale"]) > 1e-6


def test_signs_are_kept_where_the_network_has_them():
    found = parities(space_of("inr"))
    assert found.free == (True, False, False, True)
    assert all(b.carries and not b.still for b in found.blocks)
    assert [v.carries for v in found.vectors] == [True, True, False]
    assert all(parities(space_of("attention")).free), "signs of fused projections are met by even functions"


def plain_norm(self, features):
    return nn.functional.layer_norm(features, features.shape[-1:])


def constant_in_odd_features(self, features, *messages, free):
    return update(self, features, *messages, free=torch.ones_like(free))


def with_the_sign(odd):
    return odd.mean(-1, keepdim=True)


update = SignedNodeUpdate.forward
BROKEN = {
    "sign, by a norm that mixes both halves": (layers.SignedNorm, "forward", plain_norm, "sign"),
    "sign, by neurons taken for free": (SignedNodeUpdate, "forward", constant_in_odd_features, "sign"),
    "sign, by a size that has one": (layers.SignedNorm, "size", staticmethod(with_the_sign), "sign"),
    "scale, by weights as they are": (gauge_model, "fix", lambda space, tensors: (dict(tensors), []), "scale"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_broken_layers_are_found(how, monkeypatch):
    owner, name, replacement, kind = BROKEN[how]
    monkeypatch.setattr(owner, name, replacement)
    assert error(model(), testing.randomised_graph(space_of("signs")), [kind]) > 1e-6


@pytest.mark.parametrize("raw", [False, True])
def test_every_parameter_gets_a_gradient(raw):
    testing.assert_gradients(model(raw=raw, out_features=2), testing.randomised_graph(space_of("signs")))


def test_heads_and_schedule_are_checked():
    with pytest.raises(ConfigError, match="heads=3, width=15"):
        GaugeMetanet(width=15, heads=3)
    with pytest.raises(ConfigError, match="schedule='both'"):
        GaugeMetanet(schedule="both")
