"""Functions that commute with rescaling or flipping a neuron: a linear map times a function of what does not change.

Source: Kalogeropoulos, Bouritsas, Panagakis, "Scale Equivariant Graph Metanetworks" (NeurIPS 2024, arXiv:2406.10685):
``ScaleEq(x) = (A x) * ScaleInv(x)``, where ``ScaleInv`` reads ``x / |x|`` for positive factors, and is the sum
``rho(x) + rho(-x)`` for signs. What differs: without positive factors ``x`` is bounded before it is read, as rounds
that multiply unbounded numbers with each other overflow on nets of large weights.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

NO_GRADIENT = 1e-15


class Symmetry(NamedTuple):
    """What a neuron's value may be multiplied with: positive factors, signs, both or neither."""

    scale: bool = False
    sign: bool = False


class Invariant(nn.Module):
    """``rho(r; c)`` for covariant ``x`` and invariant ``c``; where signs change, ``rho(r; c) + rho(-r; c)`` halved.

    ``r`` is ``x / |x|`` where positive factors change, else ``b(x)`` (:func:`bounded`).

    Args:
        covariant: Numbers in ``x``, all multiplied by the same factor.
        known: Numbers in ``c``.
        out: Numbers returned.
    """

    def __init__(self, covariant: int, known: int, out: int) -> None:
        super().__init__()
        self.read, self.known = nn.Linear(covariant, 2 * out, bias=False), nn.Linear(known, 2 * out)
        self.out = nn.Linear(2 * out, out)

    def forward(self, x: Tensor, known: Tensor, symmetry: Symmetry) -> Tensor:
        """``[..., covariant]`` and ``[..., known]``, which may broadcast, to ``[..., out]``."""
        read, rest = self.read(unit(x) if symmetry.scale else bounded(x)), self.known(known)
        hidden = nn.functional.gelu(rest + read)
        if symmetry.sign:
            hidden = 0.5 * (hidden + nn.functional.gelu(rest - read))
        return self.out(hidden)


def unit(x: Tensor) -> Tensor:
    """``x / |x|`` over the last dimension, without an epsilon, which would break scaling; zeros stay zeros.

    Its derivative grows as ``1 / |x|``, beyond float32 for weights of neurons that died: below ``1e-15`` it is zero.
    """
    largest = x.detach().abs().amax(-1, keepdim=True)  # first, so that squares neither overflow nor vanish
    x = torch.where(largest > NO_GRADIENT, x, x.detach()) / torch.where(largest > 0, largest, 1.0)
    squares = x.square().sum(-1, keepdim=True)
    return x * torch.where(squares > 0, squares, 1.0).rsqrt()


def bounded(x: Tensor) -> Tensor:
    """``x / sqrt(1 + |x|^2 / n)`` over the last dimension, of size ``n``: odd, close to ``x`` where that is small."""
    largest = x.detach().abs().amax(-1, keepdim=True).clamp(min=1.0)  # so that squares do not overflow
    x = x / largest
    return x * (largest**-2 + x.square().mean(-1, keepdim=True)).rsqrt()
