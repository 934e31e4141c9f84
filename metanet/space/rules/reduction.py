"""Reductions: a sum does not depend on the order of its terms, so the reduced dimension is not constrained."""

from __future__ import annotations

from typing import Any

from torch import fx

from metanet.space.axes import Dim, split_concat, unify
from metanet.space.calls import argument, is_read, map_results
from metanet.space.rules.registry import rule
from metanet.space.walk import Value, Walk, tensors_in


@rule(
    "mean", "sum", "amax", "amin", "aminmax", "var", "std", "var_mean", "std_mean", "prod", "logsumexp", "norm",
    "linalg_vector_norm", "any", "all", "nansum", "nanmean", "count_nonzero",
)  # fmt: skip
def reduce(walk: Walk, node: fx.Node, x: Value, *args: Any, **kwargs: Any) -> Any:
    """Order-independent reduction over some dimensions or all."""
    example = node.meta["val"]
    first = example[0] if isinstance(example, tuple | list) else example
    result = _reduced(walk, x, _positions(argument(node, "dim"), len(x.dims)), len(first.shape))
    return (result,) * len(example) if isinstance(example, tuple | list) else result


@rule("softmax", "_softmax", "log_softmax", "_log_softmax", "_safe_softmax", "softmin")
def softmax(walk: Walk, node: fx.Node, x: Value, *args: Any, **kwargs: Any) -> Value:
    """Softmax is equivariant to permutations of the dimension it normalises."""
    return walk.like(node, x, activation="softmax")


@rule("glu")
def glu(walk: Walk, node: fx.Node, x: Value, dim: int = -1) -> Value:
    """Gated linear unit: the first half times the sigmoid of the second."""
    at = dim % len(x.dims)
    half = x.dims[at].size // 2
    first, second = split_concat(x.dims[at], (half, half), walk.where(node))
    unify(first, second, walk.where(node))
    return walk.like(node, walk.make((*x.dims[:at], first, *x.dims[at + 1 :]), x), activation="glu")


@rule("cumsum", "cumprod", "logcumsumexp", "cummax", "cummin", "flip", "roll")
def ordered(walk: Walk, node: fx.Node, x: Value, *args: Any, **kwargs: Any) -> Any:
    """Operations along ordered dimensions; a ``roll`` without dimensions runs over all of them."""
    for at in _positions(argument(node, "dim", argument(node, "dims")), len(x.dims)):
        walk.freeze(node, x.dims[at])
    return map_results(node.meta["val"], lambda t: walk.make(x.dims, x))


@rule("max", "min", "median", "nanmedian", "mode", "kthvalue", "sort", "topk", "argmax", "argmin", "argsort")
def ranked(walk: Walk, node: fx.Node, x: Value, *args: Any, **kwargs: Any) -> Any:
    """The largest entries, and where they are: the dimension searched is ordered if anybody asks where."""
    if any(True for _ in tensors_in(args)):
        return walk.like(node, *tensors_in((x, args)))  # the larger of two tensors
    example = node.meta["val"]
    searched = _positions(argument(node, "dim"), len(x.dims))
    if not isinstance(example, tuple | list):  # over everything, or the place alone
        if "arg" in str(node.target):
            walk.freeze(node, *(x.dims[at] for at in searched))
        return _ranked(walk, node, x, searched, example)
    if is_read(node, 1):
        walk.freeze(node, *(x.dims[at] for at in searched))
    return tuple(_ranked(walk, node, x, searched, e) for e in example)


def _ranked(walk: Walk, node: fx.Node, x: Value, searched: set[int], example: Any) -> Value:
    """What a search yields: nothing, one or several entries along the dimension searched, in order of size."""
    shape = tuple(int(s) for s in example.shape)
    if len(shape) < len(x.dims):
        return _reduced(walk, x, searched, len(shape))
    dims = [walk.fixed(node, s) if i in searched else d for i, (d, s) in enumerate(zip(x.dims, shape, strict=True))]
    return walk.make([Dim(1) if d.size == 1 else d for d in dims], x)


def _reduced(walk: Walk, x: Value, positions: set[int], rank: int) -> Value:
    """Without the dimensions reduced, or with size 1 in their places."""
    keep = rank == len(x.dims)
    return walk.make([Dim(1) if i in positions else d for i, d in enumerate(x.dims) if keep or i not in positions], x)


@rule("_fft_r2c", "_fft_c2c", "_fft_c2r")
def fourier(walk: Walk, node: fx.Node, x: Value, dim: Any, *args: Any) -> Value:
    """A Fourier transform over ordered dimensions."""
    at = _positions(dim, len(x.dims))
    walk.freeze(node, *(x.dims[i] for i in at))
    shape = node.meta["val"].shape
    return walk.make([walk.fixed(node, shape[i]) if i in at else d for i, d in enumerate(x.dims)], x)


@rule("_cdist_forward", "cdist")
def distances(walk: Walk, node: fx.Node, x: Value, y: Value, *args: Any) -> Value:
    """Distances ``[.., N, M]`` between rows ``[.., N, D]`` and ``[.., M, D]``: a sum over the last dimension."""
    unify(x.dims[-1], y.dims[-1], walk.where(node))
    unit = Dim(1)
    return walk.like(
        node,
        walk.make((*x.dims[:-2], x.dims[-2], unit), x),
        walk.make((*y.dims[:-2], unit, y.dims[-2]), y),
    )


def _positions(dim: Any, rank: int) -> set[int]:
    """Dimension arguments as non-negative numbers; None or an empty list means all."""
    if dim is None or (isinstance(dim, list | tuple) and not dim):
        return set(range(rank))
    return {int(d) % rank for d in (dim if isinstance(dim, list | tuple) else [dim])} if rank else set()
