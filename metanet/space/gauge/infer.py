"""The gauge pass: by which factors may each neuron's value be multiplied without changing the function?

It walks the traced graph a second time, after the axes are known. Every value carries, for each node set that indexes
it, the linear form of its gauge (:mod:`metanet.space.gauge.forms`); operations add equations.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from torch import fx

from metanet.space.axes import Dim, factors_of, find, leaves, pieces_of
from metanet.space.calls import bind, operation_name
from metanet.space.gauge.behaviour import POSITIVE, SIGN
from metanet.space.gauge.forms import Form, Key, System, Unknown, choose, combine
from metanet.space.walk import Value, Walk

SMALL = 8  # ordered atoms up to this size may be taken apart (the 3 of a fused qkv)
CUTS = ("slice", "narrow", "split", "split_with_sizes", "chunk", "tensor_split")
CONTRACTIONS = ("linear", "mm", "bmm", "matmul", "addmm", "baddbmm", "convolution")


@dataclass(frozen=True)
class Moved:
    """A value and how it moves.

    Attributes:
        value: Its dims.
        forms: By key, the form of its gauge; absent keys do not move.
        sides: For a view of a weight: forms by tensor dimensions, kept apart where both sides share a key.
        blank: A constant whose entries are all zero, which moves with anything.
    """

    value: Value
    forms: dict[Key, Form] = field(default_factory=dict)
    sides: dict[tuple[int, ...], dict[Key, Form]] | None = None
    blank: bool = False

    @property
    def atoms(self) -> frozenset[Dim]:
        """All atoms that index the value."""
        return frozenset(a for d in self.value.dims for a in leaves(d))


class GaugePass:
    """One pass in one algebra.

    Args:
        walk: The finished axis walk.
        nodes: The graph's nodes, in order.
        modulus: 0 for positive factors, 2 for signs.
    """

    def __init__(self, walk: Walk, nodes: Sequence[fx.Node], modulus: int) -> None:
        self.walk, self.nodes = walk, nodes
        self.system = System(modulus)
        self.table = SIGN if modulus else POSITIVE
        self.moved: dict[fx.Node, Any] = {}
        self.ordered = _taken_apart(walk, nodes)
        self.uses: dict[str, dict[tuple[tuple[int, ...], Dim], None]] = {}
        self.offsets: dict[str, float] = {}
        for draft in walk.links:
            sides = [(draft.target_dims, draft.target)]
            sides += [(draft.source_dims, draft.source)] if draft.source is not None else []
            for dims, dim in sides:
                self.uses.setdefault(draft.tensor, {})[dims, find(dim)] = None

    def run(self) -> list[dict[Unknown, Fraction]]:
        """The basis of all gauges that the network allows."""
        for node in self.nodes:
            value = self.walk.values.get(node)
            if node.op == "placeholder":
                self.moved[node] = self._placeholder(value)
            elif node.op == "output":
                for item in _flat(fx.node.map_arg(node.args, self.moved.get)):
                    self.kill(item)
            elif value is not None:
                self.moved[node] = self._call(node, value)
        return list(self.system.solve(self.ordered))

    # Demands ----------------------------------------------------------------------------------------------------------

    def kill(self, item: Moved | None) -> None:
        """A value may not move."""
        for form in item.forms.values() if item else ():
            self.system.vanish(form)

    def alike(self, items: Sequence[Moved]) -> dict[Key, Form]:
        """Values that are added must move alike wherever a key indexes them; elsewhere (broadcast) not at all."""
        items = [i for i in items if not i.blank]
        out = {}
        for key in dict.fromkeys(k for i in items for k in i.forms):
            forms = [i.forms.get(key, {}) for i in items]
            for other in forms[1:]:
                self.system.equal(forms[0], other)
            out[key] = forms[0]
        return out

    def keep(self, value: Value, forms: Mapping[Key, Form], cut: bool = False) -> Moved:
        """The forms that still index a value.

        One whose key lost an atom, or indexes two dimensions at once, may not move; but a cut takes away whole pieces,
        and what remains is free.
        """
        result = Moved(value)
        counts = Counter(a for d in value.dims for a in leaves(d))
        for key, form in forms.items():
            if all(counts[a] == 1 for a in key):
                result.forms[key] = form
            elif not (cut and all(a.frozen is None for a in key if not counts[a])):
                self.system.vanish(form)
        return result

    # Operations -------------------------------------------------------------------------------------------------------

    def _placeholder(self, value: Any) -> Any:
        if not isinstance(value, Value) or value.origin is None:
            return Moved(value) if isinstance(value, Value) else None
        sides: dict[tuple[int, ...], dict[Key, Form]] = {}
        forms: dict[Key, Form] = {}
        name = value.origin.tensor
        for dims, label in self.uses.get(name, ()):
            for key in _keys(label, self.ordered):
                unknown = Unknown(name, dims, key)
                self.system.unknowns[unknown] = None
                sides.setdefault(dims, {})[key] = forms[key] = {unknown: Fraction(1)}
        return Moved(value, forms, sides)

    def _call(self, node: fx.Node, value: Any) -> Any:
        args = fx.node.map_arg(node.args, lambda n: self.moved.get(n))
        kwargs = fx.node.map_arg(node.kwargs, lambda n: self.moved.get(n))
        if node.target is operator.getitem:
            return args[0][args[1]] if isinstance(args[0], tuple) else None
        namespace, _, name = operation_name(node).rpartition(".")
        args, _ = bind(node, args, kwargs)
        items = list(_flat((args, kwargs)))
        if name not in CONTRACTIONS and not (isinstance(value, Value) and value.origin):
            self._untangle(items)
        special: Callable[..., Any] | None = getattr(self, f"op_{name}", None) if namespace == "aten" else None
        if special is not None:
            return special(node, value, *args)
        if namespace == "aten" and name in self.table and len(items) == 1:
            return self._unary(value, items[0], self.table[name], name in CUTS)
        for item in items:
            self.kill(item)
        return _each(value, Moved)

    def _untangle(self, items: Sequence[Moved]) -> None:
        """Two sides of a weight that share a key are told apart by contractions only: elsewhere neither may move."""
        for item in items:
            sides = list((item.sides or {}).values())
            for key in {k for n, side in enumerate(sides) for k in side if any(k in s for s in sides[:n])}:
                for side in sides:
                    self.system.vanish(side.get(key, {}))

    def _unary(self, value: Any, x: Moved, degree: Fraction, cut: bool = False) -> Any:
        if isinstance(value, Value) and value.origin is not None and degree == 1:
            return Moved(value, x.forms, x.sides)
        forms = {k: combine([(f, degree)]) for k, f in x.forms.items()}
        return _each(value, lambda v: self.keep(v, forms, cut))

    def op_add(self, node: fx.Node, value: Value, x: Any, y: Any, *rest: Any) -> Moved:
        """A sum: terms move alike; a number that is added does not move."""
        items = [i if isinstance(i, Moved) else Moved(Value(()), blank=i == 0) for i in (x, y)]
        return self.keep(value, self.alike(items))

    op_sub = op_rsub = op_maximum = op_minimum = op_add

    def op_mul(self, node: fx.Node, value: Value, x: Any, y: Any, *rest: Any) -> Moved:
        """A product: factors multiply."""
        return self._product(value, x, y, Fraction(1))

    def op_div(self, node: fx.Node, value: Value, x: Any, y: Any, *rest: Any) -> Moved:
        """A quotient."""
        return self._product(value, x, y, Fraction(-1))

    def _product(self, value: Value, x: Any, y: Any, sign: Fraction) -> Moved:
        forms: dict[Key, Form] = {}
        for item, factor in ((x, Fraction(1)), (y, sign)):
            for key, form in item.forms.items() if isinstance(item, Moved) else ():
                forms[key] = combine([(forms.get(key, {}), 1), (form, factor)])
        return self.keep(value, forms)

    def op_pow(self, node: fx.Node, value: Value, x: Any, exponent: Any, *rest: Any) -> Moved:
        """A power: the degree is the exponent; for signs it is its parity."""
        if (
            not isinstance(x, Moved)
            or isinstance(exponent, Moved)
            or (self.system.modulus and exponent != int(exponent))
        ):
            for item in _flat((x, exponent)):
                self.kill(item)
            return Moved(value)
        return self._unary(value, x, Fraction(exponent).limit_denominator(1000))

    def op_clamp(self, node: fx.Node, value: Value, x: Moved, low: Any = None, high: Any = None) -> Moved:
        """``clamp(z, min=0)`` is a ReLU; one that is symmetric about zero is odd; others allow nothing."""
        relu = not self.system.modulus and (low, high) in ((0, None), (None, 0))
        odd = self.system.modulus and isinstance(low, int | float) and high == -low
        return self._unary(value, x, Fraction(1)) if relu or odd else self._killed(value, x)

    def op_clamp_min(self, node: fx.Node, value: Value, x: Moved, low: Any) -> Moved:
        """A clamp from below."""
        return self.op_clamp(node, value, x, low)

    def op_hardtanh(self, node: fx.Node, value: Value, x: Moved, low: float = -1, high: float = 1) -> Moved:
        """A clamp from both sides."""
        return self.op_clamp(node, value, x, low, high)

    def op_prelu(self, node: fx.Node, value: Value, x: Moved, slope: Moved) -> Moved:
        """Positively homogeneous in its argument; the slope does not move."""
        self.kill(slope)
        return self._killed(value, x) if self.system.modulus else self._unary(value, x, Fraction(1))

    op__prelu_kernel = op_prelu

    def op_where(self, node: fx.Node, value: Value, condition: Any, x: Any, y: Any) -> Moved:
        """A choice: both alternatives move alike, the condition does not move."""
        self.kill(condition if isinstance(condition, Moved) else None)
        return self.op_add(node, value, x, y)

    def op_cat(self, node: fx.Node, value: Value, items: Sequence[Moved], dim: int = 0) -> Moved:
        """Joined values: keys that several of them have move alike."""
        forms: dict[Key, Form] = {}
        for key in dict.fromkeys(k for i in items for k in i.forms):
            shared = [i for i in items if key <= i.atoms and not i.blank]
            forms[key] = self.alike([Moved(i.value, {key: i.forms.get(key, {})}) for i in shared]).get(key, {})
        return self.keep(value, forms)

    op_stack = op_cat

    def op_select(self, node: fx.Node, value: Value, x: Moved, dim: int, number: int) -> Moved:
        """One entry: keys with an ordered atom keep that entry's factor."""
        return self._chosen(value, x, x.value.dims[dim % len(x.value.dims)], number)

    def op_unbind(self, node: fx.Node, value: tuple[Value, ...], x: Moved, dim: int = 0) -> tuple[Moved, ...]:
        """All entries, one by one."""
        at = x.value.dims[dim % len(x.value.dims)]
        return tuple(self._chosen(v, x, at, number) for number, v in enumerate(value))

    def _chosen(self, value: Value, x: Moved, dim: Dim, number: int) -> Moved:
        atoms = list(leaves(dim))
        if len(atoms) == 1 and atoms[0] in self.ordered:
            atom = atoms[0]
            number %= atom.size
            forms = {key - {atom}: choose(form, atom, number) if atom in key else form for key, form in x.forms.items()}
            return self.keep(value, forms)
        return self.keep(value, x.forms)

    def op_full(self, node: fx.Node, value: Value, size: Any, number: Any = 0, *rest: Any) -> Moved:
        """A constant; zeros move with anything."""
        return Moved(value, blank=number == 0)

    def op_zeros(self, node: fx.Node, value: Value, *rest: Any) -> Moved:
        """Zeros."""
        return Moved(value, blank=True)

    op_zeros_like = op_new_zeros = op_zeros

    def op_constant_pad_nd(self, node: fx.Node, value: Value, x: Moved, padding: Any, number: Any = 0) -> Moved:
        """Padding with zeros moves with anything."""
        return self._unary(value, x, Fraction(1)) if not number else self._killed(value, x)

    def op_mean(self, node: fx.Node, value: Value, x: Moved, *rest: Any) -> Moved:
        """A sum over neurons may not mix factors; over positions it keeps them."""
        return self.keep(value, x.forms)

    op_sum = op_nansum = op_mean

    def op_amax(self, node: fx.Node, value: Value, x: Moved, *rest: Any) -> Moved:
        """A maximum over positions is positively homogeneous."""
        return self._killed(value, x) if self.system.modulus else self.keep(value, x.forms)

    op_amin = op_amax

    def op_linear(self, node: fx.Node, value: Value, x: Moved, weight: Moved, bias: Moved | None = None) -> Moved:
        """``x @ weight.T + bias``."""
        result = self._contract(value, x, weight, x.value.dims[-1:], (1,))
        return self.keep(value, self.alike([result, bias])) if bias else result

    def op_mm(self, node: fx.Node, value: Value, x: Moved, y: Moved) -> Moved:
        """A matrix product; either operand may be a weight."""
        if x.sides is not None and y.sides is None:
            return self._contract(value, y, x, y.value.dims[-2:-1], (len(x.value.dims) - 1,))
        return self._contract(value, x, y, x.value.dims[-1:], (len(y.value.dims) - 2,))

    op_bmm = op_matmul = op_mm

    def op_addmm(self, node: fx.Node, value: Value, bias: Moved, x: Moved, y: Moved, *rest: Any) -> Moved:
        """``bias + x @ y``."""
        return self.keep(value, self.alike([self.op_mm(node, value, x, y), bias]))

    op_baddbmm = op_addmm

    def op_convolution(
        self, node: fx.Node, value: Value, x: Moved, weight: Moved, bias: Moved | None, stride: Any, padding: Any,
        dilation: Any, transposed: bool, *rest: Any,
    ) -> Moved:  # fmt: skip
        """A convolution: zero padding moves with anything."""
        result = self._contract(value, x, weight, x.value.dims[1:2], (0 if transposed else 1,))
        return self.keep(value, self.alike([result, bias])) if bias else result

    def op_embedding(self, node: fx.Node, value: Value, weight: Moved, *rest: Any) -> Moved:
        """Rows of a table; its vocabulary does not move."""
        return self.keep(value, weight.forms)

    def op__native_batch_norm_legit_no_training(
        self, node: fx.Node, value: Any, x: Moved, weight: Moved | None, bias: Moved | None, mean: Moved, variance: Moved,
        *rest: Any,
    ) -> Any:  # fmt: skip
        """``(x - mean) / sqrt(variance + eps) * weight + bias``; the variance moves as ``variance + eps``."""
        shifted = self.alike([x, mean])
        if variance.value.origin is not None:
            self.offsets[variance.value.origin.tensor] = float(rest[-1])
        for key, form in variance.forms.items():
            if self.system.modulus:
                self.system.vanish(form)
            else:
                shifted[key] = combine([(shifted.get(key, {}), 1), (form, Fraction(-1, 2))])
        return self._affine(value, shifted, weight, bias)

    def op_native_layer_norm(
        self, node: fx.Node, value: Any, x: Moved, shape: Any, weight: Any, bias: Any, *rest: Any
    ) -> Any:
        """The argument of a norm may not move (its epsilon breaks the invariance); scale and shift may."""
        self.kill(x)
        return self._affine(value, {}, weight, bias)

    def op_native_group_norm(self, node: fx.Node, value: Any, x: Moved, weight: Any, bias: Any, *rest: Any) -> Any:
        """As layer norm."""
        self.kill(x)
        return self._affine(value, {}, weight, bias)

    def op_scaled_dot_product_attention(
        self, node: fx.Node, value: Any, q: Moved, k: Moved, v: Moved, *rest: Any
    ) -> Any:
        """Scores do not move, so queries and keys move inversely; the result moves as the values do."""
        contracted = frozenset(a for d in q.value.dims[-1:] for a in leaves(d))
        for key in dict.fromkeys((*q.forms, *k.forms)):
            self.system.vanish(combine([(q.forms.get(key, {}), 1), (k.forms.get(key, {}), 1)]))
            if not key & contracted:
                self.system.vanish(q.forms.get(key, {}))
        for item in _flat(rest):
            self.kill(item)
        first = value if isinstance(value, Value) else value[0]
        result = self.keep(first, v.forms)
        return (
            result
            if isinstance(value, Value)
            else (result, *(Moved(o) if isinstance(o, Value) else None for o in value[1:]))
        )

    def _affine(self, value: Any, forms: dict[Key, Form], weight: Moved | None, bias: Moved | None) -> Any:
        first = value if isinstance(value, Value) else value[0]
        for key, form in weight.forms.items() if weight else ():
            forms[key] = combine([(forms.get(key, {}), 1), (form, 1)])
        result = Moved(first, forms)
        result = self.keep(first, self.alike([result, bias]) if bias else forms)
        return (
            result
            if isinstance(value, Value)
            else (result, *(Moved(v) if isinstance(v, Value) else None for v in value[1:]))
        )

    def _contract(self, value: Value, x: Moved, weight: Moved, contracted: Sequence[Dim], at: tuple[int, ...]) -> Moved:
        """Sum over shared entries: what runs over them must cancel, the rest multiplies."""
        gone = frozenset(a for d in contracted for a in leaves(d))
        read, written = _split_sides(weight, at)
        forms = dict(written)
        for key in dict.fromkeys((*x.forms, *read)):
            total = combine([(x.forms.get(key, {}), 1), (read.get(key, {}), 1)])
            if key & gone:
                self.system.vanish(total)
            else:
                forms[key] = combine([(forms.get(key, {}), 1), (total, 1)])
        return self.keep(value, forms)

    def _killed(self, value: Any, *items: Moved) -> Any:
        for item in items:
            self.kill(item)
        return _each(value, Moved)


def _split_sides(weight: Moved, at: tuple[int, ...]) -> tuple[dict[Key, Form], dict[Key, Form]]:
    """Forms of a weight along the dimensions that are contracted, and along the others."""
    if weight.sides is None or weight.value.origin is None:
        return weight.forms, {}
    dims = {weight.value.origin.dims[a] for a in at}
    read: dict[Key, Form] = {}
    written: dict[Key, Form] = {}
    for side, forms in weight.sides.items():
        (read if set(side) & dims else written).update(forms)
    return read, written


def _taken_apart(walk: Walk, nodes: Sequence[fx.Node]) -> dict[Dim, None]:
    """Small ordered atoms whose entries the network selects one by one."""
    found: dict[Dim, None] = {}
    for node in nodes:
        if node.op == "call_function" and operation_name(node) in ("aten.select", "aten.unbind"):
            x = walk.values.get(node.args[0])  # type: ignore[arg-type]
            dim = node.args[1] if len(node.args) > 1 else 0
            if isinstance(x, Value) and x.dims:
                atoms = list(leaves(x.dims[int(dim) % len(x.dims)]))  # type: ignore[arg-type, call-overload]
                if len(atoms) == 1 and 1 < atoms[0].size <= SMALL:
                    found[atoms[0]] = None
    return found


def _keys(dim: Dim, ordered: Mapping[Dim, None]) -> Iterator[Key]:
    """The key of every piece of a dim that has free atoms."""
    for piece in pieces_of(dim):
        atoms = [a for f in factors_of(piece) for a in leaves(f)]
        key = frozenset(a for a in atoms if a.frozen is None or a in ordered)
        if any(a.frozen is None for a in key):
            yield key


def _flat(items: Any) -> Iterator[Moved]:
    if isinstance(items, Moved):
        yield items
    elif isinstance(items, Mapping):
        for item in items.values():
            yield from _flat(item)
    elif isinstance(items, list | tuple):
        for item in items:
            yield from _flat(item)


def _each(value: Any, make: Callable[[Value], Moved]) -> Any:
    if isinstance(value, Value):
        return make(value)
    return tuple(_each(v, make) for v in value) if isinstance(value, list | tuple) else None
