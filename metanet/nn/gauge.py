"""Sign-equivariant layers: features that flip with their neuron, and features that do not.

On networks whose scales are fixed (:mod:`metanet.symmetry.fixing`) what remains of the gauges are signs. The first half
of every neuron's features is *odd*, multiplied by its sign like the neuron's value, the second half *even*, invariant.
Odd operators are linear in (odd functions of) the weights and carry odd features, even ones carry even features;
nonlinearities act on even features and on products of two odd ones. Neurons without a sign symmetry are *free*: there
both halves are read and written alike. What is what follows from the gauges of the space (:mod:`metanet.nn.parity`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from metanet.graph.layout import Block, Layout
from metanet.graph.neuron_graph import NeuronGraph
from metanet.nn.connections import Coefficients, ConnectionNetwork
from metanet.nn.features import NODE_FEATURES, layout_features, signed_log, vector_kind
from metanet.nn.operators import BlockEmbedding, Embedding
from metanet.nn.parity import Parity, free_nodes, parities
from metanet.nn.signed_update import SignedNorm
from metanet.space.weight_space import VECTOR_KINDS

FRAMES = 5  # ranks of frames, see metanet.symmetry.fixing


class SignedBlockEmbedding(BlockEmbedding):
    """Operators of which the first half carries odd features and the second half even ones.

    ``E_odd = sum_k c(p_k) x_k`` and ``E_even = A silu(|sum_k a(p_k) x_k| + a_0 x_0 + b)``; without
    the absolute value on blocks that no gauge moves, and with both terms in both halves between free neurons.
    """

    def embeddings(self, layout: Layout) -> list[Embedding]:  # noqa: D102 (that of the base class)
        found = parities(layout.space)
        result = []
        for block, parity, values in zip(layout.blocks, found.blocks, self.parameters_of(layout), strict=True):
            free = parity.still and found.free[block.target] and found.free[block.source]
            result.append(self._signed(block, parity, free, *values))
        return result

    def _signed(
        self, block: Block, parity: Parity, free: bool, inner: Tensor, shift: Tensor, skip: Tensor
    ) -> Embedding:
        factor, share = self.factors(block)
        half = self.heads // 2
        odd, even = skip.split(half)
        skip = torch.cat([odd * parity.carries, even * parity.still]) * share
        outer = (self.out if free else torch.cat([torch.zeros_like(self.out[:half]), self.out[half:]])) * share
        folded = not (parity.still or parity.apart)
        return ConnectionNetwork(factor, parity.apart, folded), Coefficients(inner, shift, outer, skip)


class SignedNodeEmbedding(nn.Module):
    """First features of every neuron, odd and even, from constants, unary parameters and, if wanted, frames.

    Odd parameters (a bias that flips with its neuron) are read linearly into odd features, and by their absolute value
    into even ones.

    Args:
        width: Features per node, half of them odd.
        hidden: Width of the network that reads one unary parameter.
    """

    def __init__(self, width: int, hidden: int = 32) -> None:
        super().__init__()
        self.constant = nn.Sequential(nn.Linear(NODE_FEATURES, width), nn.SiLU(), nn.Linear(width, width))
        self.kind = nn.Embedding(len(VECTOR_KINDS) + FRAMES, hidden)
        self.value = nn.Linear(2, hidden)
        self.out = nn.Linear(hidden, width)
        self.odd = nn.Linear(2, width // 2, bias=False)
        self.norm = SignedNorm(width)

    def forward(self, tensors: NeuronGraph, frames: list[tuple[int, int, Tensor]]) -> list[Tensor]:
        """Features ``[B, N, width]`` of every node set of the layout.

        Args:
            tensors: Networks whose scales are fixed.
            frames: More numbers to read, invariant under signs: their node set, their kind and values ``[B, N, 1]``.
        """
        layout, found = tensors.layout, parities(tensors.space)
        _, nodes = layout_features(tensors.space)
        nodes = self.constant(nodes.to(self.out.weight))
        nodes = self._masked(nodes, free_nodes(layout).to(nodes))
        features = list(nodes.expand(tensors.batch_size, -1, -1).split([n.size for n in layout.nodes], 1))
        for vector, parity, values in zip(layout.vectors, found.vectors, tensors.vectors(), strict=True):
            read = self._read(values, vector_kind(vector), parity, found.free[vector.target])
            features[vector.target] = features[vector.target] + read
        for node, kind, values in frames:
            read = self._read(values, len(VECTOR_KINDS) + kind, Parity(True, False, False), found.free[node])
            features[node] = features[node] + read
        return [self.norm(f) for f in features]

    def _read(self, values: Tensor, kind: int, parity: Parity, free: bool) -> Tensor:
        """``[B, N, K] -> [B, N, width]``."""
        values = values[..., None]
        seen = values if parity.still else values.abs()
        hidden = self.value(torch.cat([seen, signed_log(10 * seen)], -1)) + self.kind.weight[kind]
        read = self.out(functional.silu(hidden).mean(-2))
        read = self._masked(read, read.new_tensor(float(parity.still and free)))
        if parity.carries:
            odd = self.odd(torch.cat([values, signed_log(10 * values)], -1).mean(-2))
            read = read + functional.pad(odd, (0, odd.shape[-1]))
        return read

    @staticmethod
    def _masked(features: Tensor, free: Tensor) -> Tensor:
        """Without what a neuron that is not free must not add to its odd features."""
        odd, even = features.chunk(2, -1)
        return torch.cat([odd * free, even], -1)
