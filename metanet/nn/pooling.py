"""From node features to one vector a net."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from metanet.graph.layout import Layout, layout_of
from metanet.space.weight_space import WeightSpace


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
        sets, counts, chosen = (t.to(features[0].device) for t in pooling(layout.space))
        values = self.norm(torch.cat(features, 1))
        counts = counts.to(values)
        empty = values.new_zeros(len(values), len(counts), self.width)
        means = empty.index_add(1, sets, values) / counts
        apart = values - means.index_select(1, sets)
        variances = empty.index_add(1, sets, apart * apart) / counts  # the gradient of a square takes six times as long
        return (chosen.to(values) @ torch.cat([means, variances.add(1e-5).sqrt()], -1)).flatten(1)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # cached: autograd could not use what is made in that mode
def pooling(space: WeightSpace) -> tuple[Tensor, Tensor, Tensor]:
    """The maps of pooling.

    Returns:
        The set of every node ``[N]``; nodes of each set ``[sets, 1]``; from sets to what is kept of them,
        ``[3, sets]``: the mean over hidden sets, the deepest of these, the mean over outputs.
    """
    nodes = layout_of(space).nodes
    counts = torch.tensor([n.size for n in nodes])
    sets = torch.repeat_interleave(torch.arange(len(nodes)), counts)
    hidden = [i for i, n in enumerate(nodes) if n.kind in ("neuron", "fixed")] or list(range(len(nodes)))
    outputs = [i for i, n in enumerate(nodes) if n.kind == "output"] or [len(nodes) - 1]
    chosen = torch.zeros(3, len(nodes), dtype=torch.float64)
    chosen[0, hidden] = 1 / len(hidden)
    chosen[1, hidden[-1]] = 1
    chosen[2, outputs] = 1 / len(outputs)
    return sets, counts[:, None], chosen
