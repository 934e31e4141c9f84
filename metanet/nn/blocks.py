"""Node features beside dense blocks: the two sides of a block as ``[B, D, T, F]`` and ``[B, D, S, F]``, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from metanet.graph.edges import edge_index
from metanet.graph.layout import Block, Layout


@dataclass(frozen=True)
class Side:
    """The neurons that a block reads or writes, head by head.

    Attributes:
        flat: The features of a node set, ``[B, N, F]``, as an einops pattern with the neurons taken apart.
        split: The same as the block wants them, ``[R, B, D, F / R, N / D]``.
        sizes: Sizes of the named axes.
    """

    flat: str
    split: str
    sizes: dict[str, int]

    def read(self, features: Tensor) -> Tensor:
        """``[B, N, F]`` as ``[R, B, D, F / R, N / D]``, contiguous."""
        return rearrange(features, f"{self.flat} -> {self.split}", **self.sizes).contiguous()

    def write(self, values: Tensor) -> Tensor:
        """``[R, B, D, F / R, N / D]`` as ``[B, N, F]``: the inverse of :meth:`read`."""
        return rearrange(values, f"{self.split} -> {self.flat}", **self.sizes)


def sides(layout: Layout, block: Block, heads: int) -> tuple[Side, Side]:
    """Source and target of a block."""
    nodes, groups = layout.nodes, block.shape[0]
    source = _side(nodes[block.source].sizes, block.source_order, groups, heads)
    return source, _side(nodes[block.target].sizes, block.target_order, groups, heads)


def _side(sizes: tuple[int, ...], order: tuple[int, ...], groups: int, heads: int) -> Side:
    """Name the axes ``n0, n1, ...`` of a node set; those that come first in ``order`` make up the D groups."""
    shared, product = 0, 1
    while product < groups:
        product *= sizes[order[shared]]
        shared += 1
    names = [f"n{i}" for i in range(len(sizes))]
    outer, inner = (" ".join(names[i] for i in part) for part in (order[:shared], order[shared:]))
    flat = f"batch ({' '.join(names)}) (heads features)"
    return Side(
        flat, f"heads batch ({outer}) features ({inner})", dict(zip(names, sizes, strict=True)) | {"heads": heads}
    )


def of_target(features: Tensor, layout: Layout, block: Block) -> Tensor:
    """Features of the neurons that a block writes, ``[B, N, F] -> [B, D, T, F]``."""
    return _grouped(features, layout.nodes[block.target].sizes, block.target_order, block.shape[0])


def of_source(features: Tensor, layout: Layout, block: Block) -> Tensor:
    """Features of the neurons that a block reads, ``[B, N, F] -> [B, D, S, F]``."""
    return _grouped(features, layout.nodes[block.source].sizes, block.source_order, block.shape[0])


def to_target(features: Tensor, layout: Layout, block: Block) -> Tensor:
    """Inverse of :func:`of_target`, ``[B, D, T, F] -> [B, N, F]``."""
    return _flat(features, layout.nodes[block.target].sizes, block.target_order)


def to_source(features: Tensor, layout: Layout, block: Block) -> Tensor:
    """Inverse of :func:`of_source`, ``[B, D, S, F] -> [B, N, F]``."""
    return _flat(features, layout.nodes[block.source].sizes, block.source_order)


def _grouped(features: Tensor, sizes: tuple[int, ...], order: tuple[int, ...], groups: int) -> Tensor:
    batch, _, width = features.shape
    if order != tuple(range(len(order))):
        features = features.reshape(batch, *sizes, width).permute(0, *(i + 1 for i in order), len(order) + 1)
    return features.reshape(batch, groups, -1, width)


def _flat(features: Tensor, sizes: tuple[int, ...], order: tuple[int, ...]) -> Tensor:
    batch, width = features.shape[0], features.shape[-1]
    if order != tuple(range(len(order))):
        inverse = sorted(range(len(order)), key=order.__getitem__)
        features = features.reshape(batch, *(sizes[i] for i in order), width)
        features = features.permute(0, *(i + 1 for i in inverse), len(order) + 1)
    return features.reshape(batch, -1, width)


def to_pairs(states: list[Tensor], layout: Layout, empty: Tensor) -> Tensor:
    """Block features ``[B, D, T, S, F]`` as one table over all pairs of nodes, ``[B, N, N, F]``, target first.

    Features of blocks between the same neurons are added; pairs without a connection hold ``empty`` ``[F]``.
    """
    batch, width = states[0].shape[0], states[0].shape[-1]
    source, target = torch.cat([edge_index(layout, block) for block in layout.blocks], 1).to(empty.device)
    rows = target * layout.size + source
    table = empty.new_zeros(batch, layout.size**2, width)
    table = table.index_add(1, rows, torch.cat([s.reshape(batch, -1, width) for s in states], 1).to(table.dtype))
    vacant = torch.ones(layout.size**2, 1, dtype=table.dtype, device=table.device).index_fill(0, rows, 0.0)
    return (table + vacant * empty).reshape(batch, layout.size, layout.size, width)
