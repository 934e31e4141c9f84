"""One contract over every metanet and layer: what they promise, in float64, on permutations that move every axis."""

import functools
import inspect

import pytest
import torch
from torch import nn

import metanet
from metanet import models, testing
from metanet.errors import ConfigError, SpaceError
from metanet.graph import NeuronGraph
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


def zeros(tensor):
    return torch.zeros_like(tensor)


def ones(tensor):
    return torch.ones_like(tensor)


def one_row(tensor):
    return tensor.index_fill(1, torch.tensor([0]), 0.0) if tensor.ndim > 1 else tensor


def one_column(tensor):
    return tensor.index_fill(2, torch.tensor([0]), 0.0) if tensor.ndim > 2 else tensor


def one_tap(tensor):
    return tensor.index_fill(tensor.ndim - 1, torch.tensor([0]), 0.0) if tensor.ndim > 3 else one_row(tensor)


STATES = {
    "zero": zeros,
    "alike": ones,
    "a neuron without incoming weights": one_row,
    "a neuron without outgoing weights": one_column,
    "a tap of zero": one_tap,
    "tiny": lambda tensor: 1e-30 * tensor,
    "below what float32 can square": lambda tensor: 1e-22 * tensor,
    "subnormal": lambda tensor: 1e-42 * tensor,
    "large": lambda tensor: 1e4 * tensor,
    "a tiny row": lambda tensor: torch.where(one_row(tensor) == 0, 1e-30 * tensor, tensor),
}


class Narrow(nn.Module):
    """One neuron a layer, a batch norm of one channel, and one output."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1)
        self.hidden, self.head = nn.Linear(4, 1), nn.Linear(1, 1, bias=False)

    def forward(self, x):
        return self.head(torch.tanh(self.hidden(torch.relu(self.norm(self.conv(x))).flatten(1))))


class Powers(nn.Module):
    """Neurons whose value grows with a power of their weights."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(torch.relu(self.first(x)) ** 3)


OWN = {Narrow: (2, 1, 4, 4), Powers: (2, 3)}


@functools.cache
def own(cls):
    module, example = cls(), torch.randn(OWN[cls])
    return module, example, metanet.trace(module, example)


def graph_of(space, change, dtype):
    """Two nets, changed, whose tensors ask for gradients."""
    generator = torch.Generator().manual_seed(0)
    statistics = {link.tensor for link in space.links if link.kind in ("mean", "variance")}
    tensors = {}
    for name, shape in space.shapes.items():
        drawn = change(torch.randn(2, *shape, generator=generator).to(dtype))
        tensors[name] = drawn.abs() if name in statistics else drawn.requires_grad_()
    return NeuronGraph(space, tensors)


def problems(metanet, graph):
    """What is not finite."""
    prediction = metanet(graph)
    prediction.sum().backward()
    named = {"prediction": prediction}
    named |= {f"gradient of weight '{n}'": t.grad for n, t in graph.tensors.items()}
    named |= {f"gradient of parameter '{n}'": p.grad for n, p in metanet.named_parameters()}
    return [name for name, tensor in named.items() if tensor is not None and not tensor.isfinite().all()]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", METANETS)
def test_values_and_gradients_are_finite(name, state, traced_network):
    known = [traced_network(which) for which in READS.get(name, ("mlp", "residual", "grouped"))]
    for network in [*known, *([] if name in READS else map(own, OWN))]:
        for dtype in (torch.float32, torch.float64):
            model = make(name, network).to(dtype)
            found = problems(model, graph_of(network[2], STATES[state], dtype))
            assert not found, f"{network[0]}, {dtype}: {found}"
