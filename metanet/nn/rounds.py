"""Rounds of messages with a gradient of their own.

A round is a list of *visits*: some node sets hear messages along some blocks, and are updated. Left to autograd, a
visit is forty nodes of a graph, which on small networks take longer to keep than to compute; here a round is one node.
What it computes is what :mod:`metanet.nn.operator` says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from metanet.graph.layout import Block, Layout
from metanet.nn.blocks import Side, sides
from metanet.nn.messages import Operators
from metanet.nn.nodes import Update


@dataclass(frozen=True, eq=False)
class Visit:
    """Node sets that are updated at once, from messages along some blocks.

    Attributes:
        layout: The layout.
        places: The node sets.
        blocks: Numbers of the blocks.
        down: Whether targets hear sources, as their first message.
        up: Whether sources hear targets, as their last message.
        heads: Heads of the messages.
    """

    layout: Layout
    places: tuple[int, ...]
    blocks: tuple[int, ...]
    down: bool
    up: bool
    heads: int

    @cached_property
    def messages(self) -> int:
        """Messages per neuron."""
        return self.down + self.up

    @cached_property
    def sides(self) -> list[tuple[Block, Side, Side]]:
        """The blocks, with their sources and targets."""
        blocks = [self.layout.blocks[i] for i in self.blocks]
        return [(b, *sides(self.layout, b, self.heads)) for b in blocks]

    @cached_property
    def rows(self) -> dict[int, tuple[int, int]]:
        """First neuron and number of neurons of each set, when those of all sets visited are in a row."""
        found, start = {}, 0
        for place in self.places:
            found[place] = start, self.layout.nodes[place].size
            start += self.layout.nodes[place].size
        return found

    @cached_property
    def writers(self) -> Counter[tuple[int, int]]:
        """How many blocks write each message (first, last) of each set."""
        blocks = [self.layout.blocks[i] for i in self.blocks]
        found = Counter((b.target, 0) for b in blocks if self.down)
        return found + Counter((b.source, self.messages - 1) for b in blocks if self.up)

    def joined(self, features: list[Tensor]) -> Tensor:
        """The features of all sets visited, in a row."""
        return features[0] if len(features) == 1 else torch.cat(features, 1)

    def part(self, values: Tensor, place: int) -> Tensor:
        """The rows of one set, of ``[B, N, any]``."""
        return values if len(self.places) == 1 else values.narrow(1, *self.rows[place])

    def lane(self, heard: Tensor, place: int, number: int) -> Tensor:
        """One message of one set, of ``[B, N, M F]``."""
        mine = self.part(heard, place)
        if self.messages == 1:
            return mine
        width = heard.shape[2] // self.messages
        return mine.narrow(2, number * width, width)

    def factor(self, block: Block, up: bool, power: float) -> float:
        """What multiplies the messages of a block.

        k blocks that write the same are added and divided by the root of k: a stream that many write hears no louder.
        Operators hold the factor ``S^-power`` of messages to the target; those to the source want ``T^-power``.
        """
        if not up:
            return self.writers[block.target, 0] ** -0.5
        _, targets, sources, _ = block.shape
        return float((sources / targets) ** power * self.writers[block.source, self.messages - 1] ** -0.5)


class Round:
    """A round but for its tensors.

    Args:
        visits: In turn, each with its update.
        operators: Those of all blocks.
        transfer: Whether messages are means, see :class:`~metanet.nn.operators.BlockEmbedding`.
        layout: The layout.
        free: ``[N, 1]``, which neurons are free of signs, if updates ask.
    """

    def __init__(
        self,
        visits: Sequence[tuple[Visit, Update]],
        operators: Sequence[Operators],
        transfer: bool,
        layout: Layout,
        free: Tensor | None = None,
    ) -> None:
        self.visits, self.operators = visits, operators
        self.frees = None if free is None else free.split([n.size for n in layout.nodes])
        self.power = 1.0 if transfer else 0.5
        self.updates = list({id(u): u for _, u in visits}.values())

    def __call__(self, features: list[Tensor]) -> list[Tensor]:
        """Features ``[B, N, F]`` of all node sets after the round."""
        if not self.visits:
            return features  # a network without weights
        parameters = [p for update in self.updates for p in update.tensors()]
        features = [f.to(parameters[0].dtype) for f in features]
        self.keep, slots = torch.is_grad_enabled(), []
        for visit, number in ((v, n) for v, _ in self.visits for n in v.blocks) if self.keep else ():
            slots += self.operators[number].slots(visit.messages, features[0].shape[2])
        if not torch.is_autocast_enabled(features[0].device.type):
            return list(_Round.apply(self, *features, *parameters, *slots))
        with torch.autocast(features[0].device.type, enabled=False):  # a round has the precision of its parameters
            return list(_Round.apply(self, *features, *parameters, *slots))

    def free(self, visit: Visit) -> Tensor | None:
        """Which neurons visited are free."""
        return None if self.frees is None else torch.cat([self.frees[place] for place in visit.places])

    def run(self, visit: Visit, update: Update, features: list[Tensor]) -> list[Tensor | None]:
        """Update the features of the sets visited, and return what gradients need."""
        known: list[Tensor | None] = []
        rows = visit.joined([features[place] for place in visit.places])
        heard = rows.new_empty(*rows.shape[:2], visit.messages * rows.shape[2])
        written: set[tuple[int, int]] = set()
        for number, (block, source, target) in zip(visit.blocks, visit.sides, strict=True):
            below = source.read(features[block.source]) if visit.down else None
            above = target.read(features[block.target]) if visit.up else None
            there, here = self.operators[number].carry(below, above)
            for message, side, key in (
                (there, target, (block.target, 0)),
                (here, source, (block.source, visit.messages - 1)),
            ):
                if message is not None:
                    factor = visit.factor(block, side is source, self.power)
                    side.write(message, visit.lane(heard, *key), factor, key in written)
                    written.add(key)
            known += [below, above] if self.keep else []
        for key in ((place, number) for place in visit.places for number in range(visit.messages)):
            if key not in written:
                visit.lane(heard, *key).zero_()
        new, more = update.run(rows, heard, self.free(visit), self.keep)
        for place in visit.places:
            features[place] = visit.part(new, place)
        return [*known, *more] if self.keep else []

    def gradients(
        self, visit: Visit, update: Update, known: Sequence[Tensor], grads: list[Tensor], totals: list[Tensor]
    ) -> list[Tensor | None]:
        """From gradients of all features after a visit to those before it, in ``grads``.

        Args:
            visit: What was visited.
            update: Its update.
            known: What :meth:`run` returned.
            grads: One per node set, which may be written to.
            totals: Gradients of the update's parameters, to which those of this visit are added; empty at first.

        Returns:
            Two factors of the gradient of the operators for each message.
        """
        more = known[2 * len(visit.blocks) :]
        given = visit.joined([grads[place] for place in visit.places])
        for_rows, for_heard = update.gradients(more, given, self.free(visit), totals)
        for place in visit.places:
            grads[place] = visit.part(for_rows, place)
        slots: list[Tensor | None] = []
        for place, (number, (block, source, target)) in enumerate(zip(visit.blocks, visit.sides, strict=True)):
            there = here = None
            if visit.down:
                factor = visit.factor(block, False, self.power)
                there = target.read(visit.lane(for_heard, block.target, 0), factor)
            if visit.up:
                factor = visit.factor(block, True, self.power)
                here = source.read(visit.lane(for_heard, block.source, visit.messages - 1), factor)
            if self.operators[number].asks:
                slots += [there, known[2 * place]] if visit.down else []
                slots += [known[2 * place + 1], here] if visit.up else []
            for_target, for_source = self.operators[number].carry(here, there)
            if for_target is not None:
                target.write(for_target, grads[block.target], 1.0, True)
            if for_source is not None:
                source.write(for_source, grads[block.source], 1.0, True)
        return slots


class _Round(torch.autograd.Function):
    """Features of all node sets, then parameters of all updates, then slots; gives the new features."""

    @staticmethod
    def forward(ctx: Any, one: Round, *tensors: Tensor) -> tuple[Tensor, ...]:
        count = len(one.visits[0][0].layout.nodes)
        features, known, lengths = list(tensors[:count]), [], []
        for visit, update in one.visits:
            found = one.run(visit, update, features)
            known += found
            lengths.append(len(found))
        ctx.one, ctx.lengths = one, lengths
        ctx.save_for_backward(*known)
        return tuple(features)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *given: Tensor) -> tuple[Any, ...]:
        known, one = list(ctx.saved_tensors), ctx.one
        grads = [g.clone(memory_format=torch.contiguous_format) for g in given]
        totals: dict[int, list[Tensor]] = {id(u): [] for u in one.updates}
        slots: list[Tensor | None] = []
        for (visit, update), length in zip(one.visits[::-1], ctx.lengths[::-1], strict=True):
            mine = known[len(known) - length :]
            del known[len(known) - length :]
            slots = one.gradients(visit, update, mine, grads, totals[id(update)]) + slots
        return (None, *grads, *(t for u in one.updates for t in totals[id(u)]), *slots)
