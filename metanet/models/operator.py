"""The operator metanet: the default model of the library."""

from __future__ import annotations

from torch import Tensor, nn

from metanet.errors import ConfigError
from metanet.graph import NeuronGraph
from metanet.models.base import PooledMetanet
from metanet.nn.features import link_features
from metanet.nn.operator import BlockEmbedding, NodeEmbedding, Sweep


class OperatorMetanet(PooledMetanet):
    """Embed weights once, sweep messages through the network and back, pool, predict.

    It reads any architecture: parameters are shared over links, which differ by their features only. Predictions are
    invariant to every permutation symmetry of the space, and independent of the other nets of a batch.

    Args:
        width: Features per neuron.
        heads: Operators R per block; must divide ``width``.
        rounds: Sweeps through the network and back.
        out_features: Numbers predicted per net.
        dropout: Dropout before the last layer.
    """

    def __init__(
        self, width: int = 64, heads: int = 16, rounds: int = 2, out_features: int = 1, dropout: float = 0.0
    ) -> None:
        if width % heads:
            raise ConfigError(f"OperatorMetanet: heads must divide width; got heads={heads}, width={width}")
        super().__init__(width, out_features, dropout)
        self.nodes = NodeEmbedding(width)
        self.blocks = BlockEmbedding(heads)
        self.sweeps = nn.ModuleList(Sweep(width, heads) for _ in range(rounds))

    def encode(self, graph: NeuronGraph) -> list[Tensor]:
        """Features of every neuron, ``[B, N, width]`` per node set."""
        layout = graph.layout
        features = self.nodes(graph)
        embedded = [
            self.blocks(weights, block, link_features(layout, block).to(weights))
            for block, weights in zip(layout.blocks, graph.blocks(), strict=True)
        ]
        for sweep in self.sweeps:
            features = sweep(features, embedded, layout)
        return features
