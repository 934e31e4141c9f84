"""What of a shift matrix products, convolutions, selections and attention let pass (:mod:`.invisible`)."""

from __future__ import annotations

from torch import fx

from metanet.space.calls import argument, operation_name
from metanet.space.gauge.invisible import Invisible, alike, dim_slots, every_slot, handles, paired
from metanet.space.gauge.slots import ANY, NONE, Family, Shift, meet, pulled, slots_of, union
from metanet.space.walk import Value

ENTRIES = 8  # dimensions up to this size may be shifted entry by entry (the 3 of a fused qkv)


@handles("linear")
def _linear(own: Invisible, user: fx.Node, node: fx.Node, place: int) -> Family:
    """``x @ weight.T + bias``: data mixes features, a weight is multiplied by data that varies elsewhere."""
    y, x = own.first(user), own.values[node]
    if place == 0:
        dims = {d: d for d in range(len(y.dims) - 1)}
        return own.pull(user, node, paired(y, x, dims), dim_slots(y, -1)) if alike(y, x, dims) else NONE
    rest = frozenset(every_slot(y)) - dim_slots(y, -1)
    return own.pull(user, node, paired(y, x, {-1: 0}), rest if place == 1 else ()) if alike(y, x, {-1: 0}) else NONE


@handles("mm", "bmm", "matmul", "addmm")
def _product(own: Invisible, user: fx.Node, node: fx.Node, place: int) -> Family:
    """A matrix product: rows of the left and columns of the right stay, what the other has varies."""
    y, x = own.first(user), own.values[node]
    if operation_name(user) == "aten.addmm":
        place -= 1
        if place < 0:
            dims = {-back: -back for back in range(1, len(x.dims) + 1)}
            return own.pull(user, node, paired(y, x, dims)) if alike(y, x, dims) else NONE
    operands = [n for n in user.args if isinstance(n, fx.Node)][-2:]
    other = own.values.get(operands[1 - place])
    if not isinstance(other, Value) or len(x.dims) < 2 or len(other.dims) < 2:
        return NONE
    kept = -2 if place == 0 else -1
    dims = {kept: kept, **{-back: -back for back in range(3, len(x.dims) + 1)}}
    taken = dim_slots(y, -3 - kept, *(-b for b in range(3, len(other.dims) + 1) if other.dims[-b].size != 1))
    return own.pull(user, node, paired(y, x, dims), taken) if alike(y, x, dims) else NONE


@handles("convolution")
def _convolution(own: Invisible, user: fx.Node, node: fx.Node, place: int) -> Family:
    """A convolution: the bias, and the weight, whose data varies over positions."""
    y, x = own.first(user), own.values[node]
    apart = place == 1 and (argument(user, "transposed") or argument(user, "groups") != 1)  # groups read other data
    if place == 0 or apart or not alike(y, x, {1: 0}):
        return NONE
    rest = frozenset(every_slot(y)) - dim_slots(y, 1)
    return own.pull(user, node, paired(y, x, {1: 0}), rest if place == 1 else ())


@handles("scaled_dot_product_attention")
def _attention(own: Invisible, user: fx.Node, node: fx.Node, place: int) -> Family:
    """What is added to all keys, or to all scores of a query, moves no weight of the softmax."""
    x = own.values[node]
    if place == 1:
        return (Shift(dim_slots(x, -2)),)
    return (Shift(dim_slots(x, -1)),) if place == 3 and node.meta["val"].is_floating_point() else NONE


@handles("embedding")
def _embedding(own: Invisible, user: fx.Node, node: fx.Node, place: int) -> Family:
    """Rows of a table: what is constant over all rows is constant wherever they are read."""
    if place:
        return NONE
    y, x = own.first(user), own.values[node]
    rows, columns = slots_of(y), slots_of(x)
    read = {s: columns[0] for row in rows[:-1] for s in row}
    return _picked(own, user, {**read, **{s: [t] for s, t in paired(y, x, {-1: 1}).items()}}, read)


@handles("index", "_unsafe_index")
def _index(own: Invisible, user: fx.Node, node: fx.Node, place: int) -> Family:
    """Entries by number: what is constant over all entries is constant wherever they are read."""
    indices = user.args[1]
    if place or not isinstance(indices, list | tuple):
        return NONE
    y, x = own.first(user), own.values[node]
    used = [d for d, number in enumerate(indices) if number is not None]
    kept = [d for d in range(len(x.dims)) if d not in used]
    width = len(y.dims) - len(kept)
    first = used[0] if used == list(range(used[0], used[-1] + 1)) else 0
    rows, columns = slots_of(y), slots_of(x)
    places = [d for d in range(len(y.dims)) if not first <= d < first + width]
    slots = {s: [t] for s, t in paired(y, x, dict(zip(places, kept, strict=True))).items()}
    read = {s: [t for d in used for t in columns[d]] for row in rows[first : first + width] for s in row}
    return _picked(own, user, {**slots, **read}, read) if alike(y, x, dict(zip(places, kept, strict=True))) else NONE


@handles("slice", "split", "split_with_sizes", "chunk", "narrow")
def _part(own: Invisible, user: fx.Node, node: fx.Node, place: int) -> Family:
    """A part of a dimension: what is constant over the whole dimension is constant over the part."""
    x, at = own.values[node], argument(user, "dim", 0)
    if isinstance(own.values[user], Value):
        return _narrowed(own, user, x, at)
    family = ANY
    for reader in user.users:
        family = meet(family, _narrowed(own, reader, x, at))
    return family


def _narrowed(own: Invisible, result: fx.Node, x: Value, at: int) -> Family:
    y = own.values[result]
    at %= len(x.dims)
    rows, columns = slots_of(y), slots_of(x)
    dims = {d: d for d in range(len(x.dims)) if d != at}
    slots = {s: [t] for s, t in paired(y, x, dims).items()}
    read = dict.fromkeys(rows[at], columns[at])
    return _picked(own, result, {**slots, **read}, read) if alike(y, x, dims) else NONE


@handles("select", "unbind")
def _entries(own: Invisible, user: fx.Node, node: fx.Node, place: int) -> Family:
    """Single entries of a dimension: each may be shifted by what its reader does not see."""
    x = own.values[node]
    at = argument(user, "dim", 0) % len(x.dims)
    size, slots = x.dims[at].size, dim_slots(x, at)
    if isinstance(own.values[user], Value):
        number = argument(user, "index", 0) % size
        passed = {number: _without(own, user, x, at)}
    else:
        passed = dict.fromkeys(range(size), ANY)
        for reader in user.users:
            number = int(str(reader.args[1]))
            passed[number] = meet(passed[number], _without(own, reader, x, at))
    if len(slots) != 1 or size > ENTRIES:
        family = ANY
        for entry in passed.values():
            family = meet(family, entry)
        return family
    (slot,) = slots
    each = [(n, s) for n in range(size) for s in passed.get(n, ANY)]
    return union(Shift(s.along, s.chosen | {(slot, n)}) for n, s in each)


def _without(own: Invisible, result: fx.Node, x: Value, at: int) -> Family:
    """What a value may be shifted by where one entry of a dimension is read."""
    y = own.values[result]
    dims = {d - (d > at): d for d in range(len(x.dims)) if d != at}
    slots = {s: [t] for s, t in paired(y, x, dims).items()}
    return pulled(own.result(result), slots) if alike(y, x, dims) else NONE


@handles("cat", "concat")
def _joined(own: Invisible, user: fx.Node, node: fx.Node, place: int) -> Family:
    """A concatenation: nothing that is constant along the dimension joined, for the others are not shifted."""
    y, x = own.first(user), own.values[node]
    at = argument(user, "dim", 0) % len(y.dims)
    dims = {d: d for d in range(len(x.dims)) if d != at}
    if len(x.dims) != len(y.dims) or not alike(y, x, dims):
        return NONE
    return own.pull(user, node, paired(y, x, dims), dim_slots(y, at))


def _picked(own: Invisible, user: fx.Node, slots: dict[int, list[int]], blurred: dict[int, list[int]]) -> Family:
    return pulled(own.result(user), slots, (), blurred)
