"""The edge-state metanet: the expressive reference, and the family to return weights with."""

from __future__ import annotations

from torch import Tensor, nn

from metanet.graph import NeuronGraph
from metanet.models.base import PooledMetanet
from metanet.nn import NodeEmbedding
from metanet.nn.edge_state import EdgeEmbedding, EdgeRound


class EdgeStateMetanet(PooledMetanet):
    """Every connection keeps a feature vector, updated round by round together with its two neurons.

    It reads any architecture: parameters are shared over links, which differ by their features only. Memory grows with
    connections times ``edge_width``, so large networks are for :class:`~metanet.models.OperatorMetanet`.

    Args:
        width: Features per neuron.
        edge_width: Features per connection.
        rounds: Rounds of message passing.
        out_features: Numbers predicted per net.
        dropout: Dropout before the last layer.
    """

    def __init__(
        self, width: int = 64, edge_width: int = 32, rounds: int = 3, out_features: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__(width, out_features, dropout)
        self.edge_width = edge_width
        self.nodes = NodeEmbedding(width)
        self.edges = EdgeEmbedding(edge_width)
        self.rounds = nn.ModuleList(EdgeRound(width, edge_width, 2 * edge_width) for _ in range(rounds))

    def encode_edges(self, graph: NeuronGraph) -> tuple[list[Tensor], list[Tensor]]:
        """Features of every neuron ``[B, N, width]`` and of every connection ``[B, D, T, S, edge_width]``."""
        nodes, edges = self.nodes(graph), self.edges(graph)
        for layer in self.rounds:
            nodes, edges = layer(nodes, edges, graph.layout)
        return nodes, edges

    def encode(self, graph: NeuronGraph) -> list[Tensor]:
        """Features of every neuron, ``[B, N, width]`` per node set."""
        return self.encode_edges(graph)[0]
