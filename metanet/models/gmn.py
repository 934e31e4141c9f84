"""GMN style: a graph network in which every parameter is an edge."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from metanet.graph import Layout, NeuronGraph
from metanet.models.base import PooledMetanet
from metanet.nn.blocks import of_source, of_target, to_source, to_target
from metanet.nn.features import LINK_FEATURES, NODE_FEATURES, link_features, node_features, signed_log, vector_kind
from metanet.space.weight_space import VECTOR_KINDS

READ = 5  # what is read of one parameter: its value, alone and against its fan-in, and its place


class GMNMetanet(PooledMetanet):
    """Message passing on the parameter graph: neurons are nodes, and each single parameter is an edge with a state.

    Source: Lim, Maron, Law, Lorraine, Lucas, "Graph Metanetworks for Processing Diverse Neural Architectures" (ICLR
    2024, arXiv:2312.04501). A kernel of K taps is K parallel edges, which know their place; biases, norm scales and
    statistics are edges from one more node per tensor. Edges, nodes and a vector ``u`` of the net are updated in turn::

        e += f(e, h_t, h_s, u);   h += g(h, u, mean of edges in, mean of edges out);   u += k(u, mean h, mean e)

    What differs: the published builder knows a list of layer types and is silently wrong for grouped convolutions; here
    the graph comes from the traced space, and running statistics are edges too. Means are taken per tensor and summed.
    This holds one state per parameter, where a neuron graph holds one per connection.

    Args:
        width: Features per neuron.
        edge_width: Features per parameter.
        rounds: Rounds.
        out_features: Numbers predicted per net.
        dropout: Dropout before the last layer.
    """

    def __init__(
        self, width: int = 64, edge_width: int = 16, rounds: int = 3, out_features: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__(width, out_features, dropout)
        self.constants = nn.Sequential(nn.Linear(NODE_FEATURES, width), nn.GELU(), nn.Linear(width, width))
        self.hub, self.of_net = nn.Embedding(len(VECTOR_KINDS), width), nn.Parameter(0.1 * torch.randn(width))
        self.value, self.link = nn.Linear(READ, edge_width), nn.Linear(LINK_FEATURES, edge_width)
        self.kind, self.first = nn.Embedding(len(VECTOR_KINDS), edge_width), nn.Linear(edge_width, edge_width)
        self.rounds = nn.ModuleList(_Round(width, edge_width, last=i == rounds - 1) for i in range(rounds))

    def encode(self, graph: NeuronGraph) -> list[Tensor]:
        """Features of every neuron, ``[B, N, width]`` per node set."""
        layout, batch = graph.layout, graph.batch_size
        like = next(iter(graph.tensors.values()))
        nodes = [self.constants(node_features(layout, n).to(like)).expand(batch, -1, -1) for n in layout.nodes]
        hubs = [self.hub.weight[vector_kind(v)].expand(batch, 1, -1) for v in layout.vectors]
        edges = self._edges(graph)
        u = self.of_net.expand(batch, -1)
        for layer in self.rounds:
            nodes, hubs, edges, u = layer(nodes, hubs, edges, u, layout)
        return nodes

    def _edges(self, graph: NeuronGraph) -> list[Tensor]:
        """First states: ``[B, D, T, S, K, d]`` per block, then ``[B, N, K, d]`` per vector."""
        layout, states = graph.layout, []
        for block, values in zip(layout.blocks, graph.blocks(), strict=True):
            place = values.new_tensor(block.coordinates).expand(*values.shape, 3)
            known = self.link(link_features(layout, block).to(values))
            states.append(self._first(values, block.fan_in, place, known))
        for vector, values in zip(layout.vectors, graph.vectors(), strict=True):
            place = values.new_zeros(*values.shape, 3)
            states.append(self._first(values, 1, place, self.kind.weight[vector_kind(vector)]))
        return states

    def _first(self, values: Tensor, fan_in: int, place: Tensor, known: Tensor) -> Tensor:
        sizes = torch.stack([signed_log(values), signed_log(values * fan_in**0.5)], -1)
        return self.first(gelu(self.value(torch.cat([sizes, place], -1)) + known))


class _Round(nn.Module):
    def __init__(self, width: int, edge_width: int, last: bool) -> None:
        super().__init__()
        self.last = last
        self.norm, self.norm_edge = nn.LayerNorm(width), nn.LayerNorm(edge_width)
        self.edge, self.edge_out = nn.Linear(edge_width, 2 * edge_width), nn.Linear(2 * edge_width, edge_width)
        self.ends = nn.Linear(width, 4 * edge_width, bias=False)
        self.of_net = nn.Linear(width, 2 * edge_width, bias=False)
        self.update = _mlp(2 * width + 2 * edge_width, width)
        if not last:  # nothing reads the net's vector after the last round
            self.update_net = _mlp(2 * width + edge_width, width)

    def forward(
        self, nodes: list[Tensor], hubs: list[Tensor], edges: list[Tensor], u: Tensor, layout: Layout
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]:
        normed = [self.norm(h) for h in nodes + hubs]
        ends = [self.ends(n).chunk(2, -1) for n in normed]
        of_net, states = self.of_net(u), []
        nothing = [n.new_zeros(*n.shape[:2], edges[0].shape[-1]) for n in normed]
        down, up = list(nothing), list(nothing)
        for block, state in zip(layout.blocks, edges, strict=False):
            target = of_target(ends[block.target][0], layout, block)[:, :, :, None, None]
            source = of_source(ends[block.source][1], layout, block)[:, :, None, :, None]
            state = self._update(state, target + source + of_net[:, None, None, None, None])
            states.append(state)
            down[block.target] = down[block.target] + to_target(state.mean((3, 4)), layout, block)
            up[block.source] = up[block.source] + to_source(state.mean((2, 4)), layout, block)
        for number, vector in enumerate(layout.vectors):
            hub = len(nodes) + number
            known = ends[vector.target][0] + ends[hub][1] + of_net[:, None]
            state = self._update(edges[len(layout.blocks) + number], known[:, :, None])
            states.append(state)
            down[vector.target] = down[vector.target] + state.mean(2)
            up[hub] = state.mean((1, 2))[:, None]
        parts = zip(nodes + hubs, normed, down, up, strict=True)
        new = [h + self.update(torch.cat([n, u[:, None].expand(n.shape), d, b], -1)) for h, n, d, b in parts]
        if not self.last:
            mean = torch.stack([h.mean(1) for h in new]).mean(0)
            mean_edge = torch.stack([s.flatten(1, -2).mean(1) for s in states]).mean(0)
            u = u + self.update_net(torch.cat([u, mean, mean_edge], -1))
        return new[: len(nodes)], new[len(nodes) :], states, u

    def _update(self, state: Tensor, known: Tensor) -> Tensor:
        return state + self.edge_out(gelu(self.edge(self.norm_edge(state)) + known))


def _mlp(fan_in: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(fan_in, 2 * out), nn.GELU(), nn.Linear(2 * out, out))
