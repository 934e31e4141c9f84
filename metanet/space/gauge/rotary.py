"""Queries and keys under rotary positions: a complex number per head and frequency.

Rotary positions multiply pairs of entries by ``exp(i position frequency)`` (Su et al. 2021, arXiv 2104.09864). Pairs of
queries may then be multiplied by any complex number ``z``, those of keys by ``1 / conj(z)``: the group is
``(C*)^(d/2)`` per head. Norms of whole heads leave the numbers of modulus one, norms with scales none but signs.

Which pairs turn together no single operation tells, so candidates are tried (:mod:`.products`): halves of a head and
neighbouring entries, over all of its width or over a part that the network cuts off. A claim is made if the products of
queries and keys stay at all positions, and whatever else reads the layers stays too, while a reflection of every pair
changes them (else any matrix would do, which is claimed elsewhere).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from metanet.space.axes import Dim, leaves
from metanet.space.calls import argument, operation_name
from metanet.space.gauge.grouped import grouped
from metanet.space.gauge.heads import Rows, batch_factors, entries, weight_rows
from metanet.space.gauge.infer import combinations
from metanet.space.gauge.products import Act, Products
from metanet.space.gauge.scores import PRODUCTS, Scores, find_scores
from metanet.space.gauge.trial import Trial
from metanet.space.gauges import Gauge, GaugePart, Pairs
from metanet.space.walk import Walk

Choice = tuple[int, int, int, int]
"""Pairs within a head, as :meth:`Rows.pairs` takes them: the first entry, how many, their step, how far apart."""


def infer_rotary(
    walk: Walk, nodes: Sequence[fx.Node], names: Mapping[Dim, str], constants: Mapping[fx.Node, Tensor]
) -> tuple[Gauge, ...]:
    """All rotations of pairs of queries and keys, and the scalings and signs of grouped queries.

    Args:
        walk: The finished axis walk.
        nodes: The nodes of the graph that it walked, in order.
        names: The axis name of every atom that indexes a tensor.
        constants: Tensors that the architecture fixes, by graph input.

    Returns:
        Gauges of kind ``"rotation"`` with axes ``outer``: complex numbers ``[*outer, pairs]``; of kinds ``"sign"`` and
        ``"scale"`` with axes ``(*outer, inner)``.
    """
    if not any(n.op == "call_function" and operation_name(n).removeprefix("aten.") in PRODUCTS for n in nodes):
        return ()
    trial = Trial(walk, nodes, constants)
    memory: dict[Hashable, Any] = {}
    found: list[Gauge] = []
    for scores in filter(lambda s: _possible(trial, s), find_scores(trial, nodes)):
        try:
            products = Products(trial, scores, memory)
            rows = products.rows()
            if rows is not None:
                found.extend((*_rotations(products, rows, names), *grouped(products, rows, names)))
        except Exception:  # an operation that cannot be run by itself: nothing is known of it
            continue
    return tuple(found)


def _possible(trial: Trial, scores: Scores) -> bool:
    """Whether positions order the entries of heads, or heads share keys: otherwise there is nothing to find."""
    width = combinations(trial.walk.values[scores.queries].dims[-1])
    ordered = any(piece and all(a.frozen is not None for a in piece) for piece in width)
    query, key = (layer.meta["val"].shape[-1] for layer in scores.layers)
    return ordered or query != key


def _rotations(products: Products, rows: tuple[Rows, Rows], names: Mapping[Dim, str]) -> Iterator[Gauge]:
    """The rotations of the largest part of the heads for which they hold."""
    trial, scores = products.trial, products.scores
    factors = batch_factors(trial, scores.keys)
    outer = [factors[n] for n in rows[1].outer]
    weights = [weight_rows(trial, layer) for layer in scores.layers]

    def allowed(choice: Choice) -> bool:
        moved = (torch.cat(_places(r, choice), -1) for r in rows)
        return all(_in_blocks(d, m, outer) for d, m in zip(weights, moved, strict=True))

    choices = [c for c in _candidates(products, rows[0].table.shape[-1]) if allowed(c)]
    found = _chosen(products, rows, choices) if all(atom in names for atom in outer) else None
    if found is None:
        return
    choice, scaled = found
    sides = zip(scores.layers, rows, (1.0, -1.0 if scaled else 1.0), strict=True)
    parts = [_parts(trial, layer, own, choice, exponent) for layer, own, exponent in sides]
    if parts[0] and parts[1]:
        yield Gauge("rotation", tuple(names[a] for a in outer), (*parts[0], *parts[1]))


def _in_blocks(dim: Dim, rows: Tensor, outer: Sequence[Dim]) -> bool:
    """Whether permutations of free axes move rows ``[*outer, groups, rows]`` head by head, as the outer axes count."""
    for atom in dict.fromkeys(leaves(dim)):
        own = entries(dim, atom)[rows]
        if atom in outer:
            count = torch.arange(atom.size).view(-1, *[1] * (own.ndim - 1 - list(outer).index(atom)))
            if not (own == count).all():
                return False
        elif atom.frozen is None and not (own == own[..., :1]).all():
            return False
    return True


def _chosen(products: Products, rows: tuple[Rows, Rows], choices: Iterable[Choice]) -> tuple[Choice, bool] | None:
    """The first pairs that may be rotated, and whether they may be scaled too."""
    sizes = rows[1].table.shape[:-2]
    for choice in choices:
        turn = products.trial.random((*sizes, 1, choice[1], 2))
        angle, size = math.pi * turn[..., 0], torch.exp(turn[..., 1])
        unit = torch.polar(torch.ones_like(size), angle)
        query, key = (_turning(r, choice) for r in rows)
        if products.stay(query(unit), key(unit), (choice, "unit")):
            mirror = (_mirrored(r, choice) for r in rows)
            if products.stay(*mirror, (choice, "mirror")):  # type: ignore[call-arg]
                return None
            whole = torch.polar(size, angle)
            return choice, products.stay(query(whole), key(1 / whole.conj()), (choice, "scaled"))
    return None


def _candidates(products: Products, width: int) -> Iterator[Choice]:
    """Halves and neighbours, over the whole width and over the parts of even size that occur between."""
    cut = {t.shape[-1] for n in products.scores.between for t in [n.meta["val"]] if isinstance(t, Tensor) and t.ndim}
    for part in sorted((s for s in cut | {width} if s <= width and s % 2 == 0), reverse=True):
        for first in dict.fromkeys((0, width - part)):
            yield from dict.fromkeys(((first, part // 2, 1, part // 2), (first, part // 2, 2, 1)))


def _places(rows: Rows, choice: Choice) -> tuple[Tensor, Tensor]:
    """The rows of the first and of the second entries of all pairs, ``[*outer, groups, pairs]``."""
    first, count, step, apart = choice
    at = first + step * torch.arange(count)
    return rows.table[..., at], rows.table[..., at + apart]


def _turning(rows: Rows, choice: Choice) -> Any:
    """For complex numbers ``[*outer, 1, pairs]``, what multiplies pairs of rows by them."""
    first, second = _places(rows, choice)

    def turning(numbers: Tensor) -> Act:
        def act(z: Tensor) -> Tensor:
            a, b, new = z[..., first], z[..., second], z.clone()
            new[..., first] = numbers.real * a - numbers.imag * b
            new[..., second] = numbers.imag * a + numbers.real * b
            return new

        return act

    return turning


def _mirrored(rows: Rows, choice: Choice) -> Act:
    """Changes the sign of the second entry of every pair."""
    second = _places(rows, choice)[1].flatten()
    return lambda z: z.index_copy(-1, second, -z[..., second])


def _parts(trial: Trial, layer: fx.Node, rows: Rows, choice: Choice, exponent: float) -> list[GaugePart]:
    """What moves with a layer's rows: its weight and its bias, which may be joined from pieces."""
    weight, bias = layer.args[1], argument(layer, "bias")
    pieces = [(weight, 0)] + ([] if bias is None else _pieces(trial, bias, rows.table))
    parts = []
    for node, start in pieces:
        if node is None:
            return []
        for p in rows.pairs(*choice):
            pairs = Pairs(p.start - start, p.strides, p.count, p.step, p.apart)
            parts.append(GaugePart(trial.tensor(node), (0,), exponent, pairs=pairs))
    return parts


def _pieces(trial: Trial, bias: fx.Node, table: Tensor) -> list[tuple[fx.Node | None, int]]:
    """The parameters that a bias is made of where it is added to some rows, and where they start; None for others."""
    if trial.governed(bias):
        return [(bias if trial.alone(bias) else None, 0)]
    joined = bias.op == "call_function" and operation_name(bias) == "aten.cat" and len(bias.users) == 1
    start, found = 0, []  # type: tuple[int, list[tuple[fx.Node | None, int]]]
    pieces: Any = bias.args[0] if joined else [bias]
    for piece in pieces:
        size = piece.meta["val"].shape[0]
        inside = (table >= start) & (table < start + size)
        if piece in trial.fixed:
            if trial.constant(piece)[table[inside] - start].any():
                found.append((None, 0))
        elif inside.any():
            found.append((piece if trial.alone(piece) and bool(inside.all()) else None, start))
        start += size
    return found
