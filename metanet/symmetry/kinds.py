"""The kinds of gauges: how an element of each is drawn, acts, is inverted, multiplied, and carried by permutations.

One entry per kind in ``ACTIONS``; everything else that deals with gauges looks here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from metanet.space.gauges import Gauge
from metanet.space.weight_space import WeightSpace
from metanet.symmetry.adding import add, draw_phases, draw_shift
from metanet.symmetry.linear import carried_matrices, draw_matrices, draw_orthogonal, multiply
from metanet.symmetry.rotation import draw_rotations, rotate
from metanet.symmetry.scaling import draw, permuted, rescale
from metanet.symmetry.wreath import carried_table, composed_table, draw_table, inverse_table, permute_apart

PERMUTATION = "permutation"
"""The one kind that axes have too: a gauge of this kind is drawn together with the permutations of axes."""


@dataclass(frozen=True)
class Action:
    """What may be done with the elements of gauges of one kind.

    Attributes:
        draw: A random element that is not the identity, ``(gauge, space, generator)``.
        act: Acts in place on tensors that are copies already, ``(space, gauge, element, tensors, batched)``.
        inverse: The element that undoes one.
        compose: The element that acts like the second argument first and the first then.
        carried: The element that acts after permutations of axes as the given one acts before them,
            ``(element, gauge, perms)``.
        commuting: Whether elements of any gauges of commuting kinds may be applied in any order.
    """

    draw: Callable[[Gauge, WeightSpace, torch.Generator], Tensor]
    act: Callable[[WeightSpace, Gauge, Tensor, dict[str, Tensor], bool], None]
    inverse: Callable[[Tensor], Tensor]
    compose: Callable[[Tensor, Tensor], Tensor]
    carried: Callable[[Tensor, Gauge, Mapping[str, Tensor]], Tensor] = permuted
    commuting: bool = False


_SCALING = Action(draw, rescale, torch.reciprocal, torch.mul, commuting=True)

ACTIONS: dict[str, Action] = {
    PERMUTATION: Action(draw_table, permute_apart, inverse_table, composed_table, carried_table),
    "scale": _SCALING,
    "sign": _SCALING,
    "phase": Action(draw_phases, add, torch.neg, torch.add),
    "shift": Action(draw_shift, add, torch.neg, torch.add),
    "linear": Action(draw_matrices, multiply, torch.linalg.inv, torch.matmul, carried_matrices),
    "orthogonal": Action(draw_orthogonal, multiply, torch.linalg.inv, torch.matmul, carried_matrices),
    "rotation": Action(draw_rotations, rotate, torch.reciprocal, torch.mul),
}
KINDS = tuple(ACTIONS)
