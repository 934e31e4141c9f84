"""Node features: the first ones, from constants and unary parameters, and their update by messages."""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from metanet.graph.layout import layout_of
from metanet.graph.neuron_graph import NeuronGraph
from metanet.nn.features import NODE_FEATURES, layout_features, signed_log, vector_kind
from metanet.space.weight_space import VECTOR_KINDS, WeightSpace


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
        _, nodes = layout_features(graph.space, sizes=not self.transfer)
        nodes = self.constant(nodes.to(self.out.weight)).expand(graph.batch_size, -1, -1)
        same: dict[int, list[Tensor]] = defaultdict(list)  # vectors with equally many entries per neuron: read at once
        for values in graph.vectors():
            same[values.shape[2]].append(values)
        for taps, group in same.items():
            rows, kinds = _places(graph.space, taps)
            nodes = nodes.index_add(1, rows.to(nodes.device), self._read(group, kinds.to(nodes.device)))
        return list(self.norm(nodes).split([n.size for n in graph.layout.nodes], 1))

    def _read(self, vectors: list[Tensor], kinds: Tensor) -> Tensor:
        """Vectors ``[B, N, K]`` to ``[B, N of all, width]``."""
        values = torch.cat(vectors, 1)[..., None]
        values = self.value(torch.cat([values, signed_log(10 * values)], -1))
        hidden = functional.silu(values + self.kind(kinds)[:, None])
        return self.out(hidden.mean(2) if hidden.shape[2] > 1 else hidden[:, :, 0])


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # cached: autograd could not use what is made in that mode
def _places(space: WeightSpace, taps: int) -> tuple[Tensor, Tensor]:
    """Node and kind of every neuron of all vectors with so many entries per neuron, ``[n]`` each."""
    layout = layout_of(space)
    chosen = [v for v in layout.vectors if v.piece.shape[1] == taps]
    rows = [torch.arange(layout.nodes[v.target].size) + layout.offsets[v.target] for v in chosen]
    kinds = [torch.full_like(r, vector_kind(v)) for v, r in zip(chosen, rows, strict=True)]
    return torch.cat(rows), torch.cat(kinds)


class NodeUpdate(nn.Module):
    """Update neurons by the messages that reached them: ``h' = norm(h + C silu(A h + sum_i B_i m_i + b) + c)``.

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

    def forward(self, features: Tensor, *messages: Tensor) -> Tensor:
        """Update ``[B, N, width]`` by messages of the same shape."""
        hidden = self.own(features) + torch.cat(messages, -1) @ self.heard.flatten(0, 1)
        return self.norm(features + self.out(functional.silu(hidden)))
