"""Shifts of a bias that other biases take back: what is added passes linear operations until one can subtract it.

The pass goes forwards from a parameter: whatever is added to it reaches the values behind as a vector over some of
their dimensions, the same everywhere else. A weighted mean (attention) leaves it as it is, a linear layer turns ``t``
into ``W t``, which its own bias takes back; a batch norm's mean takes it back as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import fx

from metanet.space.axes import Dim, counted, factors_of, leaves
from metanet.space.calls import argument, is_real, operation_name
from metanet.space.gauge.invisible import Invisible, alike, dim_slots, paired, places_of
from metanet.space.gauge.passing import broadcast, remaining, reordered
from metanet.space.gauge.passing_weights import ENTRIES
from metanet.space.gauge.slots import slot_dims
from metanet.space.gauges import GaugePart
from metanet.space.walk import Value

DEEP = 40  # operations that a shift is followed through
SAME = ("clone", "alias", "contiguous", "detach", "_to_copy", "to", "dropout", "lift_fresh", "lift_fresh_copy")
REGROUPED = (
    "view",
    "reshape",
    "_unsafe_view",
    "flatten",
    "view_copy",
    "unflatten",
    "_reshape_alias",
    "unsqueeze",
    "squeeze",
)


@dataclass(frozen=True)
class Added:
    """What a shift has added to a value.

    Attributes:
        slots: The slots of the value that it runs over; it is constant along the others.
        factor: What it has been multiplied with.
        chosen: ``(slot, entry)``: it is zero at the other entries.
        depth: Operations passed.
    """

    slots: frozenset[int]
    factor: float = 1.0
    chosen: frozenset[tuple[int, int]] = frozenset()
    depth: int = 0

    def moved(self, slots: Mapping[int, int], factor: float = 1.0) -> Added:
        """The same, in the slots of a result, given which of its slots is which of the value's."""
        back = {t: s for s, t in slots.items()}
        chosen = frozenset((back[s], n) for s, n in self.chosen)
        return Added(frozenset(back[s] for s in self.slots), self.factor * factor, chosen, self.depth + 1)

    def kept(self, slots: Mapping[int, int]) -> bool:
        """Whether all that it runs over is there in a result."""
        return self.slots <= set(slots.values()) and {s for s, _ in self.chosen} <= set(slots.values())


def absorbed(own: Invisible, parameter: fx.Node) -> Iterator[tuple[frozenset[tuple[int, int]], tuple[GaugePart, ...]]]:
    """What takes back a shift of a parameter, for the whole of it and for entries of it that the network takes apart.

    Yields:
        The entries that are shifted, as ``(slot, entry)``, and the parts that take it back.
    """
    value = own.values[parameter]
    every = frozenset(range(len(slot_dims(value))))
    parts = _taken_back(own, parameter, Added(every))
    if parts is not None:
        if parts:
            yield frozenset(), tuple(parts)
        return
    for slot, dim in enumerate(slot_dims(value)):
        if dim.form == "atom" and dim.frozen is not None and dim.size <= ENTRIES:
            for entry in range(dim.size):
                chosen = frozenset([(slot, entry)])
                parts = _taken_back(own, parameter, Added(every - {slot}, chosen=chosen))
                if parts:
                    yield chosen, tuple(parts)


def _taken_back(own: Invisible, node: fx.Node, added: Added) -> list[GaugePart] | None:
    """The parts that take back what was added to a value; None if some reader sees it."""
    if any(not s.along & (added.slots | {c for c, _ in added.chosen}) and s.chosen <= added.chosen
           for s in own.families[node]):  # fmt: skip
        return []
    parts: list[GaugePart] = []
    for user in node.users:
        found = None if added.depth > DEEP or user.op == "output" else _by(own, user, node, added)
        if found is None:
            return None
        parts.extend(found)
    return parts


def _by(own: Invisible, user: fx.Node, node: fx.Node, added: Added) -> list[GaugePart] | None:
    """What takes back a shift of one operand of an operation."""
    name = operation_name(user).removeprefix("aten.")
    places = places_of(user, node)
    if own.values.get(user) is None or not is_real(user) or user.name in own.distrusted or len(places) != 1:
        return None
    if name in ("select", "unbind"):
        return _selected(own, user, node, added)
    if places[0] == 0 and name in ("linear", "convolution", "_native_batch_norm_legit_no_training"):
        return _subtracted(own, user, node, added, name)
    if places[0] == 1 and name == "addmm":
        return _subtracted(own, user, node, added, name)
    step = _linear(own, user, node, places[0], name)
    if step is None or not added.kept(step[0]) or not _matches(own, user, node, step[0]):
        return None
    results = [user] if isinstance(own.values[user], Value) else [u for u in user.users if u.args[1] == 0]
    if not isinstance(own.values[user], Value) and len(results) != len(user.users):
        return None
    parts: list[GaugePart] = []
    for result in results:
        found = _taken_back(own, result, added.moved(*step))
        if found is None:
            return None
        parts.extend(found)
    return parts


def _matches(own: Invisible, user: fx.Node, node: fx.Node, slots: Mapping[int, int]) -> bool:
    y, x = slot_dims(own.first(user)), slot_dims(own.values[node])
    return all(s < len(y) and t < len(x) and y[s] is x[t] for s, t in slots.items())


def _linear(own: Invisible, user: fx.Node, node: fx.Node, place: int, name: str) -> tuple[dict[int, int], float] | None:
    """Slots of a result by those of an operand, and the factor, where what is added passes as it is."""
    x, y = own.values[node], own.first(user)
    same = {s: s for s in range(len(slot_dims(x)))}
    if name in SAME:
        return same, 1.0
    if name in REGROUPED:
        return (same, 1.0) if len(slot_dims(y)) == len(same) else None
    if name == "neg":
        return same, -1.0
    if name in ("permute", "transpose", "t", "swapaxes"):
        return reordered(x, user), 1.0
    if name == "mean":
        return remaining(own, user, node), 1.0
    if name in ("add", "sub", "expand") and argument(user, "alpha", 1) == 1:
        pairs = broadcast(own, user, node)
        return None if pairs is None else (pairs, -1.0 if name == "sub" and place == 1 else 1.0)
    if name in ("mul", "div") and place == 0 and isinstance(user.args[1], int | float) and user.args[1]:
        number = float(user.args[1])
        return same, number if name == "mul" else 1 / number
    return _term(own, user, node, place, name)


def _term(own: Invisible, user: fx.Node, node: fx.Node, place: int, name: str) -> tuple[dict[int, int], float] | None:
    """As :func:`_linear`, for the biases of layers and for the values of attention."""
    x, y = own.values[node], own.first(user)
    if name == "linear" and place == 2:
        dims = {-1: 0}
    elif (name == "addmm" and place == 0) or (name == "native_layer_norm" and place == 3):
        dims = {-back: -back for back in range(1, len(x.dims) + 1)}
    elif (name == "convolution" and place == 2) or (
        name in ("native_group_norm", "_native_batch_norm_legit_no_training") and place == 2
    ):
        dims = {1: 0}
    elif (name == "scaled_dot_product_attention" and place == 2 and _sums_to_one(user)) or (
        name in ("bmm", "matmul") and place == 1 and _is_softmax(user.args[0])
    ):
        dims = {-1: -1, **{-back: -back for back in range(3, len(x.dims) + 1)}}
    else:
        return None
    return (paired(y, x, dims), 1.0) if alike(y, x, dims) else None


def _sums_to_one(user: fx.Node) -> bool:
    """Whether each query's weights sum to one: a mask of truth values may leave a query without keys."""
    mask = argument(user, "attn_mask")
    return not isinstance(mask, fx.Node) or mask.meta["val"].dtype != torch.bool


def _is_softmax(node: object) -> bool:
    """Whether a value is a softmax over its last dimension, possibly reshaped before it."""
    while isinstance(node, fx.Node) and node.op == "call_function":
        name, val = operation_name(node).removeprefix("aten."), node.meta["val"]
        if name in ("softmax", "_softmax"):
            return argument(node, "dim") in (-1, val.ndim - 1)
        before = node.args[0]
        regrouped = name in (*SAME, *REGROUPED, "expand") and isinstance(before, fx.Node)
        if not regrouped or before.meta["val"].shape[-1:] != val.shape[-1:]:  # type: ignore[union-attr]
            return False
        node = before
    return False


def _selected(own: Invisible, user: fx.Node, node: fx.Node, added: Added) -> list[GaugePart] | None:
    """Entries of a dimension: those that are not shifted see nothing."""
    x = own.values[node]
    at = argument(user, "dim", 0) % len(x.dims)
    here = dim_slots(x, at)
    entries = dict(added.chosen)
    if here & added.slots or len(here) > 1:
        return None
    only = next((entries[s] for s in here if s in entries), None)
    single = isinstance(own.values[user], Value)
    results = [(user, argument(user, "index", 0))] if single else [(u, u.args[1]) for u in user.users]
    dims = {d - (d > at): d for d in range(len(x.dims)) if d != at}
    parts: list[GaugePart] = []
    for result, number in results:
        if only is not None and number % x.dims[at].size != only:
            continue
        y = own.values[result]
        slots = paired(y, x, dims)
        left = replace(added, chosen=frozenset((s, n) for s, n in added.chosen if s not in here))
        if not alike(y, x, dims) or not left.kept(slots):
            return None
        found = _taken_back(own, result, left.moved(slots))
        if found is None:
            return None
        parts.extend(found)
    return parts


def _subtracted(own: Invisible, user: fx.Node, node: fx.Node, added: Added, name: str) -> list[GaugePart] | None:
    """The parameter that takes a shift back behind a layer: its bias, or a batch norm's mean."""
    x = own.values[node]
    if added.chosen or any(argument(user, s, 1) != 1 for s in ("alpha", "beta")):
        return None
    if name.startswith("_native_batch_norm"):
        mean = _alone(own, user.args[3])
        same = mean is not None and added.slots <= dim_slots(x, 1) and alike(x, mean, {1: 0})
        return [GaugePart(_name(mean), (0,), 0.0, shift=added.factor)] if same and mean is not None else None
    weight, bias = (argument(user, n) for n in (("mat2", "self") if name == "addmm" else ("weight", "bias")))
    target = _alone(own, _added_next(user) if name == "linear" and bias is None else bias)
    source = own.values.get(weight) if isinstance(weight, fx.Node) else None
    read = _read_dim(source, 0 if name == "addmm" else 1)
    if name == "convolution" and (argument(user, "transposed") or any(argument(user, "padding"))):
        return None  # zeros at the border are not shifted
    channels = 1 if name == "convolution" else -1
    if target is None or read is None or source is None or not added.slots <= dim_slots(x, channels):
        return None
    if factors_of(x.dims[channels]) != _read_factors(source, 0 if name == "addmm" else 1, argument(user, "groups", 1)):
        return None  # the labels could not be matched, so the weight does not say which entries it reads
    moved, counts = [slot_dims(x)[s] for s in added.slots], counted(source.dims[0 if name == "addmm" else 1 :][:1])
    if any(counts.get(atom, 0) > 1 for dim in moved for atom in leaves(dim)):
        return None  # of pairs ``A x A`` that it reads, the shift runs over one of both
    return [GaugePart(_name(target), (read,), 0.0, shift=-added.factor, through=_name(source))]


def _added_next(product: fx.Node) -> object:
    """What the only reader of a product adds to it: the bias, in ONNX files."""
    readers = list(product.users)
    if len(readers) != 1 or operation_name(readers[0]) != "aten.add" or argument(readers[0], "alpha", 1) != 1:
        return None
    others = [a for a in readers[0].args[:2] if a is not product]
    vectors = [a for a in others if isinstance(a, fx.Node) and a.meta["val"].shape == product.meta["val"].shape[-1:]]
    return vectors[0] if vectors else None


def _read_factors(weight: Value, dim: int, groups: int) -> list[Dim]:
    """The factors of the neurons that a weight reads: in a grouped convolution the groups stand in what it writes."""
    outer, size = [], 1
    for factor in factors_of(weight.dims[0]) if groups > 1 else ():
        if size < groups:
            outer.append(factor)
            size *= factor.size
    return [*outer, *factors_of(weight.dims[dim])] if size == groups else []


def _read_dim(weight: Value | None, dim: int) -> int | None:
    """The dimension of a tensor that an operand's dimension is; None unless the operand is the tensor or transposed."""
    if weight is None or weight.origin is None or None in weight.origin.dims:
        return None
    order = weight.origin.dims
    return order[dim] if order in (tuple(range(len(order))), (1, 0)) else None


def _name(value: Value | None) -> str:
    return value.origin.tensor if value is not None and value.origin is not None else ""


def _alone(own: Invisible, node: object) -> Value | None:
    """A whole parameter that nothing else reads."""
    value = own.values.get(node) if isinstance(node, fx.Node) else None
    whole = isinstance(value, Value) and value.origin is not None
    return value if whole and isinstance(node, fx.Node) and node.op == "placeholder" and len(node.users) == 1 else None
