"""Fused attention: what ``softmax(q k^T / sqrt(d)) v`` says about axes."""

from __future__ import annotations

from typing import Any

from torch import fx

from metanet.space.axes import Dim, product, split_product, unify
from metanet.space.rules.registry import rule
from metanet.space.walk import Value, Walk


@rule(
    "scaled_dot_product_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_attention_math",
    "_scaled_dot_product_attention_math_for_mps",
)
def attention(walk: Walk, node: fx.Node, q: Value, k: Value, v: Value, *args: Any, **kwargs: Any) -> Any:
    """Queries ``[.., H, L, E]``, keys ``[.., H, S, E]``, values ``[.., H, S, D]`` give ``[.., H, L, D]``.

    With grouped queries the query heads are the product of the key heads and the queries of each.
    """
    reason = walk.where(node)
    unify(q.dims[-1], k.dims[-1], reason)
    unify(k.dims[-2], v.dims[-2], reason)
    for a, b in zip(k.dims[:-2], v.dims[:-2], strict=True):
        unify(a, b, reason)
    for a, b in zip(q.dims[:-2], k.dims[:-2], strict=True):
        if a.size == b.size:
            unify(a, b, reason)
        elif b.size != 1:
            unify(a, product((b, Dim(a.size // b.size))), reason)
            split_product(a, (b.size, a.size // b.size), reason)
    _mask(walk, node, q, k, [a for a in (*args, *kwargs.values()) if isinstance(a, Value)])
    result = walk.make((*q.dims[:-1], v.dims[-1]), q, k, v)
    result = Value(result.dims, None, result.depth, frozenset())
    example = node.meta["val"]
    if not isinstance(example, tuple | list):
        return result
    rest = [None if e is None else walk.make([walk.fixed(node, s) for s in getattr(e, "shape", ())]) for e in example[1:]]
    return (result, *rest)


def _mask(walk: Walk, node: fx.Node, q: Value, k: Value, masks: list[Value]) -> None:
    """A mask or bias added to the scores is aligned with ``[.., H, L, S]``."""
    scores = (*q.dims[:-1], k.dims[-2])
    for mask in masks:
        for own, dim in zip(reversed(mask.dims), reversed(scores), strict=False):
            if own.size == dim.size:
                unify(own, dim, walk.where(node))
    causal = any(a is True for a in node.args) or node.kwargs.get("is_causal") is True
    if causal:
        walk.freeze(node, q.dims[-2], k.dims[-2])
