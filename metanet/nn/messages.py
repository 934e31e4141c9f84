"""Messages along a block, head by head: ``E v`` from sources to targets and ``E^T v`` back.

A product ``v E`` of matrices ``v`` with few rows is twice as fast as ``E^T v^T`` with few columns, and gradients that
are laid out as ``E`` is are added up faster than their transposes; hence an operation of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def carry(matrices: Tensor, values: Tensor, back: bool = False, scale: float = 1.0) -> Tensor:
    """``scale E v``, or ``scale E^T v``.

    Args:
        matrices: ``E`` of R heads, ``[B, R, D, T, S]``.
        values: ``[B, D, S, F]``, for the way back ``[B, D, T, F]``; head r reads features ``r F / R`` to
            ``(r + 1) F / R``.
        back: Whether to go from targets to sources.
        scale: A factor.

    Returns:
        ``[B, D, T, F]``, for the way back ``[B, D, S, F]``.
    """
    found: Tensor = _Carry.apply(matrices, values.to(matrices.dtype), back, scale)
    return found


class _Carry(torch.autograd.Function):
    """Its gradient for the values is the way back; that for ``E`` is laid out as ``E`` is, on both ways."""

    @staticmethod
    def forward(ctx: Any, matrices: Tensor, values: Tensor, back: bool, scale: float) -> Tensor:
        lead, flat = matrices.shape[:3], matrices.flatten(0, 2)
        given = _by_heads(values, lead[1])
        ctx.save_for_backward(matrices, given)
        ctx.back, ctx.scale = back, scale
        return _by_nodes(_product(given, flat if back else flat.mT, scale), lead)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        matrices, given = ctx.saved_tensors
        lead, flat = matrices.shape[:3], matrices.flatten(0, 2)
        grad, for_matrices, for_values = _by_heads(grads[0], lead[1]), None, None
        if ctx.needs_input_grad[0]:
            targets, sources = (given, grad) if ctx.back else (grad, given)
            for_matrices = _product(targets.mT, sources, ctx.scale).view(matrices.shape)
        if ctx.needs_input_grad[1]:
            for_values = _by_nodes(_product(grad, flat.mT if ctx.back else flat, ctx.scale), lead)
        return for_matrices, for_values, None, None


def _product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """``scale a b`` for batches of matrices; with a lone column and row it is no matrix product."""
    if a.shape[2] == 1:
        return a * b if scale == 1 else a * b * scale
    return torch.baddbmm(a.new_zeros(()), a, b, beta=0, alpha=scale)


def _by_heads(values: Tensor, heads: int) -> Tensor:
    """``[B, D, N, F] -> [B R D, F / R, N]``."""
    return values.unflatten(-1, (heads, -1)).permute(0, 3, 1, 4, 2).flatten(0, 2)


def _by_nodes(values: Tensor, lead: torch.Size) -> Tensor:
    """Inverse of :func:`_by_heads`."""
    return values.unflatten(0, lead).permute(0, 2, 4, 1, 3).flatten(3)
