"""What of a shift elementwise operations, views, reductions and norms let pass (:mod:`.invisible`)."""

from __future__ import annotations

from torch import fx

from metanet.space.axes import factors_of
from metanet.space.calls import argument, is_real, operation_name
from metanet.space.gauge.invisible import Invisible, alike, dim_slots, every_slot, handles, paired
from metanet.space.gauge.slots import NONE, Family, Shift, slot_dims, slots_of, union
from metanet.space.walk import Value


@handles(
    "view", "reshape", "_unsafe_view", "flatten", "view_copy", "unflatten", "_reshape_alias", "unsqueeze", "squeeze",
    "clone", "alias", "contiguous", "detach", "_to_copy", "to", "dropout", "neg", "lift_fresh", "lift_fresh_copy",
)  # fmt: skip
def _same(own: Invisible, user: fx.Node, node: fx.Node, place: int) -> Family:
    """The same entries in the same order (or their negatives), unless they are rounded."""
    x, y = slot_dims(own.values[node]), slot_dims(own.first(user))
    if not is_real(user) or len(x) != len(y) or any(a is not b for a, b in zip(x, y, strict=True)):
        return NONE
    return own.pull(user, node, {s: s for s in range(len(y))})


@handles("permute", "transpose", "t", "swapaxes")
def _reordered(own: Invisible, user: fx.Node, node: fx.Node, place: int) -> Family:
    """Dimensions in another order."""
    return own.pull(user, node, reordered(own.values[node], user))


def reordered(x: Value, user: fx.Node) -> dict[int, int]:
    """Slots of a transposed value, and the slots of the value that they are."""
    order = list(range(len(x.dims)))
    if operation_name(user) == "aten.permute":
        order = [d % len(order) for d in argument(user, "dims")]
    elif operation_name(user) == "aten.t":
        order.reverse()
    else:
        a, b = (int(str(d)) % len(order) for d in user.args[1:3])
        order[a], order[b] = order[b], order[a]
    rows = slots_of(x)
    return dict(enumerate(s for d in order for s in rows[d]))


@handles("add", "sub", "rsub", "expand")
def _added(own: Invisible, user: fx.Node, node: fx.Node, place: int) -> Family:
    """A sum: each term passes on its shift."""
    return own.pull(user, node, pairs) if (pairs := broadcast(own, user, node)) is not None else NONE


def broadcast(own: Invisible, user: fx.Node, node: fx.Node) -> dict[int, int] | None:
    """Slots of an operand that is broadcast, by slots of the result; None if labels do not match."""
    y, x = own.first(user), own.values[node]
    dims = {-back: -back for back in range(1, len(x.dims) + 1)}
    return paired(y, x, dims) if len(x.dims) <= len(y.dims) and alike(y, x, dims) else None


@handles("mul", "div")
def _multiplied(own: Invisible, user: fx.Node, node: fx.Node, place: int) -> Family:
    """A product passes a shift on that is constant where the other factor is."""
    if place and operation_name(user) == "aten.div":
        return NONE
    other = user.args[1 - place] if len(user.args) > 1 else None
    varies: set[int] = set()
    if isinstance(other, fx.Node):
        rows, factor = slots_of(own.first(user)), own.values.get(other)
        if not isinstance(factor, Value):
            return NONE
        varies = {s for back in range(1, len(factor.dims) + 1) if factor.dims[-back].size != 1 for s in rows[-back]}
    pairs = broadcast(own, user, node)
    return NONE if pairs is None else own.pull(user, node, pairs, varies)


@handles("where")
def _masked(own: Invisible, user: fx.Node, node: fx.Node, place: int) -> Family:
    """What is minus infinity elsewhere passes a shift on: infinity does not see it."""
    other = user.args[3 - place] if place else None
    numbers = other.args if isinstance(other, fx.Node) and "full" in operation_name(other) else ()
    if isinstance(other, fx.Node) and operation_name(other) == "aten.scalar_tensor":
        numbers = other.args
    return _added(own, user, node, place) if float("-inf") in numbers else NONE


@handles("mean", "sum")
def _averaged(own: Invisible, user: fx.Node, node: fx.Node, place: int) -> Family:
    """A mean over some dimensions."""
    return own.pull(user, node, remaining(own, user, node))


def remaining(own: Invisible, user: fx.Node, node: fx.Node) -> dict[int, int]:
    """Slots of a reduced value, and the slots of the value that they are."""
    x, y, rows = own.values[node], own.first(user), slots_of(own.values[node])
    dims = argument(user, "dim")
    at = range(len(x.dims)) if dims is None or dims == [] else dims if isinstance(dims, list | tuple) else [dims]
    gone = {d % len(x.dims) for d in at}
    return dict(enumerate(s for d, row in enumerate(rows) if d not in gone for s in row)) if y.dims else {}


@handles("amax")
def _largest(own: Invisible, user: fx.Node, node: fx.Node, place: int) -> Family:
    """The largest entry is shifted like all of them."""
    kept = remaining(own, user, node)
    rest = frozenset(every_slot(own.values[node])) - set(kept.values())
    return union(Shift(s.along | rest, s.chosen) for s in own.pull(user, node, kept))


@handles("softmax", "_softmax", "log_softmax", "_log_softmax", "_safe_softmax")
def _softmax(own: Invisible, user: fx.Node, node: fx.Node, place: int) -> Family:
    """A softmax does not see what is added to all it normalises."""
    return (Shift(dim_slots(own.values[node], argument(user, "dim"))),)


@handles("native_layer_norm")
def _layer_norm(own: Invisible, user: fx.Node, node: fx.Node, place: int) -> Family:
    """A layer norm does not see what is added to all it normalises; its shift is a term of a sum."""
    if place == 0:
        return (Shift(dim_slots(own.values[node], *range(-len(user.args[1]), 0))),)  # type: ignore[arg-type]
    return _added(own, user, node, place) if place == 3 else NONE


@handles("native_group_norm")
def _group_norm(own: Invisible, user: fx.Node, node: fx.Node, place: int) -> Family:
    """A group norm does not see what is added to a whole group at all positions."""
    x = own.first(user)
    if place == 2:
        return own.pull(user, node, {s: n for n, s in enumerate(slots_of(x)[1])})
    groups, size, outer = user.args[6], 1, 0
    for factor in factors_of(x.dims[1]):
        if size == groups:
            break
        size, outer = size * factor.size, outer + 1
    if place or size != groups:
        return NONE
    return (Shift(frozenset(slots_of(x)[1][outer:]) | dim_slots(x, *range(2, len(x.dims)))),)


@handles("_native_batch_norm_legit_no_training")
def _batch_norm(own: Invisible, user: fx.Node, node: fx.Node, place: int) -> Family:
    """A batch norm in eval mode multiplies every channel with its own factor."""
    x = own.first(user)
    channels = dim_slots(x, 1)
    if place == 0:
        return own.pull(user, node, {s: s for s in every_slot(x)}, channels)
    slots = {s: n for n, s in enumerate(sorted(channels))}
    return own.pull(user, node, slots, channels if place == 3 else ()) if place in (2, 3) else NONE


@handles("_native_batch_norm_legit")
def _batch_statistics(own: Invisible, user: fx.Node, node: fx.Node, place: int) -> Family:
    """A norm by the statistics of the batch (instance norm in eval mode) does not see what is added to a channel."""
    x = own.first(user)
    if place == 0 and any(a is True for a in user.args):
        return (Shift(dim_slots(x, *(d for d in range(len(x.dims)) if d != 1))),)
    return NONE
