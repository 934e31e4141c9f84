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

from torch import Tensor, nn

from metanet.graph.layout import Layout, layout_of
from metanet.nn.messages import Operators
from metanet.nn.nodes import NodeUpdate, Update
from metanet.nn.rounds import Round, Visit
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
        self, width: int, heads: int, transfer: bool = False, update: Callable[..., Update] = NodeUpdate
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
        forth, back = _sweep(layout.space, self.heads)
        visits = [(v, self.forth) for v in forth] + [(v, self.back) for v in back]
        return Round(visits, operators, self.transfer, layout, free)(features)


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
        self, width: int, heads: int, transfer: bool = False, update: Callable[..., Update] = NodeUpdate
    ) -> None:
        super().__init__()
        self.heads, self.transfer = heads, transfer
        self.update = update(width, messages=2)

    def forward(
        self, features: list[Tensor], operators: list[Operators], layout: Layout, free: Tensor | None = None
    ) -> list[Tensor]:
        """Update the features ``[B, N, width]`` of every node set; arguments as those of :class:`Sweep`."""
        visits = [(v, self.update) for v in _at_once(layout.space, self.heads)]
        return Round(visits, operators, self.transfer, layout, free)(features)


@lru_cache(maxsize=256)
def _sweep(space: WeightSpace, heads: int) -> tuple[tuple[Visit, ...], tuple[Visit, ...]]:
    """Visits of one node set after the other, in order of depth; and those of the way back."""
    layout = layout_of(space)
    blocks = layout.blocks
    forth = _groups([(b.link.depth, b.target) for b in blocks], range(len(blocks)))
    back = _groups([(-b.link.depth, b.source) for b in blocks], range(len(blocks))[::-1])
    return (
        tuple(Visit(layout, (place,), numbers, True, False, heads) for place, numbers in forth),
        tuple(Visit(layout, (place,), numbers, False, True, heads) for place, numbers in back),
    )


def _groups(keys: Sequence[tuple[int, int]], order: Sequence[int]) -> list[tuple[int, tuple[int, ...]]]:
    """Blocks of equal depth that reach the same node set: the set, and their numbers."""
    ranked = sorted(order, key=lambda i: keys[i])
    return [(place, tuple(group)) for (_, place), group in itertools.groupby(ranked, key=lambda i: keys[i])]


@lru_cache(maxsize=256)
def _at_once(space: WeightSpace, heads: int) -> tuple[Visit, ...]:
    """One visit of all node sets, along all blocks both ways."""
    layout = layout_of(space)
    return (Visit(layout, tuple(range(len(layout.nodes))), tuple(range(len(layout.blocks))), True, True, heads),)
