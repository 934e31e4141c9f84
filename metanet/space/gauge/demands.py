"""What operations demand of gauges: values that do not move, values that move alike, factors that cancel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from metanet.space.axes import Dim, counted, find, leaves
from metanet.space.calls import instances
from metanet.space.gauge.forms import Form, Key, Number, System, choose, combine
from metanet.space.walk import Value

NUMBERS = frozenset((int, float, bool, type(None)))


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


class Demands:
    """The equations gathered so far, and the ways to add to them.

    Args:
        modulus: 0 for positive factors, 2 for signs.
        ordered: Ordered atoms that keys may contain, because the network selects their entries.
    """

    def __init__(self, modulus: int, ordered: Mapping[Dim, None]) -> None:
        self.system, self.ordered = System(modulus), ordered
        self.offsets: dict[str, float] = {}

    def kill(self, item: Moved | None) -> None:
        """A value may not move, nor any side of a weight."""
        for forms in (item.forms, *(item.sides or {}).values()) if item else ():
            for form in forms.values():
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
        counts = counted(value.dims) if forms else {}
        for key, form in forms.items():
            if all(counts.get(a) == 1 for a in key):
                result.forms[key] = form
            elif not (cut and all(a.frozen is None for a in key if a not in counts)):
                self.system.vanish(form)
        return result

    def untangle(self, items: Sequence[Moved]) -> None:
        """Two sides of a weight that share a key are told apart by contractions only: elsewhere neither may move.

        The same holds for every key with an atom that stands in two dimensions of the weight.
        """
        for item in items:
            if not item.sides or len(item.sides) == 1:
                continue
            sides = list(item.sides.values())
            for key in {k for n, side in enumerate(sides) for k in side if any(k in s for s in sides[:n])}:
                for side in sides:
                    self.system.vanish(side.get(key, {}))
            self._fix(item, item.value.repeated)

    def separate(self, value: Any, items: Sequence[Moved]) -> None:
        """Where an atom stands in two dimensions of a result, no operand may move by it.

        The entry ``(i, j)`` of ``z_i z_j``, ``z_i / z_j`` or ``z_i - z_j`` moves by the factors of ``i`` and of ``j``,
        which one form per key cannot say: the forms of both operands would be added up as if ``i`` were ``j``, and
        cancel where the factors do not (``g_i g_j`` is 1 for signs only if ``i = j``).
        """
        for result in instances(value, Value):
            if result.repeated:
                for item in items:
                    self._fix(item, result.repeated)

    def _fix(self, item: Moved, atoms: Set[Dim]) -> None:
        """A value may not move by keys that have one of these atoms."""
        for forms in (item.forms, *(item.sides or {}).values()) if atoms else ():
            for key, form in forms.items():
                if not atoms.isdisjoint(key):
                    self.system.vanish(form)

    def unary(self, value: Any, x: Moved, degree: Number, cut: bool = False) -> Any:
        """The result of a function of one argument with ``f(c z) = c^degree f(z)``; a cut takes away pieces."""
        if isinstance(value, Value) and value.origin is not None and degree == 1:
            return Moved(value, x.forms, x.sides)
        forms = {k: combine([(f, degree)]) for k, f in x.forms.items()}
        return each(value, lambda v: self.keep(v, forms, cut))

    def product(self, value: Value, x: Any, y: Any, sign: Number) -> Moved:
        """The result of ``x * y^sign``."""
        forms: dict[Key, Form] = {}
        for item, factor in ((x, 1), (y, sign)):
            for key, form in item.forms.items() if isinstance(item, Moved) else ():
                forms[key] = combine([(forms.get(key, {}), 1), (form, factor)])
        return self.keep(value, forms)

    def chosen(self, value: Value, x: Moved, dim: Dim, number: int) -> Moved:
        """One entry of a dimension: keys with an ordered atom keep that entry's factor."""
        atom = find(dim)
        if atom in self.ordered:
            number %= atom.size
            self.untangle([x])
            forms = {key - {atom}: choose(form, atom, number) if atom in key else form for key, form in x.forms.items()}
            return self.keep(value, forms)
        return self.keep(value, x.forms)

    def affine(self, value: Any, forms: dict[Key, Form], weight: Moved | None, bias: Moved | None) -> Any:
        """The result of ``normalised * weight + bias``, where the forms are those of the normalised value."""
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

    def contract(self, value: Value, x: Moved, weight: Moved, contracted: Sequence[Dim], at: tuple[int, ...]) -> Moved:
        """Sum over shared entries: what runs over them must cancel, the rest multiplies.

        Where one node set indexes both sides of the result (scores between channels) neither operand may move by it.
        """
        gone = frozenset(a for d in contracted for a in leaves(d))
        twice = frozenset(a for a, count in counted(value.dims).items() if count > 1)
        read, written = split_sides(weight, at)
        forms = dict(written)
        for key in dict.fromkeys((*x.forms, *read)):
            if key & twice and not key & gone:
                self.system.vanish(x.forms.get(key, {}))
                self.system.vanish(read.get(key, {}))
                continue
            total = combine([(x.forms.get(key, {}), 1), (read.get(key, {}), 1)])
            if key & gone:
                self.system.vanish(total)
            else:
                forms[key] = combine([(forms.get(key, {}), 1), (total, 1)])
        return self.keep(value, forms)

    def killed(self, value: Any, *items: Moved) -> Any:
        """The result of an operation under which its arguments may not move."""
        for item in items:
            self.kill(item)
        return each(value, Moved)


def split_sides(weight: Moved, at: tuple[int, ...]) -> tuple[dict[Key, Form], dict[Key, Form]]:
    """Forms of a weight along the dimensions that are contracted, and along the others."""
    if weight.sides is None or weight.value.origin is None:
        return weight.forms, {}
    dims = {weight.value.origin.dims[a] for a in at}
    read: dict[Key, Form] = {}
    written: dict[Key, Form] = {}
    for side, forms in weight.sides.items():
        (read if set(side) & dims else written).update(forms)
    return read, written


def flat(items: Any) -> list[Moved]:
    """All moved values within nested arguments."""
    found: list[Moved] = []
    _flatten((items,), found)
    return found


def _flatten(items: Iterable[Any], found: list[Moved]) -> None:
    for item in items:
        kind = type(item)
        if kind is Moved:
            found.append(item)
        elif kind in NUMBERS:  # most arguments are
            continue
        elif isinstance(item, list | tuple):
            _flatten(item, found)
        elif isinstance(item, dict):
            _flatten(item.values(), found)


def each(value: Any, make: Callable[[Value], Moved]) -> Any:
    """Make one thing per value of a (nested) result."""
    if isinstance(value, Value):
        return make(value)
    return tuple(each(v, make) for v in value) if isinstance(value, list | tuple) else None
