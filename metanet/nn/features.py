"""What is known of links and nodes besides the weights: plain numbers, the same for every net of a space."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metanet.graph.layout import NODE_KINDS, Block, Layout, NodeSet, Vector
from metanet.space.weight_space import VECTOR_KINDS, WEIGHT_KINDS

ACTIVATIONS = ("relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid", "sin", "softmax")  # then: none, any other
POSITIONS = 8
LINK_FEATURES = len(WEIGHT_KINDS) + 4 + len(ACTIVATIONS) + 2
NODE_FEATURES = len(NODE_KINDS) + 3 + len(ACTIVATIONS) + 2 + POSITIONS


def link_features(layout: Layout, block: Block) -> Tensor:
    """Kind, relative depth, log fan-in, log number of extents, log stride and activation of a link.

    Returns:
        Float32 ``[LINK_FEATURES]``.
    """
    kind = [float(block.link.kind == k) for k in WEIGHT_KINDS]
    stride = math.prod(block.link.stride) if block.link.stride else 1
    sizes = [_log(block.fan_in), _log(block.shape[3]), _log(stride)]
    return torch.tensor([*kind, _relative(layout, block.link.depth), *sizes, *_activation(block.link.activation)])


def node_features(layout: Layout, node: NodeSet) -> Tensor:
    """Kind, depth from both ends, log size and activation of a node set; place of each neuron where it is ordered.

    Inputs and outputs are told apart by cosines of their place; neurons have no order, so theirs are zero.

    Returns:
        Float32 ``[N, NODE_FEATURES]``.
    """
    kind = [float(node.kind == k) for k in NODE_KINDS]
    deepest = max(n.depth for n in layout.nodes)
    shared = [*kind, _relative(layout, node.depth), _log(deepest - node.depth + 1), _log(node.size)]
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


def _relative(layout: Layout, depth: int) -> float:
    return depth / max(1, max(n.depth for n in layout.nodes))


def _log(number: float) -> float:
    """Logarithm scaled so that ordinary sizes lie between 0 and 1."""
    return math.log(number) / 8


def _activation(name: str | None) -> list[float]:
    known = [float(name == a) for a in ACTIVATIONS]
    return [*known, float(name is None), float(name is not None and name not in ACTIVATIONS)]
