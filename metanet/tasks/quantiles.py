"""Targets as ranks: where many nets lie close together, a metanet is to tell them apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEVELS = 257


class Quantiles(nn.Module):
    """The map from values to their level among the training nets, between 0 and 1, and back.

    Both directions are linear between ``LEVELS`` of the training targets, and beyond the smallest and the
    largest of them with the mean slope, so that both keep every order. Equal values share the middle of their levels.
    """

    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("values", torch.linspace(0, 1, LEVELS))

    def fit(self, targets: Tensor) -> None:
        """Take the quantiles of these targets, ``[N]``, not all of which are equal."""
        levels = torch.linspace(0, 1, LEVELS, dtype=torch.float64)
        self.values.copy_(torch.quantile(targets.double(), levels, interpolation="nearest"))

    def level(self, values: Tensor) -> Tensor:
        """Levels of values, of the same shape."""
        given = values.to(self.values)  # rounded as the quantiles are, so that equal ones stay equal
        first, last = self.values[0], self.values[-1]
        inside = (self._place(given, right=True) + self._place(given, right=False)) / 2
        outside = (given - given.clamp(first, last)) / (last - first)
        return (inside + outside).to(values)

    def value(self, levels: Tensor) -> Tensor:
        """Values at levels, of the same shape."""
        known = self.values.to(levels)
        scaled = levels.clamp(0, 1) * (LEVELS - 1)
        below = scaled.floor().long().clamp(0, LEVELS - 2)  # the number of a NaN is any
        inside = torch.lerp(known[below], known[below + 1], scaled - below)
        return inside + (levels - levels.clamp(0, 1)) * (known[-1] - known[0])

    def _place(self, values: Tensor, right: bool) -> Tensor:
        above = torch.searchsorted(self.values, values.contiguous(), right=right).clamp(1, LEVELS - 1)
        low, high = self.values[above - 1], self.values[above]
        share = ((values - low) / (high - low).clamp_min(torch.finfo(values.dtype).tiny)).clamp(0, 1)
        return (above - 1 + share) / (LEVELS - 1)
