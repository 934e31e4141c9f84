"""What of a value may be added to without anybody noticing: families of shifts, and how they pass through operations.

The *slots* of a value are the factors of its dimensions, numbered in row-major order (a concatenation is one slot).
A shift of a value is described by the slots along which it is constant, and by entries of slots outside of which it is
zero; along all other slots it is arbitrary, and may depend on the data.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from metanet.space.axes import Dim
from metanet.space.walk import Value

MANY = 12  # generators kept; the rest is dropped, which claims less


@dataclass(frozen=True)
class Shift:
    """All shifts that are constant along some slots and vanish outside of some entries.

    Attributes:
        along: Slots along which they are constant.
        chosen: ``(slot, entry)``: they vanish at the other entries of these slots.
    """

    along: frozenset[int] = frozenset()
    chosen: frozenset[tuple[int, int]] = frozenset()

    def includes(self, other: Shift) -> bool:
        """Whether every shift of the other kind is one of these."""
        return self.along <= other.along and self.chosen <= other.chosen


Family = tuple[Shift, ...]
"""Shifts that nobody notices: all of any of these kinds."""

ANY: Family = (Shift(),)
NONE: Family = ()


def slots_of(value: Value) -> list[list[int]]:
    """The numbers of the slots of every dimension."""
    count, found = 0, []
    for factors in value.factors:
        found.append(list(range(count, count + len(factors))))
        count += len(factors)
    return found


def slot_dims(value: Value) -> list[Dim]:
    """The label of every slot."""
    return [f for factors in value.factors for f in factors]


def union(shifts: Iterable[Shift]) -> Family:
    """The family of all these kinds, without those that others include."""
    kept: list[Shift] = []
    for shift in sorted(set(shifts), key=lambda s: (len(s.along) + len(s.chosen), sorted(s.along), sorted(s.chosen))):
        if not any(k.includes(shift) for k in kept):
            kept.append(shift)
    return tuple(kept[:MANY])


def meet(a: Family, b: Family) -> Family:
    """The shifts that are in both families."""
    if a == ANY:
        return b
    if b in (ANY, a):
        return a
    return union(m for x in a for y in b if (m := _both(x, y)) is not None)


def _both(x: Shift, y: Shift) -> Shift | None:
    chosen = x.chosen | y.chosen
    slots = {slot for slot, _ in chosen}
    along = x.along | y.along
    return None if len(slots) < len(chosen) or slots & along else Shift(along, chosen)


def pulled(
    family: Family, slots: Mapping[int, Collection[int]], varies: Collection[int] = (), blurred: Collection[int] = ()
) -> Family:
    """What an operand may be shifted by if its result may be shifted by a family.

    Args:
        family: The family of the result.
        slots: For slots of the result: the operand's slots along which a shift must be constant for the result's to be
            so. Slots left out are those that the operand lacks: what it adds is constant along them.
        varies: Slots of the result along which what the operand adds varies whatever it is.
        blurred: Slots of the result whose entries are not the operand's entries.
    """
    found = []
    for shift in family:
        apart = all(len(slots.get(s, ())) == 1 and s not in blurred for s, _ in shift.chosen)
        if apart and not shift.along & set(varies):
            along = frozenset(o for s in shift.along for o in slots.get(s, ()))
            chosen = frozenset((o, entry) for s, entry in shift.chosen for o in slots[s])
            if not along & {s for s, _ in chosen}:
                found.append(Shift(along, chosen))
    return union(found)
