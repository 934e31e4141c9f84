"""Wreath products: inner neurons that may be permuted differently for every entry of an outer axis.

The channels within each group of a grouped convolution, the neurons within each attention head: the axis engine says
that ``inner`` may be permuted, alike for all entries of ``outer``. Here it is found out whether every entry may have a
permutation of its own, so that the group is ``S_inner wr S_outer`` (or ``S_inner^outer`` where ``outer`` is ordered).

It may if whatever runs over ``inner`` runs over ``outer`` too, and no operation mixes entries of ``outer`` at a fixed
entry of ``inner``: each result at an entry of ``outer`` is then a function of the slices there, or sums over both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any

import torch
from torch import fx

from metanet.space.axes import Dim, factors_of, find, leaves
from metanet.space.calls import argument, bind, instances, operation_name
from metanet.space.gauge.infer import combinations
from metanet.space.gauges import Gauge, GaugePart
from metanet.space.walk import Value, Walk

SLICEWISE = frozenset((
    "view", "reshape", "_unsafe_view", "flatten", "view_copy", "unflatten", "_reshape_alias", "permute", "transpose",
    "swapaxes", "movedim", "t", "unsqueeze", "squeeze", "expand", "repeat", "clone", "alias", "contiguous", "detach",
    "_to_copy", "to", "dropout", "lift_fresh", "lift_fresh_copy", "slice", "split", "split_with_sizes", "chunk",
    "tensor_split", "narrow", "select", "unbind", "cat", "stack", "index", "_unsafe_index", "embedding", "where",
    "constant_pad_nd", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "im2col", "glu", "prelu",
    "_prelu_kernel", "mean", "sum", "amax", "amin", "var", "std", "var_mean", "std_mean", "logsumexp", "norm",
    "linalg_vector_norm", "full", "full_like", "zeros", "zeros_like", "ones", "ones_like", "empty_like", "new_zeros",
    "new_ones", "_native_batch_norm_legit_no_training",
    *(f"{kind}_pool{n}d{end}" for n in (1, 2, 3) for kind in ("max", "avg", "adaptive_avg", "_adaptive_avg")
      for end in ("", "_with_indices")),
    *(f"upsample_{kind}" for kind in ("nearest1d", "nearest2d", "linear1d", "bilinear2d", "bicubic2d")),
    *(f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)),
))  # fmt: skip
"""Operations that treat entries one by one, or sum over whole dimensions: what remains is told by the labels."""

Pieces = list[tuple[Dim, ...]]


def infer_wreaths(walk: Walk, nodes: Sequence[fx.Node], names: Mapping[Dim, str]) -> tuple[Gauge, ...]:
    """All axes that may be permuted independently for every entry of other axes.

    Args:
        walk: The finished axis walk.
        nodes: The nodes of the graph that it walked, in order.
        names: The axis name of every atom that indexes a tensor.

    Returns:
        Gauges of kind ``"permutation"`` with axes ``(*outer, inner)``.
    """
    found = []
    candidates = {inner: outers for inner, outers in _candidates(walk).items() if inner in names}
    seen = _seen(walk, nodes, candidates.keys())
    for inner, outers in candidates.items():
        sound = [o for o in outers if o in names and all(_apart(walk, n, o, inner) for n in seen[inner])]
        if sound:
            found.append(_gauge(walk, seen[inner], sound, inner, names))
    return tuple(found)


def _candidates(walk: Walk) -> dict[Dim, list[Dim]]:
    """For every free atom, the atoms that index all values that it indexes."""
    found: dict[Dim, dict[Dim, None]] = {}
    for held in walk.values.values():
        for value in instances(held, Value):
            atoms = _atoms(value)
            for atom in atoms:
                if atom.frozen is None and found.get(atom, atoms):
                    found[atom] = {a: None for a in found.get(atom, atoms) if a in atoms and a is not atom}
    return {inner: list(outers) for inner, outers in found.items() if outers}


def _atoms(value: Value) -> dict[Dim, None]:
    return {a: None for d in value.dims for a in leaves(d) if a.size > 1}


def _seen(walk: Walk, nodes: Sequence[fx.Node], wanted: Set[Dim]) -> dict[Dim, list[fx.Node]]:
    """The operations (and graph inputs) that read or yield a value that an atom indexes."""
    indexing = {
        node: wanted & {a for v in instances(held, Value) for a in _atoms(v)}
        for node, held in walk.values.items()
        if wanted
    }
    found: dict[Dim, list[fx.Node]] = {atom: [] for atom in wanted}
    for node in nodes:
        if node.op != "output":
            for atom in set().union(*(indexing.get(n, ()) for n in (node, *node.all_input_nodes))):
                found[atom].append(node)
    return found


def _apart(walk: Walk, node: fx.Node, outer: Dim, inner: Dim) -> bool:
    """Whether an operation that sees the inner atom treats entries of the outer one apart, or sums over both."""
    read = [v for n in (node, *node.all_input_nodes) for v in instances(walk.values.get(n), Value)]
    return all(_held(v, outer, inner) for v in read) and (
        node.op != "call_function" or _slicewise(walk, node, outer, inner)
    )


def _held(value: Value, outer: Dim, inner: Dim) -> bool:
    """Whether each occurrence of the inner atom says which entry of the outer one it belongs to.

    It is the one beside it in its dimension, or else the only one in the value.
    """
    dims = [combinations(d) for d in value.dims]
    having = [d for d, pieces in enumerate(dims) if any(outer in p for p in pieces)]
    if any(p.count(outer) > 1 for pieces in dims for p in pieces) or (len(having) > 1 and value.origin is None):
        return False
    for d, pieces in enumerate(dims):
        alone = any(inner in p and outer not in p for p in pieces)
        if alone and (len(having) != 1 or d in having or not all(outer in p for p in dims[having[0]])):
            return False
    return True


def _slicewise(walk: Walk, node: fx.Node, outer: Dim, inner: Dim) -> bool:
    """Whether an operation mixes no entries of the outer atom except together with all of the inner one."""
    name = operation_name(node).removeprefix("aten.")
    if not isinstance(node.target, torch._ops.OpOverload):
        return name == "getitem"
    if name in SLICEWISE or torch.Tag.pointwise in node.target.tags:
        return True
    mixed = _MIXED.get(name)
    if mixed is None:
        return False
    args, _ = bind(node, fx.node.map_arg(node.args, walk.values.get), {})
    return all(inner in piece or outer not in piece for pieces in mixed(node, args) for piece in pieces)


# The pieces of the dimensions that an operation mixes: sums over, normalises over, or shifts.


def _named_dims(node: fx.Node, args: Sequence[Any]) -> Iterator[Pieces]:
    dims = argument(node, "dim", argument(node, "dims"))
    every = range(len(args[0].dims))
    for d in every if dims is None or dims == [] else dims if isinstance(dims, list | tuple) else [dims]:
        yield combinations(args[0].dims[d])


def _last_dims(node: fx.Node, args: Sequence[Any]) -> Iterator[Pieces]:
    for dim in args[0].dims[len(args[0].dims) - len(args[1]) :]:
        yield combinations(dim)


def _grouped(node: fx.Node, args: Sequence[Any]) -> Iterator[Pieces]:
    """Group norm: whatever is left of the channels without the groups, together with the positions."""
    x, groups = args[0], args[6]
    factors, size = factors_of(x.dims[1]), 1
    while size < groups and factors:
        size *= factors.pop(0).size
    within = [a for f in factors for a in leaves(f)]
    yield [tuple(within + [a for d in x.dims[2:] for a in leaves(d)])]


def _summed(node: fx.Node, args: Sequence[Any]) -> Iterator[Pieces]:
    """Matrix products: the last dimension of the left, or of ``linear``'s data."""
    left = args[1] if "add" in operation_name(node) else args[0]
    yield combinations(left.dims[-1])


def _convolved(node: fx.Node, args: Sequence[Any]) -> Iterator[Pieces]:
    """Convolutions: the input channels of a group. The group stays: its entries are not summed."""
    x, weight, transposed = args[0], args[1], args[6]
    yield combinations(x.dims[1] if transposed else weight.dims[1])


def _attended(node: fx.Node, args: Sequence[Any]) -> Iterator[Pieces]:
    """Attention: tokens and features of queries, keys and values; heads stay apart."""
    for value in args[:3]:
        yield combinations(value.dims[-1])
        yield combinations(value.dims[-2])


_MIXED: dict[str, Callable[[fx.Node, Sequence[Any]], Iterator[Pieces]]] = {
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "_log_softmax", "_safe_softmax"), _named_dims),
    **dict.fromkeys(("roll", "flip", "cumsum"), _named_dims),
    **dict.fromkeys(("native_layer_norm", "layer_norm", "rms_norm", "_fused_rms_norm"), _last_dims),
    "native_group_norm": _grouped,
    **dict.fromkeys(("linear", "mm", "bmm", "matmul", "addmm", "baddbmm"), _summed),
    "convolution": _convolved,
    "scaled_dot_product_attention": _attended,
}


def _gauge(walk: Walk, nodes: Sequence[fx.Node], outers: Sequence[Dim], inner: Dim, names: Mapping[Dim, str]) -> Gauge:
    parts: dict[str, GaugePart] = {}
    for node in nodes:
        value = walk.values.get(node)
        if node.op == "placeholder" and isinstance(value, Value) and value.origin is not None:
            dims = tuple(d for d, dim in enumerate(value.dims) if any(a is inner for a in leaves(dim)))
            if dims:
                parts.setdefault(value.origin.tensor, GaugePart(value.origin.tensor, dims, 1.0))
    return Gauge("permutation", (*(names[find(o)] for o in outers), names[inner]), tuple(parts.values()))
