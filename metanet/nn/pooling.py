"""From node features to one vector a net."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metanet.graph.layout import Layout


class GraphPooling(nn.Module):
    """Pool every node set by mean and deviation, then the sets by what they are.

    The result joins the mean over all hidden sets, the deepest hidden set, and the mean over outputs: a net of any
    architecture gives a vector of the same length.

    Args:
        width: Features per node.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.norm = nn.LayerNorm(width)
        self.out_features = 6 * width

    def forward(self, features: list[Tensor], layout: Layout) -> Tensor:
        """``[B, N, width]`` per node set to ``[B, 6 width]``."""
        pooled = [self._pool(self.norm(f)) for f in features]
        hidden = [p for p, n in zip(pooled, layout.nodes, strict=True) if n.kind in ("neuron", "fixed")]
        outputs = [p for p, n in zip(pooled, layout.nodes, strict=True) if n.kind == "output"]
        hidden, outputs = hidden or pooled, outputs or pooled[-1:]
        return torch.cat([torch.stack(hidden).mean(0), hidden[-1], torch.stack(outputs).mean(0)], -1)

    @staticmethod
    def _pool(values: Tensor) -> Tensor:
        variance, mean = torch.var_mean(values, 1, correction=0)
        return torch.cat([mean, variance.add(1e-5).sqrt()], -1)
