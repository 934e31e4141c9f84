"""The PyG view of a neuron graph: one node a neuron, one edge a connection."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.data import Data

from metanet.errors import GraphError
from metanet.graph.coverage import warn_of_unplaced
from metanet.graph.edges import edge_index
from metanet.graph.layout import NODE_KINDS, Layout, NodeSet
from metanet.graph.neuron_graph import NeuronGraph
from metanet.space.weight_space import VECTOR_KINDS, WEIGHT_KINDS

OF_BLOCK = ("kind", "depth", "block")  # what all edges of a block share
TAPS = 9  # of an edge: a kernel of 3 x 3


def to_pyg(graph: NeuronGraph, number: int = 0, taps: int = TAPS) -> Data:
    """One net as a graph with an explicit edge list.

    All widths are the same for every architecture, so that ``torch_geometric.data.Batch`` joins graphs of different
    ones. Fields (of those with node numbers, ``edge_index`` and ``unary_index``, PyG's batching shifts the numbers):

    ===============  ===========  ==================================================================================
    field            shape        meaning
    ===============  ===========  ==================================================================================
    edge_index       [2, E]       source and target neuron of each edge
    edge_attr        [E, taps]    its weights: kernel taps and positions, zero-padded; a connection with more than
                                  ``taps`` of them is several parallel edges
    edge_taps        [E]          how many of them are real
    edge_start       [E]          which tap of its connection is the first
    edge_kind        [E]          place in ``WEIGHT_KINDS``
    edge_depth       [E]          depth of the link
    edge_block       [E]          which block of the layout
    x                [N, 12]      unary parameters (biases, scales, statistics): for each of ``VECTOR_KINDS`` their
                                  mean, their root mean square, and how many there are
    unary            [U]          each unary parameter, as it is
    unary_index      [U]          its neuron
    unary_kind       [U]          place in ``VECTOR_KINDS``
    node_kind        [N]          place in ``NODE_KINDS``
    node_set         [N]          which node set of the layout
    position         [N]          place within an ordered node set in [0, 1]; 0 for neurons, which have no order
    depth            [N]          depth of the node set
    ===============  ===========  ==================================================================================

    Args:
        graph: The neuron graph.
        number: Which net of the batch.
        taps: Weights an edge; graphs of one batch must agree on it.

    Returns:
        The graph.

    Raises:
        GraphError: The network has no parameters, or there is no such net, or no edge could hold a weight.
    """
    if not -graph.batch_size <= number < graph.batch_size:
        raise GraphError(f"to_pyg: got net {number} of a batch of {graph.batch_size}, which are counted from 0")
    if taps < 1:
        raise GraphError(f"to_pyg: got taps={taps}; an edge holds at least one weight. Leave it out for {TAPS}")
    warn_of_unplaced(graph.space, "to_pyg")
    one = graph.select([number])
    layout = one.layout
    example = next(iter(one.tensors.values()))
    columns: dict[str, list[Tensor]] = {f"edge_{k}": [] for k in ("index", "attr", "taps", "start", *OF_BLOCK)}
    for place, (block, values) in enumerate(zip(layout.blocks, one.blocks(), strict=True)):
        index = edge_index(layout, block)
        told = (WEIGHT_KINDS.index(block.link.kind), block.link.depth, place)
        for start in range(0, block.shape[3], taps):
            flat = values[0].reshape(-1, block.shape[3])[:, start : start + taps]
            known = dict(zip(OF_BLOCK, told, strict=True)) | {"taps": flat.shape[1], "start": start}
            columns["edge_index"].append(index)
            columns["edge_attr"].append(torch.nn.functional.pad(flat, (0, taps - flat.shape[1])))
            for name, value in known.items():
                columns[f"edge_{name}"].append(torch.full((index.shape[1],), value))
    none = {"edge_index": torch.zeros(2, 0, dtype=torch.long), "edge_attr": example.new_zeros(0, taps)}
    edges = {
        name: torch.cat(parts, 1 if name == "edge_index" else 0) if parts else none.get(name, _nothing())
        for name, parts in columns.items()
    }
    return Data(
        **edges,
        **_unary(one),
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


def _unary(one: NeuronGraph) -> dict[str, Tensor]:
    """``unary``, ``unary_index`` and ``unary_kind``, and their statistics ``x``."""
    layout, example = one.layout, next(iter(one.tensors.values()))
    values, rows, kinds = [example.new_zeros(0)], [_nothing()], [_nothing()]
    for vector, found in zip(layout.vectors, one.vectors(), strict=True):
        _, nodes, width = found.shape
        values.append(found.flatten())
        rows.append((layout.offsets[vector.target] + torch.arange(nodes)).repeat_interleave(width))
        kinds.append(torch.full((nodes * width,), VECTOR_KINDS.index(vector.link.kind)))
    unary, index, kind = torch.cat(values), torch.cat(rows), torch.cat(kinds)
    place = index * len(VECTOR_KINDS) + kind
    sums = [
        unary.new_zeros(layout.size * len(VECTOR_KINDS)).index_add(0, place, v)
        for v in (unary, unary.square(), torch.ones_like(unary))
    ]
    count = sums[2].clamp_min(1)
    x = torch.stack([sums[0] / count, (sums[1] / count).sqrt(), sums[2]], 1)
    return {"x": x.reshape(layout.size, -1), "unary": unary, "unary_index": index, "unary_kind": kind}


def _per_node(layout: Layout, values: list[int]) -> Tensor:
    return torch.repeat_interleave(torch.tensor(values), torch.tensor([n.size for n in layout.nodes]))


def _nothing() -> Tensor:
    return torch.zeros(0, dtype=torch.long)
