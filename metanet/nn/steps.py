"""Steps of message passing: which node sets are updated at once, and the messages that reach them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from metanet.graph.layout import Block, Layout
from metanet.nn.blocks import Side, sides
from metanet.nn.messages import Operators


@dataclass(frozen=True, eq=False)
class Step:
    """Node sets that are updated at once, from messages along some blocks.

    Attributes:
        layout: The layout.
        nodes: Numbers of the node sets.
        blocks: Numbers of the blocks.
        down: Whether targets get messages from sources; such a message is a neuron's first.
        up: Whether sources get messages from targets; such a message is a neuron's last.
        heads: Heads R of the messages.
    """

    layout: Layout
    nodes: tuple[int, ...]
    blocks: tuple[int, ...]
    down: bool
    up: bool
    heads: int

    @cached_property
    def sides(self) -> list[tuple[Block, Side, Side]]:
        """The blocks, each with its source and its target."""
        blocks = [self.layout.blocks[i] for i in self.blocks]
        return [(b, *sides(self.layout, b, self.heads)) for b in blocks]

    def joined(self, features: Sequence[Tensor]) -> Tensor:
        """Join the features of the node sets of the step, ``[B, N, F]``."""
        return _joined([features[node] for node in self.nodes])

    def split(self, features: Tensor) -> Sequence[Tensor]:
        """Split joined features into those of each node set: the inverse of :meth:`joined`."""
        if len(self.nodes) == 1:
            return [features]
        return features.split([self.layout.nodes[node].size for node in self.nodes], 1)

    def messages(self, features: Sequence[Tensor], operators: Sequence[Operators], power: float) -> list[Tensor]:
        """Send messages along the blocks, and sum up what reaches the same neurons.

        k blocks that reach the same node set are added and divided by the root of k, so that a residual stream to which
        many layers write does not get larger messages. Operators hold the factor ``S^-power`` of messages to the
        target; messages to the source get ``T^-power`` instead.

        Args:
            features: ``[B, N, F]`` of every node set of the layout.
            operators: One per block of the layout.
            power: One half for scaled sums, one for means.

        Returns:
            ``[B, N, F]``, over the joined node sets, for each direction of the step: down, then up.
        """
        arrived: list[dict[int, list[Tensor]]] = [defaultdict(list) for _ in range(self.down + self.up)]
        for number, (block, source, target) in zip(self.blocks, self.sides, strict=True):
            to_target, to_source = operators[number].propagate(
                source.read(features[block.source]) if self.down else None,
                target.read(features[block.target]) if self.up else None,
            )
            if to_target is not None:
                arrived[0][block.target].append(target.write(to_target))
            if to_source is not None:
                _, targets, sources, _ = block.shape
                arrived[-1][block.source].append(source.write(to_source) * (sources / targets) ** power)
        return [_joined([_total(found[node], features[node]) for node in self.nodes]) for found in arrived]


def _joined(features: list[Tensor]) -> Tensor:
    """Join the neurons of several node sets."""
    return features[0] if len(features) == 1 else torch.cat(features, 1)


def _total(messages: list[Tensor], like: Tensor) -> Tensor:
    """Add messages and divide by the root of their number; zeros if there are none."""
    if not messages:
        return torch.zeros_like(like)
    return messages[0] if len(messages) == 1 else torch.stack(messages).sum(0) * len(messages) ** -0.5
