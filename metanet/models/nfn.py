"""Neural functional networks, NFN-NP and NFN-HNP: linear equivariant layers made for one chain of layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from metanet.errors import ConfigError, SpaceError
from metanet.graph import NeuronGraph
from metanet.graph.layout import Block, Layout, layout_of
from metanet.models.base import Metanet
from metanet.models.one_architecture import (
    ACTIVATION_FEATURES,
    Shapes,
    activation_features,
    chain_of,
    check_shapes,
)
from metanet.nn.features import POSITIONS, node_features, signed_log
from metanet.nn.nfn import ChainLayer, ChainState
from metanet.space.weight_space import WeightSpace


class NFNMetanet(Metanet):
    """Equivariant linear maps with nonlinearities between, then means of everything and a small network.

    Source: Zhou et al., "Permutation Equivariant Neural Functionals" (NeurIPS 2023, arXiv:2302.14040). ``NP`` lets
    inputs and outputs be permuted like neurons, and tells them apart by an encoding of their place. ``HNP`` permutes
    hidden neurons only: every input and every output has parameters of its own, which is more expressive and larger.

    What differs: published layers read strictly ``[weight, bias, weight, bias, ...]``; here taps of a kernel and
    positions of a flattened map are channels, a set of neurons may have no bias or several vectors (norm layers), and
    the activation is an input. Anything but a plain chain of layers is refused.

    Args:
        kind: ``NP`` or ``HNP``.
        channels: Channels per weight.
        layers: Equivariant layers.
        hidden: Hidden units of the last network.
        out_features: Numbers predicted per net.
        dropout: Dropout before the last layer.
    """

    def __init__(
        self,
        kind: Literal["NP", "HNP"] = "NP",
        channels: int = 24,
        layers: int = 3,
        hidden: int = 128,
        out_features: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.kind, self.channels, self.layers, self.hidden = kind, channels, layers, hidden
        self.width = channels if kind == "NP" else 0
        self.out_features, self.dropout = out_features, dropout
        self.shapes: Shapes | None = None
        self.lift_blocks, self.lift_vectors, self.equivariant = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.head = nn.Sequential()

    def build(self, spaces: Sequence[WeightSpace]) -> None:
        """Fix the architecture.

        Raises:
            SpaceError: It is no chain of layers, or the spaces differ in the names or shapes of their tensors.
        """
        chains = [chain_of(self, layout_of(space)) for space in spaces]
        self.shapes = check_shapes(self, self.shapes or spaces[0].shapes, spaces)
        if len(self.head):
            return
        blocks = chains[0]
        if self.kind == "HNP" and len(blocks) < 2:
            raise SpaceError("NFNMetanet: HNP needs hidden neurons; got a single layer. Choose kind='NP'")
        layout, c = layout_of(spaces[0]), self.channels
        self.lift_blocks.extend(nn.Linear(b.shape[3], c) for b in blocks)
        vectors = _vector_channels(layout, blocks)
        read = vectors if self.kind == "NP" else vectors[1:]  # HNP has no features of inputs
        self.lift_vectors.extend(nn.Linear(n + POSITIONS, c) for n in read)
        sets, rest = [c] * len(vectors), 0
        if self.kind == "HNP":
            sets, rest = sets[1:-1], c * layout.nodes[blocks[-1].target].size
            sets[0] += c * layout.nodes[blocks[0].source].size
            sets[-1] += c * layout.nodes[blocks[-1].target].size
        self.equivariant.extend(ChainLayer(sets, c, rest) for _ in range(self.layers))
        pooled = sum(sets) + c * (len(sets) - 1) + rest + ACTIVATION_FEATURES
        self.head.extend([nn.Linear(pooled, self.hidden), nn.GELU(), nn.Dropout(self.dropout)])
        self.head.append(nn.Linear(self.hidden, self.out_features))

    def forward(self, graph: NeuronGraph) -> Tensor:
        """Predictions ``[B, out_features]``.

        Raises:
            SpaceError: The nets are no chain of layers, or of another architecture than the metanet was built for.
        """
        return self.head(self.embed(graph))

    def embed(self, graph: NeuronGraph) -> Tensor:
        """Means of all features, and the activations, ``[B, any]``."""
        means = self._run(graph).means()
        known = activation_features(graph.space).to(means).expand(len(means), -1)
        return torch.cat([means, known], 1)

    def encode(self, graph: NeuronGraph) -> list[Tensor]:
        """Features of every neuron, ``[B, N, channels]`` per node set; of NP only, as HNP has none for inputs."""
        if self.kind == "HNP":
            raise ConfigError("NFNMetanet: HNP gives no features of inputs and outputs, which heads per neuron and per "
                              "weight need. Choose kind='NP'")  # fmt: skip
        blocks = chain_of(self, graph.layout)
        order = [blocks[0].source, *(b.target for b in blocks)]
        found = dict(zip(order, self._run(graph).vectors, strict=True))
        return [found[place] for place in range(len(order))]

    def _run(self, graph: NeuronGraph) -> ChainState:
        new = self.shapes is None
        self.build([graph.space])
        if new:
            self.to(next(iter(graph.tensors.values())))
        state = self._lift(graph)
        for layer in self.equivariant:
            state = layer(state)
        return state

    def _lift(self, graph: NeuronGraph) -> ChainState:
        layout, blocks = graph.layout, chain_of(self, graph.layout)
        values = {id(block): x for block, x in zip(layout.blocks, graph.blocks(), strict=True)}
        lifts = zip(self.lift_blocks, blocks, strict=True)
        matrices = [lift(signed_log(values[id(b)].squeeze(1) * b.fan_in**0.5)) for lift, b in lifts]
        places = [blocks[0].source, *(b.target for b in blocks)][0 if self.kind == "NP" else 1 :]
        vectors, unary = [], graph.vectors()
        for lift, place in zip(self.lift_vectors, places, strict=True):
            pairs = zip(layout.vectors, unary, strict=True)
            own = [signed_log(10 * x) for vector, x in pairs if vector.target == place]
            where = node_features(layout, layout.nodes[place])[:, -POSITIONS:].to(matrices[0])
            vectors.append(lift(torch.cat([*own, where.expand(graph.batch_size, -1, -1)], -1)))
        if self.kind == "NP":
            return ChainState(vectors, matrices, matrices[0].new_zeros(graph.batch_size, 0))
        # the first matrix is a vector per neuron that reads the input, the last one per neuron that outputs read
        hidden = vectors[:-1]
        hidden[0] = torch.cat([hidden[0], matrices[0].flatten(2)], -1)
        hidden[-1] = torch.cat([hidden[-1], matrices[-1].transpose(1, 2).flatten(2)], -1)
        return ChainState(hidden, matrices[1:-1], vectors[-1].flatten(1))


def _vector_channels(layout: Layout, blocks: list[Block]) -> list[int]:
    """Unary parameters per neuron of each set of a chain, the input first."""
    places = [blocks[0].source, *(b.target for b in blocks)]
    return [sum(v.piece.shape[1] for v in layout.vectors if v.target == place) for place in places]
