"""The gauge pass: by which factors may each neuron's value be multiplied without changing the function?

It walks the traced graph a second time, after the axes are known. Every value carries, for each node set that indexes
it, the linear form of its gauge (:mod:`metanet.space.gauge.forms`); operations add equations.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import fx

from metanet.space.axes import Dim, find, leaves
from metanet.space.calls import argument, bind, is_real, operation_name
from metanet.space.gauge.behaviour import POSITIVE, SIGN
from metanet.space.gauge.demands import Moved, each, flat
from metanet.space.gauge.forms import Form, Key
from metanet.space.gauge.operations import Operations
from metanet.space.walk import Value, Walk

SMALL = 8  # ordered atoms up to this size may be taken apart (the 3 of a fused qkv)
CUTS = ("slice", "narrow", "split", "split_with_sizes", "chunk", "tensor_split")
SELECTIONS = ("select", "unbind", *CUTS)
CONTRACTIONS = ("linear", "mm", "bmm", "matmul", "addmm", "baddbmm", "convolution")


class GaugePass(Operations):
    """One pass in one algebra.

    Args:
        walk: The finished axis walk.
        nodes: The graph's nodes, in order.
        modulus: 0 for positive factors, 2 for signs.
    """

    def __init__(self, walk: Walk, nodes: Sequence[fx.Node], modulus: int) -> None:
        super().__init__(modulus, _taken_apart(walk, nodes))
        self.walk, self.nodes = walk, nodes
        self.table = SIGN if modulus else POSITIVE
        self.moved: dict[fx.Node, Any] = {}
        self.found: dict[Dim, tuple[Key, ...]] = {}
        self.uses: dict[str, dict[tuple[tuple[int, ...], Dim], None]] = {}
        self.written = {a for draft in walk.links for a in leaves(draft.target)}
        for draft in walk.links:
            sides = [(draft.target_dims, draft.target)]
            sides += [(draft.source_dims, draft.source)] if draft.source is not None else []
            for dims, dim in sides:
                self.uses.setdefault(draft.tensor, {})[dims, find(dim)] = None

    def run(self) -> list[Form]:
        """The basis of all gauges that the network allows."""
        for node in self.nodes:
            value = self.walk.values.get(node)
            if node.op == "placeholder":
                self.moved[node] = self._placeholder(value)
            elif node.op == "output":
                for item in flat(fx.node.map_arg(node.args, self.moved.get)):
                    self.kill(item)
            elif value is not None:
                self.moved[node] = self._call(node, value)
        return list(self.system.solve(self.ordered))

    def _placeholder(self, value: Any) -> Any:
        if not isinstance(value, Value) or value.origin is None:
            return Moved(value) if isinstance(value, Value) else None
        sides: dict[tuple[int, ...], dict[Key, Form]] = {}
        forms: dict[Key, Form] = {}
        name = value.origin.tensor
        uses = self.uses.get(name, {})
        linked = {d for dims, _ in uses for d in dims}
        rest = [((d,), dim) for d, dim in enumerate(value.dims) if d not in linked]
        own = {atom for dim in value.dims for atom in leaves(dim)}  # a label that had to be frozen may name others
        for dims, label in (*uses, *rest):
            for key in (k for k in self._keys_of(label) if k <= own):
                sides.setdefault(dims, {})[key] = forms[key] = {self.system.unknown(name, dims, key): 1}
        return Moved(value, forms, sides)

    def _call(self, node: fx.Node, value: Any) -> Any:
        args: Any = fx.node.map_arg(node.args, lambda n: self.moved.get(n))
        kwargs: Any = fx.node.map_arg(node.kwargs, lambda n: self.moved.get(n))
        if node.target is operator.getitem:
            return args[0][args[1]] if isinstance(args[0], tuple) else None
        namespace, _, name = operation_name(node).rpartition(".")
        args, _ = bind(node, args, kwargs)
        items = flat((args, kwargs))
        if not self._keeps_sides(name, value, items):
            kept = _contracted_weight(name, args) if name in CONTRACTIONS else None
            self.untangle([i for i in items if i is not kept])
            self.separate(value, items)
        special: Callable[..., Any] | None = getattr(self, f"op_{name}", None) if namespace == "aten" else None
        if special is not None:
            return special(node, value, *args)
        if namespace == "aten" and name in self.table and len(items) == 1 and is_real(node):
            return self.unary(value, items[0], self.table[name], name in CUTS)
        for item in items:
            self.kill(item)
        return each(value, Moved)

    def _keeps_sides(self, name: str, value: Any, items: Sequence[Moved]) -> bool:
        """Whether a result is a view (or an elementwise function) of one weight, whose sides stay apart."""
        view = len(items) == 1 and isinstance(value, Value) and value.origin is not None
        return view and self.table.get(name) == 1 and name not in ("select", "unbind")

    def _keys_of(self, dim: Dim) -> tuple[Key, ...]:
        """The keys of a dim, found once."""
        node = find(dim)
        if node not in self.found:
            self.found[node] = tuple(self._keys(node))
        return self.found[node]

    def _keys(self, dim: Dim) -> Iterator[Key]:
        """The key of every piece of a dim: its neurons, and what else weights write (ordered or not)."""
        for atoms in combinations(dim):
            core = [a for a in atoms if a.frozen is None or a in self.written]
            key = frozenset(core)
            if key - self.ordered.keys() and len(key) == len(core):  # a pair ``A x A`` moves by no single factor
                yield key


def _contracted_weight(name: str, args: Sequence[Any]) -> Any:
    """Return the operand of a contraction whose sides are told apart: the second, unless only the first is a weight."""
    first, second = args[1:3] if name in ("addmm", "baddbmm") else args[:2]
    return first if first.sides is not None and second.sides is None else second


def combinations(dim: Dim) -> list[tuple[Dim, ...]]:
    """The atoms of every piece of a dim, with products distributed over concatenations."""
    node = find(dim)
    if node.form == "concat":
        return list(dict.fromkeys(c for part in node.parts for c in combinations(part)))
    if node.form == "product":
        return [sum(c, ()) for c in itertools.product(*map(combinations, node.parts))]
    return [(node,) if node.size != 1 else ()]


def _taken_apart(walk: Walk, nodes: Sequence[fx.Node]) -> dict[Dim, None]:
    """Small ordered atoms whose entries the network selects one by one."""
    found: dict[Dim, None] = {}
    for node in nodes:
        if node.op == "call_function" and operation_name(node).removeprefix("aten.") in SELECTIONS:
            x = walk.values.get(node.args[0])  # type: ignore[arg-type]
            dim = argument(node, "dim", 0)
            if isinstance(x, Value) and x.dims and isinstance(dim, int):
                atom = find(x.dims[dim % len(x.dims)])
                if atom.form == "atom" and atom.frozen is not None and 1 < atom.size <= SMALL:
                    found[atom] = None
    return found
