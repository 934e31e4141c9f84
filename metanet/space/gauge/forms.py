"""Linear forms over unknown gauges, the constraints between them, and their solution.

A gauge multiplies each entry of a value by powers of unknown factors, one per neuron: ``v -> v prod_j g_j^{a_j}``.
The exponents ``a_j`` make a linear form over the unknowns ``g_j``. What operations demand ("both terms of a sum move
alike", "a sigmoid's input does not move") are linear equations between forms, so the gauges that the network allows are
the null space of one small matrix per node set: over the rationals for positive factors, over GF(2) for signs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from metanet.space.axes import Dim

Key = frozenset[Dim]
"""Atoms whose joint entries index a factor: a node set, and ordered atoms that the network takes apart later."""

Entries = frozenset[tuple[Dim, int]]
"""Entries chosen on ordered atoms (``q`` is entry 0 of ``3 x heads x head_dim``)."""


Number = int | Fraction
"""Coefficients; integers wherever they are whole, which are many times quicker."""


@dataclass(frozen=True, eq=False)
class Unknown:
    """One unknown gauge: how a tensor moves along some of its dimensions.

    There is one object for each (:meth:`System.unknown`, :meth:`at`), so that objects are compared and hashed as such.

    Attributes:
        tensor: Name of the tensor.
        dims: Its dimensions that the factor runs over.
        key: Atoms that index the factor.
        chosen: Entries chosen on ordered atoms of the key.
        family: The same with all other entries that have been chosen.
    """

    tensor: str
    dims: tuple[int, ...]
    key: Key
    chosen: Entries = frozenset()
    family: dict[Entries, Unknown] = field(default_factory=dict, repr=False)

    def at(self, atom: Dim, entry: int) -> Unknown:
        """The unknown at one entry of an ordered atom."""
        chosen = self.chosen | {(atom, entry)}
        found = self.family.get(chosen)
        if found is None:
            found = self.family[chosen] = Unknown(self.tensor, self.dims, self.key, chosen, self.family)
        return found


Form = dict[Unknown, Number]


def combine(terms: Sequence[tuple[Form, Number]]) -> Form:
    """The linear combination of forms."""
    filled = [term for term in terms if term[0]]
    if len(filled) == 1 and filled[0][1] == 1:
        return filled[0][0]
    total: Form = {}
    for form, factor in filled:
        for unknown, coefficient in form.items():
            total[unknown] = total.get(unknown, 0) + coefficient * factor
    return {u: c for u, c in total.items() if c}


def choose(form: Form, atom: Dim, entry: int) -> Form:
    """The form at one entry of an ordered atom."""
    return {u.at(atom, entry): c for u, c in form.items()}


@dataclass
class System:
    """Homogeneous linear equations between unknowns, kept apart by key.

    Attributes:
        modulus: 0 to solve over the rationals, 2 over GF(2).
        equations: Forms that must vanish.
        unknowns: Every unknown that exists, without chosen entries.
    """

    modulus: int
    equations: list[Form] = field(default_factory=list)
    unknowns: dict[Unknown, None] = field(default_factory=dict)
    _made: dict[tuple[str, tuple[int, ...], Key], Unknown] = field(default_factory=dict)

    def unknown(self, tensor: str, dims: tuple[int, ...], key: Key) -> Unknown:
        """The unknown of that description, without chosen entries."""
        found = self._made.get((tensor, dims, key))
        if found is None:
            found = self._made[tensor, dims, key] = Unknown(tensor, dims, key)
            found.family[found.chosen] = found
            self.unknowns[found] = None
        return found

    def vanish(self, form: Form) -> None:
        """Demand that a form is zero."""
        if form:
            self.equations.append(form)

    def equal(self, a: Form, b: Form) -> None:
        """Demand that two forms agree."""
        if a is not b:
            self.vanish(combine([(a, 1), (b, -1)]))

    def solve(self, ordered: Mapping[Dim, None]) -> Iterator[Form]:
        """A basis of the solutions: exponents by unknown, with every ordered atom's entry chosen.

        Args:
            ordered: Ordered atoms that keys may contain.
        """
        full = [f for form in self.equations for f in _expand(form, ordered)]
        columns = list(dict.fromkeys(u for base in self.unknowns for f in _expand({base: 1}, ordered) for u in f))
        for members, equations in _components(columns, full):
            yield from _null_space(members, equations, self.modulus)


def _expand(form: Form, ordered: Mapping[Dim, None]) -> Iterator[Form]:
    """A form once for every combination of entries on the ordered atoms that it leaves open."""
    if all(u.key.isdisjoint(ordered) for u in form):
        yield form
        return
    left = [a for a in ordered if any(a in u.key and a not in dict(u.chosen) for u in form)]
    for entries in itertools.product(*(range(a.size) for a in left)):
        expanded = form
        for atom, entry in zip(left, entries, strict=True):
            expanded = {(u.at(atom, entry) if atom in u.key else u): c for u, c in expanded.items()}
        yield expanded


def _components(columns: list[Unknown], equations: list[Form]) -> Iterator[tuple[list[Unknown], list[Form]]]:
    """Groups of unknowns that equations tie together."""
    leader = {u: u for u in columns}

    def find(u: Unknown) -> Unknown:
        while leader[u] is not u:
            leader[u] = leader[leader[u]]
            u = leader[u]
        return u

    for form in equations:
        first, *rest = form
        for other in rest:
            leader[find(other)] = find(first)
    groups: dict[Unknown, tuple[list[Unknown], list[Form]]] = {}
    for u in columns:
        groups.setdefault(find(u), ([], []))[0].append(u)
    for form in equations:
        groups[find(next(iter(form)))][1].append(form)
    yield from groups.values()


def _null_space(columns: list[Unknown], equations: list[Form], modulus: int) -> Iterator[Form]:
    """Basis of the solutions by Gauss-Jordan elimination; later columns are expressed by earlier ones."""
    place = {u: n for n, u in enumerate(columns)}
    rows: dict[Unknown, Form] = {}
    holding: dict[Unknown, set[Unknown]] = {u: set() for u in columns}  # rows that an unknown is in, by their pivots
    for form in equations:
        row: Form = {}
        _add(row, form, 1, modulus)
        for pivot in [u for u in row if u in rows]:
            _add(row, rows[pivot], -row[pivot], modulus)
        if not row:
            continue
        new = max(row, key=place.__getitem__)
        if row[new] != 1:
            row = {u: _quotient(c, row[new]) for u, c in row.items()}
        for pivot in holding[new]:
            other = rows[pivot]
            _add(other, row, -other[new], modulus)
            for u in row:
                if u is not new:
                    (holding[u].add if u in other else holding[u].discard)(pivot)
        rows[new] = row
        for u in row:
            if u is not new:
                holding[u].add(new)
    rank = {pivot: n for n, pivot in enumerate(rows)}
    for free in columns:
        if free not in rows:
            sign = 1 if modulus else -1
            pivots = sorted(holding[free], key=rank.__getitem__)
            yield {free: 1, **{pivot: sign * rows[pivot][free] for pivot in pivots}}


def _add(row: Form, other: Form, factor: Number, modulus: int) -> None:
    """Add a multiple of a form to a row over the field: coefficients modulo 2, or as they are."""
    for u, c in other.items():
        total = row.get(u, 0) + c * factor
        if modulus:
            total = total.numerator % modulus
        if total:
            row[u] = total
        else:
            row.pop(u, None)


def _quotient(a: Number, b: Number) -> Number:
    exact = Fraction(a) / b
    return exact.numerator if exact.denominator == 1 else exact
