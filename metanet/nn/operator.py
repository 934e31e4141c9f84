"""Operator message passing: weights are embedded into R matrices per block, and rounds multiply by them.

For a block ``W`` from source to target, ``E = phi(W)`` has shape ``[R, B, D, T, S]``. A message to the target is
``E @ h`` head by head, a message back is ``E^T @ g``; memory is that of E once, as far as it may be kept, and of the
neurons per round. All operations act alike on every neuron, so permuting neurons permutes the features (equivariance),
and nothing mixes nets of a batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from metanet.graph.layout import Block, Layout, layout_of
from metanet.nn.blocks import of_source, of_target, to_source, to_target
from metanet.nn.messages import Operators
from metanet.nn.nodes import NodeUpdate
from metanet.space.weight_space import WeightSpace


class Sweep(nn.Module):
    """One round: messages through the network from input to output, then back from output to input.

    Blocks are visited in the order of computation, so that one sweep carries information through the whole depth:
    ``h_t = U(h_t, sum_blocks E h_s)`` forward, ``h_s = V(h_s, sum_blocks E^T h_t)`` backward.

    Args:
        width: Features per node.
        heads: Heads R of the block embeddings; divides ``width``.
        transfer: Means instead of scaled sums, see :class:`~metanet.nn.operators.BlockEmbedding`.
        update: Kind of node update.
    """

    def __init__(
        self, width: int, heads: int, transfer: bool = False, update: Callable[..., nn.Module] = NodeUpdate
    ) -> None:
        super().__init__()
        self.heads, self.transfer = heads, transfer
        self.forth, self.back = update(width), update(width)

    def forward(
        self, features: list[Tensor], operators: list[Operators], layout: Layout, free: Tensor | None = None
    ) -> list[Tensor]:
        """Update the features ``[B, N, width]`` of every node set.

        Args:
            features: One tensor per node set of the layout.
            operators: One per block.
            layout: The layout.
            free: ``[nodes, 1]``, which nodes are free of signs; for updates that ask (:mod:`metanet.nn.gauge`).
        """
        frees = [None] * len(features) if free is None else free.split([n.size for n in layout.nodes])
        features = list(features)
        blocks, (forth, back) = layout.blocks, _visits(layout.space)
        for place, numbers in forth:
            heard = [self.down(features[blocks[i].source], operators[i], layout, blocks[i]) for i in numbers]
            features[place] = self.forth(features[place], _total(heard), free=frees[place])
        for place, numbers in back:
            heard = [self.up(features[blocks[i].target], operators[i], layout, blocks[i]) for i in numbers]
            features[place] = self.back(features[place], _total(heard), free=frees[place])
        return features

    def down(self, features: Tensor, operators: Operators, layout: Layout, block: Block) -> Tensor:
        """Messages ``[B, N_t, width]`` that the target of a block hears from its source's features."""
        return to_target(operators.forth(of_source(features, layout, block)), layout, block)

    def up(self, features: Tensor, operators: Operators, layout: Layout, block: Block) -> Tensor:
        """Messages ``[B, N_s, width]`` that the source of a block hears from its target's features."""
        scale = _ratio(block, self.transfer)
        return to_source(operators.back(of_target(features, layout, block), scale), layout, block)


class Parallel(nn.Module):
    """One round in which every neuron hears all of its neighbours at once, and is updated once.

    ``h = U(h, sum_blocks E h_s, sum_blocks E^T h_t)``: as many rounds as layers carry information through the network.
    Every weight whose operators are not kept is embedded once a round, half as often as by a sweep.

    Args:
        width: Features per node.
        heads: Heads R of the block embeddings; divides ``width``.
        transfer: Means instead of scaled sums, see :class:`~metanet.nn.operators.BlockEmbedding`.
        update: Kind of node update.
    """

    def __init__(
        self, width: int, heads: int, transfer: bool = False, update: Callable[..., nn.Module] = NodeUpdate
    ) -> None:
        super().__init__()
        self.heads, self.transfer = heads, transfer
        self.update = update(width, messages=2)

    def forward(
        self, features: list[Tensor], operators: list[Operators], layout: Layout, free: Tensor | None = None
    ) -> list[Tensor]:
        """Update the features ``[B, N, width]`` of every node set; arguments as those of :class:`Sweep`."""
        below: list[list[Tensor]] = [[] for _ in features]
        above: list[list[Tensor]] = [[] for _ in features]
        for block, operator in zip(layout.blocks, operators, strict=True):
            there, here = operator.both(
                of_source(features[block.source], layout, block),
                of_target(features[block.target], layout, block),
                _ratio(block, self.transfer),
            )
            below[block.target].append(to_target(there, layout, block))
            above[block.source].append(to_source(here, layout, block))
        heard = [
            torch.cat([_total(m) if m else torch.zeros_like(f) for m, f in zip(side, features, strict=True)], 1)
            for side in (below, above)
        ]
        new = self.update(torch.cat(features, 1), *heard, free=free)
        return list(new.split([n.size for n in layout.nodes], 1))


def _total(messages: list[Tensor]) -> Tensor:
    """Sum of k messages over the root of k: a stream that many blocks write hears no louder."""
    return messages[0] if len(messages) == 1 else torch.stack(messages).sum(0) / len(messages) ** 0.5


def _ratio(block: Block, transfer: bool) -> float:
    """From the factor that is part of the operators, ``S^(-1/2)`` (``1 / S`` for transfer), to that of ``T``."""
    _, targets, sources, _ = block.shape
    return sources / targets if transfer else (sources / targets) ** 0.5


Visit = tuple[int, tuple[int, ...]]  # a node set, and the numbers of the blocks that it hears


@lru_cache(maxsize=256)
def _visits(space: WeightSpace) -> tuple[tuple[Visit, ...], tuple[Visit, ...]]:
    """Blocks of equal depth that reach the same node set, in order of depth; the same for the way back."""
    blocks = layout_of(space).blocks
    forth = _groups([(b.link.depth, b.target) for b in blocks], range(len(blocks)))
    return forth, _groups([(-b.link.depth, b.source) for b in blocks], range(len(blocks))[::-1])


def _groups(keys: Sequence[tuple[int, int]], order: Sequence[int]) -> tuple[Visit, ...]:
    ranked = sorted(order, key=lambda i: keys[i])
    return tuple((place, tuple(group)) for (_, place), group in itertools.groupby(ranked, key=lambda i: keys[i]))
