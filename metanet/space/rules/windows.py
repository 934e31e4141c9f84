"""Pooling, resampling and border padding over positions: channels stay, positions are ordered."""

from __future__ import annotations

import re
from typing import Any

from torch import fx

from metanet.space.axes import unify
from metanet.space.calls import map_results, operation_name
from metanet.space.rules.registry import rule
from metanet.space.walk import Value, Walk

POOLING = [
    f"{kind}_pool{n}d{end}"
    for n in (1, 2, 3)
    for kind, end in (
        ("max", ""), ("max", "_with_indices"), ("avg", ""), ("adaptive_avg", ""), ("_adaptive_avg", ""),
        ("adaptive_max", ""),
    )
]  # fmt: skip
RESAMPLING = [
    *(f"{kind}{n}d" for n in (1, 2, 3) for kind in ("upsample_nearest", "_upsample_nearest_exact")),
    "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d",
    "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "_upsample_lanczos2d_aa",
]  # fmt: skip
BORDERS = [f"{kind}_pad{n}d" for n in (1, 2, 3) for kind in ("reflection", "replication")]


@rule(*POOLING, *RESAMPLING, *BORDERS)
def windows(walk: Walk, node: fx.Node, x: Value, *args: Any, **kwargs: Any) -> Any:
    """Operations over the last 1, 2 or 3 dimensions, as many as the name says."""
    found = re.search(r"(\d)d", operation_name(node))
    ordered = int(found[1]) if found else len(x.dims)
    return _over_positions(walk, node, x, len(x.dims) - ordered)


@rule("grid_sampler_2d", "grid_sampler_3d", "grid_sampler")
def grid_sample(walk: Walk, node: fx.Node, x: Value, grid: Value, *args: Any) -> Value:
    """Values at places that a tensor names: ``[N, C, ..]`` read at ``[N, .., 2 or 3]``."""
    unify(x.dims[0], grid.dims[0], walk.where(node))
    walk.freeze(node, grid.dims[-1])
    walk.freeze(node, *x.dims[2:])
    return walk.make((*x.dims[:2], *grid.dims[1:-1]), x, grid)


def _over_positions(walk: Walk, node: fx.Node, x: Value, kept: int) -> Any:
    walk.freeze(node, *x.dims[kept:])

    def yielded(example: Any) -> Value:
        return walk.make([*x.dims[:kept], *(walk.fixed(node, int(s)) for s in example.shape[kept:])], x)

    return map_results(node.meta["val"], yielded)
