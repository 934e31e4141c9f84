"""Norm layers: statistics are invariant to the order of what they average; scales and shifts follow the channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import fx

from metanet.space.axes import Dim, split_product, unify
from metanet.space.rules.registry import rule
from metanet.space.walk import Value, Walk


@rule("_native_batch_norm_legit_no_training", "batch_norm", "cudnn_batch_norm", "native_batch_norm")
def batch_norm(
    walk: Walk,
    node: fx.Node,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value | None = None,
    variance: Value | None = None,
    *args: Any,
) -> Any:
    """Batch norm in eval mode: every vector is indexed by the channels, dimension 1."""
    result = _normalised(walk, node, x, x.dims[1], {"mean": mean, "variance": variance, "scale": weight, "bias": bias})
    return walk.several(node, result)


@rule("_native_batch_norm_legit")
def batch_statistics_norm(
    walk: Walk, node: fx.Node, x: Value, weight: Value | None, bias: Value | None, *args: Any
) -> Any:
    """Batch norm with the statistics of the batch at hand (instance norm arrives in this form)."""
    statistics = [a for a in args if isinstance(a, Value)]
    named = dict(zip(("mean", "variance"), statistics, strict=False))
    return walk.several(node, _normalised(walk, node, x, x.dims[1], {**named, "scale": weight, "bias": bias}))


@rule("native_layer_norm", "layer_norm", "rms_norm", "_fused_rms_norm")
def layer_norm(walk: Walk, node: fx.Node, x: Value, shape: Sequence[int], weight: Value | None, *args: Any) -> Any:
    """Layer norm and RMS norm over the last dimensions."""
    bias = next((a for a in args if isinstance(a, Value)), None)
    at = len(x.dims) - len(shape)
    found: frozenset[int] = frozenset()
    for kind, parameter in (("scale", weight), ("bias", bias)):
        if parameter is not None:
            for own, dim in zip(parameter.dims, x.dims[at:], strict=True):
                unify(dim, own, walk.where(node))
            found |= walk.unary(node, kind, parameter, x.depth)  # type: ignore[arg-type]
    return walk.several(node, replace(x, origin=None, pending=x.pending | found))


@rule("native_group_norm")
def group_norm(
    walk: Walk,
    node: fx.Node,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    batch: int,
    channels: int,
    positions: int,
    groups: int,
    eps: float,
) -> Any:
    """Group norm: groups may be exchanged, and channels within a group."""
    split_product(x.dims[1], (groups, channels // groups), walk.where(node))
    return walk.several(node, _normalised(walk, node, x, x.dims[1], {"scale": weight, "bias": bias}))


def _normalised(walk: Walk, node: fx.Node, x: Value, channels: Dim, vectors: dict[str, Value | None]) -> Value:
    found: frozenset[int] = frozenset()
    for kind, vector in vectors.items():
        if vector is not None:
            unify(channels, vector.dims[0], walk.where(node))
            found |= walk.unary(node, kind, vector, x.depth)  # type: ignore[arg-type]
    return replace(x, origin=None, pending=x.pending | found)
