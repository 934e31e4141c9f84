"""Elements of a symmetry group that a certificate tries: none of them is, by chance, a symmetry of a wrong claim too.

The elements that leave a function unchanged form a group. A claim is false if they do not include all of the group that
is claimed, so what is tried must generate that group:

- permutations of ``n`` entries: a cycle through all entries first, then the swap of two entries that are neighbours in
  it (together these generate all permutations), then random ones. With three entries or less all are tried;
- signs: every entry has a word of bits, one per element. Words of few entries are linearly independent over GF(2), so
  that the elements generate all signs; words of many differ, so that every two signs are alike in some elements
  and unlike in others;
- phases: as signs, plus whole periods;
- factors, angles, matrices and shifts: distinct random numbers, of which no closed subgroup has any (with probability
  one); determinants of orthogonal matrices have both signs.

Elements of different generators are drawn independently, so that what holds only if two of them move together is seen:
a subgroup holds at most half of a group, hence each random element finds that something is missing with probability 1/2
or more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from metanet.space.gauges import Gauge
from metanet.space.weight_space import WeightSpace
from metanet.symmetry.kinds import ACTIONS
from metanet.symmetry.move import Move

BINARY = ("sign", "phase")
ENUMERATED = 3  # entries up to which all permutations, or all signs, are tried


def elements(space: WeightSpace, count: int, seed: int = 0) -> list[Move]:
    """Draw elements of a space's group that move everything: every free axis and every gauge.

    Args:
        space: The space.
        count: How many elements to draw.
        seed: Seed of the draws.

    Returns:
        The elements. The first one leaves no entry of an axis where it is.
    """
    generator = torch.Generator().manual_seed(seed)
    axes = {a.name: permutations(a.size, count, generator) for a in space.free_axes if a.size > 1}
    gauges = {n: _sequence(gauge, space, count, generator) for n, gauge in enumerate(space.gauges)}
    return [
        Move(space, {name: tables[b] for name, tables in axes.items()}, {n: found[b] for n, found in gauges.items()})
        for b in range(count)
    ]


def needed(space: WeightSpace) -> int:
    """Return how many elements tell every two signs of one gauge apart."""
    sizes = [math.prod(_shape(g, space)) for g in space.gauges if g.kind in BINARY]
    return max((size.bit_length() + 1 for size in sizes), default=0)


def _shape(gauge: Gauge, space: WeightSpace) -> tuple[int, ...]:
    return tuple(space.axis[name].size for name in gauge.axes)


def _sequence(gauge: Gauge, space: WeightSpace, count: int, generator: torch.Generator) -> Sequence[Tensor]:
    """Draw the elements of one gauge."""
    drawn = _FINITE.get(gauge.kind)
    if drawn is not None:
        return drawn(_shape(gauge, space), count, generator)
    return [ACTIONS[gauge.kind].draw(gauge, space, generator) for _ in range(count)]


def permutations(size: int, count: int, generator: torch.Generator) -> list[Tensor]:
    """Draw permutations that generate all permutations of some entries; the first one moves every entry."""
    if size <= ENUMERATED:
        start = torch.arange(size)
        every = [torch.tensor(p) for p in itertools.permutations(range(size))][1:]
        every = [every[n] for n in torch.randperm(len(every), generator=generator).tolist()]
        found = sorted(every, key=lambda p: bool((p == start).any()))  # those that move every entry come first
    else:
        order = torch.randperm(size, generator=generator)
        cycle, swap = torch.empty_like(order), torch.arange(size)
        cycle[order] = order.roll(1)
        swap[order[:2]] = order[:2].flip(0)
        found = [cycle, swap]
    found += [torch.randperm(size, generator=generator) for _ in range(count - len(found))]
    return found[:count]


def tables(shape: Sequence[int], count: int, generator: torch.Generator) -> list[Tensor]:
    """Draw tables of permutations ``[*outer, inner]``, independent for every outer entry."""
    *outer, inner = shape
    rows = [torch.stack(permutations(inner, count, generator)) for _ in range(math.prod(outer))]
    rows = [rows[0], *(row[torch.randperm(count, generator=generator)] for row in rows[1:])]
    return [torch.stack([row[b] for row in rows]).reshape(*outer, inner) for b in range(count)]


def words(size: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw a word of bits for every entry, ``[size, count]``; the first bits are the most mixed.

    Up to ``count`` words are linearly independent, up to ``2 ** (count - 1) - 1`` are such that none is constant and no
    two are equal or opposite, and further ones repeat these.
    """
    found = _words(size, count, generator)
    balance = (2 * found.sum(0) - size).abs()
    return found[:, balance.argsort(stable=True)]


def _words(size: int, count: int, generator: torch.Generator) -> Tensor:
    if size <= ENUMERATED and 2**size - 1 <= count:
        every = torch.tensor(list(itertools.product((0, 1), repeat=size))[1:]).T
        rest = torch.randint(2, (size, count - every.shape[1]), generator=generator)
        return torch.cat([every[:, torch.randperm(every.shape[1], generator=generator)], rest], 1)
    if size <= count:
        while True:
            found = torch.randint(2, (size, count), generator=generator)
            if _independent(found):
                return found
    bits = min(count - 1, 40)
    if bits < 1:
        return torch.arange(size)[:, None] % 2
    known = 2**bits - 1
    if known <= 4 * size:
        numbers = torch.cat([torch.randperm(known, generator=generator) for _ in range(-(-size // known))])[:size]
    else:
        numbers = next(_distinct(known, size, generator))
    plain = (numbers[:, None] + 1 >> torch.arange(bits)) & 1
    flipped = torch.randint(2, (size, 1), generator=generator)
    found = torch.cat([torch.zeros(size, count - bits, dtype=torch.long), plain], 1) ^ flipped
    return found[:, torch.randperm(count, generator=generator)]


def _distinct(below: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Draw numbers until there are enough distinct ones."""
    while True:
        numbers = torch.randint(below, (2 * size,), generator=generator).unique()
        if len(numbers) >= size:
            yield numbers[torch.randperm(len(numbers), generator=generator)[:size]]


def _independent(rows: Tensor) -> bool:
    """Whether rows of bits are linearly independent over GF(2)."""
    basis: list[int] = []
    for row in (int("".join(map(str, bits)), 2) for bits in rows.tolist()):
        for other in basis:
            row = min(row, row ^ other)
        if not row:
            return False
        basis = sorted([*basis, row], reverse=True)
    return True


def signs(shape: Sequence[int], count: int, generator: torch.Generator) -> list[Tensor]:
    """Draw signs that generate all signs of some entries."""
    found = words(math.prod(shape), count, generator)
    return [1.0 - 2.0 * found[:, b].double().reshape(tuple(shape)) for b in range(count)]


def phases(shape: Sequence[int], count: int, generator: torch.Generator) -> list[Tensor]:
    """Draw integers from -2 to 3: parities as signs are drawn, plus whole periods."""
    found = words(math.prod(shape), count, generator)
    whole = 2 * torch.randint(-1, 2, found.shape, generator=generator)
    return [(found + whole)[:, b].double().reshape(tuple(shape)) for b in range(count)]


_FINITE: dict[str, Callable[[Sequence[int], int, torch.Generator], list[Tensor]]] = {
    "sign": signs, "phase": phases, "permutation": tables,
}  # fmt: skip
