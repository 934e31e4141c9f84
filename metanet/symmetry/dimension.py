"""The dimension of the continuous part of a symmetry group."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch

from metanet.space.gauges import Gauge
from metanet.space.weight_space import WeightSpace
from metanet.symmetry.rotation import pairs_of, scales


def dimensions(space: WeightSpace) -> dict[str, int]:
    """How many numbers an element of every continuous kind of gauge has, each counted once.

    Scalings that are the diagonals of invertible matrices are counted with the matrices alone.

    Args:
        space: The space.

    Returns:
        The dimension by kind, for those of ``"scale"``, ``"shift"``, ``"linear"``, ``"orthogonal"`` and ``"rotation"``
        that the space has. Shifts that overlap are counted as often as they are claimed, moduli of rotations that are
        no scalings yet with the scalings.
    """
    found: Counter[str] = Counter()
    groups: dict[frozenset[str], list[Gauge]] = {}
    for gauge in space.gauges:
        size = math.prod(space.axis[name].size for name in gauge.axes)
        if gauge.kind == "shift":
            found["shift"] += size
        elif gauge.kind == "linear":
            found["linear"] += size * space.axis[gauge.axes[-1]].size
        elif gauge.kind == "orthogonal":
            found["orthogonal"] += size * (space.axis[gauge.axes[-1]].size - 1) // 2
        elif gauge.kind == "rotation":
            found["rotation"] += size * pairs_of(gauge)
            if scales(gauge) and not any(_covers(space, g, gauge) for g in space.gauges):
                found["scale"] += size * pairs_of(gauge)
        if gauge.kind in ("scale", "linear"):
            groups.setdefault(frozenset(gauge.axes), []).append(gauge)
    for axes, gauges in groups.items():
        beyond = _rank(gauges) - sum(g.kind == "linear" for g in gauges)
        found["scale"] += beyond * math.prod(space.axis[name].size for name in axes)
    return {kind: count for kind, count in found.items() if count}


def _covers(space: WeightSpace, scaling: Gauge, rotation: Gauge) -> bool:
    """Whether a gauge is the scaling of the pairs that another one rotates and scales."""
    sizes = [space.axis[name].size for name in scaling.axes]
    tensors = [{part.tensor for part in gauge.parts} for gauge in (scaling, rotation)]
    outer = set(rotation.axes) <= set(scaling.axes)
    count = math.prod(space.axis[name].size for name in rotation.axes) * pairs_of(rotation)
    return scaling.kind == "scale" and tensors[0] == tensors[1] and outer and math.prod(sizes) == count


def _rank(gauges: Sequence[Gauge]) -> int:
    """How many of the ways to scale tensors are independent."""
    columns = {key: n for n, key in enumerate({(p.tensor, p.dims, p.chosen): None for g in gauges for p in g.parts})}
    powers = torch.zeros(len(gauges), len(columns), dtype=torch.float64)
    for row, gauge in enumerate(gauges):
        for part in gauge.parts:
            powers[row, columns[part.tensor, part.dims, part.chosen]] = part.exponent
    return int(torch.linalg.matrix_rank(powers))
