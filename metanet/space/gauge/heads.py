"""Which rows of a layer reach which heads of the queries or keys, found by derivatives of the operations between."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from metanet.space.axes import Dim, factors_of, find
from metanet.space.gauge.scores import Scores
from metanet.space.gauge.trial import Trial
from metanet.space.gauges import Pairs

NOISE = 1e-6  # relative size of a derivative below which nothing is read off it
WHOLE = 1e-5  # how far from a whole number the place of a head may be found


@dataclass(frozen=True)
class Rows:
    """The rows of a layer's result that make the heads.

    Attributes:
        table: Rows ``[*outer, groups, width]``, where ``groups`` counts heads that share one of the other side.
        outer: Which factors of the operand's leading dimensions the outer ones are.
    """

    table: Tensor
    outer: tuple[int, ...]

    def pairs(self, first: int, count: int, step: int, apart: int) -> Iterator[Pairs]:
        """Pairs of rows ``(first + step n, first + step n + apart)`` within every head, group by group."""
        *sizes, groups, _ = self.table.shape
        corner = (0,) * len(sizes)
        for group in range(groups):
            own = self.table[..., group, :]
            start, unit = int(own[*corner, 0]), int(own[*corner, 1] - own[*corner, 0])
            strides = [
                int(own[*corner[:n], 1, *corner[n + 1 :], 0]) - start if size > 1 else 0 for n, size in enumerate(sizes)
            ]
            yield Pairs(start + first * unit, tuple(strides), count, step * unit, apart * unit)

    @property
    def regular(self) -> bool:
        """Whether rows lie at equal distances, so that :meth:`pairs` finds them all."""
        if self.table.shape[-1] < 2:
            return False
        every = self.pairs(0, self.table.shape[-1], 1, 0)
        own = torch.stack([p.first(self.table.shape[:-2]) for p in every], -2)
        return torch.equal(own, self.table)


def batch_factors(trial: Trial, operand: fx.Node) -> list[Dim]:
    """The factors of all dimensions before tokens and width: examples, heads, heads that share keys."""
    return [find(f) for dim in trial.walk.values[operand].dims[:-2] for f in factors_of(dim)]


def rows_of_heads(trial: Trial, scores: Scores, given: dict[fx.Node, Tensor]) -> tuple[Rows, Rows] | None:
    """The rows of both layers, head by head; None if these do not write heads of one width.

    Args:
        trial: Runs the operations.
        scores: Where queries and keys meet.
        given: Results of the layers.
    """
    leaves = {layer: z.clone().requires_grad_() for layer, z in given.items()}
    with torch.enable_grad():
        found = trial.run(scores.between, leaves)
        operands = (scores.queries, scores.keys)
        factors = [batch_factors(trial, o) for o in operands]
        places = [
            _places(trial, found[o], leaves[layer], [f.size for f in own])
            for o, layer, own in zip(operands, scores.layers, factors, strict=True)
        ]
    apart = [[f for f, place in zip(own, p, strict=True) if int(place.max()) >= 0]
             for own, p in zip(factors, places, strict=True)]  # fmt: skip
    shared = [f for f in apart[1] if any(f is g for g in apart[0])]
    rows = [_table(own, p, shared) for own, p in zip(factors, places, strict=True)]
    if rows[0] is None or rows[1] is None or rows[0].table.shape[-1] != rows[1].table.shape[-1]:
        return None
    return (rows[0], rows[1]) if rows[0].regular and rows[1].regular else None


def _places(trial: Trial, operand: Tensor, z: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """For every factor, the entry that each row reaches: -1 if several, -2 if the row reaches nothing.

    The derivative of a random sum over heads, each times its number, is that number times the derivative of the plain
    sum, for a row that reaches one head.
    """
    flat = operand.reshape(*sizes, *operand.shape[-2:])
    weights = trial.random(flat.shape)

    def slope(codes: Tensor | float) -> Tensor:
        (found,) = torch.autograd.grad((flat * weights * codes).sum(), z, retain_graph=True)
        return found.reshape(-1, z.shape[-1])

    base = slope(1.0)
    alive = base.abs() > NOISE * base.abs().max()
    places = []
    for n, size in enumerate(sizes):
        codes = torch.arange(1.0, size + 1, dtype=torch.float64).view(-1, *[1] * (flat.ndim - n - 1))
        ratio = slope(codes) / base
        low, high = (torch.where(alive, ratio, fill) for fill in (math.inf, -math.inf))
        least, most = low.amin(0), high.amax(0)
        one = (most - least < WHOLE) & ((least - least.round()).abs() < WHOLE)
        places.append(torch.where(alive.any(0), torch.where(one, least.round() - 1, -1.0), -2.0).nan_to_num(-2).long())
    return places


def _table(factors: Sequence[Dim], places: Sequence[Tensor], shared: Sequence[Dim]) -> Rows | None:
    """Rows ordered by outer factors, then by those that only one side tells apart; None if heads differ."""
    if not places:
        return None
    reached = (places[0] > -2).nonzero().squeeze(1)
    outer = [n for f in shared for n, g in enumerate(factors) if g is f]
    if len(outer) != len(shared) or not len(reached):
        return None
    inner = [n for n, place in enumerate(places) if n not in outer and bool((place[reached] >= 0).any())]
    code = torch.zeros_like(reached)
    for n in (*outer, *inner):
        if (places[n][reached] < 0).any():
            return None
        code = code * factors[n].size + places[n][reached]
    heads = math.prod(factors[n].size for n in (*outer, *inner))
    if len(reached) % heads or not torch.equal(
        code.bincount(minlength=heads), torch.full((heads,), len(reached) // heads)
    ):
        return None
    ordered = reached[code.argsort(stable=True)]
    sizes = [factors[n].size for n in outer]
    return Rows(ordered.view(*sizes, -1, len(reached) // heads), tuple(outer))


def entries(dim: Dim, atom: Dim) -> Tensor:
    """For every entry of a dim, which entry of an atom it belongs to: -1 if none, -2 if several."""
    node = find(dim)
    if node.form == "atom":
        return torch.arange(node.size) if node is atom else torch.full((node.size,), -1)
    parts = [entries(part, atom) for part in node.parts]
    if node.form == "concat":
        return torch.cat(parts)
    joint = parts[0]
    for part in parts[1:]:
        left, right = joint[:, None], part[None, :]
        several = (left != -1) & (right != -1)
        joint = torch.where(several, -2, torch.where(left != -1, left, right)).flatten()
    return joint


def weight_rows(trial: Trial, layer: fx.Node) -> Dim:
    """What the rows of a linear layer's weight are."""
    weight: Any = layer.args[1]
    dim: Dim = trial.walk.values[weight].dims[0]
    return dim
