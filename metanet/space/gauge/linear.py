"""Invertible matrices: neurons that nothing but linear operations read may be mixed.

``W1 -> g W1`` and ``W2 -> W2 g^-1`` between two layers without a nonlinearity; queries and keys, values and outputs
of attention, per head; the two factors of a low-rank adapter. The pass is that of the scalings with stricter rules: of
the atoms of a key the last one, the *inner* one, is mixed by a matrix, which the others index. An operation either
leaves the inner atom as it is, treating all its entries alike, or sums over it, or lets nothing move. Every form is
one unknown exponent then: 1 for tensors that are multiplied by ``g``, -1 for those by its inverse transpose.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, fx

from metanet.space.axes import Dim, counted, leaves
from metanet.space.calls import instances, is_real, operation_name
from metanet.space.gauge.behaviour import LINEAR
from metanet.space.gauge.demands import Moved, flat, split_sides
from metanet.space.gauge.forms import Form, Key, Number, Unknown, combine
from metanet.space.gauge.infer import CONTRACTIONS, GaugePass, combinations
from metanet.space.gauges import Gauge, GaugeKind, GaugePart
from metanet.space.walk import Value, Walk

PASSING = frozenset(f"aten.{name}" for name in (
    *LINEAR, *CONTRACTIONS, "add", "sub", "rsub", "mul", "div", "where", "cat", "stack", "full", "zeros", "zeros_like",
    "new_zeros", "mean", "sum", "embedding", "scaled_dot_product_attention",
) if name not in ("tril", "triu"))  # fmt: skip
"""Operations that may leave an inner atom as it is, or sum over it."""


def infer_linear(walk: Walk, nodes: Sequence[fx.Node], names: Mapping[Dim, str]) -> tuple[Gauge, ...]:
    """All neurons that may be mixed by invertible matrices.

    Args:
        walk: The finished axis walk.
        nodes: The nodes of the graph that it walked, in order.
        names: The axis name of every atom that indexes a tensor.

    Returns:
        Gauges of kind ``"linear"`` with axes ``(*outer, inner)``: one matrix over the inner axis for every entry of the
        outer ones.
    """
    return matrices(LinearPass(walk, nodes), "linear", names)


def matrices(own: LinearPass, kind: GaugeKind, names: Mapping[Dim, str]) -> tuple[Gauge, ...]:
    """The solutions of a pass as gauges, without those that are others with fewer matrices."""
    if not own.inner:
        return ()
    wanted = {1} if own.modulus else {1, -1}
    found: dict[frozenset[tuple[Any, ...]], tuple[Key, Form]] = {}
    for solution in own.run():
        keys = {u.key.difference(dict(u.chosen)) for u in solution}
        if len(keys) == 1 and len(solution) > 1 and set(solution.values()) == wanted:
            (key,) = keys
            moved = frozenset((u.tensor, u.dims, u.chosen) for u in solution)
            if moved not in found or found[moved][0] < key:  # the same with fewer matrices
                found[moved] = key, solution
    return tuple(_gauge(own, kind, key, solution, names) for key, solution in found.values())


def _gauge(
    own: LinearPass, kind: GaugeKind, key: Key, solution: Mapping[Unknown, Number], names: Mapping[Dim, str]
) -> Gauge:
    inner = own.inner[key]
    outer = [names[atom] for atom in names if atom in key and atom is not inner]
    parts = tuple(
        GaugePart(u.tensor, u.dims, float(exponent), tuple(sorted((names[a], n) for a, n in u.chosen)))
        for u, exponent in solution.items()
    )
    return Gauge(kind, (*outer, names[inner]), parts)


class LinearPass(GaugePass):
    """The gauge pass for invertible matrices.

    Args:
        walk: The finished axis walk.
        nodes: The graph's nodes, in order.
    """

    modulus = 0
    passing = PASSING

    def __init__(self, walk: Walk, nodes: Sequence[fx.Node]) -> None:
        super().__init__(walk, nodes, self.modulus)
        self.inner: dict[Key, Dim] = {}
        for node in nodes:
            value = walk.values.get(node)
            if node.op == "placeholder" and isinstance(value, Value) and value.origin is not None:
                for dim in value.dims:
                    self._meet(dim)
        self.keys_of: dict[Dim, list[Key]] = {}  # the keys of every inner atom
        for key, atom in self.inner.items():
            self.keys_of.setdefault(atom, []).append(key)

    def _meet(self, dim: Dim) -> None:
        """Note which atom of every piece of a dim is the inner one: the last, if its entries may be mixed."""
        for atoms in combinations(dim):
            core = self._core(atoms)
            if core and core[-1].frozen is None and len(set(core)) == len(core):
                self.inner.setdefault(frozenset(core), core[-1])

    def _core(self, atoms: Sequence[Dim]) -> list[Dim]:
        return [a for a in atoms if (a.frozen is None or a in self.written) and a not in self.ordered]

    def _keys(self, dim: Dim) -> Iterator[Key]:
        """The key of every piece, and coarser ones that occur elsewhere: keys and values that several queries share."""
        found: dict[Key, None] = {}
        for atoms in combinations(dim):
            core = frozenset(listed := self._core(atoms))
            if core in self.inner and len(core) == len(listed):
                apart = frozenset(a for a in atoms if a in self.ordered)
                coarser = [k for k in self.keys_of[self.inner[core]] if k < core]
                found.update(dict.fromkeys(k | apart for k in (core, *coarser)))
        yield from found

    def mixed(self, key: Key) -> Dim:
        """The inner atom of a key."""
        return self.inner[key.difference(self.ordered)]

    def _call(self, node: fx.Node, value: Any) -> Any:
        name = operation_name(node)
        read = [n for n in node.all_input_nodes if any(True for _ in instances(n.meta.get("val"), Tensor))]
        known = all(flat(self.moved.get(n)) for n in read)
        if name == "getitem" or (name in self.passing and known and is_real(node)):
            return super()._call(node, value)
        return self.fixed(value, *flat(fx.node.map_arg((node.args, dict(node.kwargs)), self.moved.get)))

    def fixed(self, value: Any, *items: Moved) -> Any:
        """The result of an operation under which nothing may move, neither side of a weight."""
        self.untangle(items)
        return self.killed(value, *items)

    def op_mul(self, node: fx.Node, value: Value, x: Any, y: Any, *rest: Any) -> Moved:
        """A product with something that is the same along the inner atom."""
        alone = (self._unexpanded(x, node.args[0]), self._unexpanded(y, node.args[1]))
        pairs = ((x, alone[1]), (y, alone[0]))
        forms = {k: f for item, other in pairs for k, f in self._multiplied(item, other).items()}
        return self.keep(value, forms)

    def op_div(self, node: fx.Node, value: Value, x: Any, y: Any, *rest: Any) -> Moved:
        """A quotient: the divisor may not move."""
        self.kill(y if isinstance(y, Moved) else None)
        return self.keep(value, self._multiplied(x, self._unexpanded(y, node.args[1])))

    def op_where(self, node: fx.Node, value: Value, condition: Any, x: Any, y: Any) -> Moved:
        """A choice that is the same along the inner atom."""
        self.kill(condition if isinstance(condition, Moved) else None)
        for item in flat((x, y)):
            self._multiplied(item, condition)
        return self.op_add(node, value, x, y)

    def _unexpanded(self, item: Any, node: Any) -> Any:
        """What an operand was before it was expanded: along what it lacked then it does not vary."""
        while isinstance(node, fx.Node) and operation_name(node) == "aten.expand" and isinstance(node.args[0], fx.Node):
            node = node.args[0]
            if not isinstance(self.moved.get(node), Moved):
                break
            item = self.moved[node]
        return item

    def _multiplied(self, item: Any, other: Any) -> dict[Key, Any]:
        """The forms of one factor, where the other varies along no inner atom; elsewhere it may not move."""
        if not isinstance(item, Moved):
            return {}
        kept = {}
        dims = other.value.dims if isinstance(other, Moved) else ()
        varying = [-back for back in range(1, len(dims) + 1) if dims[-back].size != 1 and back <= len(item.value.dims)]
        atoms = {a for back in varying for a in leaves(item.value.dims[back])} | {a for d in dims for a in leaves(d)}
        for key, form in item.forms.items():
            if self.mixed(key) in atoms:
                self.system.vanish(form)
            else:
                kept[key] = form
        return kept

    def contract(self, value: Value, x: Moved, weight: Moved, contracted: Sequence[Dim], at: tuple[int, ...]) -> Moved:
        """Sum over shared entries: an inner atom is summed over on both sides, or it is left to the result."""
        twice = {a for a, count in counted(value.dims).items() if count > 1}
        sums = counted(contracted), counted([weight.value.dims[a] for a in at])
        every = counted(x.value.dims), counted(weight.value.dims)
        read, written = split_sides(weight, at)
        forms = {}
        for key in dict.fromkeys((*x.forms, *read, *written)):
            atom, mine = self.mixed(key), x.forms.get(key, {})
            summed = tuple(count.get(atom, 0) for count in sums)  # of the operands' dimensions that it indexes
            left = tuple(count.get(atom, 0) - n for count, n in zip(every, summed, strict=True))
            told_apart = left == (0, 0) or (left == (0, 1) and weight.sides is not None)
            if summed == (1, 1) and told_apart and not key & twice:
                self.system.vanish(combine([(mine, 1), (read.get(key, {}), 1)]))
                forms.update({key: written[key]} if key in written else {})
            elif summed == (0, 0) and sum(left) == 1 and not key & twice:
                forms[key] = combine([(mine, 1), (read.get(key, {}), 1), (written.get(key, {}), 1)])
            else:
                for form in (mine, read.get(key, {}), written.get(key, {})):
                    self.system.vanish(form)
                for side in (x.sides or {}).values():
                    self.system.vanish(side.get(key, {}))
        return self.keep(value, forms)

    def op_convolution(
        self, node: fx.Node, value: Value, x: Moved, weight: Moved, bias: Moved | None, stride: Any, padding: Any,
        dilation: Any, transposed: bool, *rest: Any,
    ) -> Moved:  # fmt: skip
        """A convolution; a transposed one in groups reads groups, which are not summed, along the summed dimension."""
        if transposed and rest[-1] != 1:
            return self.fixed(value, *flat((x, weight, bias)))
        return super().op_convolution(node, value, x, weight, bias, stride, padding, dilation, transposed, *rest)

    def op_scaled_dot_product_attention(
        self, node: fx.Node, value: Any, q: Moved, k: Moved, v: Moved, *rest: Any
    ) -> Any:
        """Inner atoms of queries and keys are those summed over; of values, those of the result."""
        for item in (q, k, v):
            counts, last = counted(item.value.dims), frozenset(leaves(item.value.dims[-1]))
            for key, form in item.forms.items():
                if self.mixed(key) not in last or any(counts.get(a) != 1 for a in key):
                    self.system.vanish(form)
        return super().op_scaled_dot_product_attention(node, value, q, k, v, *rest)
