"""The strongest connections of a block between the neurons that a picture shows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metanet.graph.layout import Block, Layout, NodeSet


@dataclass(frozen=True)
class Edges:
    """Connections to draw, weakest first.

    Attributes:
        source: Neuron within the source set, ``[E]``.
        target: Neuron within the target set, ``[E]``.
        weight: Its weight; of several kernel taps or positions, the one of largest magnitude. ``[E]``
        total: Connections that the block has.
        thinned: Whether weaker connections between the same neurons are left out.
        broken: Weights of the block that are not finite (drawn as zero).
    """

    source: Tensor
    target: Tensor
    weight: Tensor
    total: int
    thinned: bool
    broken: int


def strongest(layout: Layout, block: Block, values: Tensor, shown: dict[int, list[int]], most: int) -> Edges:
    """Choose the connections to draw.

    Args:
        layout: The layout that the block belongs to.
        block: The block.
        values: Its weights, ``[D, T, S, K]``.
        shown: Numbers of the neurons shown, by node set.
        most: How many connections to keep.
    """
    groups, targets, sources, _ = block.shape
    source = _grid(layout.nodes[block.source], block.source_order, groups)
    target = _grid(layout.nodes[block.target], block.target_order, groups)
    broken = values.numel() - int(values.isfinite().sum())
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    seen_source = torch.isin(source, torch.tensor(shown[block.source]))
    seen_target = torch.isin(target, torch.tensor(shown[block.target]))
    for group in (seen_source.any(1) & seen_target.any(1)).nonzero().flatten().tolist():
        s, t = seen_source[group].nonzero().flatten(), seen_target[group].nonzero().flatten()
        taps = values[group][t][:, s].nan_to_num(0, 0, 0)
        at = taps.abs().argmax(-1, keepdim=True)
        weight = taps.gather(-1, at)[..., 0]
        parts.append((
            source[group][s][None, :].expand_as(weight).flatten(),
            target[group][t][:, None].expand_as(weight).flatten(),
            weight.flatten(),
        ))  # fmt: skip
    total = groups * targets * sources
    if not parts:
        none = torch.zeros(0, dtype=torch.long)
        return Edges(none, none, torch.zeros(0), total, False, broken)
    s, t, w = (torch.cat(column) for column in zip(*parts, strict=True))
    order = w.abs().argsort(stable=True)[max(len(w) - most, 0) :]
    return Edges(s[order], t[order], w[order], total, len(w) > most, broken)


def _grid(node: NodeSet, order: tuple[int, ...], groups: int) -> Tensor:
    """Numbers of the neurons of a set as a block reads them, ``[D, T or S]``."""
    return torch.arange(node.size).reshape(node.sizes).permute(order).reshape(groups, -1)
