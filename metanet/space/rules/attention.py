"""Fused attention: what ``softmax(q k^T / sqrt(d)) v`` says about axes."""

from __future__ import annotations

from typing import Any

from torch import fx

from metanet.space.axes import product, split_product, unify
from metanet.space.calls import argument
from metanet.space.rules.registry import rule
from metanet.space.walk import Value, Walk


@rule(
    "scaled_dot_product_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_attention_math",
    "_scaled_dot_product_attention_math_for_mps",
    "_scaled_dot_product_fused_attention_overrideable",
    "_scaled_dot_product_cudnn_attention",
)
def attention(walk: Walk, node: fx.Node, q: Value, k: Value, v: Value, *args: Any, **kwargs: Any) -> Any:
    """Queries ``[.., H, L, E]``, keys ``[.., H, S, E]``, values ``[.., H, S, D]`` give ``[.., H, L, D]``.

    With grouped queries the query heads are the product of the key heads and the queries of each.
    """
    reason = walk.where(node)
    unify(q.dims[-1], k.dims[-1], reason)
    unify(k.dims[-2], v.dims[-2], reason)
    rank = max(len(q.dims), len(k.dims), len(v.dims))
    grouped = bool(argument(node, "enable_gqa", False))
    batch = [_batch(walk, node, at, (q, k, v), grouped) for at in range(-rank, -2)]
    for name in ("attn_mask", "attn_bias"):
        mask = next((a for a in (*args, *kwargs.values()) if isinstance(a, Value)), None)
        if argument(node, name) is not None and mask is not None:
            _mask(walk, node, (*batch, q.dims[-2], k.dims[-2]), mask)
    if argument(node, "is_causal", False):
        walk.freeze(node, q.dims[-2], k.dims[-2])
    made = walk.make((*batch, q.dims[-2], v.dims[-1]), q, k, v)
    result = Value(made.dims, None, made.depth, frozenset())
    return walk.several(node, result, q, k, v)


def _batch(walk: Walk, node: fx.Node, at: int, operands: tuple[Value, ...], grouped: bool) -> Any:
    """One batch or head dimension of the result, after broadcasting."""
    dims = [v.dims[at] for v in operands if len(v.dims) >= -at]
    wide = max(dims, key=lambda d: d.size)
    for dim in dims:
        if dim.size == wide.size:
            unify(wide, dim, walk.where(node))
        elif dim.size != 1:  # key heads, each of which serves several query heads
            heads, rest = split_product(wide, (dim.size, wide.size // dim.size), walk.where(node))
            unify(heads, dim, walk.where(node))
            wide = product((heads, rest)) if grouped else wide
    return wide


def _mask(walk: Walk, node: fx.Node, scores: tuple[Any, ...], mask: Value) -> None:
    """A mask or bias added to the scores is aligned with ``[.., H, L, S]``."""
    for own, dim in zip(reversed(mask.dims), reversed(scores), strict=False):
        if own.size == dim.size:
            unify(own, dim, walk.where(node))
