"""The update of neurons whose features are odd and even (:mod:`metanet.nn.gauge`), with a gradient of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from metanet.nn.nodes import Update


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


class SignedNodeUpdate(Update):
    """New features of neurons that heard messages, odd from odd and even from even and products of two odd ones.

    With ``o`` and ``e`` the odd and even halves of a neuron's features and of the messages it heard, ``P, Q, M, S``
    linear without bias: ``z = silu(A e + C (P o * Q o) + b)``, ``e' = norm(e + D z)``, ``o' = norm(o + M o * (G z))``;
    free neurons add ``S o`` before the nonlinearity, and ``F z`` to their odd features.

    Args:
        width: Features per node.
        messages: Messages per neuron.
    """

    def __init__(self, width: int, messages: int = 1) -> None:
        super().__init__(messages)
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

    def tensors(self) -> Sequence[Tensor]:  # noqa: D102 (that of the base class)
        even, out, norm = self.even, self.out, self.norm
        first = (self.odd.weight, even.weight, even.bias, self.product.weight, out.weight, out.bias)
        return *first, norm.scale, norm.norm.weight, norm.norm.bias

    def run(  # noqa: D102 (that of the base class)
        self, features: Tensor, heard: Tensor, free: Tensor | None, keep: bool
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        free = features.new_ones(1, 1) if free is None else free
        halves = [h for values in (features, *heard.chunk(self.messages, -1)) for h in values.chunk(2, -1)]
        odds, evens = torch.cat(halves[::2], -1), torch.cat(halves[1::2], -1)
        linear = odds @ self.odd.weight.t()
        one, two, moved, direct = linear.split(self.parts, -1)
        product = one * two
        hidden = torch.addcmul(functional.linear(evens, self.even.weight, self.even.bias), direct, free)
        hidden += product @ self.product.weight.t()
        active = functional.silu(hidden)
        answer = functional.linear(active, self.out.weight, self.out.bias)
        even, gate, own = answer.chunk(3, -1)
        odd = torch.addcmul(halves[0], moved, gate).addcmul_(own, free)
        total = halves[1] + even
        size, norm = self.norm.size(odd), self.norm.norm
        normed, mean, rstd = torch.native_layer_norm(total, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        out = torch.cat([odd * size * self.norm.scale, normed], -1)
        return out, (odds, evens, linear, product, hidden, active, answer, odd, size, total, mean, rstd)

    def gradients(  # noqa: D102 (that of the base class)
        self, known: Sequence[Tensor], grad: Tensor, free: Tensor | None, totals: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        odds, evens, linear, product, hidden, active, answer, odd, size, total, mean, rstd = known
        one, two, moved, _ = linear.split(self.parts, -1)
        free, norm = odds.new_ones(1, 1) if free is None else free, self.norm.norm
        for_odd, for_even = (g.contiguous() for g in grad.chunk(2, -1))
        for_total, *for_norm = torch.ops.aten.native_layer_norm_backward(
            for_even, total, norm.normalized_shape, mean, rstd, norm.weight, norm.bias, [True] * 3
        )
        for_scale = (for_odd * odd * size).flatten(0, 1).sum(0)
        scaled = for_odd * self.norm.scale
        for_odd = size * (scaled - odd * (size.square() * (scaled * odd).mean(-1, keepdim=True)))
        for_answer = torch.cat([for_total, for_odd * moved, for_odd * free], -1)
        for_hidden = torch.ops.aten.silu_backward(for_answer @ self.out.weight, hidden)
        for_product = for_hidden @ self.product.weight
        gate = answer.chunk(3, -1)[1]
        for_linear = torch.cat([for_product * two, for_product * one, for_odd * gate, for_hidden * free], -1)
        pairs = ((for_linear, odds), (for_hidden, evens), (for_hidden, product), (for_answer, active))
        products = [a.flatten(0, 1).t() @ b.flatten(0, 1) for a, b in pairs]
        sums = [v.flatten(0, 1).sum(0) for v in (for_hidden, for_answer)]
        found = [products[0], products[1], sums[0], *products[2:], sums[1], for_scale, *for_norm]
        totals[:] = [t.add_(f) for t, f in zip(totals, found, strict=True)] if totals else found
        width = grad.shape[2] // 2
        parts = [(for_linear @ self.odd.weight).split(width, -1), (for_hidden @ self.even.weight).split(width, -1)]
        halves = [half for pair in zip(*parts, strict=True) for half in pair]
        return torch.cat([halves[0] + for_odd, halves[1] + for_total], -1), torch.cat(halves[2:], -1)
