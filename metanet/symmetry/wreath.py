"""Acting with independent permutations: the inner axis is permuted by another permutation for every outer entry.

An element is a table ``[*outer sizes, inner size]`` of int64 permutations, ``new[o, i] = old[o, table[o, i]]``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from metanet.space.gauges import Gauge
from metanet.space.weight_space import WeightSpace
from metanet.symmetry.scaling import atom_views


def draw_table(gauge: Gauge, space: WeightSpace, generator: torch.Generator) -> Tensor:
    """Random permutations of which no two neighbours agree, so that the table is no permutation of the axis alone."""
    *outer, inner = (space.axis[name].size for name in gauge.axes)
    table = torch.rand(*outer, inner, generator=generator).argsort(-1)
    rows = table.reshape(-1, inner)
    for n in range(1, len(rows)):
        if torch.equal(rows[n], rows[n - 1]):
            rows[n] = rows[n].roll(1)
    return table


def permute_apart(
    space: WeightSpace, gauge: Gauge, table: Tensor, tensors: dict[str, Tensor], batched: bool = False
) -> None:
    """Permute, in place, the tensors that a gauge moves (they must be copies already).

    Args:
        space: The space.
        gauge: One of its gauges of kind ``"permutation"``.
        table: The permutations.
        tensors: Tensors by name, ``[*shape]`` or stacked ``[B, *shape]``.
        batched: Whether they are stacked.
    """
    for part in gauge.parts:
        tensor = tensors[part.tensor]
        for view, atoms in atom_views(tensor, int(batched), list(enumerate(space.tensor[part.tensor].labels))):
            for place, (own, name) in enumerate(atoms):
                if name == gauge.axes[-1]:
                    outers = [_beside(atoms, axis, own) for axis in gauge.axes[:-1]]
                    view.copy_(_gathered(view, place + batched, [o + batched for o in outers], table))


def _beside(atoms: Sequence[tuple[int, str]], axis: str, own: int) -> int:
    """Where the outer atom of an inner one stands: in the same dimension of the tensor, or else anywhere."""
    places = [n for n, (_, name) in enumerate(atoms) if name == axis]
    return next((n for n in places if atoms[n][0] == own), places[0])


def _gathered(view: Tensor, inner: int, outers: Sequence[int], table: Tensor) -> Tensor:
    shape = [1] * view.ndim
    for size, dim in zip(table.shape, (*outers, inner), strict=True):
        shape[dim] = size
    order = sorted(range(table.ndim), key=(*outers, inner).__getitem__)
    index = table.permute(order).reshape(shape).to(view.device)
    return torch.take_along_dim(view, index.expand([max(a, b) for a, b in zip(shape, view.shape, strict=True)]), inner)


def inverse_table(table: Tensor) -> Tensor:
    """The permutations that undo these."""
    return table.argsort(-1)


def composed_table(later: Tensor, earlier: Tensor) -> Tensor:
    """The permutations that act like ``earlier`` first and ``later`` then."""
    return earlier.gather(-1, later)


def carried_table(table: Tensor, gauge: Gauge, perms: Mapping[str, Tensor]) -> Tensor:
    """The table ``p t p^-1`` that acts after a permutation of axes as the given one does before it."""
    *outer, inner = gauge.axes
    for dim, name in enumerate(outer):
        if name in perms:
            table = table.index_select(dim, perms[name])
    if inner in perms:
        table = torch.argsort(perms[inner])[table[..., perms[inner]]]
    return table
