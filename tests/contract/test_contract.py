"""One contract over every metanet and layer: what they promise, in float64, on permutations that move every axis."""

import inspect

import pytest
import torch
from torch import nn

from metanet import models, testing
from metanet.errors import ConfigError, SpaceError
from metanet.models import Metanet
from metanet.models.edge_list import EdgeListMetanet
from metanet.nn import NodeEmbedding, Parallel, Sweep
from metanet.nn.edge_state import EdgeEmbedding, EdgeRound
from metanet.nn.heads import NeuronHead
from metanet.nn.operators import BlockEmbedding
from metanet.nn.tokens import NeuronTokens

ANY = ("mlp", "cnn", "residual", "grouped")
SMALL = {"width": 12, "edge_width": 6, "rounds": 2, "heads": 4, "channels": 6, "layers": 2, "hidden": 16}
CHAINS = ("mlp", "cnn")
READS = {"NFNMetanet": CHAINS, "NFNMetanet HNP": CHAINS, "ScaleGMNMetanet": ("mlp", "cnn", "grouped")}
# of an MLP no tap's place matters, a lone input has no place, and without signs nothing is odd
GRADIENTS = {"NFNMetanet": ("mlp",), "NFNMetanet HNP": ("cnn",)}
GRADIENTS |= dict.fromkeys(("ScaleGMNMetanet", "GaugeMetanet"), ("grouped",))
CLASSES = [c for c in vars(models).values() if inspect.isclass(c) and issubclass(c, Metanet)]
PLAIN = [c.__name__ for c in CLASSES if c not in (Metanet, models.PooledMetanet)]
METANETS = [*PLAIN, "NFNMetanet HNP", "OperatorMetanet parallel"]


def make(name, network, seed=0, out_features=2):
    """A small metanet of a class, with the options that it has."""
    torch.manual_seed(seed)
    name, _, option = name.partition(" ")
    cls = getattr(models, name)
    if name == "ProbeGenMetanet":
        module, example, _ = network
        return cls({"any": module}, example.shape[1:], probes=6, hidden=16, out_features=out_features)
    accepted = inspect.signature(cls).parameters
    options = {key: value for key, value in SMALL.items() if key in accepted}
    options |= {"HNP": {"kind": "HNP"}, "parallel": {"schedule": "parallel"}, "": {}}[option]
    metanet = cls(**options, out_features=out_features)
    metanet.build([network[2]])
    return metanet


def reads(name):
    return READS.get(name, ANY)


def randomised(name, network):
    return testing.randomised_module(make(name, network)), testing.randomised_graph(network[2], nets=5)


@pytest.fixture(params=METANETS)
def name(request):
    return request.param


@pytest.mark.parametrize("which", ANY)
def test_metanet(name, which, traced_network):
    """Invariant where it claims to be, independent of the batch, and not blind."""
    if which not in reads(name):
        graph = testing.randomised_graph(traced_network(which)[2], nets=2).to(torch.float32)
        with pytest.raises(SpaceError, match=r"got .* Choose a metanet"):
            make(name, traced_network(which))(graph)
        return
    metanet, graph = randomised(name, traced_network(which))
    testing.assert_batch_independent(metanet, graph)
    testing.assert_batch_independent(lambda g: (metanet.embed(g), metanet(g)), graph)
    testing.assert_sensitive(metanet, graph)
    kinds = {g.kind for g in graph.space.gauges}
    for kind in metanet.claims & kinds:
        testing.assert_gauge_invariant(metanet, graph, kind)
    if "permutation" in metanet.claims:
        testing.assert_invariant(metanet, graph)
    else:
        with pytest.raises(AssertionError, match="predictions move"):
            testing.assert_invariant(metanet, graph)


def test_gradients_reach_every_parameter(name, traced_network):
    for which in GRADIENTS.get(name, ("residual", "grouped")):
        metanet, graph = randomised(name, traced_network(which))
        testing.assert_gradients(metanet, graph)


def test_save_and_load(name, traced_network):
    which = reads(name)[0]
    graph = testing.randomised_graph(traced_network(which)[2], nets=2).to(torch.float32)
    testing.assert_reloads(make(name, traced_network(which), 0), make(name, traced_network(which), 1), graph)


def test_half_precision_is_trained_and_answers_nearly_the_same(name, traced_network):
    """Under autocast, as with ``--trainer.precision bf16-mixed``."""
    network = traced_network(reads(name)[0])
    metanet, graph = make(name, network), testing.randomised_graph(network[2], nets=3).to(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = metanet(graph)
    torch.testing.assert_close(found.float(), metanet(graph), rtol=0.05, atol=0.05)
    found.float().sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in metanet.parameters())


ENCODERS = [n for n in METANETS if n not in ("FlatMetanet", "ProbeGenMetanet", "NFNMetanet HNP")]


@pytest.mark.parametrize(("encoder", "which"), [(e, w) for e in ENCODERS for w in reads(e)])
def test_answers_per_neuron_and_per_weight_are_equivariant(encoder, which, traced_network):
    network = traced_network(which)
    graph = testing.randomised_graph(network[2], nets=3)
    testing.assert_equivariant(testing.randomised_module(make(encoder, network)).encode, graph)
    for residual in (True, False):
        editor = testing.randomised_module(models.WeightEditor(make(encoder, network), residual, hidden=6))
        testing.assert_equivariant(editor.forward_weights, graph)
    predictor = testing.randomised_module(models.NeuronPredictor(make(encoder, network), 3))
    testing.assert_equivariant(predictor, graph)
    testing.assert_batch_independent(predictor, graph)


@pytest.mark.parametrize("encoder", ["FlatMetanet", "ProbeGenMetanet", "NFNMetanet HNP"])
def test_a_metanet_without_features_of_neurons_says_so(encoder, traced_network):
    graph = testing.randomised_graph(traced_network("mlp")[2], nets=2)
    with pytest.raises(ConfigError, match="gives no features"):
        make(encoder, traced_network("mlp")).encode(graph)


class Messages(nn.Module):
    """Layers that need embedded nodes and blocks, as one layer on graphs."""

    def __init__(self, layer):
        super().__init__()
        self.nodes, self.layer = NodeEmbedding(12), layer
        self.edges = EdgeEmbedding(6) if isinstance(layer, EdgeRound) else BlockEmbedding(4)

    def forward(self, graph):
        if isinstance(self.layer, EdgeRound):
            return self.layer(self.nodes(graph), self.edges(graph), graph.layout)[0]
        return self.layer(self.nodes(graph), self.edges.operators(graph, 2**25), graph.layout)


LAYERS = {
    "NodeEmbedding": lambda: NodeEmbedding(12),
    "NeuronTokens": lambda: NeuronTokens(12, 6),
    "EdgeRound": lambda: Messages(EdgeRound(12, 6, 6)),
    "Sweep": lambda: Messages(Sweep(12, 4)),
    "Parallel": lambda: Messages(Parallel(12, 4)),
    "NeuronHead": lambda: nn.Sequential(NodeEmbedding(12), NeuronHead(12, 2)),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_layer(layer, traced):
    module, graph = testing.randomised_module(LAYERS[layer]()), testing.randomised_graph(traced[2], nets=3)
    testing.assert_equivariant(module, graph)
    testing.assert_batch_independent(module, graph)


@pytest.mark.parametrize("which", ANY)
def test_dense_path_equals_the_path_over_to_pyg(which, traced_network):
    network = traced_network(which)
    dense, graph = randomised("EdgeStateMetanet", network)
    testing.assert_same_function(dense, EdgeListMetanet(dense), list(dense.parameters()), graph)
