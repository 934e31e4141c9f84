"""NG-T style: a relational transformer over all pairs of neurons."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metanet.errors import ConfigError, GraphError
from metanet.graph import NeuronGraph
from metanet.models.base import PooledMetanet
from metanet.nn import NodeEmbedding
from metanet.nn.blocks import to_pairs
from metanet.nn.edge_state import EdgeEmbedding


class GraphTransformerMetanet(PooledMetanet):
    """Attention among all neurons whose queries, keys and values also read the connection; connections are updated.

    Source: Kofinas et al. (ICLR 2024, arXiv:2403.12143), the model NG-T, after the relational transformer of Diao and
    Loynd (ICLR 2023, arXiv:2210.05062): ``q_ij = Q h_i + Q' e_ij`` and likewise keys and values, then
    ``e_ij += f(e_ij, e_ji, h_i, h_j)``.

    What differs: the published model pads nets of a batch to one size and ignores the mask, so that a net's prediction
    changes beside a larger one; a batch here holds nets of one space, so nothing is padded, and normalisation sees one
    neuron or pair at a time. Pairs without a connection share a learned state. Memory grows with neurons squared times
    ``edge_width``, as in the original.

    Args:
        width: Features per neuron.
        edge_width: Features per pair of neurons.
        heads: Attention heads; must divide ``width``.
        rounds: Rounds.
        out_features: Numbers predicted per net.
        dropout: Dropout before the last layer.
        max_neurons: Largest network accepted.
    """

    def __init__(
        self,
        width: int = 32,
        edge_width: int = 16,
        heads: int = 4,
        rounds: int = 3,
        out_features: int = 1,
        dropout: float = 0.0,
        max_neurons: int = 1024,
    ) -> None:
        if width % heads:
            raise ConfigError(f"GraphTransformerMetanet: heads must divide width; got heads={heads}, width={width}")
        super().__init__(width, out_features, dropout)
        self.max_neurons = max_neurons
        self.nodes, self.edges = NodeEmbedding(width), EdgeEmbedding(edge_width)
        self.none = nn.Parameter(torch.randn(edge_width) * 0.1)
        self.both = nn.Linear(2 * edge_width, edge_width)
        self.rounds = nn.ModuleList(_Round(width, edge_width, heads, last=i == rounds - 1) for i in range(rounds))

    def encode(self, graph: NeuronGraph) -> list[Tensor]:
        """Features of every neuron, ``[B, N, width]`` per node set.

        Raises:
            GraphError: The network has more than ``max_neurons`` neurons.
        """
        layout = graph.layout
        if layout.size > self.max_neurons:
            raise GraphError(
                f"GraphTransformerMetanet holds a feature per pair of neurons: got {layout.size} neurons, accepted at "
                f"most max_neurons={self.max_neurons}. Raise it, or choose metanet.models.OperatorMetanet"
            )
        nodes, pairs = torch.cat(self.nodes(graph), 1), to_pairs(self.edges(graph), layout, self.none)
        pairs = self.both(torch.cat([pairs, pairs.transpose(1, 2)], -1))
        for layer in self.rounds:
            nodes, pairs = layer(nodes, pairs)
        return list(nodes.split([n.size for n in layout.nodes], 1))


class _Round(nn.Module):
    def __init__(self, width: int, edge_width: int, heads: int, last: bool) -> None:
        super().__init__()
        self.heads, self.last = heads, last
        self.norm, self.norm_pair = nn.LayerNorm(width), nn.LayerNorm(edge_width)
        self.query, self.pair_query = nn.Linear(width, width), nn.Linear(edge_width, width, bias=False)
        self.key, self.pair_key = nn.Linear(width, width), nn.Linear(edge_width, width, bias=False)
        self.value, self.pair_value = nn.Linear(width, width), nn.Linear(edge_width, width, bias=False)
        self.join = nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        if not last:  # the pairs after the last round are read by nobody
            self.pair, self.mirror = nn.Linear(edge_width, 2 * edge_width), nn.Linear(edge_width, 2 * edge_width)
            self.ends = nn.Linear(width, 4 * edge_width, bias=False)
            self.pair_out = nn.Linear(2 * edge_width, edge_width)

    def forward(self, nodes: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, N, width]`` and ``[B, N, N, edge_width]``, where pair ``ij`` is what ``i`` hears from ``j``."""
        batch, count, width = nodes.shape
        n, p = self.norm(nodes), self.norm_pair(pairs)
        heads = (self.heads, width // self.heads)
        query = self.query(n)[:, :, None] + self.pair_query(p)
        key = self.key(n)[:, None] + self.pair_key(p)
        scores = (query * key).unflatten(-1, heads).sum(-1) / heads[1] ** 0.5
        value = (self.value(n)[:, None] + self.pair_value(p)).unflatten(-1, heads)
        heard = (scores.softmax(2)[..., None] * value).sum(2)
        nodes = nodes + self.join(heard.reshape(batch, count, width))
        nodes = nodes + self.feed(nodes)
        if self.last:
            return nodes, pairs
        first, second = self.ends(nodes).chunk(2, -1)
        hidden = self.pair(p) + self.mirror(p).transpose(1, 2) + first[:, :, None] + second[:, None]
        return nodes, pairs + self.pair_out(nn.functional.gelu(hidden))
