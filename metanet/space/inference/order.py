"""The order in which layers are computed, where the file keeps it and where only the names tell it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from metanet.space.inference.layers import Layer
from metanet.space.inference.refusal import stem_and_number

MOST = 5000
Order = tuple[Layer, ...]


def is_lost(names: Sequence[str], layers: Sequence[Layer]) -> bool:
    """Whether the order of a file means nothing: its names are sorted as text, or its numbered layers are mixed up."""
    if list(names) == sorted(names) and len(names) > 1:
        return True
    last: dict[tuple[tuple[str, ...], str], int] = {}
    for layer in layers:
        for depth, component in enumerate(layer.components):
            stem, number = stem_and_number(component)
            family = (layer.components[:depth], stem)
            if number < last.get(family, 0):
                return True
            last[family] = number
    return False


def orders(layers: Sequence[Layer]) -> Iterator[Order]:
    """Every order of layers that their names allow, the most usual first, each once.

    Siblings of one name are in the order of their numbers. Vectors (norms) follow the weight of their number. Siblings
    of unlike names may come in any order, one after the other or interleaved by number.
    """
    seen: set[tuple[str, ...]] = set()
    for order in itertools.islice(_orders(list(layers), 0), MOST):
        key = tuple(layer.path for layer in order)
        if key not in seen:
            seen.add(key)
            yield order


def _orders(layers: list[Layer], depth: int) -> Iterator[Order]:
    children: dict[str, list[Layer]] = {}
    for layer in layers:
        children.setdefault(layer.components[depth] if len(layer.components) > depth else "", []).append(layer)
    families: dict[str, list[tuple[int, str]]] = {}
    for child in children:
        stem, number = stem_and_number(child)
        families.setdefault(stem, []).append((number, child))
    for arrangement in _arrangements({stem: sorted(family) for stem, family in families.items()}, children):
        parts = [
            _orders(children[child], depth + 1) if _deeper(children[child], depth) else iter([tuple(children[child])])
            for child in arrangement
        ]
        for combination in itertools.product(*(list(itertools.islice(part, 50)) for part in parts)):
            yield tuple(layer for part in combination for layer in part)


def _deeper(layers: Sequence[Layer], depth: int) -> bool:
    return len(layers) > 1 and any(len(layer.components) > depth + 1 for layer in layers)


def _arrangements(families: dict[str, list[tuple[int, str]]], children: dict[str, list[Layer]]) -> Iterator[list[str]]:
    """Orders of sibling names."""
    norms = {
        stem for stem, family in families.items()
        if all(layer.kind not in ("linear", "convolution") for _, child in family for layer in children[child])
    }  # fmt: skip
    weights = [stem for stem in families if stem not in norms]
    if not weights:
        weights, norms = list(families), set()
    hosts = [
        [host for host in weights if {n for n, _ in families[stem]} <= {n for n, _ in families[host]}] or [""]
        for stem in sorted(norms)
    ]
    for choice in itertools.product(*hosts):
        guests = {stem: host for stem, host in zip(sorted(norms), choice, strict=True) if host}
        free = [stem for stem in (*weights, *norms) if stem not in guests]
        for permutation in itertools.permutations(free):
            for interleaved in (False, True):
                yield _arranged(families, guests, permutation, interleaved)


def _arranged(
    families: dict[str, list[tuple[int, str]]], guests: dict[str, str], permutation: Sequence[str], interleaved: bool
) -> list[str]:
    rows = [(number, rank, child, stem) for rank, stem in enumerate(permutation) for number, child in families[stem]]
    rows.sort(key=lambda row: (row[0], row[1]) if interleaved else (row[1], row[0]))
    arranged = []
    for number, _, child, stem in rows:
        arranged.append(child)
        for guest, host in guests.items():
            if host == stem:
                arranged.extend(name for n, name in families[guest] if n == number)
    return arranged
