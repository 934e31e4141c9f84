"""Operator message passing: weights are embedded once into R matrices per block, and rounds multiply by them.

For a block ``W`` from source to target, ``E = phi(W)`` has shape ``[B, R, D, T, S]``. A message to the target is
``E @ h`` head by head, a message back is ``E^T @ g``; memory is that of E once, and of the neurons per round. All
operations act alike on every neuron, so permuting neurons permutes the features (equivariance), and nothing mixes nets
of a batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from metanet.graph.layout import Block, Layout, NodeSet
from metanet.graph.neuron_graph import NeuronGraph
from metanet.nn.features import LINK_FEATURES, NODE_FEATURES, node_features, vector_kind
from metanet.space.weight_space import VECTOR_KINDS


class BlockEmbedding(nn.Module):
    """Embed every weight of a block into R heads.

    ``E[r] = phi_r(sum_k c_r(x_k) asinh(w_k sqrt(fan_in)); link)``: taps are mixed by coefficients that are a function
    of their coordinates ``x_k`` alone, so that kernels of any size share parameters; the rest is a small network on
    each connection, modulated by what is known of the link.

    Args:
        heads: R.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.taps = nn.Sequential(nn.Linear(3, 32), nn.GELU(), nn.Linear(32, heads))
        self.size = nn.Parameter(torch.randn(heads) * 0.5)
        self.modulation = nn.Linear(LINK_FEATURES, 2 * heads)
        self.out = nn.Linear(2 * heads, heads)

    def forward(self, weights: Tensor, block: Block, link: Tensor) -> Tensor:
        """Embed.

        Args:
            weights: ``[B, D, T, S, K]``.
            block: Its place in the layout.
            link: Link features ``[LINK_FEATURES]``.

        Returns:
            ``[B, R, D, T, S]``.
        """
        taps = block.shape[3]
        w = torch.asinh(weights * block.fan_in**0.5)
        place = w.new_tensor(block.coordinates)
        coefficients = self.taps(place) / taps**0.5
        mixed = w @ coefficients  # [B, D, T, S, R]
        energy = w.square().mean(-1, keepdim=True).add(1e-6).sqrt() * self.size
        scale, shift = self.modulation(link).chunk(2)
        features = torch.cat([mixed, energy * (1 + scale) + shift], -1)
        return self.out(nn.functional.gelu(features)).movedim(-1, 1) + mixed.movedim(-1, 1)


class NodeEmbedding(nn.Module):
    """First node features: kind, depth, order of inputs and outputs, and every unary parameter.

    Args:
        width: Features per node.
        hidden: Width of the network that reads one unary parameter.
    """

    def __init__(self, width: int, hidden: int = 32) -> None:
        super().__init__()
        self.constant = nn.Sequential(nn.Linear(NODE_FEATURES, width), nn.GELU(), nn.Linear(width, width))
        self.kind = nn.Embedding(len(VECTOR_KINDS), hidden)
        self.value = nn.Linear(2, hidden)
        self.out = nn.Linear(hidden, width)

    def forward(self, graph: NeuronGraph) -> list[Tensor]:
        """Features ``[B, N, width]`` of every node set of the layout."""
        layout, like = graph.layout, next(iter(graph.tensors.values()))
        features = [
            self.constant(node_features(layout, node).to(like)).expand(graph.batch_size, -1, -1)
            for node in layout.nodes
        ]
        for vector, values in zip(layout.vectors, graph.vectors(), strict=True):
            read = torch.stack([values, torch.asinh(10 * values)], -1)
            hidden = nn.functional.gelu(self.value(read) + self.kind.weight[vector_kind(vector)])
            features[vector.target] = features[vector.target] + self.out(hidden.mean(-2))
        return features


class Sweep(nn.Module):
    """One round: messages through the network from input to output, then back from output to input.

    Blocks are visited in the order of computation, so that one sweep carries information through the whole depth:
    ``h_t += f(h_t, sum_blocks E h_s / sqrt(S))`` forward, ``h_s += b(h_s, sum_blocks E^T h_t / sqrt(T))`` backward.

    Args:
        width: Features per node.
        heads: Heads R of the block embeddings; divides ``width``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.forth, self.back = _Direction(width, heads), _Direction(width, heads)

    def forward(self, features: list[Tensor], embedded: list[Tensor], layout: Layout) -> list[Tensor]:
        """Update the features ``[B, N, width]`` of every node set; ``embedded`` holds ``[B, R, D, T, S]`` per block."""
        features = list(features)
        order = list(enumerate(layout.blocks))
        for place, group in _groups(order, lambda b: (b.link.depth, b.target)):
            messages = [self.forth.message(features[b.source], embedded[i], layout, b, back=False) for i, b in group]
            features[place] = self.forth.update(features[place], messages)
        for place, group in _groups(order[::-1], lambda b: (-b.link.depth, b.source)):
            messages = [self.back.message(features[b.target], embedded[i], layout, b, back=True) for i, b in group]
            features[place] = self.back.update(features[place], messages)
        return features


class _Direction(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.read = nn.LayerNorm(width), nn.Linear(width, width)
        self.mix = nn.Linear(2 * width, 2 * width)
        self.out = nn.Linear(2 * width, width)
        self.norm_message = nn.LayerNorm(width)

    def message(self, features: Tensor, embedded: Tensor, layout: Layout, block: Block, back: bool) -> Tensor:
        """Messages ``[B, N, width]`` to the receiving node set."""
        sender, receiver = layout.nodes[block.source], layout.nodes[block.target]
        order, place = block.source_order, block.target_order
        if back:
            sender, receiver, order, place = receiver, sender, place, order
            embedded = embedded.transpose(-1, -2)
        values = _gather(self.read(self.norm(features)), sender, order, block.shape[0])
        batch, groups, count, width = values.shape
        values = values.reshape(batch, groups, count, self.heads, -1).permute(0, 3, 1, 2, 4)
        received = (embedded @ values) / count**0.5  # [B, R, D, N, width / R]
        received = received.permute(0, 2, 3, 1, 4).reshape(batch, groups, -1, width)
        return _scatter(received, receiver, place)

    def update(self, features: Tensor, messages: list[Tensor]) -> Tensor:
        """Residual update of node features by the sum of their messages."""
        total = torch.stack(messages).sum(0) if len(messages) > 1 else messages[0]
        joint = torch.cat([self.norm(features), self.norm_message(total)], -1)
        return features + self.out(nn.functional.gelu(self.mix(joint)))


def _groups(
    order: list[tuple[int, Block]], key: Callable[[Block], tuple[int, int]]
) -> Iterator[tuple[int, list[tuple[int, Block]]]]:
    """Blocks of equal depth that reach the same node set, in order of depth."""
    ranked = sorted(order, key=lambda item: key(item[1]))
    for (_, place), group in itertools.groupby(ranked, key=lambda item: key(item[1])):
        yield place, list(group)


def _gather(values: Tensor, node: NodeSet, order: tuple[int, ...], groups: int) -> Tensor:
    """``[B, N, F] -> [B, D, N / D, F]`` with the shared axes first."""
    batch, _, width = values.shape
    if order != tuple(range(len(order))):
        values = values.reshape(batch, *node.sizes, width).permute(0, *(i + 1 for i in order), len(order) + 1)
    return values.reshape(batch, groups, -1, width)


def _scatter(values: Tensor, node: NodeSet, order: tuple[int, ...]) -> Tensor:
    """Inverse of :func:`_gather`: ``[B, D, N / D, F] -> [B, N, F]``."""
    batch, width = values.shape[0], values.shape[-1]
    if order != tuple(range(len(order))):
        inverse = sorted(range(len(order)), key=order.__getitem__)
        sizes = [node.sizes[i] for i in order]
        values = values.reshape(batch, *sizes, width).permute(0, *(i + 1 for i in inverse), len(order) + 1)
    return values.reshape(batch, -1, width)
