"""A transformer on neuron tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metanet.errors import ConfigError
from metanet.graph import NeuronGraph
from metanet.models.base import PooledMetanet
from metanet.nn.tokens import NeuronTokens


class TransformerMetanet(PooledMetanet):
    """Neuron tokens, then self-attention among all neurons of a net, blind to connections.

    Source: Vaswani et al., "Attention Is All You Need" (NeurIPS 2017, arXiv:1706.03762), with the normalisation first.
    Published transformers on weights (SANE: Schuerholt, Mahoney, Borth, ICML 2024, arXiv:2406.09997) cut weights into
    tokens with positions, and so depend on the order of neurons; here a neuron has no position, and a token is made of
    means, so predictions are invariant. Batches hold nets of one space: there is no padding that could be attended.

    Args:
        width: Features per neuron.
        edge_width: Features per connection, which are averaged at once.
        heads: Attention heads; must divide ``width``.
        layers: Layers.
        out_features: Numbers predicted per net.
        dropout: Dropout before the last layer.
    """

    def __init__(
        self,
        width: int = 64,
        edge_width: int = 32,
        heads: int = 4,
        layers: int = 3,
        out_features: int = 1,
        dropout: float = 0.0,
    ) -> None:
        if width % heads:
            raise ConfigError(f"TransformerMetanet: heads must divide width; got heads={heads}, width={width}")
        super().__init__(width, out_features, dropout)
        self.tokens = NeuronTokens(width, edge_width)
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(layers))

    def encode(self, graph: NeuronGraph) -> list[Tensor]:
        """Features of every neuron, ``[B, N, width]`` per node set."""
        features = torch.cat(self.tokens(graph), 1)
        for layer in self.layers:
            features = layer(features)
        return list(features.split([n.size for n in graph.layout.nodes], 1))


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.project, self.join = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, features: Tensor) -> Tensor:
        batch, count, width = features.shape
        joint = self.project(self.norm(features)).reshape(batch, count, 3, self.heads, -1)
        query, key, value = joint.permute(2, 0, 3, 1, 4)
        heard = nn.functional.scaled_dot_product_attention(query, key, value)
        features = features + self.join(heard.transpose(1, 2).reshape(batch, count, width))
        return features + self.feed(features)
