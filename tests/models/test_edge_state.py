"""The edge-state metanet; that it equals its edge list is in the contract, and here, that the comparison can fail."""

import torch

from metanet import testing
from metanet.models import EdgeStateMetanet
from metanet.models.edge_list import EdgeListMetanet, joined


def test_the_comparison_with_the_edge_list_sees_a_wrong_edge(traced_network):
    torch.manual_seed(0)
    graph = testing.randomised_graph(traced_network("residual")[2], nets=2)
    dense = testing.randomised_module(EdgeStateMetanet(width=12, edge_width=6, rounds=2))
    edges = joined(graph)
    with torch.no_grad():
        slow = EdgeListMetanet(dense)
        torch.testing.assert_close(slow(graph, edges), dense(graph), rtol=1e-10, atol=1e-12)
        edges.edge_index[0, 3] += 1
        assert (slow(graph, edges) - dense(graph)).abs().max() > 1e-6


def test_one_metanet_reads_several_architectures(traced_network):
    torch.manual_seed(0)
    metanet = EdgeStateMetanet(width=12, edge_width=6, rounds=1, out_features=3)
    for name in ("mlp", "cnn", "residual", "grouped"):
        graph = testing.randomised_graph(traced_network(name)[2], nets=2).to(torch.float32)
        assert metanet(graph).shape == (2, 3)
        nodes, edges = metanet.encode_edges(graph)
        assert [h.shape[1] for h in nodes] == [n.size for n in graph.layout.nodes]
        assert [tuple(e.shape[1:4]) for e in edges] == [b.shape[:3] for b in graph.layout.blocks]
