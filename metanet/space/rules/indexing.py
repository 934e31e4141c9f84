"""Indexing with tensors of numbers: the dimensions indexed are ordered, the others stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from metanet.space.axes import Dim, unify
from metanet.space.calls import shape_of
from metanet.space.rules.registry import rule
from metanet.space.walk import Value, Walk, tensors_in


@rule("index", "_unsafe_index")
def index(walk: Walk, node: fx.Node, x: Value, indices: Sequence[Value | None]) -> Value:
    """Advanced indexing, ``x[indices]``."""
    return walk.make(_picked(walk, node, x, indices, shape_of(node)), x, *tensors_in(list(indices)))


@rule("_unsafe_masked_index")
def masked_index(walk: Walk, node: fx.Node, x: Value, mask: Value, indices: Sequence[Value | None], fill: Any) -> Value:
    """Advanced indexing with a constant where a mask is false."""
    walk.freeze(node, *mask.dims)
    walk.freeze(node, *x.dims)
    return walk.make([walk.fixed(node, s) for s in shape_of(node)], x, *tensors_in(list(indices)))


@rule("index_put", "_unsafe_index_put")
def index_put(
    walk: Walk,
    node: fx.Node,
    x: Value,
    indices: Sequence[Value | None],
    new: Value,
    accumulate: bool = False,
    *args: Any,
) -> Value:
    """Write to ``x[indices]``: what is written is aligned with what would be read there."""
    places = [v.shape for v in tensors_in(list(indices))]
    common = _broadcast(places)
    kept = len(x.dims) - len(places)
    first = _first(indices)
    others = [d.size for i, d in enumerate(x.dims) if i >= len(indices) or indices[i] is None]
    picked = _picked(walk, node, x, indices, (*others[:first], *common, *others[first:]))
    if len(picked) != kept + len(common):
        walk.freeze(node, *x.dims, *new.dims)
    for own, dim in zip(reversed(new.dims), reversed(picked), strict=False):
        if own.size != 1:
            unify(own, dim, walk.where(node))
    return walk.make(x.dims, x, new)


@rule("index_select")
def index_select(walk: Walk, node: fx.Node, x: Value, dim: int, numbers: Value) -> Value:
    """Entries of one dimension by number."""
    dim %= max(len(x.dims), 1)
    walk.freeze(node, x.dims[dim], *numbers.dims)
    return walk.make(
        [walk.fixed(node, s) if i == dim else d for i, (d, s) in enumerate(zip(x.dims, shape_of(node), strict=True))], x
    )


@rule("index_add", "index_copy", "index_fill")
def index_write(walk: Walk, node: fx.Node, x: Value, dim: int, numbers: Value, new: Any, **kwargs: Any) -> Value:
    """Write to entries of one dimension by number."""
    dim %= max(len(x.dims), 1)
    walk.freeze(node, x.dims[dim], *numbers.dims)
    if isinstance(new, Value) and len(new.dims) == len(x.dims):
        for at, (own, other) in enumerate(zip(x.dims, new.dims, strict=True)):
            walk.freeze(node, other) if at == dim else unify(own, other, walk.where(node))
    return walk.make(x.dims, x, *tensors_in(new))


@rule("gather")
def gather(walk: Walk, node: fx.Node, x: Value, dim: int, numbers: Value, *args: Any, **kwargs: Any) -> Value:
    """Entries along one dimension by numbers that differ from place to place; other dimensions are aligned."""
    dim %= max(len(x.dims), 1)
    dims = []
    for at, (own, chosen) in enumerate(zip(x.dims, numbers.dims, strict=True)):
        _align(walk, node, at == dim, own, chosen)
        dims.append(walk.fixed(node, chosen.size) if at == dim else chosen)
    return walk.make(dims, x, numbers)


@rule("scatter_add", "scatter_reduce")
def scatter_along(
    walk: Walk, node: fx.Node, x: Value, dim: int, numbers: Value, new: Value, *args: Any, **kwargs: Any
) -> Value:
    """Add along one dimension at numbers that differ from place to place; other dimensions are aligned."""
    dim %= max(len(x.dims), 1)
    for at, dims in enumerate(zip(x.dims, numbers.dims, new.dims, strict=True)):
        _align(walk, node, at == dim, *dims)
    return walk.make(x.dims, x, numbers, new)


def _align(walk: Walk, node: fx.Node, ordered: bool, first: Dim, *others: Dim) -> None:
    """Freeze dims that are ordered or of unlike sizes, and make one of the others."""
    if ordered or any(dim.size != first.size for dim in others):
        walk.freeze(node, first, *others)
        return
    for dim in others:
        unify(first, dim, walk.where(node))


@rule("scatter", "masked_scatter", "put", "take", "searchsorted", "bucketize")
def scatter(walk: Walk, node: fx.Node, *args: Any, **kwargs: Any) -> Value:
    """Reading or writing at places that differ from place to place: everything is ordered."""
    values = list(tensors_in((args, kwargs)))
    for value in values:
        walk.freeze(node, *value.dims)
    return walk.make([walk.fixed(node, s) for s in shape_of(node)], *values)


def _picked(walk: Walk, node: fx.Node, x: Value, indices: Sequence[Value | None], shape: Sequence[int]) -> list[Dim]:
    """Dims of ``x[indices]``, whose shape is known."""
    used = [i for i, number in enumerate(indices) if number is not None]
    if any(
        n.meta["val"].dtype is torch.bool for n in node.all_input_nodes[1:] if isinstance(n.meta["val"], torch.Tensor)
    ):
        raise ValueError("masks are not understood")  # a mask indexes as many dimensions as it has
    walk.freeze(node, *(x.dims[i] for i in used))
    for number in tensors_in(list(indices)):
        walk.freeze(node, *number.dims)
    width = len(shape) - (len(x.dims) - len(used))
    first = _first(indices)
    kept = [d for i, d in enumerate(x.dims) if i not in used]
    return [*kept[:first], *(walk.fixed(node, s) for s in shape[first : first + width]), *kept[first:]]


def _first(indices: Sequence[Value | None]) -> int:
    """Where the indexed dimensions go: in their place if they are adjacent, to the front otherwise."""
    used = [i for i, number in enumerate(indices) if number is not None]
    return used[0] if used and used == list(range(used[0], used[-1] + 1)) else 0


def _broadcast(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    rank = max((len(s) for s in shapes), default=0)
    return tuple(max(s[at] for s in shapes if len(s) >= -at) for at in range(-rank, 0))
