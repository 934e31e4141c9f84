"""Where things stand in a picture of a neuron graph: columns by depth, one lane per node set.

A node set that several blocks write (a residual stream) or that is read again later (dense connections) is one set of
neurons, but a picture that reads from left to right needs it at several depths. It is therefore unrolled into *copies*
that stay in one lane, joined by *streams*. Nothing here draws.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from metanet.graph.layout import Block, Layout

MAX_COLUMNS = 26


@dataclass(frozen=True)
class Copy:
    """A node set at one depth.

    Attributes:
        node: Number of the node set.
        column: Depth.
        kind: ``"written"`` where blocks write it, ``"coupled"`` where only a depthwise block does, which maps every
            neuron to itself, ``"carried"`` where it is only read.
        blocks: Numbers of the blocks that write it here.
        vectors: Numbers of the vectors that act on it here.
    """

    node: int
    column: int
    kind: Literal["written", "coupled", "carried"]
    blocks: tuple[int, ...]
    vectors: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """What to draw where.

    Attributes:
        columns: Depths shown, ascending.
        elided: Depths left out in the middle of a deep network.
        copies: Every copy shown, by node set and depth.
        lane: Lane of each node set, 0 at the top.
        streams: ``(node set, from depth, to depth)``: the same neurons, carried on or written again.
    """

    columns: tuple[int, ...]
    elided: tuple[int, ...]
    copies: dict[tuple[int, int], Copy]
    lane: dict[int, int]
    streams: tuple[tuple[int, int, int], ...]


def plan(layout: Layout, max_columns: int = MAX_COLUMNS) -> Plan:
    """Lay a neuron graph out in columns and lanes.

    Args:
        layout: The layout.
        max_columns: A deeper network keeps its first and last columns.
    """
    events = _events(layout)
    spans = {node: (min(columns), max(columns)) for node, columns in events.items()}
    shown, elided = _shown({c for columns in events.values() for c in columns}, max_columns)
    kept = set(shown)
    copies, streams = {}, []
    for node, columns in events.items():
        here = [_copy(layout, node, column) for column in sorted(columns)]
        streams += [s for s in _streams(here) if s[1] in kept and s[2] in kept]
        copies.update({(node, copy.column): copy for copy in here if copy.column in kept})
    return Plan(shown, elided, copies, _lanes(spans), tuple(streams))


def is_coupled(block: Block) -> bool:
    """Whether a block maps every neuron to itself, as a depthwise convolution does."""
    _, targets, sources, _ = block.shape
    return block.source == block.target and targets == sources == 1


def _events(layout: Layout) -> dict[int, set[int]]:
    """The depths at which each node set is written, read or acted upon."""
    events: dict[int, set[int]] = defaultdict(set)
    for block in layout.blocks:
        events[block.source].add(block.link.depth - 1)
        events[block.target].add(block.link.depth)
    for vector in layout.vectors:
        events[vector.target].add(vector.link.depth)
    return events


def _copy(layout: Layout, node: int, column: int) -> Copy:
    blocks = [i for i, b in enumerate(layout.blocks) if b.target == node and b.link.depth == column]
    vectors = [i for i, v in enumerate(layout.vectors) if v.target == node and v.link.depth == column]
    coupled = bool(blocks) and all(is_coupled(layout.blocks[i]) for i in blocks)
    return Copy(
        node, column, "coupled" if coupled else "written" if blocks else "carried", tuple(blocks), tuple(vectors)
    )


def _streams(copies: list[Copy]) -> list[tuple[int, int, int]]:
    """Which copies of one node set to join.

    A copy that is only read continues the one before. A copy that is written again continues the last one that was not
    made by a depthwise block: in a residual network, that is what the new value was added to.
    """
    streams = []
    last = base = copies[0]
    for copy in copies[1:]:
        if copy.kind == "carried":
            streams.append((copy.node, last.column, copy.column))
        elif copy.kind == "written":
            streams.append((copy.node, base.column, copy.column))
            base = copy
        last = copy
    return streams


def _shown(columns: Iterable[int], most: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    every = sorted(columns)
    if len(every) <= most:
        return tuple(every), ()
    head = most // 2
    tail = len(every) - (most - head)
    return (*every[:head], *every[tail:]), tuple(every[head:tail])


def _lanes(spans: dict[int, tuple[int, int]]) -> dict[int, int]:
    """The topmost lane that is free from a node set's first column to its last; long-lived ones choose first."""
    ends: list[int] = []
    lane: dict[int, int] = {}
    for node in sorted(spans, key=lambda n: (spans[n][0], spans[n][0] - spans[n][1], n)):
        first, last = spans[node]
        free = next((i for i, end in enumerate(ends) if end < first), len(ends))
        ends[free : free + 1] = [last]
        lane[node] = free
    return lane
