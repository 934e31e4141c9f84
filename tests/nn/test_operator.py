"""Dense messages against the obvious sum over an edge list, in both directions."""

import pytest
import torch

from metanet import testing
from metanet.graph.pyg import edge_index
from metanet.nn import BlockEmbedding, Parallel, Sweep
from metanet.nn.operators import LazyOperators, Operators

HEADS, WIDTH = 4, 8


def edge_sum(values, embedded, layout, block, back):
    """``sum over edges of E * h`` head by head, divided by the root of the senders a receiver hears."""
    ends = edge_index(layout, block)
    sender, receiver = (ends[1], ends[0]) if back else (ends[0], ends[1])
    batch = embedded.shape[0]
    weights = embedded.reshape(batch, HEADS, -1)  # one number per head and edge, in the order of edge_index
    everywhere = torch.zeros(batch, layout.size, WIDTH, dtype=values.dtype)
    place = block.target if back else block.source
    start, size = layout.offsets[place], layout.nodes[place].size
    everywhere[:, start : start + size] = values
    heard = everywhere[:, sender].reshape(batch, -1, HEADS, WIDTH // HEADS) * weights.movedim(1, 2)[..., None]
    total = torch.zeros_like(everywhere).index_add(1, receiver, heard.flatten(2))
    count = block.shape[1] if back else block.shape[2]
    place = block.source if back else block.target
    start, size = layout.offsets[place], layout.nodes[place].size
    return total[:, start : start + size] / count**0.5


@pytest.mark.parametrize("back", [False, True])
def test_messages_equal_the_sum_over_edges(traced, back):
    torch.manual_seed(0)
    graph = testing.randomised_graph(traced[2], nets=3)
    layout, embedding, sweep = graph.layout, BlockEmbedding(HEADS).double(), Sweep(WIDTH, HEADS).double()
    for block, operators in zip(layout.blocks, embedding.operators(graph, 2**25), strict=True):
        node = layout.nodes[block.target if back else block.source]
        features = torch.randn(3, node.size, WIDTH, dtype=torch.float64)
        found = (sweep.up if back else sweep.down)(features, operators, layout, block)
        plain = operators.embedded * block.shape[2] ** 0.5  # the operators hold the factor of the way forth
        torch.testing.assert_close(found, edge_sum(features, plain, layout, block, back), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("round_type", [Sweep, Parallel])
@pytest.mark.parametrize("limit", [1, 60, 200])
def test_embedding_piece_by_piece_changes_nothing(traced, round_type, limit):
    torch.manual_seed(0)
    graph = testing.randomised_graph(traced[2], nets=2)
    embedding, step = BlockEmbedding(HEADS).double(), round_type(WIDTH, HEADS).double()
    nodes = [torch.randn(2, n.size, WIDTH, dtype=torch.float64, requires_grad=True) for n in graph.layout.nodes]
    wanted, gradients = run(embedding.operators(graph, 2**25), embedding, step, nodes, graph)
    pieces = embedding.operators(graph, limit)
    assert all(isinstance(p, LazyOperators) for p in pieces)
    assert any(len(p.rows) > 1 for p in pieces) or limit == 200
    found, others = run(pieces, embedding, step, nodes, graph)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(others, gradients, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(run_forward(pieces, step, nodes, graph), wanted, rtol=1e-12, atol=1e-12)


def run_forward(operators, step, nodes, graph):
    return torch.cat(step(nodes, operators, graph.layout), 1)


def run(operators, embedding, step, nodes, graph):
    """Features after a round, and the gradients of their weighted sum for all parameters and inputs."""
    features = run_forward(operators, step, nodes, graph)
    total = (features * torch.linspace(-1, 1, features[0].numel(), dtype=torch.float64).view(features[0].shape)).sum()
    wanted = [*embedding.parameters(), *step.parameters(), *nodes]
    return features.detach(), torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True)


def test_small_inputs_are_embedded_once(traced_network):
    graph = testing.randomised_graph(traced_network("cnn")[2])
    assert all(type(o) is Operators for o in BlockEmbedding(HEADS).double().operators(graph, 2**25))


def test_grouped_convolutions_are_among_the_cases(traced_network):
    shapes = [b.shape for b in testing.randomised_graph(traced_network("grouped")[2]).layout.blocks]
    assert any(groups > 1 and targets > 1 and sources > 1 for groups, targets, sources, _ in shapes)


def test_embeddings_share_parameters_over_kernel_sizes(traced_network):
    layout = testing.randomised_graph(traced_network("cnn")[2]).layout
    assert {b.shape[3] for b in layout.blocks} == {1, 9}
