"""The operator metanet: the default model of the library."""

from __future__ import annotations

from torch import Tensor, nn

from metanet.errors import ConfigError
from metanet.graph import NeuronGraph
from metanet.models.base import Metanet
from metanet.nn.features import link_features
from metanet.nn.operator import BlockEmbedding, NodeEmbedding, Sweep
from metanet.nn.pooling import GraphPooling


class OperatorMetanet(Metanet):
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
        super().__init__()
        if width % heads:
            raise ConfigError(f"OperatorMetanet: heads must divide width; got heads={heads}, width={width}")
        self.out_features = out_features
        self.nodes = NodeEmbedding(width)
        self.blocks = BlockEmbedding(heads)
        self.sweeps = nn.ModuleList(Sweep(width, heads) for _ in range(rounds))
        self.pool = GraphPooling(width)
        self.head = nn.Sequential(
            nn.Linear(self.pool.out_features, 2 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, out_features),
        )

    def embed(self, graph: NeuronGraph) -> Tensor:
        """One vector a net, ``[B, 6 width]``."""
        layout = graph.layout
        features = self.nodes(graph)
        embedded = [
            self.blocks(weights, block, link_features(layout, block).to(weights))
            for block, weights in zip(layout.blocks, graph.blocks(), strict=True)
        ]
        for sweep in self.sweeps:
            features = sweep(features, embedded, layout)
        return self.pool(features, layout)

    def forward(self, graph: NeuronGraph) -> Tensor:
        """Predictions ``[B, out_features]``."""
        return self.head(self.embed(graph))
