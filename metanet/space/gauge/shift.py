"""Shifts: vectors that may be added to tensors because nothing sees them, or because another tensor takes them back.

What nothing sees (:mod:`.invisible`): ``W + 1 v^T`` and ``b + k`` of a layer that writes into a layer norm or a
softmax, the bias of keys. What another takes back (:mod:`.absorbed`): the bias of values, of a norm, of a linear
layer without a nonlinearity behind it, ``b_1 + t`` and ``b_2 - W t``; the bias of a convolution and the mean of its
batch norm.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from torch import fx

from metanet.space.axes import Dim, counted
from metanet.space.gauge import passing, passing_weights  # noqa: F401  (importing them registers what passes)
from metanet.space.gauge.absorbed import absorbed
from metanet.space.gauge.infer import combinations
from metanet.space.gauge.invisible import Invisible
from metanet.space.gauge.slots import ANY, Family, Shift, meet, slot_dims, slots_of
from metanet.space.gauges import Gauge, GaugePart
from metanet.space.walk import Value, Walk


def infer_shifts(walk: Walk, nodes: Sequence[fx.Node], names: Mapping[Dim, str]) -> tuple[Gauge, ...]:
    """All vectors that may be added to tensors.

    Args:
        walk: The finished axis walk.
        nodes: The nodes of the graph that it walked, in order.
        names: The axis name of every atom that indexes a tensor.

    Returns:
        Gauges of kind ``"shift"``: the element runs over ``gauge.axes`` and is added to every part, constant along its
        other dimensions.
    """
    own = Invisible(walk, nodes)
    found: dict[Gauge, None] = {}
    for tensor, places in _tensors(walk, nodes).items():
        value = walk.values[places[0]]
        family: Family = ANY
        for place in places:
            family = meet(family, own.families[place])
        for shift in family if any(place.users for place in places) else ():
            found.update(dict.fromkeys(_gauges(tensor, value, shift, (), names)))
        if len(places) == 1 and family != ANY:
            for chosen, parts in absorbed(own, places[0]):
                found.update(dict.fromkeys(_gauges(tensor, value, Shift(chosen=chosen), parts, names)))
    return tuple(found)


def _tensors(walk: Walk, nodes: Sequence[fx.Node]) -> dict[str, list[fx.Node]]:
    """The graph inputs that are parameters or means, by name; tied ones come several times.

    Variances are left out: nothing may make them negative, even where nobody sees them.
    """
    variances = {draft.tensor for draft in walk.links if draft.kind == "variance"}
    found: dict[str, list[fx.Node]] = {}
    for node in nodes:
        value = walk.values.get(node)
        origin = value.origin if node.op == "placeholder" and isinstance(value, Value) else None
        if origin is not None and origin.tensor not in variances:
            found.setdefault(origin.tensor, []).append(node)
    return found


def _gauges(
    tensor: str, value: Value, shift: Shift, parts: Sequence[GaugePart], names: Mapping[Dim, str]
) -> Iterator[Gauge]:
    """The gauges of one kind of shift: one for every choice of pieces along the dimensions that it runs over."""
    factors = slot_dims(value)
    fixed = dict(shift.chosen)
    if any(f not in names for s, f in enumerate(factors) if s in fixed):
        return
    chosen = tuple(sorted((names[factors[s]], entry) for s, entry in fixed.items()))
    free = [s for s in range(len(factors)) if s not in shift.along and s not in fixed]
    own = [d for d, row in enumerate(slots_of(value)) if set(row) & set(free)]
    counts = counted([value.dims[d] for d in own])  # dimensions and atoms must say which slots are shifted
    for pieces in itertools.product(*(combinations(factors[s]) for s in free)):
        atoms = [a for piece in pieces for a in piece]
        if all(a in names and counts[a] == 1 for a in atoms):
            first = GaugePart(tensor, tuple(own), 0.0, chosen, shift=1.0)
            yield Gauge("shift", tuple(names[a] for a in atoms), (first, *parts))
