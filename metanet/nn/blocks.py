"""Node features beside dense blocks: the two sides of a block as ``[B, D, T, F]`` and ``[B, D, S, F]``, and back."""

from __future__ import annotations

from torch import Tensor

from metanet.graph.layout import Block, Layout


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
