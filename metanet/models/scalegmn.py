"""ScaleGMN, forward variant: predictions invariant to scaling or flipping neurons as well as to permuting them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metanet.errors import SpaceError
from metanet.graph import Layout, NeuronGraph
from metanet.models.base import PooledMetanet
from metanet.nn.blocks import of_source, of_target, to_target
from metanet.nn.equivariant import Invariant, Symmetry
from metanet.nn.features import LINK_FEATURES, NODE_FEATURES, link_features, node_features
from metanet.space.gauges import Gauge


class ScaleGMNMetanet(PooledMetanet):
    """Messages from input to output that are multiplied by a neuron's factor exactly when its weights are.

    Source: Kalogeropoulos, Bouritsas, Panagakis, "Scale Equivariant Graph Metanetworks" (NeurIPS 2024,
    arXiv:2406.10685), the forward variant. A neuron's features ``x_t`` start from its bias, a connection is ``e_ts``,
    linear in its weights; both are covariant: they change to ``c_t x_t`` and ``c_t e_ts / c_s``. Then, per round::

        y_ts = (A e_ts) * (B x_s)                                  # covariant: c_t y_ts
        m_t  = sum_s y_ts * Inv(y_ts, x_t) / sqrt(S)
        x_t += (C [x_t, m_t]) * Inv(x_t, m_t)

    What differs: the published bidirectional variant is not equivariant for ReLU, and is not built. Which neurons may
    be scaled (ReLU) or flipped (tanh) is read from the space's gauges, neuron set by neuron set, so nets of several
    activations, and several activations in one net, are read; what has neither (GELU, outputs) is read as it is.
    Only layers with weights and biases are read.

    Args:
        width: Features per neuron that the pooled network reads.
        channels: Covariant features per neuron and connection.
        rounds: Rounds; information moves one layer forward in each.
        out_features: Numbers predicted per net.
        dropout: Dropout before the last layer.
    """

    claims: frozenset[str] = frozenset({"permutation", "scale", "sign"})

    def __init__(
        self, width: int = 64, channels: int = 24, rounds: int = 4, out_features: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__(width, out_features, dropout)
        self.known = nn.Sequential(nn.Linear(NODE_FEATURES, width), nn.GELU(), nn.Linear(width, channels))
        self.ordered = nn.Linear(NODE_FEATURES, channels)
        self.bias = nn.Parameter(torch.randn(channels))
        self.taps = nn.Sequential(nn.Linear(3, 32), nn.GELU(), nn.Linear(32, channels))
        self.link = nn.Linear(LINK_FEATURES, channels)
        self.rounds = nn.ModuleList(_Round(channels) for _ in range(rounds))
        self.read = Invariant(channels, channels, width)

    def encode(self, graph: NeuronGraph) -> list[Tensor]:
        """Invariant features of every neuron, ``[B, N, width]`` per node set.

        Raises:
            SpaceError: The nets have norm layers, or a symmetry that is not one factor per neuron.
        """
        layout = graph.layout
        symmetries = symmetries_of(layout)
        like = next(iter(graph.tensors.values()))
        constants = [node_features(layout, n).to(like) for n in layout.nodes]
        known = [self.known(c) for c in constants]
        nodes = [
            like.new_zeros(graph.batch_size, n.size, self.bias.numel()) if any(s) or n.depth > 0
            else self.ordered(c).expand(graph.batch_size, -1, -1)
            for n, s, c in zip(layout.nodes, symmetries, constants, strict=True)
        ]  # fmt: skip
        for vector, values in zip(layout.vectors, graph.vectors(), strict=True):
            nodes[vector.target] = nodes[vector.target] + values.mean(-1, keepdim=True) * self.bias
        edges = []
        for block, weights in zip(layout.blocks, graph.blocks(), strict=True):
            mixing = self.taps(weights.new_tensor(block.coordinates)) / block.shape[3] ** 0.5
            scale = 1 + self.link(link_features(layout, block).to(weights))
            edges.append(weights @ (mixing * scale * block.fan_in**0.5))
        for layer in self.rounds:
            nodes = layer(nodes, edges, known, symmetries, layout)
        return [self.read(x, k, s) for x, k, s in zip(nodes, known, symmetries, strict=True)]


class _Round(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.edge, self.node = nn.Linear(channels, channels, bias=False), nn.Linear(channels, channels, bias=False)
        self.gate = Invariant(2 * channels, channels, channels)
        self.update, self.gate_update = (
            nn.Linear(2 * channels, channels, bias=False),
            Invariant(2 * channels, channels, channels),
        )

    def forward(
        self, nodes: list[Tensor], edges: list[Tensor], known: list[Tensor], symmetries: list[Symmetry], layout: Layout
    ) -> list[Tensor]:
        sent = [self.node(x) for x in nodes]
        heard = [torch.zeros_like(x) for x in nodes]
        for block, edge in zip(layout.blocks, edges, strict=True):
            target = block.target
            covariant = self.edge(edge) * of_source(sent[block.source], layout, block)[:, :, None]
            own = of_target(nodes[target], layout, block)[:, :, :, None].expand(covariant.shape)
            constant = of_target(known[target][None], layout, block)[:, :, :, None]
            gate = self.gate(torch.cat([covariant, own], -1), constant, symmetries[target])
            message = (covariant * gate).sum(3) / block.shape[2] ** 0.5
            heard[target] = heard[target] + to_target(message, layout, block)
        new = []
        for x, message, constant, symmetry in zip(nodes, heard, known, symmetries, strict=True):
            joint = torch.cat([x, message], -1)
            new.append(x + self.update(joint) * self.gate_update(joint, constant, symmetry))
        return new


def symmetries_of(layout: Layout) -> list[Symmetry]:
    """What the neurons of each node set may be multiplied with, from the gauges of the space.

    Raises:
        SpaceError: A vector is no bias, or a gauge is not the rescaling of all a node set's biases and weights.
    """
    other = next((v.link for v in layout.vectors if v.link.kind != "bias"), None)
    if other is not None:
        raise SpaceError(
            f"ScaleGMNMetanet reads layers with weights and biases; got the {other.kind} '{other.tensor}' of a norm "
            f"layer. Choose a metanet that reads any architecture, such as metanet.models.OperatorMetanet"
        )
    found = [Symmetry() for _ in layout.nodes]
    for gauge in (g for g in layout.space.gauges if g.kind in Symmetry._fields):
        place = next((i for i in range(len(found)) if _matches(gauge, layout, i)), None)
        if place is None:
            raise SpaceError(
                f"ScaleGMNMetanet reads nets whose symmetries are one factor per neuron; got {gauge}. Choose a metanet "
                f"that reads any architecture, such as metanet.models.OperatorMetanet"
            )
        found[place] = found[place]._replace(**{gauge.kind: True})
    return found


def _matches(gauge: Gauge, layout: Layout, place: int) -> bool:
    """Whether a gauge multiplies what a node set reads by its factors, and divides what reads it."""
    node = layout.nodes[place]
    if set(gauge.axes) != set(node.axes):
        return False
    wanted = {b.link.tensor: -1.0 for b in layout.blocks if b.source == place}
    wanted |= {b.link.tensor: 1.0 for b in layout.blocks if b.target == place}
    wanted |= {v.link.tensor: 1.0 for v in layout.vectors if v.target == place}
    parts = {p.tensor: p.exponent for p in gauge.parts if not p.chosen and not p.offset}
    if gauge.kind == "sign":
        wanted, parts = dict.fromkeys(wanted, 1.0), dict.fromkeys(parts, 1.0)
    return parts == wanted and len(parts) == len(gauge.parts)
