"""Block embeddings: the operators that a metanet makes of the weights of a block.

A block is embedded into R operators ``E[r]`` that carry messages along it (:mod:`metanet.nn.messages`), by a small
network on every connection (:mod:`metanet.nn.connections`) whose coefficients depend on what is known of the link.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from metanet.graph.layout import Block, Layout
from metanet.graph.neuron_graph import NeuronGraph
from metanet.nn.connections import Coefficients, ConnectionNetwork
from metanet.nn.features import LINK_FEATURES, layout_features, tap_places
from metanet.nn.messages import PIECE, Operators, Pieces

Embedding = tuple[ConnectionNetwork, Coefficients]


class BlockEmbedding(nn.Module):
    """Embed every weight of a block into R heads.

    With the taps of a connection ``x_k = slog(w_k sqrt(fan_in))``, their root mean square ``x_0``, and coefficients
    that depend on a tap's coordinates ``p_k`` alone, so that kernels of any size share parameters:
    ``E = A silu(sum_k a(p_k) x_k + a_0 x_0 + b) + sum_k c(p_k) x_k``, where ``a`` and ``b`` are modulated by what is
    known of the link. Messages are ``E h`` times ``S^(-1/2)``, which is part of ``E`` here.

    Args:
        heads: R.
        transfer: Scale weights by ``fan_in`` and messages by ``1 / S`` instead, and leave sizes unsaid: a network in
            which every neuron was doubled and outgoing weights halved is then the same network (Ma et al. 2026).
    """

    def __init__(self, heads: int, transfer: bool = False) -> None:
        super().__init__()
        self.heads, self.hidden, self.transfer = heads, 2 * heads, transfer
        self.taps = nn.Sequential(nn.Linear(3, 32), nn.SiLU(), nn.Linear(32, self.hidden + heads))
        self.size = nn.Parameter(torch.randn(self.hidden) * 0.5)
        self.modulation = nn.Linear(LINK_FEATURES, 2 * self.hidden)
        self.out = nn.Parameter(torch.randn(heads, self.hidden) / self.hidden**0.5)

    def operators(self, graph: NeuronGraph, limit: int, messages: int = 2) -> list[Operators]:
        """Operators of every block of a layout.

        Args:
            graph: B nets.
            limit: Operator values to keep in memory; those of further pieces are embedded at every use.
            messages: How many messages each block will carry, if that is known.
        """
        found, room = [], limit
        with torch.autocast(self.out.device.type, enabled=False):  # operators have the precision of the parameters
            embeddings = self.embeddings(graph.layout)
        for block, (network, coefficients) in zip(graph.layout.blocks, embeddings, strict=True):
            tensor = graph.tensors[block.link.tensor]
            read = functools.partial(block.piece.read, tensor.detach())
            shape = (graph.batch_size, *block.shape[:3])
            piece = PIECE if tensor.device.type == "cpu" else 2**7 * PIECE  # what fills a cache does not fill a GPU
            pieces = Pieces(network, coefficients, read, shape, room, min(limit, piece))
            weights = block.piece.read(tensor) if tensor.requires_grad else None
            found.append(Operators(pieces, coefficients, weights, messages))
            room -= pieces.size
        return found

    def embeddings(self, layout: Layout) -> list[Embedding]:
        """What embeds the weights of each block."""
        return [self._embedding(b, *p) for b, p in zip(layout.blocks, self.parameters_of(layout), strict=True)]

    def parameters_of(self, layout: Layout) -> list[tuple[Tensor, Tensor, Tensor]]:
        """What depends on a block's place and not on its weights, of all blocks at once.

        Returns:
            For every block: coefficients of the taps for the hidden layer ``[H, K + 1]``, the last for their size;
            its bias ``[H]``; coefficients of the direct part ``[R, K]``.
        """
        links, _ = layout_features(layout.space, sizes=not self.transfer)
        scales, shifts = self.modulation(links.to(self.out)).chunk(2, 1)
        taps = [b.shape[3] for b in layout.blocks]
        found = self.taps(tap_places(layout.space).to(self.out)).t().split(taps, 1)
        result = []
        for count, coefficients, scale, shift in zip(taps, found, scales, shifts, strict=True):
            inner, skip = (coefficients / count**0.5).split([self.hidden, self.heads])
            result.append((torch.cat([inner, self.size[:, None]], 1) * (1 + scale[:, None]), shift, skip))
        return result

    def _embedding(self, block: Block, inner: Tensor, shift: Tensor, skip: Tensor) -> Embedding:
        factor, share = self.factors(block)
        return ConnectionNetwork(factor), Coefficients(inner, shift, self.out * share, skip * share)

    def factors(self, block: Block) -> tuple[float, float]:
        """Factors on the weights of a block, and on its operators."""
        sources = block.shape[2]
        return (block.fan_in, 1 / sources) if self.transfer else (block.fan_in**0.5, sources**-0.5)
