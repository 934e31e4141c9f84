"""The PyG view of a neuron graph: one node a neuron, one edge a connection."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.data import Data

from metanet.graph.edges import edge_index
from metanet.graph.layout import NODE_KINDS, Layout, NodeSet
from metanet.graph.neuron_graph import NeuronGraph
from metanet.space.weight_space import VECTOR_KINDS, WEIGHT_KINDS


def to_pyg(graph: NeuronGraph, number: int = 0) -> Data:
    """One net as a graph with an explicit edge list.

    Fields (none is named so that PyG's batching would shift it, except ``edge_index``):

    ===============  ===========  ==================================================================================
    field            shape        meaning
    ===============  ===========  ==================================================================================
    edge_index       [2, E]       source and target neuron of each connection
    edge_attr        [E, K]       its weights: kernel taps and positions, zero-padded to the largest number K
    edge_taps        [E]          how many of them are real
    edge_kind        [E]          place in ``WEIGHT_KINDS``
    edge_depth       [E]          depth of the link
    edge_block       [E]          which block of the layout
    x                [N, V]       unary parameters of each neuron (biases, scales, statistics), zero-padded
    x_kind           [N, V]       place in ``VECTOR_KINDS``, -1 where padded
    node_kind        [N]          place in ``NODE_KINDS``
    node_set         [N]          which node set of the layout
    position         [N]          place within an ordered node set in [0, 1]; 0 for neurons, which have no order
    depth            [N]          depth of the node set
    ===============  ===========  ==================================================================================

    Args:
        graph: The neuron graph.
        number: Which net of the batch.

    Returns:
        The graph; ``torch_geometric.data.Batch`` joins graphs of different architectures.
    """
    one = graph.select(slice(number, number + 1))
    layout = one.layout
    width = max((b.shape[3] for b in layout.blocks), default=1)
    ends, weights, taps, kinds, depths, blocks = [], [], [], [], [], []
    for number, (block, values) in enumerate(zip(layout.blocks, one.blocks(), strict=True)):
        index = edge_index(layout, block)
        flat = values[0].reshape(-1, block.shape[3])
        ends.append(index)
        weights.append(torch.nn.functional.pad(flat, (0, width - flat.shape[1])))
        taps.append(torch.full((index.shape[1],), block.shape[3]))
        kinds.append(torch.full((index.shape[1],), WEIGHT_KINDS.index(block.link.kind)))
        depths.append(torch.full((index.shape[1],), block.link.depth))
        blocks.append(torch.full((index.shape[1],), number))
    x, x_kind = _node_parameters(one)
    return Data(
        x=x,
        x_kind=x_kind,
        edge_index=torch.cat(ends, 1) if ends else torch.zeros(2, 0, dtype=torch.long),
        edge_attr=torch.cat(weights) if weights else torch.zeros(0, 1),
        edge_taps=_join(taps),
        edge_kind=_join(kinds),
        edge_depth=_join(depths),
        edge_block=_join(blocks),
        node_kind=_per_node(layout, [NODE_KINDS.index(n.kind) for n in layout.nodes]),
        node_set=_per_node(layout, list(range(len(layout.nodes)))),
        depth=_per_node(layout, [n.depth for n in layout.nodes]),
        position=torch.cat([position(n) for n in layout.nodes]),
        num_nodes=layout.size,
    )


def position(node: NodeSet) -> Tensor:
    """Place of each neuron within an ordered node set, in [0, 1]; zeros where the order means nothing."""
    ordered = node.kind != "neuron" and node.size > 1
    return torch.linspace(0, 1, node.size) if ordered else torch.zeros(node.size)


def _node_parameters(one: NeuronGraph) -> tuple[Tensor, Tensor]:
    layout = one.layout
    columns: list[list[tuple[Tensor, int]]] = [[] for _ in layout.nodes]
    for vector, values in zip(layout.vectors, one.vectors(), strict=True):
        columns[vector.target].append((values[0], VECTOR_KINDS.index(vector.link.kind)))
    width = max([sum(v.shape[1] for v, _ in c) for c in columns], default=0)
    example = next(iter(one.tensors.values()))
    x = example.new_zeros(layout.size, width)
    kind = torch.full((layout.size, width), -1)
    for node, start, found in zip(layout.nodes, layout.offsets, columns, strict=True):
        at = 0
        for values, code in found:
            x[start : start + node.size, at : at + values.shape[1]] = values
            kind[start : start + node.size, at : at + values.shape[1]] = code
            at += values.shape[1]
    return x, kind


def _per_node(layout: Layout, values: list[int]) -> Tensor:
    return torch.repeat_interleave(torch.tensor(values), torch.tensor([n.size for n in layout.nodes]))


def _join(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)
