"""The flat metanet: all weights of a net as one vector, for one architecture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metanet.graph import NeuronGraph
from metanet.models.base import Metanet
from metanet.models.one_architecture import ACTIVATION_FEATURES, Shapes, activation_features, check_shapes
from metanet.nn.features import signed_log
from metanet.space.weight_space import WeightSpace


class FlatMetanet(Metanet):
    """A multi-layer perceptron on the concatenated parameters, the baseline that knows no symmetry.

    Source: the raw-weights baselines of Eilertsen et al., "Classifying the Classifier" (ECAI 2020, arXiv:2002.05688)
    and Navon et al. (ICML 2023, arXiv:2301.12780). It reads nets whose tensors have the same names and shapes; the
    activation of each is one more input. It is invariant to nothing, and claims nothing.

    Args:
        hidden: Units per hidden layer.
        layers: Hidden layers.
        out_features: Numbers predicted per net.
        dropout: Dropout before the last layer.
    """

    claims: frozenset[str] = frozenset()

    def __init__(self, hidden: int = 256, layers: int = 3, out_features: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden, self.layers, self.out_features, self.dropout = hidden, layers, out_features, dropout
        self.shapes: Shapes | None = None
        self.network = nn.Sequential()

    def build(self, spaces: Sequence[WeightSpace]) -> None:
        """Fix the architecture.

        Raises:
            SpaceError: The spaces differ in the names or shapes of their tensors.
        """
        self.shapes = check_shapes(self, self.shapes or spaces[0].shapes, spaces)
        if len(self.network):
            return
        fan_in = spaces[0].parameters + ACTIVATION_FEATURES
        for _ in range(self.layers):
            self.network.extend([nn.Linear(fan_in, self.hidden), nn.LayerNorm(self.hidden), nn.GELU()])
            fan_in = self.hidden
        self.network.extend([nn.Dropout(self.dropout), nn.Linear(fan_in, self.out_features)])

    def forward(self, graph: NeuronGraph) -> Tensor:
        """Predictions ``[B, out_features]``.

        Raises:
            SpaceError: The nets are of another architecture than the metanet was built for.
        """
        embedded = self.embed(graph)  # first, for it builds the network if that is still to do
        return self.network[-1](embedded)

    def embed(self, graph: NeuronGraph) -> Tensor:
        """The last hidden layer, ``[B, hidden]``."""
        flat = torch.cat([graph.tensors[name].flatten(1) for name in graph.space.tensor], 1)
        new = self.shapes is None
        self.build([graph.space])
        if new:
            self.network.to(flat)
        known = activation_features(graph.space).to(flat).expand(len(flat), -1)
        return self.network[:-1](torch.cat([signed_log(10 * flat), known], 1))
