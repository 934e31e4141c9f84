"""Edge-state message passing: every connection keeps a feature vector, updated round by round with its two neurons.

Sources: Lim, Maron, Law, Lorraine, Lucas, "Graph Metanetworks for Processing Diverse Neural Architectures" (ICLR 2024,
arXiv:2312.04501); Kofinas, Knyazev, Zhang, Chen, Burghouts, Gavves, Snoek, Zhang, "Graph Neural Networks for Learning
Equivariant Representations of Neural Networks" (ICLR 2024, arXiv:2403.12143). Here connections lie on dense blocks: a
network on ``[e, h_t, h_s]`` starts with a linear map, so its node parts are computed once per neuron and broadcast,
and nothing of shape ``[T, S, 3 d]`` ever exists. Kernel taps are embedded with their coordinates, not padded.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from metanet.graph.layout import Block, Layout
from metanet.graph.neuron_graph import NeuronGraph
from metanet.nn.blocks import of_source, of_target, to_source, to_target
from metanet.nn.features import LINK_FEATURES, layout_features, signed_log


class EdgeEmbedding(nn.Module):
    """First state of every connection: ``m + V gelu(m + U link)``.

    Here ``m = sum_k c(x_k) slog(w_k sqrt(fan_in)) / sqrt(K)``; the coefficients ``c`` are a network on the coordinates
    ``x_k`` of the kernel taps, so that kernels of any size share parameters.

    Args:
        width: Features d per connection.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.taps = nn.Sequential(nn.Linear(3, 32), nn.GELU(), nn.Linear(32, width))
        self.link = nn.Linear(LINK_FEATURES, width)
        self.out = nn.Linear(width, width)

    def forward(self, graph: NeuronGraph) -> list[Tensor]:
        """States ``[B, D, T, S, d]`` of every block of the layout."""
        weights, links = graph.blocks(), layout_features(graph.space)[0].to(self.out.weight)
        return [self.embed(w, b, link) for w, b, link in zip(weights, graph.layout.blocks, links, strict=True)]

    def embed(self, weights: Tensor, block: Block, link: Tensor) -> Tensor:
        """``[B, D, T, S, K] -> [B, D, T, S, d]``."""
        coefficients = self.taps(weights.new_tensor(block.coordinates)) / block.shape[3] ** 0.5
        mixed = signed_log(weights * block.fan_in**0.5) @ coefficients
        return mixed + self.out(gelu(mixed + self.link(link)))


class EdgeRound(nn.Module):
    """One round: connections hear their two neurons, then neurons hear their connections, both ways at once.

    With ``n`` the layer-normed node features and ``mean`` over the connections of a block, summed over blocks::

        e_ts += V gelu(W [norm(e_ts), n_t, n_s])
        h_t  += f(n_t, mean_s(e_ts * P n_s), mean_s(e_ts), mean_u(e_ut * Q n_u), mean_u(e_ut))

    where ``s`` are the neurons that ``t`` reads and ``u`` those that read ``t``.

    Args:
        width: Features per neuron.
        edge_width: Features d per connection.
        hidden: Hidden units of the network on each connection.
    """

    def __init__(self, width: int, edge_width: int, hidden: int) -> None:
        super().__init__()
        self.split = (hidden, hidden, edge_width, edge_width)
        self.norm, self.norm_edge = nn.LayerNorm(width), nn.LayerNorm(edge_width)
        self.project = nn.Linear(width, sum(self.split), bias=False)  # as target, as source, values forth and back
        self.edge = nn.Linear(edge_width, hidden)
        self.edge_out = nn.Linear(hidden, edge_width)
        self.update = nn.Sequential(
            nn.Linear(width + 4 * edge_width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, nodes: list[Tensor], edges: list[Tensor], layout: Layout) -> tuple[list[Tensor], list[Tensor]]:
        """Update node features ``[B, N, width]`` and connection states ``[B, D, T, S, d]``."""
        normed = [self.norm(h) for h in nodes]
        parts = [self.project(n).split(self.split, -1) for n in normed]
        empty = nodes[0].new_zeros(())
        forth: list[Tensor] = [empty] * len(nodes)
        back: list[Tensor] = [empty] * len(nodes)
        states = []
        for block, state in zip(layout.blocks, edges, strict=True):
            target, source = parts[block.target], parts[block.source]
            hidden = self.edge(self.norm_edge(state))
            hidden = hidden + of_target(target[0], layout, block)[:, :, :, None]
            hidden = hidden + of_source(source[1], layout, block)[:, :, None]
            state = state + self.edge_out(gelu(hidden))
            states.append(state)
            sent = of_source(source[2], layout, block)[:, :, None], of_target(target[3], layout, block)[:, :, :, None]
            message = torch.cat([(state * sent[0]).mean(3), state.mean(3)], -1)
            forth[block.target] = forth[block.target] + to_target(message, layout, block)
            message = torch.cat([(state * sent[1]).mean(2), state.mean(2)], -1)
            back[block.source] = back[block.source] + to_source(message, layout, block)
        width = 2 * self.split[2]
        heard = zip(nodes, normed, forth, back, strict=True)
        return [h + self.update(torch.cat([n, *(_filled(m, n, width) for m in (f, b))], -1)) for h, n, f, b in heard], (
            states
        )


def _filled(message: Tensor, like: Tensor, width: int) -> Tensor:
    """The message, or zeros ``[B, N, width]`` for neurons that no block writes or reads."""
    return message if message.ndim else like.new_zeros(*like.shape[:2], width)
