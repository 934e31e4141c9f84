"""Metanets whose answers are not one row a net: a number per neuron, or new weights."""

from __future__ import annotations

from torch import Tensor, nn

from metanet.graph import NeuronGraph
from metanet.models.base import Metanet
from metanet.models.edge_state import EdgeStateMetanet
from metanet.nn.heads import NeuronHead, WeightHead


class NeuronPredictor(nn.Module):
    """Predict for every neuron of a net; equivariant, as permuting neurons permutes the predictions.

    Args:
        encoder: A metanet that gives features of neurons.
        out_features: Numbers predicted per neuron.
    """

    def __init__(self, encoder: Metanet, out_features: int = 1) -> None:
        super().__init__()
        self.encoder, self.out_features = encoder, out_features
        self.head = NeuronHead(encoder.width, out_features)

    def forward(self, graph: NeuronGraph) -> list[Tensor]:
        """Predictions ``[B, N, out_features]`` per node set of the layout.

        Raises:
            ConfigError: The encoder has no features of neurons.
        """
        return self.head(self.encoder.encode(graph))


class WeightEditor(nn.Module):
    """Change the weights of a net, or generate them; equivariant, as permuting neurons permutes the new weights.

    With an :class:`~metanet.models.EdgeStateMetanet` the head reads its states of connections; with any other encoder
    it embeds the weights itself.

    Args:
        encoder: A metanet that gives features of neurons.
        residual: Whether the answer is ``theta + scale * delta``, or ``delta`` alone.
        hidden: Hidden units per connection of the head.
        scale: First value of the learned scale.
    """

    def __init__(self, encoder: Metanet, residual: bool = True, hidden: int = 32, scale: float = 0.1) -> None:
        super().__init__()
        self.encoder = encoder
        edge_width = encoder.edge_width if isinstance(encoder, EdgeStateMetanet) else 0
        self.head = WeightHead(encoder.width, edge_width, hidden, residual, scale)

    def forward_weights(self, graph: NeuronGraph) -> dict[str, Tensor]:
        """New tensors ``[B, *shape]`` by name.

        Raises:
            ConfigError: The encoder has no features of neurons.
        """
        if isinstance(self.encoder, EdgeStateMetanet):
            return self.head(graph, *self.encoder.encode_edges(graph))
        return self.head(graph, self.encoder.encode(graph))

    def forward(self, graph: NeuronGraph) -> NeuronGraph:
        """The nets with their new weights."""
        return NeuronGraph(graph.space, self.forward_weights(graph))
