"""The edge-state metanet once more, on a list of edges with gather and scatter: the slow, obvious way.

It shares all parameters with an :class:`~metanet.models.EdgeStateMetanet` and reads the graphs that ``to_pyg`` makes,
joined to one as PyG joins them. It exists to be compared with: in value and gradient by tests, in time by benchmarks.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import gelu
from torch_geometric.data import Batch, Data

from metanet.graph import NeuronGraph
from metanet.graph.layout import Block
from metanet.models.base import Metanet
from metanet.models.edge_state import EdgeStateMetanet
from metanet.nn.edge_state import EdgeRound
from metanet.nn.features import link_features, signed_log


class EdgeListMetanet(Metanet):
    """Edge-state message passing with one row an edge: gather both ends, concatenate, transform, scatter.

    Args:
        dense: The metanet on dense blocks whose parameters are used.
    """

    def __init__(self, dense: EdgeStateMetanet) -> None:
        super().__init__()
        self.dense, self.out_features = dense, dense.out_features

    def encode(self, graph: NeuronGraph, edges: Data | None = None) -> list[Tensor]:
        """Features of every neuron, ``[B, N, width]`` per node set; ``edges`` as in :meth:`forward`."""
        edges, layout = joined(graph) if edges is None else edges, graph.layout
        nodes = torch.cat(self.dense.nodes(graph), 1).flatten(0, 1)
        states = self._embed(graph, edges)
        for layer in self.dense.rounds:
            nodes, states = edge_round(cast(EdgeRound, layer), nodes, states, edges, layout.blocks)
        split = nodes.reshape(graph.batch_size, layout.size, -1).split([n.size for n in layout.nodes], 1)
        return list(split)

    def forward(self, graph: NeuronGraph, edges: Data | None = None) -> Tensor:
        """Predictions ``[B, out_features]``.

        Args:
            graph: B nets of one space.
            edges: Their :func:`joined` edge lists; made here if not given, which takes longer than the rest.
        """
        return self.dense.head(self.dense.pool(self.encode(graph, edges), graph.layout))

    def _embed(self, graph: NeuronGraph, edges: Data) -> Tensor:
        """First states ``[E, d]``."""
        layout, embedding, weights = graph.layout, self.dense.edges, edges.edge_attr
        fan_in = weights.new_tensor([b.fan_in for b in layout.blocks])[edges.edge_block]
        mixing = weights.new_zeros(len(layout.blocks), weights.shape[1], self.dense.edge_width)
        for number, block in enumerate(layout.blocks):
            taps = embedding.taps(weights.new_tensor(block.coordinates)) / block.shape[3] ** 0.5
            mixing[number, : len(taps)] = taps
        links = torch.stack([link_features(layout, b) for b in layout.blocks]).to(weights)[edges.edge_block]
        mixed = (signed_log(weights * fan_in[:, None].sqrt())[:, :, None] * mixing[edges.edge_block]).sum(1)
        return mixed + embedding.out(gelu(mixed + embedding.link(links)))


def joined(graph: NeuronGraph) -> Data:
    """The ``to_pyg`` graphs of all nets of a batch as one graph without connections between nets, one edge each."""
    taps = max((b.shape[3] for b in graph.layout.blocks), default=1)
    return Batch.from_data_list([graph.to_pyg(number, taps=taps) for number in range(graph.batch_size)])


def edge_round(
    layer: EdgeRound, nodes: Tensor, states: Tensor, edges: Data, blocks: tuple[Block, ...]
) -> tuple[Tensor, Tensor]:
    """What :class:`~metanet.nn.EdgeRound` computes, on node features ``[N, width]`` and edge states ``[E, d]``."""
    source, target = edges.edge_index
    normed = layer.norm(nodes)
    as_target, as_source, forth, back = layer.project.weight.split(layer.split)
    ends = torch.cat([layer.norm_edge(states), normed[target], normed[source]], 1)
    first = torch.cat([layer.edge.weight, as_target, as_source], 1)
    states = states + layer.edge_out(gelu(ends @ first.T + layer.edge.bias))
    sources = states.new_tensor([b.shape[2] for b in blocks])[edges.edge_block, None]
    targets = states.new_tensor([b.shape[1] for b in blocks])[edges.edge_block, None]
    down = torch.cat([states * (normed[source] @ forth.T), states], 1) / sources
    up = torch.cat([states * (normed[target] @ back.T), states], 1) / targets
    none = nodes.new_zeros(len(nodes), down.shape[1])
    heard = [normed, none.index_add(0, target, down), none.index_add(0, source, up)]
    return nodes + layer.update(torch.cat(heard, 1)), states
