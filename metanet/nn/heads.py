"""Heads on node features: one answer per neuron, or new weights in the shapes of the old ones.

Answers per net need no layer of their own: every metanet predicts ``out_features`` numbers a net, which are a value, a
mean and a log-variance, or the logits of classes, as the loss has it; its ``embed`` is the embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from metanet.errors import ConfigError
from metanet.graph.assemble import assemble
from metanet.graph.neuron_graph import NeuronGraph
from metanet.nn.blocks import of_source, of_target
from metanet.nn.edge_state import EdgeEmbedding
from metanet.nn.features import signed_log, vector_kind
from metanet.space.weight_space import VECTOR_KINDS


class NeuronHead(nn.Module):
    """The same small network on every neuron.

    Args:
        width: Features per neuron.
        out_features: Numbers predicted per neuron.
    """

    def __init__(self, width: int, out_features: int) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, out_features)
        )

    def forward(self, nodes: list[Tensor]) -> list[Tensor]:
        """``[B, N, width]`` to ``[B, N, out_features]``, per node set."""
        return [self.network(h) for h in nodes]


class WeightHead(nn.Module):
    """New weights, equivariant: for a permutation ``g`` of neurons ``head(g theta) = g head(theta)``.

    Every weight is answered from its own value ``w_k``, the place ``x_k`` of its tap, and a hidden state of the
    connection, ``z = gelu(A e_ts + B h_t + C h_s)``; with ``a`` and ``b`` networks on the place::

        delta_k = (z . a(x_k) + w_k sqrt(S) (z . b(x_k))) / sqrt(S)

    where S is the fan-in. Vectors (biases, norm parameters) are answered likewise from their neuron. The answer is
    ``delta``, or ``theta + scale * delta`` with a learned scale; variances are multiplied by ``exp`` of the change, and
    so stay positive. Tensors that the layout cannot show as blocks or vectors are returned as they are.

    Args:
        width: Features per neuron.
        edge_width: Features per connection of the states given; 0 if there are none, and weights are embedded here.
        hidden: Width of ``z``.
        residual: Whether to change the weights rather than to replace them.
        scale: First value of the learned scale.
    """

    def __init__(
        self, width: int, edge_width: int = 0, hidden: int = 32, residual: bool = True, scale: float = 0.1
    ) -> None:
        super().__init__()
        self.residual = residual
        self.embedding = EdgeEmbedding(hidden) if edge_width == 0 else None
        self.norm, self.norm_edge = nn.LayerNorm(width), nn.LayerNorm(edge_width or hidden)
        self.edge = nn.Linear(edge_width or hidden, hidden)
        self.target, self.source = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.taps = nn.Sequential(nn.Linear(3, 32), nn.GELU(), nn.Linear(32, 2 * hidden))
        self.own, self.value = nn.Linear(width, hidden), nn.Linear(1, hidden)
        self.kind, self.vector = nn.Embedding(len(VECTOR_KINDS), hidden), nn.Linear(hidden, 2)
        if residual:
            self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, graph: NeuronGraph, nodes: list[Tensor], edges: list[Tensor] | None = None) -> dict[str, Tensor]:
        """Tensors ``[B, *shape]`` by name.

        Args:
            graph: B nets.
            nodes: Their node features ``[B, N, width]``.
            edges: Their connection states ``[B, D, T, S, edge_width]``, if the head was made for some.
        """
        layout = graph.layout
        edges = self.embedding(graph) if self.embedding is not None else edges
        if edges is None:
            raise ConfigError(
                "WeightHead was made for states of connections (edge_width > 0), and got none; pass edges"
            )
        normed = [self.norm(h) for h in nodes]
        targets, sources, own = ([layer(n) for n in normed] for layer in (self.target, self.source, self.own))
        blocks, vectors = [], []
        for block, weights, state in zip(layout.blocks, graph.blocks(), edges, strict=True):
            hidden = self.edge(self.norm_edge(state))
            hidden = hidden + of_target(targets[block.target], layout, block)[:, :, :, None]
            hidden = gelu(hidden + of_source(sources[block.source], layout, block)[:, :, None])
            shift, gain = (hidden @ c for c in self._coefficients(weights, block.coordinates))
            blocks.append(self._answer(weights, shift / block.fan_in**0.5 + gain * weights))
        for vector, values in zip(layout.vectors, graph.vectors(), strict=True):
            known = own[vector.target][:, :, None] + self.kind.weight[vector_kind(vector)]
            shift, gain = self.vector(gelu(known + self.value(signed_log(values)[..., None]))).unbind(-1)
            vectors.append(self._answer(values, shift + gain * values, positive=vector.link.kind == "variance"))
        return {name: graph.tensors[name] for name in layout.unplaced} | assemble(layout, blocks, vectors)

    def _coefficients(self, like: Tensor, coordinates: tuple[tuple[float, ...], ...]) -> tuple[Tensor, Tensor]:
        shift, gain = (self.taps(like.new_tensor(coordinates)) / self.vector.in_features**0.5).chunk(2, -1)
        return shift.T, gain.T

    def _answer(self, values: Tensor, delta: Tensor, positive: bool = False) -> Tensor:
        change = self.scale * delta if self.residual else delta
        if positive:
            return values * change.exp() if self.residual else change.exp()
        return values + change if self.residual else change
