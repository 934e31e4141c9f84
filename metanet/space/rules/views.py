"""Views: operations that move, join or split dimensions without mixing entries."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import fx

from metanet.space.axes import Dim, product, split_product
from metanet.space.calls import shape_of
from metanet.space.rules.registry import rule
from metanet.space.walk import Origin, Value, Walk


@rule(
    "clone", "alias", "contiguous", "detach", "_to_copy", "lift_fresh", "to", "dropout", "alias_copy", "lift_fresh_copy"
)
def identity(walk: Walk, node: fx.Node, x: Value, *args: Any, **kwargs: Any) -> Value:
    """The same entries."""
    return x


@rule("copy")
def copy(walk: Walk, node: fx.Node, old: Value, new: Value, *args: Any) -> Value:
    """Overwrite everything with a tensor that is broadcast to the shape."""
    return expand(walk, node, new)


@rule("view_as_real", "view_as_real_copy")
def view_as_real(walk: Walk, node: fx.Node, x: Value) -> Value:
    """Complex numbers as pairs: a new last dimension."""
    return walk.make((*x.dims, walk.fixed(node, 2)), x)


@rule("view_as_complex", "view_as_complex_copy")
def view_as_complex(walk: Walk, node: fx.Node, x: Value) -> Value:
    """Pairs as complex numbers."""
    walk.freeze(node, x.dims[-1])
    return walk.make(x.dims[:-1], x)


@rule("permute", "permute_copy")
def permute(walk: Walk, node: fx.Node, x: Value, order: Sequence[int]) -> Value:
    """Reorder dimensions."""
    return _reindex(x, [d % len(x.dims) for d in order])


@rule("transpose", "swapaxes")
def transpose(walk: Walk, node: fx.Node, x: Value, a: int, b: int) -> Value:
    """Exchange two dimensions."""
    order = list(range(len(x.dims)))
    a, b = a % len(order), b % len(order)
    order[a], order[b] = order[b], order[a]
    return _reindex(x, order)


@rule("t")
def t(walk: Walk, node: fx.Node, x: Value) -> Value:
    """Transpose a matrix."""
    return _reindex(x, list(range(len(x.dims)))[::-1])


@rule("unsqueeze", "unsqueeze_copy")
def unsqueeze(walk: Walk, node: fx.Node, x: Value, dim: int) -> Value:
    """Insert a dimension of size 1."""
    order: list[int | None] = list(range(len(x.dims)))
    order.insert(dim % (len(x.dims) + 1), None)
    return _reindex(x, order)


@rule("squeeze", "squeeze_copy")
def squeeze(walk: Walk, node: fx.Node, x: Value, dim: Any = None) -> Value:
    """Drop dimensions of size 1."""
    asked = range(len(x.dims)) if dim is None else [dim] if isinstance(dim, int) else dim
    gone = {d % len(x.dims) for d in asked if x.dims[d].size == 1} if x.dims else set()
    return _reindex(x, [i for i in range(len(x.dims)) if i not in gone])


@rule("expand", "expand_copy")
def expand(walk: Walk, node: fx.Node, x: Value, *args: Any, **kwargs: Any) -> Value:
    """Repeat dimensions of size 1: the copies are equal, so their order means nothing."""
    shape = shape_of(node)
    offset = len(shape) - len(x.dims)
    kept = [i - offset if i >= offset and x.dims[i - offset].size == s else None for i, s in enumerate(shape)]
    return replace(
        _reindex(x, kept), dims=tuple(Dim(s) if k is None else x.dims[k] for k, s in zip(kept, shape, strict=True))
    )


@rule("repeat")
def repeat(walk: Walk, node: fx.Node, x: Value, repeats: Sequence[int]) -> Value:
    """Tile: a tiled dimension is the product of the copies and the original."""
    offset = len(repeats) - len(x.dims)
    dims = []
    for i, count in enumerate(repeats):
        own = x.dims[i - offset] if i >= offset else Dim(1)
        dims.append(product((Dim(count), own)) if count * own.size != 1 else Dim(1))
    return walk.make(dims, x)


@rule("view", "reshape", "_unsafe_view", "flatten", "view_copy", "unflatten", "_reshape_alias")
def reshape(walk: Walk, node: fx.Node, x: Value, *args: Any, **kwargs: Any) -> Value:
    """Regroup dimensions: the dims of each group are multiplied together and split again."""
    dims: list[Dim] = []
    origin: list[int | None] = []
    known = x.origin is not None
    if math.prod(x.shape) != math.prod(shape_of(node)) or 0 in x.shape:  # another dtype, or nothing in it
        walk.freeze(node, *x.dims)
        return walk.make([walk.fixed(node, s) for s in shape_of(node)], x)
    for old, shape in _groups(x.shape, shape_of(node)):
        own = [x.dims[i] for i in old]
        if len(own) == 1 and len(shape) == 1:
            dims.append(own[0])
            origin.append(x.origin.dims[old[0]] if x.origin else None)
            continue
        if shape:
            dims.extend(split_product(product(own), shape, walk.where(node)))
        wide = [i for i in old if x.dims[i].size != 1]
        source = x.origin.dims[wide[0]] if x.origin and len(wide) == 1 else None
        origin.extend(source if s != 1 else None for s in shape)
        known = known and (source is not None or not wide)
    return replace(x, dims=tuple(dims), origin=Origin(x.origin.tensor, tuple(origin)) if known and x.origin else None)


def _groups(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Smallest consecutive groups of old dimensions and new sizes that hold equally many entries."""
    i = j = 0
    while i < len(before) or j < len(after):
        old, new = [], []
        if i < len(before):
            old.append(i)
            i += 1
        if j < len(after):
            new.append(after[j])
            j += 1
        while math.prod(before[k] for k in old) != math.prod(new):
            if math.prod(before[k] for k in old) < math.prod(new):
                old.append(i)
                i += 1
            else:
                new.append(after[j])
                j += 1
        yield old, new


@rule("pixel_shuffle")
def pixel_shuffle(walk: Walk, node: fx.Node, x: Value, factor: int) -> Value:
    """``[N, C r r, H, W] -> [N, C, H r, W r]``: sub-pixel positions are ordered."""
    *batch, channels, _, _ = x.dims
    kept, *inner = split_product(channels, (channels.size // factor**2, factor, factor), walk.where(node))
    walk.freeze(node, *inner, *x.dims[-2:])
    return walk.make([*batch, kept, *(walk.fixed(node, s) for s in shape_of(node)[-2:])], x)


@rule("pixel_unshuffle")
def pixel_unshuffle(walk: Walk, node: fx.Node, x: Value, factor: int) -> Value:
    """``[N, C, H r, W r] -> [N, C r r, H, W]``."""
    *batch, channels, _, _ = x.dims
    walk.freeze(node, *x.dims[-2:])
    positions = [walk.fixed(node, factor), walk.fixed(node, factor)]
    return walk.make([*batch, product((channels, *positions)), *(walk.fixed(node, s) for s in shape_of(node)[-2:])], x)


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(walk: Walk, node: fx.Node, x: Value, groups: int) -> Value:
    """Channels ``g x C/g`` become ``C/g x g``."""
    group, rest = split_product(x.dims[1], (groups, x.dims[1].size // groups), walk.where(node))
    return walk.make((x.dims[0], product((rest, group)), *x.dims[2:]), x)


@rule("unfold", "unfold_copy")
def unfold(walk: Walk, node: fx.Node, x: Value, dim: int, size: int, step: int) -> Value:
    """Sliding windows along an ordered dimension, as a new last dimension."""
    dim %= len(x.dims)
    walk.freeze(node, x.dims[dim])
    windows = walk.fixed(node, shape_of(node)[dim])
    return walk.make((*x.dims[:dim], windows, *x.dims[dim + 1 :], walk.fixed(node, size)), x)


@rule("im2col")
def im2col(walk: Walk, node: fx.Node, x: Value, kernel: Sequence[int], *args: Any) -> Value:
    """``[N, C, H, W] -> [N, C kh kw, L]``: positions and taps are ordered."""
    walk.freeze(node, *x.dims[-2:])
    taps = [walk.fixed(node, k) for k in kernel]
    return walk.make((*x.dims[:-3], product((x.dims[-3], *taps)), walk.fixed(node, shape_of(node)[-1])), x)


@rule("col2im")
def col2im(walk: Walk, node: fx.Node, x: Value, size: Sequence[int], kernel: Sequence[int], *args: Any) -> Value:
    """``[N, C kh kw, L] -> [N, C, H, W]``."""
    columns = x.dims[-2]
    channels, *taps = split_product(columns, (columns.size // math.prod(kernel), *kernel), walk.where(node))
    walk.freeze(node, *taps, x.dims[-1])
    return walk.make((*x.dims[:-2], channels, *(walk.fixed(node, s) for s in shape_of(node)[-2:])), x)


@rule("as_strided", "as_strided_copy")
def as_strided(
    walk: Walk, node: fx.Node, x: Value, size: Sequence[int], stride: Sequence[int], offset: int | None = None
) -> Value:
    """The same view again, possibly with other strides where they do not matter (size 1); all else is unknown."""
    before = node.args[0].meta["val"]  # type: ignore[union-attr]
    wide = [i for i, s in enumerate(size) if s != 1]
    same = x.shape == tuple(size) and all(before.stride(i) == stride[i] for i in wide)
    if same and offset in (None, before.storage_offset()):
        return x
    return walk.unknown(node, "it is a view with strides of its own", x)


@rule("diagonal", "diagonal_copy")
def diagonal(walk: Walk, node: fx.Node, x: Value, offset: int = 0, a: int = 0, b: int = 1) -> Value:
    """The diagonal of two dimensions, which are ordered, as a new last dimension."""
    a, b = a % len(x.dims), b % len(x.dims)
    walk.freeze(node, x.dims[a], x.dims[b])
    kept = [d for i, d in enumerate(x.dims) if i not in (a, b)]
    return walk.make((*kept, walk.fixed(node, shape_of(node)[-1])), x)


def _reindex(x: Value, order: Sequence[int | None]) -> Value:
    """Reorder, drop or insert (None) dimensions."""
    dims = tuple(Dim(1) if i is None else x.dims[i] for i in order)
    origin = x.origin and Origin(x.origin.tensor, tuple(None if i is None else x.origin.dims[i] for i in order))
    return replace(x, dims=dims, origin=origin)
