"""What the metanets share that are made for one architecture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metanet.errors import SpaceError
from metanet.graph.layout import Block, Layout
from metanet.nn.features import ACTIVATIONS
from metanet.space.weight_space import WeightSpace

ACTIVATION_FEATURES = len(ACTIVATIONS) + 1
Shapes = dict[str, tuple[int, ...]]


def check_shapes(metanet: nn.Module, shapes: Shapes, spaces: Sequence[WeightSpace]) -> Shapes:
    """Raise a SpaceError unless the tensors of all spaces have these names and shapes."""
    for space in spaces:
        if space.shapes != shapes:
            differs = next(n for n in [*space.shapes, *shapes] if space.shapes.get(n) != shapes.get(n))
            raise SpaceError(
                f"{type(metanet).__name__} reads one architecture: '{differs}' is {_shape(shapes.get(differs))} in the "
                f"one that it was built for, got {_shape(space.shapes.get(differs))}. Choose a metanet that reads any, "
                f"such as metanet.models.OperatorMetanet"
            )
    return shapes


def activation_features(space: WeightSpace) -> Tensor:
    """Share of the weight links that are followed by each known nonlinearity, and by any other, ``[9]``."""
    links = [link for link in space.links if link.source is not None]
    counts = [float(sum(link.activation == a for link in links)) for a in ACTIVATIONS]
    other = sum(link.activation is not None and link.activation not in ACTIVATIONS for link in links)
    return torch.tensor([*counts, float(other)]) / max(1, len(links))


def chain_of(metanet: nn.Module, layout: Layout) -> list[Block]:
    """The weights of a plain chain of layers, each reading what the one before wrote.

    Raises:
        SpaceError: The network is no such chain: it branches, or has a grouped convolution or a shared layer.
    """
    blocks = sorted(layout.blocks, key=lambda b: b.link.depth)
    problem = "no weights" if not blocks else ""
    for before, block in zip([None, *blocks], blocks, strict=False):
        if block.shape[0] > 1:
            problem = problem or f"the grouped layer '{block.link.tensor}'"
        elif before is not None and block.source != before.target:
            problem = problem or f"'{block.link.tensor}', which does not read what '{before.link.tensor}' wrote"
    visited = [b.target for b in blocks] + [b.source for b in blocks[:1]]
    if len(set(visited)) < len(visited) or len(layout.nodes) != len(visited):
        problem = problem or "neurons that several layers write"
    if layout.unplaced:
        problem = problem or f"'{layout.unplaced[0]}', which connects more than one source to one target"
    if problem:
        raise SpaceError(
            f"{type(metanet).__name__} reads plain chains of layers; got {problem}. Choose a metanet that reads any "
            f"architecture, such as metanet.models.OperatorMetanet"
        )
    return blocks


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else str(list(shape))
