"""Reductions: a sum does not depend on the order of its terms, so the reduced dimension is not constrained."""

from __future__ import annotations

from typing import Any

from torch import fx

from metanet.space.axes import Dim, split_concat, unify
from metanet.space.rules.registry import rule
from metanet.space.walk import Value, Walk


@rule(
    "mean", "sum", "amax", "amin", "var", "std", "var_mean", "prod", "logsumexp", "norm", "linalg_vector_norm", "any", "all",
    "nansum",
)  # fmt: skip
def reduce(walk: Walk, node: fx.Node, x: Value, dim: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Order-independent reduction over some dimensions or all."""
    dim = kwargs.get("dim", dim)
    name = str(node.target)
    if "norm" in name:  # the second argument of the norms is their order
        dim = args[0] if args else None
    example = node.meta["val"]
    first = example[0] if isinstance(example, tuple | list) else example
    reduced = _positions(dim, len(x.dims))
    keep = len(first.shape) == len(x.dims)
    dims = [Dim(1) if i in reduced else d for i, d in enumerate(x.dims) if keep or i not in reduced]
    result = walk.make(dims, x)
    return (result,) * len(example) if isinstance(example, tuple | list) else result


@rule("softmax", "_softmax", "log_softmax", "_log_softmax", "_safe_softmax")
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


@rule("cumsum", "cumprod", "logcumsumexp", "flip", "roll")
def ordered(walk: Walk, node: fx.Node, x: Value, *args: Any, **kwargs: Any) -> Value:
    """Operations along an ordered dimension. ``roll`` carries its shifts first."""
    dim = kwargs.get("dims", args[-1] if args else None)
    for at in _positions(dim, len(x.dims)):
        walk.freeze(node, x.dims[at])
    return walk.make(x.dims, x)


@rule("max", "min", "argmax", "argmin", "topk", "sort", "median", "mode", "kthvalue")
def ranked(walk: Walk, node: fx.Node, x: Value, *args: Any, **kwargs: Any) -> Any:
    """Operations that say *where* the largest entries are: the dimension they search is ordered."""
    integers = [a for a in args if isinstance(a, int) and not isinstance(a, bool)]
    packet = str(getattr(node.target, "overloadpacket", node.target)).rpartition(".")[2]
    if packet in ("max", "min") and not integers and "dim" not in kwargs:
        return walk.make([], x)
    position = 1 if packet in ("topk", "kthvalue") else 0
    dim = kwargs.get("dim", integers[position] if len(integers) > position else None if "arg" in packet else -1)
    reduced = _positions(dim, len(x.dims))
    for at in reduced:
        walk.freeze(node, x.dims[at])

    def yielded(example: Any) -> Value:
        shape = tuple(int(s) for s in example.shape)
        if len(shape) == len(x.dims):
            return walk.make([d if d.size == s else walk.fixed(node, s) for d, s in zip(x.dims, shape, strict=True)], x)
        return walk.make([d for i, d in enumerate(x.dims) if i not in reduced], x)

    example = node.meta["val"]
    return tuple(map(yielded, example)) if isinstance(example, tuple | list) else yielded(example)


@rule("max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d",
      "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
      "adaptive_avg_pool2d", "adaptive_max_pool2d", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
      "upsample_bilinear2d", "upsample_bicubic2d", "upsample_linear1d", "upsample_trilinear3d",
      "_upsample_nearest_exact2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "reflection_pad1d", "reflection_pad2d",
      "replication_pad2d", "grid_sampler_2d")  # fmt: skip
def windows(walk: Walk, node: fx.Node, x: Value, *args: Any, **kwargs: Any) -> Any:
    """Pooling, resampling and padding over positions: channels stay, positions are ordered."""
    walk.freeze(node, *x.dims[2:])
    for other in args:
        if isinstance(other, Value):
            walk.freeze(node, *other.dims)

    def yielded(example: Any) -> Value:
        shape = tuple(int(s) for s in example.shape)
        return walk.make([*x.dims[:2], *(walk.fixed(node, s) for s in shape[2:])], x)

    example = node.meta["val"]
    return tuple(map(yielded, example)) if isinstance(example, tuple | list) else yielded(example)


def _positions(dim: Any, rank: int) -> set[int]:
    """Dimension arguments as non-negative numbers; None or an empty list means all."""
    if dim is None or (isinstance(dim, list | tuple) and not dim):
        return set(range(rank))
    return {int(d) % rank for d in (dim if isinstance(dim, list | tuple) else [dim])} if rank else set()

