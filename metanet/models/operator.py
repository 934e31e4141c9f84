"""The operator metanet: the default model of the library."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from metanet.errors import ConfigError
from metanet.graph import NeuronGraph
from metanet.models.base import PooledMetanet
from metanet.nn.nodes import NodeEmbedding
from metanet.nn.operator import Parallel, Sweep
from metanet.nn.operators import BlockEmbedding

SCHEDULES = {"sweep": Sweep, "parallel": Parallel}


class OperatorMetanet(PooledMetanet):
    """Embed weights once, send messages through the network and back, pool, predict.

    It reads any architecture: parameters are shared over links, which differ by their features only. Predictions are
    invariant to every permutation symmetry of the space, and independent of the other nets of a batch.

    Args:
        width: Features per neuron.
        heads: Operators R per block; must divide ``width``.
        rounds: Passes through the network and back.
        out_features: Numbers predicted per net.
        dropout: Dropout before the last layer.
        schedule: ``sweep``: layer by layer, so that one round reaches through the whole network; ``parallel``: all
            layers at once, with a reach of one layer a round, so that it wants more of them.
        transfer: Aggregate so that predictions carry over between widths: doubling every neuron and halving outgoing
            weights leaves them as they are, exactly.
        limit: Operator values (nets x heads x connections) kept in memory, by default 1 GiB of float32. What is beyond
            is embedded again at every use: the same result in more time, with memory that grows with neurons.
    """

    def __init__(
        self,
        width: int = 64,
        heads: int = 16,
        rounds: int = 2,
        out_features: int = 1,
        dropout: float = 0.0,
        schedule: Literal["sweep", "parallel"] = "sweep",
        transfer: bool = False,
        limit: int = 2**28,
    ) -> None:
        if width % heads:
            raise ConfigError(f"OperatorMetanet: heads must divide width; got heads={heads}, width={width}")
        if schedule not in SCHEDULES:
            raise ConfigError(f"OperatorMetanet: got schedule={schedule!r}; accepted: {', '.join(SCHEDULES)}")
        super().__init__(width, out_features, dropout)
        self.limit = limit
        self.nodes = NodeEmbedding(width, transfer)
        self.blocks = BlockEmbedding(heads, transfer)
        self.rounds = nn.ModuleList(SCHEDULES[schedule](width, heads, transfer) for _ in range(rounds))

    def encode(self, graph: NeuronGraph) -> list[Tensor]:
        """Features of every neuron, ``[B, N, width]`` per node set."""
        features = self.nodes(graph)
        operators = self.blocks.operators(graph, self.limit, 2 * len(self.rounds))
        for step in self.rounds:
            features = step(features, operators, graph.layout)
        return features
