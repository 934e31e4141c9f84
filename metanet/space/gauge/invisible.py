"""What may be added to the values of a network without changing its outputs.

A layer norm does not see what is added to all features of a token alike, a softmax not what is added to all its logits.
The pass goes backwards: what an operation's result may be shifted by says what its operands may be shifted by. An
operation that is not listed notices everything.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from torch import fx

from metanet.space.calls import operation_name
from metanet.space.gauge.slots import ANY, NONE, Family, meet, pulled, slot_dims, slots_of
from metanet.space.walk import Value, Walk

Handler = Callable[["Invisible", fx.Node, fx.Node, int], Family]
ENTRIES = 8  # dimensions up to this size may be shifted entry by entry (the 3 of a fused qkv)

HANDLERS: dict[str, Handler] = {}


def handles(*names: str) -> Callable[[Handler], Handler]:
    """Register what an operation lets pass: a function of the pass, the operation, its operand and its place."""

    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return register


class Invisible:
    """The pass.

    Args:
        walk: The finished axis walk.
        nodes: The graph's nodes, in order.
    """

    def __init__(self, walk: Walk, nodes: Sequence[fx.Node]) -> None:
        self.values, self.distrusted = walk.values, walk.distrusted
        self.families: dict[fx.Node, Family] = {}
        for node in reversed(nodes):
            if node.op != "output":
                self.families[node] = self._of(node)

    def _of(self, node: fx.Node) -> Family:
        """What a value may be shifted by: whatever all that read it let pass."""
        family = ANY
        for user in node.users:
            family = meet(family, self._passes(user, node)) if isinstance(self.values.get(node), Value) else NONE
            if not family:
                break
        return family

    def _passes(self, user: fx.Node, node: fx.Node) -> Family:
        """What one operation lets pass."""
        if user.op == "output":
            return NONE
        if self.values.get(user) is None or user.name in self.distrusted:
            return NONE
        if self.result(user) == ANY:
            return ANY
        handler = HANDLERS.get(operation_name(user).removeprefix("aten."))
        places = places_of(user, node)
        return handler(self, user, node, places[0]) if handler and len(places) == 1 else NONE

    def result(self, node: fx.Node) -> Family:
        """What a result may be shifted by; the first of several, if nothing reads the others."""
        if isinstance(self.values[node], Value):
            return self.families[node]
        readers = [u for u in node.users if len(u.args) > 1]
        if len(readers) != len(node.users) or any(u.args[1] != 0 for u in readers):
            return NONE
        family = ANY
        for reader in readers:
            family = meet(family, self.families[reader])
        return family

    def first(self, node: fx.Node) -> Value:
        """A result, or the first of several."""
        value = self.values[node]
        return value if isinstance(value, Value) else value[0]

    def pull(self, user: fx.Node, node: fx.Node, slots: Mapping[int, int], varies: Collection[int] = ()) -> Family:
        """What an operand may be shifted by, given which slots of the result are which of its own.

        Args:
            user: The operation.
            node: The operand.
            slots: Its slots, by slots of the result; it lacks all others, so what it adds is constant along them.
            varies: Slots of the result along which what it adds varies whatever it is.
        """
        y, x = slot_dims(self.first(user)), slot_dims(self.values[node])
        if any(s >= len(y) or t >= len(x) or y[s] is not x[t] for s, t in slots.items()):
            return NONE
        return pulled(self.result(user), {s: [t] for s, t in slots.items()}, varies)


def places_of(user: fx.Node, node: fx.Node) -> list[int]:
    """The positions of an operand among the arguments, once for every time that it stands there; named ones are -1."""
    found = [n for n, a in enumerate(user.args) for b in (a if isinstance(a, list | tuple) else (a,)) if b is node]
    return [*found, *(-1 for a in user.kwargs.values() if a is node)]


def paired(y: Value, x: Value, dims: Mapping[int, int]) -> dict[int, int]:
    """Slots of one value by slots of another, given which dimensions correspond (counted as in Python)."""
    rows, columns = slots_of(y), slots_of(x)
    return {s: t for a, b in dims.items() for s, t in zip(rows[a], columns[b], strict=False)}


def alike(y: Value, x: Value, dims: Mapping[int, int]) -> bool:
    """Whether dimensions that correspond have the same structure; those of size 1 correspond to anything."""
    return all(x.dims[b].size == 1 or y.factors[a] == x.factors[b] for a, b in dims.items())


def dim_slots(value: Value, *dims: int) -> frozenset[int]:
    """The slots of some dimensions."""
    rows = slots_of(value)
    return frozenset(s for d in dims for s in rows[d])


def every_slot(value: Value) -> range:
    """All slots of a value."""
    return range(len(slot_dims(value)))
