"""Taking parts of dimensions and putting parts together: slice, split, concatenate, stack, pad."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx

from metanet.space.axes import Dim, concat, leaves, split_concat, split_product, unify
from metanet.space.calls import shape_of
from metanet.space.rules.registry import rule
from metanet.space.walk import Origin, Value, Walk


@rule("slice", "slice_copy")
def take_slice(
    walk: Walk, node: fx.Node, x: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Value:
    """``x[start:end:step]`` along a dimension: the dimension is the concatenation of before, taken and after."""
    dim %= len(x.dims)
    own, length = x.dims[dim], shape_of(node)[dim]
    if length == own.size:
        return x
    if _ordered(own):
        return _replace(walk, x, dim, walk.fixed(node, length))
    if step != 1:
        return _replace(walk, x, dim, _every(walk, node, own, start or 0, step, length))
    start = _place(start or 0, own.size)
    pieces = split_concat(own, (start, length, own.size - start - length), walk.where(node))
    return _replace(walk, x, dim, pieces[1])


def _every(walk: Walk, node: fx.Node, own: Dim, start: int, step: int, length: int) -> Dim:
    """Every ``step``-th entry: the outer factor, if steps fit, of a product whose inner factor is ordered."""
    if length * step == own.size and 0 <= start < step:
        outer, inner = split_product(own, (length, step), walk.where(node))
        walk.freeze(node, inner)
        return outer
    walk.freeze(node, own)
    return walk.fixed(node, length)


def _place(start: int, size: int) -> int:
    """A slice boundary as a position."""
    return min(max(start + size if start < 0 else start, 0), size)


@rule("narrow")
def narrow(walk: Walk, node: fx.Node, x: Value, dim: int, start: int, length: int) -> Value:
    """A slice given by its length."""
    return take_slice(walk, node, x, dim, start)


@rule("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_chunk", "unsafe_split", "split_with_sizes_copy")
def split(walk: Walk, node: fx.Node, x: Value, sizes: Any, dim: int = 0, **kwargs: Any) -> tuple[Value, ...]:
    """Consecutive parts of a dimension."""
    dim = kwargs.get("dim", dim) % len(x.dims)
    lengths = [int(e.shape[dim]) for e in node.meta["val"]]
    if _ordered(x.dims[dim]):
        return tuple(_replace(walk, x, dim, walk.fixed(node, n)) for n in lengths)
    return tuple(_replace(walk, x, dim, piece) for piece in split_concat(x.dims[dim], lengths, walk.where(node)))


@rule("cat", "concat")
def cat(walk: Walk, node: fx.Node, items: Sequence[Value], dim: int = 0) -> Value:
    """Concatenate along a dimension; the others are aligned."""
    items = [v for v in items if len(v.dims) > 1 or v.dims[0].size]  # torch skips empty 1-d tensors
    dim %= len(items[0].dims)
    dims = [
        concat([v.dims[i] for v in items]) if i == dim else _aligned(walk, node, [v.dims[i] for v in items])
        for i in range(len(items[0].dims))
    ]
    return walk.make(dims, *items)


@rule("stack")
def stack(walk: Walk, node: fx.Node, items: Sequence[Value], dim: int = 0) -> Value:
    """Join along a new, ordered dimension."""
    dims = [_aligned(walk, node, [v.dims[i] for v in items]) for i in range(len(items[0].dims))]
    dims.insert(dim % (len(dims) + 1), walk.fixed(node, len(items)) if len(items) > 1 else Dim(1))
    return walk.make(dims, *items)


@rule("select", "select_copy")
def select(walk: Walk, node: fx.Node, x: Value, dim: int, number: int) -> Value:
    """One entry of a dimension, which is thereby ordered."""
    dim %= len(x.dims)
    walk.freeze(node, x.dims[dim])
    return _drop(walk, x, dim)


@rule("unbind", "unbind_copy")
def unbind(walk: Walk, node: fx.Node, x: Value, dim: int = 0) -> tuple[Value, ...]:
    """All entries of a dimension, one by one."""
    dim %= len(x.dims)
    walk.freeze(node, x.dims[dim])
    return tuple(_drop(walk, x, dim) for _ in range(x.dims[dim].size))


@rule("constant_pad_nd", "pad")
def pad(walk: Walk, node: fx.Node, x: Value, padding: Sequence[int], *args: Any) -> Value:
    """Constant padding: fixed entries before and after; negative padding crops."""
    dims = list(x.dims)
    constant = not args or not isinstance(args[0], str) or args[0] == "constant"
    for k in range(len(padding) // 2):
        at, before, after = len(dims) - 1 - k, padding[2 * k], padding[2 * k + 1]
        if before == after == 0:
            continue
        if before < 0 or after < 0 or not constant:
            walk.freeze(node, dims[at])
            dims[at] = walk.fixed(node, dims[at].size + before + after)
        else:
            dims[at] = concat([walk.fixed(node, before), dims[at], walk.fixed(node, after)])
    return walk.make(dims, x)


@rule("slice_scatter")
def slice_scatter(
    walk: Walk, node: fx.Node, x: Value, new: Value, dim: int = 0, start: int | None = None, *args: Any
) -> Value:
    """Write over ``x[start:end]``: the result is before, new and after; the other dimensions are aligned."""
    dim %= len(x.dims)
    own, length = x.dims[dim], new.dims[dim].size
    step = args[1] if len(args) > 1 else 1
    dims = [
        a if i == dim else _aligned(walk, node, [a, b]) for i, (a, b) in enumerate(zip(x.dims, new.dims, strict=True))
    ]
    if length == own.size:
        dims[dim] = new.dims[dim]
    elif step != 1 or _ordered(own):
        walk.freeze(node, own, new.dims[dim])
    else:
        at = _place(start or 0, own.size)
        before, _, after = split_concat(own, (at, length, own.size - at - length), walk.where(node))
        dims[dim] = concat((before, new.dims[dim], after))
    return walk.make(dims, x, new)


@rule("select_scatter")
def select_scatter(walk: Walk, node: fx.Node, x: Value, new: Value, dim: int, number: int) -> Value:
    """Write over one entry of a dimension, which is thereby ordered."""
    dim %= len(x.dims)
    walk.freeze(node, x.dims[dim])
    other = [d for i, d in enumerate(x.dims) if i != dim]
    for a, b in zip(other, new.dims, strict=True):
        unify(a, b, walk.where(node))
    return walk.make(x.dims, x, new)


@rule("embedding")
def embedding(walk: Walk, node: fx.Node, weight: Value, numbers: Value, *args: Any) -> Value:
    """Rows of a table: the vocabulary is ordered, the width is not."""
    walk.freeze(node, weight.dims[0])
    found = walk.link(
        node, "embedding", weight, (weight.dims[1], (1,)), (weight.dims[0], (0,)), depth=numbers.depth + 1
    )
    return Value((*numbers.dims, weight.dims[1]), None, numbers.depth + 1, found)


def _aligned(walk: Walk, node: fx.Node, dims: Sequence[Dim]) -> Dim:
    for other in dims[1:]:
        unify(dims[0], other, walk.where(node))
    return dims[0]


def _ordered(dim: Dim) -> bool:
    """Whether every atom of a dim is frozen already, so that refining it would gain nothing."""
    return all(atom.frozen for atom in leaves(dim))


def _replace(walk: Walk, x: Value, at: int, dim: Dim) -> Value:
    return walk.make((*x.dims[:at], dim, *x.dims[at + 1 :]), x, origin=x.origin)


def _drop(walk: Walk, x: Value, at: int) -> Value:
    origin = x.origin and Origin(x.origin.tensor, (*x.origin.dims[:at], *x.origin.dims[at + 1 :]))
    return walk.make((*x.dims[:at], *x.dims[at + 1 :]), x, origin=origin)
