"""Linear maps: matrix products and convolutions. They unify what they contract, and record the weight links."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import fx

from metanet.space.axes import Dim, product, split_product, unify
from metanet.space.calls import shape_of
from metanet.space.rules.registry import rule
from metanet.space.walk import Value, Walk


@rule("linear")
def linear(walk: Walk, node: fx.Node, x: Value, weight: Value, bias: Value | None = None) -> Value:
    """``x @ weight.T + bias``."""
    unify(x.dims[-1], weight.dims[1], walk.where(node))
    return _affine(walk, node, (*x.dims[:-1], weight.dims[0]), x, weight, (0,), (1,), bias)


@rule("mm", "matmul")
def matmul(walk: Walk, node: fx.Node, x: Value, y: Value) -> Value:
    """Matrix product with batch dimensions broadcast; either operand may be a weight."""
    if len(x.dims) == 1 or len(y.dims) == 1:
        return _vector_product(walk, node, x, y)
    unify(x.dims[-1], y.dims[-2], walk.where(node))
    batch = _batch(walk, node, x.dims[:-2], y.dims[:-2], shape_of(node)[:-2])
    return _product(walk, node, batch, x, y)


@rule("bmm")
def bmm(walk: Walk, node: fx.Node, x: Value, y: Value) -> Value:
    """Batched matrix product."""
    return matmul(walk, node, x, y)


@rule("addmm", "baddbmm")
def addmm(walk: Walk, node: fx.Node, bias: Value, x: Value, y: Value, **scales: float) -> Value:
    """``bias + x @ y``; the linear layer in core ATen."""
    result = matmul(walk, node, x, y)
    total = walk.like(node, replace(result, origin=None), bias)
    found = walk.unary(node, "bias", bias, total.depth)
    return Value(total.dims, None, result.depth, result.pending | found)


@rule("mv", "dot")
def _vector_product(walk: Walk, node: fx.Node, x: Value, y: Value) -> Value:
    """Products with a vector."""
    contracted = x.dims[-1], y.dims[max(len(y.dims) - 2, 0)]
    unify(*contracted, walk.where(node))
    rest = (*x.dims[:-1], *y.dims[:-2], *(y.dims[-1:] if len(y.dims) > 1 else ()))
    return walk.make(rest, x, y)


@rule("_trilinear")
def trilinear(
    walk: Walk, node: fx.Node, a: Value, b: Value, c: Value, at_a: Sequence[int], at_b: Sequence[int],
    at_c: Sequence[int], summed: Sequence[int], *args: int,
) -> Value:  # fmt: skip
    """The product of three tensors with dimensions inserted, summed over some dimensions (``nn.Bilinear``)."""
    rank = len(a.dims) + len(at_a)
    rows = []
    for value, inserted in ((a, at_a), (b, at_b), (c, at_c)):
        supply = iter(value.dims)
        rows.append([Dim(1) if i in inserted else next(supply) for i in range(rank)])
    dims = []
    for column in zip(*rows, strict=True):
        wide = [d for d in column if d.size != 1] or [Dim(1)]
        for other in wide[1:]:
            unify(wide[0], other, walk.where(node))
        dims.append(wide[0])
    return walk.make([d for i, d in enumerate(dims) if i not in summed], a, b, c)


@rule("convolution")
def convolution(
    walk: Walk,
    node: fx.Node,
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Value:
    """Convolution in any number of dimensions, transposed and grouped.

    With g groups both channel dimensions are products that share the group axis: ``C_in = g x C_in/g`` and
    ``C_out = g x C_out/g``; depthwise is ``C_in/g = 1``. The weight is ``[C_out, C_in/g, *kernel]``, or
    ``[C_in, C_out/g, *kernel]`` when transposed.
    """
    outer, inner = weight.dims[:2]
    reason = walk.where(node)
    group, _ = split_product(outer, (groups, outer.size // groups), reason)
    if transposed:
        unify(x.dims[1], outer, reason)
        target = product((group, inner))
        target_at, source_at = (1,), (0,)
    else:
        x_group, x_rest = split_product(x.dims[1], (groups, x.dims[1].size // groups), reason)
        unify(x_group, group, reason)
        unify(x_rest, inner, reason)
        target, target_at, source_at = outer, (0,), (1,)
    pointwise = all(d.size == 1 for d in weight.dims[2:]) and shape_of(node)[2:] == x.shape[2:] and set(stride) == {1}
    spatial = x.dims[2:] if pointwise else tuple(walk.fixed(node, s) for s in shape_of(node)[2:])
    if not pointwise:
        walk.freeze(node, *x.dims[2:], *weight.dims[2:])
    dims = (x.dims[0], target, *spatial)
    return _affine(walk, node, dims, x, weight, target_at, source_at, bias, x.dims[1], target, "convolution", stride)


def _affine(
    walk: Walk,
    node: fx.Node,
    dims: Sequence[Dim],
    x: Value,
    weight: Value,
    target_at: Sequence[int],
    source_at: Sequence[int],
    bias: Value | None,
    source: Dim | None = None,
    target: Dim | None = None,
    kind: str = "linear",
    stride: Sequence[int] = (),
) -> Value:
    """The result of a weight applied to data, with its links."""
    depth = max(x.depth, weight.depth) + 1
    target = target if target is not None else weight.dims[target_at[0]]
    source = source if source is not None else weight.dims[source_at[0]]
    found = walk.link(node, kind, weight, (target, target_at), (source, source_at), depth, stride)  # type: ignore[arg-type]
    if bias is not None:
        unify(bias.dims[0], target, walk.where(node))
        found = found | walk.unary(node, "bias", bias, depth)
    return Value(tuple(dims), None, depth, found)


def _product(walk: Walk, node: fx.Node, batch: list[Dim], x: Value, y: Value) -> Value:
    """The matrix product of two values whose contraction has been unified already."""
    dims = (*batch, x.dims[-2], y.dims[-1])
    weight_first = x.origin is not None and y.origin is None
    weight = x if weight_first else y if x.origin is None else None
    if weight is None or weight.origin is None:
        return Value(dims, None, max(x.depth, y.depth), frozenset())
    data = y if weight_first else x
    at = range(len(weight.dims) - 2)
    own = [i for i in at if weight.origin.dims[i] is not None and weight.dims[i].size != 1]
    batched = [weight.dims[i] for i in own]  # a weight with batch dimensions of its own: one matrix per entry
    last = len(weight.dims) - 1
    target_at, source_at = (last - 1, last) if weight_first else (last, last - 1)
    found = walk.link(
        node,
        "linear",
        weight,
        (product([*batched, weight.dims[target_at]]), (*own, target_at)),
        (product([*batched, weight.dims[source_at]]), (source_at,)),
        depth=data.depth + 1,
    )
    return Value(dims, None, data.depth + 1, found)


def _batch(walk: Walk, node: fx.Node, a: Sequence[Dim], b: Sequence[Dim], shape: Sequence[int]) -> list[Dim]:
    """Broadcast batch dimensions of two operands."""
    out: list[Dim] = []
    for i, size in enumerate(shape):
        here = [d[i - len(shape)] for d in (a, b) if len(shape) - i <= len(d)]
        wide = [d for d in here if d.size == size]
        for other in wide[1:]:
            unify(wide[0], other, walk.where(node))
        out.append(wide[0] if wide else Dim(1))
    return out
