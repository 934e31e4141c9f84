"""The interface of every metanet."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from metanet.errors import ConfigError
from metanet.graph import NeuronGraph
from metanet.nn.pooling import GraphPooling
from metanet.space.weight_space import WeightSpace


class Metanet(nn.Module):
    """A module from a batch of neuron graphs of one space to predictions, one row a net.

    What it promises: the prediction of a net is the same alone and in any batch, and it does not move under the
    symmetries that ``claims`` names.

    Attributes:
        out_features: Numbers predicted per net.
        width: Features per neuron that :meth:`encode` gives; 0 if it gives none.
        claims: Kinds of symmetries of a weight space (``permutation``, ``scale``, ``sign``) under which predictions are
            invariant.
    """

    out_features: int
    width: int = 0
    claims: frozenset[str] = frozenset({"permutation"})

    def build(self, spaces: Sequence[WeightSpace]) -> None:
        """Make the parameters that depend on the architecture, in the few metanets that have such.

        Called before training, and before a checkpoint is loaded, with all spaces that the metanet is to read. A
        metanet that was not built is built for the first graph it meets. Most read every architecture and do nothing.

        Args:
            spaces: At least one space.

        Raises:
            SpaceError: The metanet cannot read one of them.
        """

    def encode(self, graph: NeuronGraph) -> list[Tensor]:
        """Features of every neuron, equivariant: permuting neurons permutes their rows.

        Returns:
            One tensor ``[B, N, width]`` per node set of the layout, where ``width`` is an attribute of the metanet.

        Raises:
            ConfigError: The metanet has none.
        """
        raise ConfigError(
            f"{type(self).__name__} gives no features of neurons, which heads per neuron and per weight need. "
            f"Choose a metanet that passes messages, such as metanet.models.EdgeStateMetanet"
        )

    def embed(self, graph: NeuronGraph) -> Tensor:
        """One vector a net, invariant as predictions are, ``[B, any]``.

        Raises:
            ConfigError: The metanet has none.
        """
        raise ConfigError(f"{type(self).__name__} gives no embedding; choose one that does, such as OperatorMetanet")

    @abstractmethod
    def forward(self, graph: NeuronGraph) -> Tensor:
        """Predict for every net of the batch.

        Args:
            graph: B nets of one space.

        Returns:
            Predictions ``[B, out_features]``.
        """


class PooledMetanet(Metanet):
    """A metanet that encodes neurons, pools them, and predicts with a small network: all but :meth:`encode`.

    Args:
        width: Features per neuron.
        out_features: Numbers predicted per net.
        dropout: Dropout before the last layer.
    """

    def __init__(self, width: int, out_features: int, dropout: float) -> None:
        super().__init__()
        self.width, self.out_features = width, out_features
        self.pool = GraphPooling(width)
        self.head = nn.Sequential(
            nn.Linear(self.pool.out_features, 2 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, out_features),
        )

    def embed(self, graph: NeuronGraph) -> Tensor:
        """One vector a net, ``[B, pool.out_features]``."""
        return self.pool(self.encode(graph), graph.layout)

    def forward(self, graph: NeuronGraph) -> Tensor:
        """Predictions ``[B, out_features]``."""
        return self.head(self.embed(graph))
