"""Parity: how the sign gauges of a space move the node sets, blocks and vectors of its layout.

Everything is about networks whose scales are fixed (:mod:`metanet.symmetry.fixing`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from metanet.graph.layout import Block, Layout, layout_of
from metanet.space.gauges import Gauge
from metanet.space.weight_space import WeightSpace
from metanet.symmetry.fixing import fixing_of


@dataclass(frozen=True)
class Parity:
    """How the sign gauges move one block or vector.

    Attributes:
        still: They do not.
        carries: It carries odd features to odd features; for a vector: it is odd itself.
        apart: They move some of its taps and not others.
    """

    still: bool
    carries: bool
    apart: bool


@dataclass(frozen=True, eq=False)
class Parities:
    """Parities of a layout, for networks whose scales are fixed.

    Attributes:
        free: Whether the neurons of each node set have no sign.
        blocks: One parity per block.
        vectors: One parity per vector.
    """

    free: tuple[bool, ...]
    blocks: tuple[Parity, ...]
    vectors: tuple[Parity, ...]


@lru_cache(maxsize=256)
def parities(space: WeightSpace) -> Parities:
    """Which features of which neurons are odd, and through which blocks they pass.

    A node set has the sign of the first gauge that moves anything along its axes. Where a block is moved in another
    way than the signs of its two ends say, it carries no odd features, so that every gauge is respected in any case.
    What that costs: where one node set has several signs (values before and after a depthwise convolution between two
    tanh), or a gauge moves some taps only (fused projections), weights are read by even functions.
    """
    layout, gauges = layout_of(space), fixing_of(space).signs
    blocks = [[_moves(layout, b, g) for g in gauges] for b in layout.blocks]
    vectors = [[_moved(g, v.link.tensor) for g in gauges] for v in layout.vectors]
    signs: list[int | None] = [None] * len(layout.nodes)
    for number, gauge in enumerate(gauges):
        if any(p.chosen for p in gauge.parts):
            continue
        ends = [(b.target, m[number][0] or m[number][2]) for b, m in zip(layout.blocks, blocks, strict=True)]
        ends += [(b.source, m[number][1] or m[number][2]) for b, m in zip(layout.blocks, blocks, strict=True)]
        ends += [(v.target, m[number]) for v, m in zip(layout.vectors, vectors, strict=True)]
        for node, touched in ends:
            if touched and signs[node] is None and set(gauge.axes) <= set(layout.nodes[node].axes):
                signs[node] = number
    apart = {p.tensor for g in gauges for p in g.parts if p.chosen}
    found = []
    for block, moves in zip(layout.blocks, blocks, strict=True):
        wanted = _wanted(layout, block, signs[block.target], signs[block.source], gauges)
        still = not any(any(m) for m in moves) and block.link.tensor not in apart
        found.append(Parity(still, moves == wanted and block.link.tensor not in apart, block.link.tensor in apart))
    read = []
    for vector, moved in zip(layout.vectors, vectors, strict=True):
        mine = [number == signs[vector.target] for number in range(len(gauges))]
        split = vector.link.tensor in apart
        read.append(Parity(not any(moved) and not split, any(moved) and moved == mine and not split, split))
    return Parities(tuple(s is None for s in signs), tuple(found), tuple(read))


def _moved(gauge: Gauge, tensor: str) -> bool:
    return sum(p.tensor == tensor for p in gauge.parts) % 2 == 1


def _moves(layout: Layout, block: Block, gauge: Gauge) -> tuple[bool, bool, bool]:
    """Whether a gauge moves a block along its targets, its sources, and the axes that both share."""
    target, source, shared = _axes(layout, block)
    axes, moves = set(gauge.axes), [False, False, False]
    for part in gauge.parts:
        if part.tensor != block.link.tensor or not (axes <= target or axes <= source):
            continue
        if axes <= shared:
            side = 2
        elif axes <= target and axes <= source:
            side = 0 if set(part.dims) & set(block.link.target_dims) else 1
        else:
            side = 0 if axes <= target else 1
        moves[side] = not moves[side]
    return moves[0], moves[1], moves[2]


def _wanted(
    layout: Layout, block: Block, target: int | None, source: int | None, gauges: tuple[Gauge, ...]
) -> list[tuple[bool, bool, bool]]:
    """The moves of a block that carries the sign of its source to that of its target."""
    _, _, shared = _axes(layout, block)
    wanted = []
    for number, gauge in enumerate(gauges):
        both = set(gauge.axes) <= shared
        writes, reads = number == target, number == source
        wanted.append((writes and not both, reads and not both, both and writes != reads))
    return wanted


def _axes(layout: Layout, block: Block) -> tuple[set[str], set[str], set[str]]:
    """Axes of a block's target, of its source, and those that it couples one to one."""
    target, source = layout.nodes[block.target], layout.nodes[block.source]
    shared, size = [], 1
    for place in block.target_order:
        if size == block.shape[0]:
            break
        shared.append(target.axes[place])
        size *= target.sizes[place]
    return set(target.axes), set(source.axes), set(shared)


def free_nodes(layout: Layout) -> Tensor:
    """One for every node whose neurons have no sign, else zero, ``[nodes, 1]``, float32."""
    found = parities(layout.space)
    return torch.cat([torch.full((n.size, 1), float(f)) for n, f in zip(layout.nodes, found.free, strict=True)])
