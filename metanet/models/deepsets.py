"""DeepSets of neurons: a net as the set of its neurons, which hear of each other by means only."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metanet.graph import NeuronGraph
from metanet.models.base import PooledMetanet
from metanet.nn.tokens import NeuronTokens


class DeepSetsMetanet(PooledMetanet):
    """Neuron tokens, then rounds of ``h_i += f(n_i, mean of its node set, mean of all node sets)``.

    Source: Zaheer, Kottur, Ravanbakhsh, Poczos, Salakhutdinov, Smola, "Deep Sets" (NeurIPS 2017, arXiv:1703.06114),
    the equivariant layer ``f(x_i, mean_j x_j)``. It sees what each neuron reads and writes, but not from whom: the
    baseline that tells how much passing messages along connections is worth.

    Args:
        width: Features per neuron.
        edge_width: Features per connection, which are averaged at once.
        rounds: Rounds.
        out_features: Numbers predicted per net.
        dropout: Dropout before the last layer.
    """

    def __init__(
        self, width: int = 64, edge_width: int = 32, rounds: int = 3, out_features: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__(width, out_features, dropout)
        self.tokens = NeuronTokens(width, edge_width)
        self.rounds = nn.ModuleList(_Round(width) for _ in range(rounds))

    def encode(self, graph: NeuronGraph) -> list[Tensor]:
        """Features of every neuron, ``[B, N, width]`` per node set."""
        features = self.tokens(graph)
        for layer in self.rounds:
            features = layer(features)
        return features


class _Round(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.own = nn.LayerNorm(width), nn.Linear(width, 2 * width)
        self.context = nn.Linear(2 * width, 2 * width, bias=False)
        self.out = nn.Linear(2 * width, width)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        normed = [self.norm(h) for h in features]
        means = [n.mean(1, keepdim=True) for n in normed]
        everything = torch.stack(means).mean(0)
        context = [self.context(torch.cat([m, everything], -1)) for m in means]
        parts = zip(features, normed, context, strict=True)
        return [h + self.out(nn.functional.gelu(self.own(n) + c)) for h, n, c in parts]
