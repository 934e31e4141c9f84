"""What is known of links and nodes besides the weights: plain numbers, the same for every net of a space."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from metanet.errors import GraphError
from metanet.graph.layout import NODE_KINDS, Block, Layout, NodeSet, Vector, layout_of
from metanet.space.weight_space import VECTOR_KINDS, WEIGHT_KINDS, WeightSpace

ACTIVATIONS = ("relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid", "sin", "softmax")  # then: none, any other
POSITIONS = 8
LINK_FEATURES = len(WEIGHT_KINDS) + 4 + len(ACTIVATIONS) + 2
NODE_FEATURES = len(NODE_KINDS) + 3 + len(ACTIVATIONS) + 2 + POSITIONS


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # cached: autograd could not use what is made in that mode
def layout_features(space: WeightSpace, sizes: bool = True) -> tuple[Tensor, Tensor]:
    """Features of all blocks and of all nodes of a space's layout, computed once per space.

    Args:
        space: The space.
        sizes: Whether to tell fan-ins and numbers of neurons; zeros stand in their places if not.

    Returns:
        ``[blocks, LINK_FEATURES]`` and ``[nodes, NODE_FEATURES]``, float32, in the layout's order.
    """
    layout = layout_of(space)
    if not layout.nodes:
        raise GraphError("the network has no parameters, so there is nothing to read. Give a network with weights")
    links = [link_features(layout, b, sizes) for b in layout.blocks]
    nodes = [node_features(layout, n, sizes) for n in layout.nodes]
    return torch.stack(links) if links else torch.zeros(0, LINK_FEATURES), torch.cat(nodes)


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # cached: autograd could not use what is made in that mode
def tap_places(space: WeightSpace) -> Tensor:
    """Coordinates of the taps of all blocks of a space's layout, one block after another, ``[taps, 3]``, float64."""
    places = [place for b in layout_of(space).blocks for place in b.coordinates]
    return torch.tensor(places, dtype=torch.float64).reshape(-1, 3)


def link_features(layout: Layout, block: Block, sizes: bool = True) -> Tensor:
    """Kind, relative depth, log fan-in, log number of extents, log stride and activation of a link.

    Returns:
        Float32 ``[LINK_FEATURES]``.
    """
    kind = [float(block.link.kind == k) for k in WEIGHT_KINDS]
    stride = math.prod(block.link.stride) if block.link.stride else 1
    counts = [_log(block.fan_in) if sizes else 0.0, _log(block.shape[3]), _log(stride)]
    return torch.tensor([*kind, _relative(layout, block.link.depth), *counts, *_activation(block.link.activation)])


def node_features(layout: Layout, node: NodeSet, sizes: bool = True) -> Tensor:
    """Kind, depth from both ends, log size and activation of a node set; place of each neuron where it is ordered.

    Inputs and outputs are told apart by cosines of their place; neurons have no order, so theirs are zero.

    Returns:
        Float32 ``[N, NODE_FEATURES]``.
    """
    kind = [float(node.kind == k) for k in NODE_KINDS]
    deepest = layout.deepest
    size = _log(node.size) if sizes else 0.0
    shared = [*kind, _relative(layout, node.depth), _log(deepest - node.depth + 1), size]
    rows = torch.tensor([*shared, *_activation(node.activation)]).expand(node.size, -1)
    if node.kind == "neuron" or node.size == 1:
        place = torch.zeros(node.size, POSITIONS)
    else:
        place = torch.cos(
            math.pi * (torch.arange(node.size)[:, None] + 0.5) / node.size * torch.arange(1, POSITIONS + 1)
        )
    return torch.cat([rows, place], 1)


def vector_kind(vector: Vector) -> int:
    """Place of a vector's kind in ``VECTOR_KINDS``."""
    return VECTOR_KINDS.index(vector.link.kind)


def signed_log(values: Tensor) -> Tensor:
    """``sign(x) log(1 + |x|)``: linear for small values, logarithmic for large ones, 1/10 of the time of ``asinh``."""
    return torch.log1p(values.abs()).copysign(values)


def _relative(layout: Layout, depth: int) -> float:
    return depth / max(1, layout.deepest)


def _log(number: float) -> float:
    """Logarithm scaled so that ordinary sizes lie between 0 and 1."""
    return math.log(number) / 8


def _activation(name: str | None) -> list[float]:
    known = [float(name == a) for a in ACTIVATIONS]
    return [*known, float(name is None), float(name is not None and name not in ACTIVATIONS)]
