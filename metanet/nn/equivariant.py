"""Functions that commute with rescaling or flipping a neuron: a linear map times a function of what does not change.

Source: Kalogeropoulos, Bouritsas, Panagakis, "Scale Equivariant Graph Metanetworks" (NeurIPS 2024, arXiv:2406.10685):
``ScaleEq(x) = (A x) * ScaleInv(x)``, where ``ScaleInv`` reads ``x / |x|`` for positive factors, and is the sum
``rho(x) + rho(-x)`` for signs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Symmetry(NamedTuple):
    """What a neuron's value may be multiplied with: positive factors, signs, both or neither."""

    scale: bool = False
    sign: bool = False


class Invariant(nn.Module):
    """``rho(x / |x|; c)``, ``rho(x; c) + rho(-x; c)``, both or neither, for covariant ``x`` and invariant ``c``.

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
        read, rest = self.read(unit(x) if symmetry.scale else x), self.known(known)
        hidden = nn.functional.gelu(rest + read)
        if symmetry.sign:
            hidden = 0.5 * (hidden + nn.functional.gelu(rest - read))
        return self.out(hidden)


def unit(x: Tensor) -> Tensor:
    """``x / |x|`` over the last dimension, without an epsilon, which would break scaling; zeros stay zeros."""
    largest = x.detach().abs().amax(-1, keepdim=True)  # first, so that squares neither overflow nor vanish
    x = x / torch.where(largest > 0, largest, 1.0)
    squares = x.square().sum(-1, keepdim=True)
    return x * torch.where(squares > 0, squares, 1.0).rsqrt()
