"""The update of neurons whose features are odd and even (:mod:`metanet.nn.gauge`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class SignedNorm(nn.Module):
    """Layer norm of the even half; the odd half is divided by its root mean square, which keeps its sign."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width // 2))
        self.norm = nn.LayerNorm(width // 2)

    def forward(self, features: Tensor) -> Tensor:
        """``[..., width]``, of the same shape."""
        odd, even = features.chunk(2, -1)
        return torch.cat([odd * self.size(odd) * self.scale, self.norm(even)], -1)

    @staticmethod
    def size(odd: Tensor) -> Tensor:
        """One over the root mean square, ``[..., 1]``."""
        return odd.square().mean(-1, keepdim=True).add(1e-6).rsqrt()


class SignedNodeUpdate(nn.Module):
    """Update neurons by the messages that reached them: odd from odd and even from even and products of two odd ones.

    With ``o`` and ``e`` the odd and even halves of a neuron's features and of the messages it heard, ``P, Q, M, S``
    linear without bias: ``z = silu(A e + C (P o * Q o) + b)``, ``e' = norm(e + D z)``, ``o' = norm(o + M o * (G z))``;
    free neurons add ``S o`` before the nonlinearity, and ``F z`` to their odd features.

    Args:
        width: Features per node.
        messages: Messages per neuron.
    """

    def __init__(self, width: int, messages: int = 1) -> None:
        super().__init__()
        half = width // 2
        self.parts = (half, half, half, width)
        self.odd = nn.Linear((1 + messages) * half, sum(self.parts), bias=False)
        self.even = nn.Linear((1 + messages) * half, width)
        self.product = nn.Linear(half, width, bias=False)
        self.out = nn.Linear(width, 3 * half)
        self.norm = SignedNorm(width)

    def forward(self, features: Tensor, *messages: Tensor, free: Tensor | None = None) -> Tensor:
        """Update ``[B, N, width]`` by messages of the same shape; ``free`` is one for free neurons, ``[N, 1]``."""
        odds, evens = zip(*(f.chunk(2, -1) for f in (features, *messages)), strict=True)
        one, two, moved, direct = self.odd(torch.cat(odds, -1)).split(self.parts, -1)
        hidden = self.even(torch.cat(evens, -1)) + self.product(one * two)
        free = features.new_ones(1, 1) if free is None else free
        hidden = functional.silu(hidden + direct * free)
        even, gate, own = self.out(hidden).chunk(3, -1)
        return self.norm(torch.cat([odds[0] + moved * gate + own * free, evens[0] + even], -1))
