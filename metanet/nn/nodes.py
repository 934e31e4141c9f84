"""Node features: the first ones, from constants and unary parameters, and their update by messages."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn
from torch.nn import functional

from metanet.graph.layout import Vector
from metanet.graph.neuron_graph import NeuronGraph
from metanet.nn.features import NODE_FEATURES, layout_features, signed_log, vector_kind
from metanet.space.weight_space import VECTOR_KINDS


class NodeEmbedding(nn.Module):
    """First node features: kind, depth, order of inputs and outputs, and every unary parameter.

    Args:
        width: Features per node.
        transfer: Leave sizes unsaid (see :class:`BlockEmbedding`).
        hidden: Width of the network that reads one unary parameter.
    """

    def __init__(self, width: int, transfer: bool = False, hidden: int = 32) -> None:
        super().__init__()
        self.transfer = transfer
        self.constant = nn.Sequential(nn.Linear(NODE_FEATURES, width), nn.SiLU(), nn.Linear(width, width))
        self.kind = nn.Embedding(len(VECTOR_KINDS), hidden)
        self.value = nn.Linear(2, hidden)
        self.out = nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, graph: NeuronGraph) -> list[Tensor]:
        """Features ``[B, N, width]`` of every node set of the layout."""
        layout, vectors = graph.layout, graph.vectors()
        _, nodes = layout_features(graph.space, sizes=not self.transfer)
        nodes = self.constant(nodes.to(next(iter(graph.tensors.values()))))
        features = list(nodes.expand(graph.batch_size, -1, -1).split([n.size for n in layout.nodes], 1))
        same: dict[int, list[int]] = defaultdict(list)  # vectors with equally many entries per neuron are read at once
        for number, values in enumerate(vectors):
            same[values.shape[2]].append(number)
        for numbers in same.values():
            read = self._read([layout.vectors[i] for i in numbers], [vectors[i] for i in numbers])
            for number, found in zip(numbers, read, strict=True):
                target = layout.vectors[number].target
                features[target] = features[target] + found
        return [self.norm(f) for f in features]

    def _read(self, vectors: list[Vector], values: list[Tensor]) -> tuple[Tensor, ...]:
        sizes = [v.shape[1] for v in values]
        joint = torch.cat(values, 1)[..., None]
        kinds = torch.tensor([vector_kind(v) for v in vectors], device=joint.device)
        kind = self.kind(kinds).repeat_interleave(torch.tensor(sizes, device=joint.device), 0)
        hidden = functional.silu(self.value(torch.cat([joint, signed_log(10 * joint)], -1)) + kind[:, None])
        return self.out(hidden.mean(-2)).split(sizes, 1)


class NodeUpdate(nn.Module):
    """New features of neurons that heard messages: ``h' = norm(h + C silu(A h + sum_i B_i m_i + b))``.

    The norm makes features comparable wherever they are used; messages are not normalised, for their size tells that
    of the weights.

    Args:
        width: Features per node.
        messages: Messages per neuron.
    """

    def __init__(self, width: int, messages: int = 1) -> None:
        super().__init__()
        self.own = nn.Linear(width, width)
        self.heard = nn.Parameter(torch.randn(messages, width, width) / width**0.5)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Tensor, *messages: Tensor, free: Tensor | None = None) -> Tensor:
        """Update ``[B, N, width]`` by messages of the same shape; ``free`` matters to subclasses only."""
        flat = features.flatten(0, 1)
        hidden = self.own(flat)
        for message, weight in zip(messages, self.heard, strict=True):
            hidden = torch.addmm(hidden, message.flatten(0, 1), weight)
        return self.norm(flat + self.out(functional.silu(hidden))).view(features.shape)
