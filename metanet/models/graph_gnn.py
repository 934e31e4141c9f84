"""NG-GNN style: principal neighbourhood aggregation with edge updates on the neuron graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from metanet.graph import Layout, NeuronGraph
from metanet.graph.layout import Block
from metanet.models.base import PooledMetanet
from metanet.nn import NodeEmbedding
from metanet.nn.blocks import of_source, of_target, to_source, to_target
from metanet.nn.edge_state import EdgeEmbedding
from metanet.nn.pna import AGGREGATES, Neighbourhood


class GraphGNNMetanet(PooledMetanet):
    """Neurons are nodes, weights are edges; PNA layers whose messages are scaled and shifted by the edge.

    Source: Kofinas et al., "Graph Neural Networks for Learning Equivariant Representations of Neural Networks" (ICLR
    2024, arXiv:2403.12143), the model NG-GNN. Per round ``e_ts += f(e_ts, h_t, h_s)``, messages ``a(e) * V h_s + b(e)``
    down and, with other parameters, up the network, PNA aggregation, and a residual update.

    What differs: the published normalisation runs over the whole minibatch, so that a prediction depends on the
    neighbours of a net; here layer normalisation sees one neuron at a time. Kernels are embedded by the coordinates
    of their taps instead of being padded to a largest size; layers without a bias, norm layers, grouped and residual
    connections are read. Probe features, which query the function, are left out.

    Args:
        width: Features per neuron.
        edge_width: Features per connection.
        rounds: Rounds.
        out_features: Numbers predicted per net.
        dropout: Dropout before the last layer.
    """

    def __init__(
        self, width: int = 64, edge_width: int = 32, rounds: int = 3, out_features: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__(width, out_features, dropout)
        self.nodes, self.edges = NodeEmbedding(width), EdgeEmbedding(edge_width)
        self.rounds = nn.ModuleList(_Round(width, edge_width) for _ in range(rounds))

    def encode(self, graph: NeuronGraph) -> list[Tensor]:
        """Features of every neuron, ``[B, N, width]`` per node set."""
        nodes, edges = self.nodes(graph), self.edges(graph)
        for layer in self.rounds:
            nodes, edges = layer(nodes, edges, graph.layout)
        return nodes


class _Round(nn.Module):
    def __init__(self, width: int, edge_width: int) -> None:
        super().__init__()
        self.norm, self.norm_edge = nn.LayerNorm(width), nn.LayerNorm(edge_width)
        self.edge_width = edge_width
        self.project = nn.Linear(width, 4 * edge_width, bias=False)  # as target, as source, values forth and back
        self.edge, self.edge_out = nn.Linear(edge_width, edge_width), nn.Linear(edge_width, edge_width)
        self.modulate = nn.Linear(edge_width, 4 * edge_width)
        self.join = nn.Linear(2 * AGGREGATES * edge_width, width)
        self.update = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, nodes: list[Tensor], edges: list[Tensor], layout: Layout) -> tuple[list[Tensor], list[Tensor]]:
        normed = [self.norm(h) for h in nodes]
        parts = [self.project(n).chunk(4, -1) for n in normed]
        forth, back = [Neighbourhood() for _ in nodes], [Neighbourhood() for _ in nodes]
        states = []
        for block, state in zip(layout.blocks, edges, strict=True):
            as_target, _, _, up = (of_target(p, layout, block)[:, :, :, None] for p in parts[block.target])
            _, as_source, down, _ = (of_source(p, layout, block)[:, :, None] for p in parts[block.source])
            state = state + self.edge_out(nn.functional.gelu(self.edge(self.norm_edge(state)) + as_target + as_source))
            scale, shift, scale_up, shift_up = self.modulate(state).chunk(4, -1)
            _collect(forth[block.target], scale * down + shift, 3, to_target, layout, block)
            _collect(back[block.source], scale_up * up + shift_up, 2, to_source, layout, block)
            states.append(state)
        updated = []
        for h, n, f, b in zip(nodes, normed, forth, back, strict=True):
            heard = self.join(torch.cat([f.read(n, self.edge_width), b.read(n, self.edge_width)], -1))
            updated.append(h + self.update(torch.cat([n, heard], -1)))
        return updated, states


def _collect(
    into: Neighbourhood, messages: Tensor, dim: int, place: Callable[[Tensor, Layout, Block], Tensor],
    layout: Layout, block: Block,
) -> None:  # fmt: skip
    """Add the statistics of messages ``[B, D, T, S, F]`` over one dimension."""
    found = messages.sum(dim), messages.square().sum(dim), messages.amax(dim), messages.amin(dim)
    into.add(messages.shape[dim], *(place(x, layout, block) for x in found))
