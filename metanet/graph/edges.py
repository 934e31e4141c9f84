"""The edge list of a block."""

from __future__ import annotations

import torch
from torch import Tensor

from metanet.graph.layout import Block, Layout


def edge_index(layout: Layout, block: Block) -> Tensor:
    """Source and target node of every entry ``[D, T, S]`` of a block, flattened: ``[2, D T S]``."""
    groups, targets, sources, _ = block.shape

    def numbers(place: int, order: tuple[int, ...]) -> Tensor:
        node = layout.nodes[place]
        grid = torch.arange(node.size).reshape(node.sizes).permute(order)
        return layout.offsets[place] + grid.reshape(groups, -1)

    source, target = numbers(block.source, block.source_order), numbers(block.target, block.target_order)
    shape = (groups, targets, sources)
    return torch.stack([source[:, None, :].expand(shape).reshape(-1), target[:, :, None].expand(shape).reshape(-1)])
