"""Canonical members: biases that nothing needs become zero, rows before a softmax are centred, phases are the smallest.

Of all networks that differ by phases of sines and by shifts, one is chosen: ``omega b`` lies in ``[-pi/2, pi/2]`` and
every vector that may be shifted has mean zero along what the shift is constant over. That makes the biases of keys and
values zero, and centres the columns of weights that write into a layer norm or a softmax. The function stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import TopologicalSorter

import torch
from torch import Tensor

from metanet.space.gauges import Gauge
from metanet.space.weight_space import WeightSpace
from metanet.symmetry.adding import add
from metanet.symmetry.move import check_state
from metanet.symmetry.scaling import views


def canonicalise(space: WeightSpace, state: Mapping[str, Tensor], batched: bool = False) -> dict[str, Tensor]:
    """The canonical member of a network's orbit under phases and shifts.

    Scales and signs are left alone (:func:`metanet.symmetry.fixing.fix` fixes the scales): networks that differ by a
    sign flip lead to networks that differ by the same flip.

    Args:
        space: The space.
        state: Tensors by name, ``[*shape]``; entries that the space does not govern are passed through.
        batched: Whether tensors are stacked, ``[B, *shape]``; each network gets its own shifts then.

    Returns:
        New tensors in the order of ``state``; nothing is changed in place.

    Raises:
        SpaceError: A tensor is missing or has another shape than in the space.
    """
    check_state(space, state, batched)
    if batched:
        count = len(next(iter(state.values())))
        each = [canonicalise(space, {n: t[i] for n, t in state.items()}) for i in range(count)]
        return {name: torch.stack([one[name] for one in each]) for name in state}
    names = {p.tensor for g in space.gauges if g.kind in ("phase", "shift") for p in g.parts}
    tensors = {name: state[name].clone() if name in names else state[name] for name in space.tensor}
    for gauge in (g for g in space.gauges if g.kind == "phase"):
        element = _mean(space, gauge, tensors)
        add(space, gauge, -(element / gauge.parts[0].shift).round(), tensors)
    for gauge in _ordered([g for g in space.gauges if g.kind == "shift"]):
        add(space, gauge, -_mean(space, gauge, tensors), tensors)
    new = dict(state)
    for spec in space.tensors:
        new.update({name: tensors[spec.name] for name in (spec.name, *spec.aliases) if name in new})
    return new


def _ordered(gauges: list[Gauge]) -> list[Gauge]:
    """Shifts in such an order that none disturbs what has been done: what takes a shift back is shifted later."""
    before = {n: {m for m, g in enumerate(gauges) if m != n and _disturbs(g, gauges[n])} for n in range(len(gauges))}
    return [gauges[n] for n in TopologicalSorter(before).static_order()]


def _disturbs(one: Gauge, other: Gauge) -> bool:
    return other.parts[0].tensor in {p.tensor for p in one.parts[1:]}


def _mean(space: WeightSpace, gauge: Gauge, tensors: Mapping[str, Tensor]) -> Tensor:
    """The mean of a gauge's first tensor over all but the gauge's axes, in the shape of these."""
    part, count = gauge.parts[0], 0
    found: Tensor | None = None
    for view, order in views(space.tensor[part.tensor], part, gauge.axes, tensors[part.tensor], False):
        ranked = view.permute(*order, *(d for d in range(view.ndim) if d not in order))
        rest = ranked.reshape(*ranked.shape[: len(order)], -1)
        total = rest.sum(-1)
        found, count = total if found is None else found + total, count + rest.shape[-1]
    if found is None:
        raise RuntimeError(f"no part of '{part.tensor}' is indexed by {gauge.axes}")
    return found / count
