"""Operator message passing: weights are embedded into R matrices per block, and rounds multiply by them.

For a block ``W`` from source to target, ``E = phi(W)`` has shape ``[R, B, D, T, S]``. A message to the target is
``E @ h`` head by head, a message back is ``E^T @ g``; memory is that of E once, as far as it may be kept, and of the
neurons per round. All operations act alike on every neuron, so permuting neurons permutes the features (equivariance),
and nothing mixes nets of a batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from metanet.graph.layout import Layout, layout_of
from metanet.nn.messages import Operators
from metanet.nn.nodes import NodeUpdate
from metanet.nn.steps import Step
from metanet.space.weight_space import WeightSpace


class MessagePassing(nn.Module):
    """One round of messages: steps in turn, each of which updates the neurons of some node sets.

    Args:
        heads: Heads R of the block embeddings; divides the number of features per neuron.
        transfer: Means instead of scaled sums, see :class:`~metanet.nn.operators.BlockEmbedding`.
    """

    def __init__(self, heads: int, transfer: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.power = 1.0 if transfer else 0.5

    def steps(self, space: WeightSpace) -> Iterable[tuple[Step, nn.Module]]:
        """Yield the steps of a round, each with the module that updates its neurons."""
        raise NotImplementedError

    def forward(
        self, features: Sequence[Tensor], operators: Sequence[Operators], layout: Layout, free: Tensor | None = None
    ) -> list[Tensor]:
        """Update the features ``[B, N, width]`` of every node set.

        Args:
            features: One tensor per node set of the layout.
            operators: One per block.
            layout: The layout.
            free: ``[nodes, 1]``, one for nodes that no sign moves; for :class:`~metanet.nn.SignedNodeUpdate`.
        """
        dtype = next(self.parameters()).dtype
        features = [f.to(dtype) for f in features]
        frees = None if free is None else free.split([n.size for n in layout.nodes])
        with torch.autocast(features[0].device.type, enabled=False):  # a round has the precision of its parameters
            for step, update in self.steps(layout.space):
                messages = step.messages(features, operators, self.power)
                named = {} if frees is None else {"free": torch.cat([frees[node] for node in step.nodes])}
                updated = update(step.joined(features), *messages, **named)
                for node, values in zip(step.nodes, step.split(updated), strict=True):
                    features[node] = values
        return features


class Sweep(MessagePassing):
    """One round: messages through the network from input to output, then back from output to input.

    Blocks are visited in the order of computation, so that one sweep carries information through the whole depth:
    ``h_t = U(h_t, sum_blocks E h_s)`` forward, ``h_s = V(h_s, sum_blocks E^T h_t)`` backward.

    Args:
        width: Features per node.
        heads: Heads R of the block embeddings; divides ``width``.
        transfer: Means instead of scaled sums, see :class:`~metanet.nn.operators.BlockEmbedding`.
        update: Makes the module that updates neurons, ``update(features, message)``.
    """

    def __init__(
        self, width: int, heads: int, transfer: bool = False, update: Callable[..., nn.Module] = NodeUpdate
    ) -> None:
        super().__init__(heads, transfer)
        self.forth, self.back = update(width), update(width)

    def steps(self, space: WeightSpace) -> Iterable[tuple[Step, nn.Module]]:  # noqa: D102 (that of the base class)
        forth, back = _sweep(space, self.heads)
        return [(step, self.forth) for step in forth] + [(step, self.back) for step in back]


class Parallel(MessagePassing):
    """One round in which every neuron gets messages from all of its neighbours at once, and is updated once.

    ``h = U(h, sum_blocks E h_s, sum_blocks E^T h_t)``: as many rounds as layers carry information through the network.
    Every weight whose operators are not kept is embedded once a round, half as often as by a sweep.

    Args:
        width: Features per node.
        heads: Heads R of the block embeddings; divides ``width``.
        transfer: Means instead of scaled sums, see :class:`~metanet.nn.operators.BlockEmbedding`.
        update: Makes the module that updates neurons, ``update(features, message down, message up)``.
    """

    def __init__(
        self, width: int, heads: int, transfer: bool = False, update: Callable[..., nn.Module] = NodeUpdate
    ) -> None:
        super().__init__(heads, transfer)
        self.update = update(width, messages=2)

    def steps(self, space: WeightSpace) -> Iterable[tuple[Step, nn.Module]]:  # noqa: D102 (that of the base class)
        return [(step, self.update) for step in _at_once(space, self.heads)]


@lru_cache(maxsize=256)
def _sweep(space: WeightSpace, heads: int) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """Steps of one node set after the other, in order of depth; and those of the way back."""
    layout = layout_of(space)
    blocks = layout.blocks
    forth = _groups([(b.link.depth, b.target) for b in blocks], range(len(blocks)))
    back = _groups([(-b.link.depth, b.source) for b in blocks], range(len(blocks))[::-1])
    return (
        tuple(Step(layout, (node,), numbers, True, False, heads) for node, numbers in forth),
        tuple(Step(layout, (node,), numbers, False, True, heads) for node, numbers in back),
    )


def _groups(keys: Sequence[tuple[int, int]], order: Sequence[int]) -> list[tuple[int, tuple[int, ...]]]:
    """Group the numbers of blocks of equal depth that reach the same node set: the node set, and the numbers."""
    ranked = sorted(order, key=lambda i: keys[i])
    return [(node, tuple(group)) for (_, node), group in itertools.groupby(ranked, key=lambda i: keys[i])]


@lru_cache(maxsize=256)
def _at_once(space: WeightSpace, heads: int) -> tuple[Step, ...]:
    """Return one step of all node sets, along all blocks in both directions; none for a network without weights."""
    layout = layout_of(space)
    every = tuple(range(len(layout.nodes)))
    return (Step(layout, every, tuple(range(len(layout.blocks))), True, True, heads),) if layout.blocks else ()
