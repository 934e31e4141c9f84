"""Tokens: one vector a neuron, from its own parameters and the connections it takes part in, without messages."""

from __future__ import annotations

from torch import Tensor, nn

from metanet.graph.neuron_graph import NeuronGraph
from metanet.nn.blocks import to_source, to_target
from metanet.nn.edge_state import EdgeEmbedding
from metanet.nn.nodes import NodeEmbedding


class NeuronTokens(nn.Module):
    """``h_t = nodes_t + A mean_s e(w_ts) + B mean_u e(w_ut)``: what a neuron is, reads and writes.

    Args:
        width: Features per neuron.
        edge_width: Features per connection.
    """

    def __init__(self, width: int, edge_width: int) -> None:
        super().__init__()
        self.nodes, self.edges = NodeEmbedding(width), EdgeEmbedding(edge_width)
        self.reads, self.writes = nn.Linear(edge_width, width), nn.Linear(edge_width, width)

    def forward(self, graph: NeuronGraph) -> list[Tensor]:
        """Features ``[B, N, width]`` of every node set."""
        layout, features = graph.layout, list(self.nodes(graph))
        for block, state in zip(layout.blocks, self.edges(graph), strict=True):
            target, source = self.reads(state.mean(3)), self.writes(state.mean(2))
            features[block.target] = features[block.target] + to_target(target, layout, block)
            features[block.source] = features[block.source] + to_source(source, layout, block)
        return features
