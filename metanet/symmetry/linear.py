"""Acting with invertible or orthogonal matrices: one over the inner axis for every entry of the outer ones.

An element is a tensor ``[*outer sizes, n, n]``. Parts with exponent 1 are multiplied by ``g`` along the inner axis,
those with exponent -1 by its inverse transpose, so that sums over the axis of one times the other stay.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from metanet.space.gauges import Gauge
from metanet.space.weight_space import WeightSpace
from metanet.symmetry.scaling import permuted, views


def draw_matrices(gauge: Gauge, space: WeightSpace, generator: torch.Generator) -> Tensor:
    """Random matrices ``Q1 diag(s) Q2`` of condition number 4 at most: orthogonal ones around scales in [1/2, 2]."""
    left, right = (_uniform(gauge, space, generator) for _ in range(2))
    scales = 2 ** (2 * torch.rand(left.shape[:-1], generator=generator, dtype=torch.float64) - 1)
    return left * scales[..., None, :] @ right


def draw_orthogonal(gauge: Gauge, space: WeightSpace, generator: torch.Generator) -> Tensor:
    """Random orthogonal matrices of both determinants, uniformly distributed; of size one, the first is -1."""
    found = _uniform(gauge, space, generator)
    if found.shape[-1] == 1:
        found.view(-1)[0] = -1
    return found


def _uniform(gauge: Gauge, space: WeightSpace, generator: torch.Generator) -> Tensor:
    """Uniformly distributed orthogonal matrices: the QR decomposition of normal ones, with a positive diagonal of R."""
    sizes = [space.axis[name].size for name in gauge.axes]
    q, r = torch.linalg.qr(torch.randn(*sizes, sizes[-1], generator=generator, dtype=torch.float64))
    return q * r.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]


def multiply(
    space: WeightSpace, gauge: Gauge, matrices: Tensor, tensors: dict[str, Tensor], batched: bool = False
) -> None:
    """Multiply, in place, the tensors that a gauge moves (they must be copies already).

    Args:
        space: The space.
        gauge: One of its gauges of kind ``"linear"`` or ``"orthogonal"``.
        matrices: The matrices, in float64: they are inverted here.
        tensors: Tensors by name, ``[*shape]`` or stacked ``[B, *shape]``.
        batched: Whether they are stacked.
    """
    factors = {1.0: matrices, -1.0: torch.linalg.inv(matrices).mT}
    for part in gauge.parts:
        tensor = tensors[part.tensor]
        factor = factors[part.exponent].to(tensor)
        for view, order in views(space.tensor[part.tensor], part, gauge.axes, tensor, batched):
            *outer, inner = order
            rest = [d for d in range(view.ndim) if d not in order]
            ranked = view.permute(*outer, inner, *rest)
            flat = ranked.reshape(*ranked.shape[: len(order)], -1)
            ranked.copy_((factor @ flat).reshape(ranked.shape))


def carried_matrices(matrices: Tensor, gauge: Gauge, perms: Mapping[str, Tensor]) -> Tensor:
    """The matrices ``p g p^T`` that act after a permutation of axes as the given ones do before it."""
    matrices = permuted(matrices, gauge, perms)
    inner = gauge.axes[-1]
    return matrices.index_select(-1, perms[inner]) if inner in perms else matrices
