"""Dense messages against the obvious sum over an edge list, in both directions."""

import functools
import threading

import pytest
import torch

import metanet
from metanet import testing
from metanet.graph import NeuronGraph
from metanet.graph.pyg import edge_index
from metanet.models import OperatorMetanet
from metanet.nn import BlockEmbedding, Parallel, SignedBlockEmbedding, SignedNodeUpdate, Sweep
from metanet.nn import scratch as memory
from metanet.nn.blocks import of_source, of_target, to_source, to_target
from metanet.nn.connections import Coefficients, ConnectionNetwork
from metanet.nn.features import layout_features
from metanet.nn.nodes import NodeUpdate
from metanet.nn.steps import Step

HEADS, WIDTH = 4, 8


def edge_sum(values, embedded, layout, block, back):
    """``sum over edges of E * h`` head by head, divided by the root of the senders a receiver hears."""
    ends = edge_index(layout, block)
    sender, receiver = (ends[1], ends[0]) if back else (ends[0], ends[1])
    batch = embedded.shape[1]
    weights = embedded.reshape(HEADS, batch, -1)  # one number per head and edge, in the order of edge_index
    everywhere = torch.zeros(batch, layout.size, WIDTH, dtype=values.dtype)
    place = block.target if back else block.source
    start, size = layout.offsets[place], layout.nodes[place].size
    everywhere[:, start : start + size] = values
    heard = everywhere[:, sender].reshape(batch, -1, HEADS, WIDTH // HEADS) * weights.permute(1, 2, 0)[..., None]
    total = torch.zeros_like(everywhere).index_add(1, receiver, heard.flatten(2))
    count = block.shape[1] if back else block.shape[2]
    place = block.source if back else block.target
    start, size = layout.offsets[place], layout.nodes[place].size
    return total[:, start : start + size] / count**0.5


@pytest.mark.parametrize("back", [False, True])
def test_messages_equal_the_sum_over_edges(traced, back):
    torch.manual_seed(0)
    graph = testing.randomised_graph(traced[2], nets=3)
    layout, embedding = graph.layout, BlockEmbedding(HEADS).double()
    operators = embedding.operators(graph, 2**25)
    for number, block in enumerate(layout.blocks):
        ends = (block.source, block.target)
        features = {place: torch.randn(3, layout.nodes[place].size, WIDTH, dtype=torch.float64) for place in ends}
        sender, receiver = ends[::-1] if back else ends
        step = Step(layout, (receiver,), (number,), not back, back, HEADS)
        with torch.no_grad():
            (found,) = step.messages([features.get(n) for n in range(len(layout.nodes))], operators, 0.5)
        plain = operators[number].embedded() * block.shape[2] ** 0.5  # operators hold the factor of the way forth
        wanted = edge_sum(features[sender], plain, layout, block, back)
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


class PlainOperators:
    """What :class:`~metanet.nn.messages.Operators` do, as formulas for autograd."""

    def __init__(self, network, coefficients, weights):
        seen = network.read(weights)
        inner, shift, outer, skip = coefficients
        linear = seen[:, :-1] @ inner[:, :-1].T
        linear = (linear.abs() if network.folded else linear) + seen[:, -1:] * inner[:, -1] + shift
        embedded = torch.nn.functional.silu(linear) @ outer.T + seen[:, :-1] @ skip.T
        self.matrices = embedded.T.unflatten(1, weights.shape[:4])

    def forth(self, sources):
        sources = sources.unflatten(-1, (HEADS, -1))
        return torch.einsum("rbdts,bdsrf->bdtrf", self.matrices, sources).flatten(3)

    def back(self, targets):
        targets = targets.unflatten(-1, (HEADS, -1))
        return torch.einsum("rbdts,bdtrf->bdsrf", self.matrices, targets).flatten(3)


def by_formulas(step, features, operators, layout, free):
    """What :mod:`metanet.nn.operator` says of a round."""
    if isinstance(step, Parallel):
        everything = range(len(layout.blocks))
        below = [
            messages(features, operators, layout, [i for i in everything if layout.blocks[i].target == place], False)
            for place in range(len(features))
        ]
        above = [
            messages(features, operators, layout, [i for i in everything if layout.blocks[i].source == place], True)
            for place in range(len(features))
        ]
        found = []
        for own, *both, mine in zip(features, below, above, masks(layout, free), strict=True):
            found.append(step.update(own, *(torch.zeros_like(own) if m is None else m for m in both), **mine))
        return found
    features, frees = list(features), masks(layout, free)
    for back, update in ((False, step.forth), (True, step.back)):
        keys = [(-b.link.depth, b.source) if back else (b.link.depth, b.target) for b in layout.blocks]
        for key in sorted(set(keys)):
            numbers = [i for i, k in enumerate(keys) if k == key]
            sent = messages(features, operators, layout, numbers, back)
            features[key[1]] = update(features[key[1]], sent, **frees[key[1]])
    return features


def masks(layout, free):
    return (
        [{}] * len(layout.nodes) if free is None else [{"free": f} for f in free.split([n.size for n in layout.nodes])]
    )


def messages(features, operators, layout, numbers, back):
    total = None
    for number in numbers:
        block = layout.blocks[number]
        if back:
            sent = operators[number].back(of_target(features[block.target], layout, block))
            sent = to_source(sent, layout, block) * (block.shape[2] / block.shape[1]) ** 0.5
        else:
            sent = to_target(operators[number].forth(of_source(features[block.source], layout, block)), layout, block)
        total = sent if total is None else total + sent
    return None if total is None else total / len(numbers) ** 0.5


@pytest.mark.parametrize(
    ("embedding_type", "update"), [(BlockEmbedding, NodeUpdate), (SignedBlockEmbedding, SignedNodeUpdate)]
)
@pytest.mark.parametrize("round_type", [Sweep, Parallel])
@pytest.mark.parametrize("limit", [1, 60, 200, 2**25])
def test_messages_and_gradients_equal_the_formulas(traced, embedding_type, update, round_type, limit):
    """With operators kept, some kept, or embedded again at every use, in pieces of any size."""
    torch.manual_seed(0)
    space = traced[2]
    graph = NeuronGraph(
        space, {n: t.requires_grad_() for n, t in testing.randomised_graph(space, nets=2).tensors.items()}
    )
    embedding, steps = (
        embedding_type(HEADS).double(),
        [round_type(WIDTH, HEADS, update=update).double() for _ in range(2)],
    )
    nodes = [torch.randn(2, n.size, WIDTH, dtype=torch.float64, requires_grad=True) for n in graph.layout.nodes]
    wanted = [p for m in (embedding, *steps) for p in m.parameters()] + nodes + [graph.tensors[n] for n in space.tensor]
    found = []
    for pieces in (False, True):
        if pieces:
            operators = embedding.operators(graph, limit, messages=1)  # fewer than are sent: more slots are made
            kept = sum(o.pieces.keep for o in operators), sum(len(o.pieces.places) for o in operators)
            assert (kept[0] == kept[1]) == (limit == 2**25)
        else:
            embeddings = zip(embedding.embeddings(graph.layout), graph.blocks(), strict=True)
            operators = [PlainOperators(*known, weights) for known, weights in embeddings]
        features = run(steps, operators, nodes, graph, pieces)
        total = (features * torch.linspace(-1, 1, features.numel(), dtype=torch.float64).view(features.shape)).sum()
        grads = torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True, retain_graph=True)
        again = torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True)
        torch.testing.assert_close(again, grads, rtol=1e-12, atol=1e-12)
        found.append([features.detach(), *grads])
    with torch.no_grad():
        found[1].append(run(steps, embedding.operators(graph, limit), nodes, graph, True))
    torch.testing.assert_close(found[1], [*found[0], found[0][0]], rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("frozen", [("out",), ("taps", "size", "modulation", "out")])
def test_parts_of_the_embedding_may_be_frozen(traced_network, frozen):
    """And of the weights, some ask for a gradient."""
    space = traced_network("cnn")[2]
    tensors = testing.randomised_graph(space, nets=2).tensors
    asking = next(link.tensor for link in space.links if link.kind == "linear")
    tensors[asking].requires_grad_()
    graph, (step, embedding) = (
        NeuronGraph(space, tensors),
        (Sweep(WIDTH, HEADS).double(), BlockEmbedding(HEADS).double()),
    )
    nodes = [torch.randn(2, n.size, WIDTH, dtype=torch.float64) for n in graph.layout.nodes]
    wanted = [tensors[asking], *embedding.parameters()]
    features = run([step], embedding.operators(graph, 2**25), nodes, graph, True)
    everything = torch.autograd.grad(features.sin().sum(), wanted)
    for name in frozen:
        getattr(embedding, name).requires_grad_(False)
    features = run([step], embedding.operators(graph, 2**25), nodes, graph, True)
    left = [(place, w) for place, w in enumerate(wanted) if w.requires_grad]
    found = torch.autograd.grad(features.sin().sum(), [w for _, w in left])
    torch.testing.assert_close(found, tuple(everything[place] for place, _ in left), rtol=1e-10, atol=1e-12)


def test_memory_first_used_in_inference_mode_is_used_in_training(traced_network, monkeypatch):
    monkeypatch.setattr(memory, "_LOCAL", threading.local())
    graph = testing.randomised_graph(traced_network("cnn")[2], nets=2).to(torch.float32)
    model = OperatorMetanet(width=8, heads=4, limit=60)
    layout_features.cache_clear()
    with torch.inference_mode():
        model(graph)
    model(graph).sum().backward()
    assert all(p.grad is not None for p in model.blocks.parameters())


@pytest.mark.parametrize("schedule", ["sweep", "parallel"])
def test_a_network_without_weights_is_read(schedule):
    net = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.ReLU())
    graph = testing.randomised_graph(metanet.trace(net, torch.randn(4, 3)), nets=2)
    assert OperatorMetanet(schedule=schedule).double()(graph).isfinite().all()


def run(steps, operators, nodes, graph, pieces):
    free = (torch.arange(graph.layout.size)[:, None] % 3 > 0).double()
    for step in steps:
        free = free if any(isinstance(m, SignedNodeUpdate) for m in step.modules()) else None
        nodes = (step if pieces else functools.partial(by_formulas, step))(nodes, operators, graph.layout, free)
    return torch.cat(nodes, 1)


@pytest.mark.parametrize("taps", [1, 4])
@pytest.mark.parametrize(("even", "folded"), [(False, False), (True, False), (False, True)])
def test_gradients_of_the_embedding_alone(taps, even, folded):
    torch.manual_seed(0)
    network = ConnectionNetwork(2.0, even, folded)
    shapes = [(2, 1, 3, 2, taps), (6, taps + 1), (6,), (HEADS, 6), (HEADS, taps)]
    weights, *coefficients = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes)
    plain = PlainOperators(network, coefficients, weights).matrices
    out, grad = torch.empty(HEADS, 12, dtype=torch.float64), torch.randn(HEADS, 12, dtype=torch.float64)
    network.embed(weights, Coefficients(*coefficients), out)
    torch.testing.assert_close(out, plain.flatten(1), rtol=1e-12, atol=1e-14)
    wanted = torch.autograd.grad(plain.flatten(1), [weights, *coefficients], grad)
    found = network.gradients(weights, Coefficients(*coefficients), grad)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-13)


def test_large_and_missing_weights_are_embedded_without_nan():
    weights = torch.tensor([0.0, 1e-30, 1e30, -3e38]).view(1, 1, 2, 2, 1)
    coefficients = Coefficients(*(1e3 * torch.randn(s) for s in ((6, 2), (6,), (HEADS, 6), (HEADS, 1))))
    network, out = ConnectionNetwork(1.0), torch.empty(HEADS, 4)
    network.embed(weights, coefficients, out)
    assert out.isfinite().all()
    assert all(g.isfinite().all() for g in network.gradients(weights, coefficients, torch.ones_like(out))[1:])


def test_grouped_convolutions_are_among_the_cases(traced_network):
    shapes = [b.shape for b in testing.randomised_graph(traced_network("grouped")[2]).layout.blocks]
    assert any(groups > 1 and targets > 1 and sources > 1 for groups, targets, sources, _ in shapes)


def test_embeddings_share_parameters_over_kernel_sizes(traced_network):
    layout = testing.randomised_graph(traced_network("cnn")[2]).layout
    assert {b.shape[3] for b in layout.blocks} == {1, 9}
