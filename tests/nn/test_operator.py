"""Dense messages against the obvious sum over an edge list, in both directions."""

import pytest
import torch

from metanet import testing
from metanet.graph.pyg import edge_index
from metanet.nn import BlockEmbedding, Sweep, link_features

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
    direction = sweep.back if back else sweep.forth
    for block, weights in zip(layout.blocks, graph.blocks(), strict=True):
        embedded = embedding(weights, block, link_features(layout, block).to(weights))
        node = layout.nodes[block.target if back else block.source]
        features = torch.randn(3, node.size, WIDTH, dtype=torch.float64)
        found = direction.message(features, embedded, layout, block, back)
        values = direction.read(direction.norm(features))
        torch.testing.assert_close(found, edge_sum(values, embedded, layout, block, back), rtol=1e-10, atol=1e-10)


def test_grouped_convolutions_are_among_the_cases(traced_network):
    shapes = [b.shape for b in testing.randomised_graph(traced_network("grouped")[2]).layout.blocks]
    assert any(groups > 1 and targets > 1 and sources > 1 for groups, targets, sources, _ in shapes)


def test_embeddings_share_parameters_over_kernel_sizes(traced_network):
    layout = testing.randomised_graph(traced_network("cnn")[2]).layout
    assert {b.shape[3] for b in layout.blocks} == {1, 9}
