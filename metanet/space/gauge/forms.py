"""Linear forms over unknown gauges, the constraints between them, and their solution.

A gauge multiplies each entry of a value by powers of unknown factors, one per neuron: ``v -> v prod_j g_j^{a_j}``.
The exponents ``a_j`` make a linear form over the unknowns ``g_j``. What operations demand ("both terms of a sum move
alike", "a sigmoid's input does not move") are linear equations between forms, so the gauges that the network allows are
the null space of one small matrix per node set: over the rationals for positive factors, over GF(2) for signs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from metanet.space.axes import Dim

Key = frozenset[Dim]
"""Atoms whose joint entries index a factor: a node set, and ordered atoms that the network takes apart later."""

Entries = frozenset[tuple[Dim, int]]
"""Entries chosen on ordered atoms (``q`` is entry 0 of ``3 x heads x head_dim``)."""


@dataclass(frozen=True)
class Unknown:
    """One unknown gauge: how a tensor moves along some of its dimensions.

    Attributes:
        tensor: Name of the tensor.
        dims: Its dimensions that the factor runs over.
        key: Atoms that index the factor.
        chosen: Entries chosen on ordered atoms of the key.
    """

    tensor: str
    dims: tuple[int, ...]
    key: Key
    chosen: Entries = frozenset()


Form = dict[Unknown, Fraction]


def combine(terms: Iterable[tuple[Form, Fraction | int]]) -> Form:
    """The linear combination of forms."""
    total: Form = {}
    for form, factor in terms:
        for unknown, coefficient in form.items():
            total[unknown] = total.get(unknown, Fraction(0)) + coefficient * factor
    return {u: c for u, c in total.items() if c}


def choose(form: Form, atom: Dim, entry: int) -> Form:
    """The form at one entry of an ordered atom."""
    return {Unknown(u.tensor, u.dims, u.key, u.chosen | {(atom, entry)}): c for u, c in form.items()}


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

    def vanish(self, form: Form) -> None:
        """Demand that a form is zero."""
        if form:
            self.equations.append(form)

    def equal(self, a: Form, b: Form) -> None:
        """Demand that two forms agree."""
        self.vanish(combine([(a, 1), (b, -1)]))

    def solve(self, ordered: Mapping[Dim, None]) -> Iterator[dict[Unknown, Fraction]]:
        """A basis of the solutions: exponents by unknown, with every ordered atom's entry chosen.

        Args:
            ordered: Ordered atoms that keys may contain.
        """
        full = [f for form in self.equations for f in _expand(form, ordered)]
        columns = list(
            dict.fromkeys(u for base in self.unknowns for f in _expand({base: Fraction(1)}, ordered) for u in f)
        )
        for members, equations in _components(columns, full):
            yield from _null_space(members, equations, self.modulus)


def _expand(form: Form, ordered: Mapping[Dim, None]) -> Iterator[Form]:
    """A form once for every combination of entries on the ordered atoms that it leaves open."""
    left = [a for a in ordered if any(a in u.key and a not in dict(u.chosen) for u in form)]
    for entries in itertools.product(*(range(a.size) for a in left)):
        expanded = form
        for atom, entry in zip(left, entries, strict=True):
            expanded = {
                (Unknown(u.tensor, u.dims, u.key, u.chosen | {(atom, entry)}) if atom in u.key else u): c
                for u, c in expanded.items()
            }
        yield expanded


def _components(columns: list[Unknown], equations: list[Form]) -> Iterator[tuple[list[Unknown], list[Form]]]:
    """Groups of unknowns that equations tie together."""
    leader = {u: u for u in columns}

    def find(u: Unknown) -> Unknown:
        while leader[u] != u:
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


def _null_space(columns: list[Unknown], equations: list[Form], modulus: int) -> Iterator[dict[Unknown, Fraction]]:
    """Basis of the solutions by Gauss-Jordan elimination; later columns are expressed by earlier ones."""
    place = {u: n for n, u in enumerate(columns)}
    rows: dict[Unknown, Form] = {}
    for form in equations:
        row = _reduced(form, modulus)
        for pivot in [u for u in row if u in rows]:
            row = _reduced(combine([(row, 1), (rows[pivot], -row[pivot])]), modulus)
        if not row:
            continue
        new = max(row, key=place.__getitem__)
        row = _reduced(combine([(row, 1 / row[new])]), modulus)
        for pivot in [u for u, other in rows.items() if new in other]:
            rows[pivot] = _reduced(combine([(rows[pivot], 1), (row, -rows[pivot][new])]), modulus)
        rows[new] = row
    for free in columns:
        if free not in rows:
            rest = {pivot: (row[free] if modulus else -row[free]) for pivot, row in rows.items() if free in row}
            yield {free: Fraction(1), **rest}


def _reduced(form: Mapping[Unknown, Fraction], modulus: int) -> Form:
    """The form over the field: coefficients modulo 2, or as they are."""
    if not modulus:
        return {u: c for u, c in form.items() if c}
    return {u: Fraction(1) for u, c in form.items() if c.numerator % modulus}
