"""Linear permutation-equivariant maps between the weight spaces of a chain of layers.

Source: Zhou, Yang, Burns, Cardace, Jiang, Sokota, Kolter, Finn, "Permutation Equivariant Neural Functionals" (NeurIPS
2023, arXiv:2302.14040), the NP layer: every output entry is a linear function of the same entry, of
the row and column means that share one of its indices, and of the means of all tensors. Parameters belong to layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class ChainState(NamedTuple):
    """Features of a chain of neuron sets.

    Attributes:
        vectors: ``[B, N_i, C_i]`` per set.
        matrices: ``[B, N_{i+1}, N_i, C]`` between consecutive sets.
        rest: What belongs to no neuron, ``[B, C_rest]``.
    """

    vectors: list[Tensor]
    matrices: list[Tensor]
    rest: Tensor

    def means(self) -> Tensor:
        """The invariant part: means of everything, joined, ``[B, sum of channels]``."""
        parts = [v.mean(1) for v in self.vectors] + [w.mean((1, 2)) for w in self.matrices]
        return torch.cat([*parts, self.rest], -1)


class ChainLayer(nn.Module):
    """The NP layer, then layer normalisation over channels and a GELU.

    With ``r_i = [v_i, row mean of W_i, column mean of W_{i+1}]`` and ``m`` all means::

        W_i' = D_i W_i + R_i r_i + Q_i r_{i-1} + M_i m;     v_i' = P_i r_i + N_i m;     rest' = A m

    Args:
        vectors: Channels of each set's vectors.
        channels: Channels of every matrix.
        rest: Channels of the rest; may be 0.
    """

    def __init__(self, vectors: Sequence[int], channels: int, rest: int) -> None:
        super().__init__()
        sets, last = len(vectors), len(vectors) - 1
        means = sum(vectors) + last * channels + rest
        joint = [c + channels * ((i > 0) + (i < last)) for i, c in enumerate(vectors)]
        self.own = nn.ModuleList(nn.Linear(channels, channels) for _ in range(last))
        self.row = nn.ModuleList(nn.Linear(joint[i + 1], channels, bias=False) for i in range(last))
        self.column = nn.ModuleList(nn.Linear(joint[i], channels, bias=False) for i in range(last))
        self.mean = nn.ModuleList(nn.Linear(means, channels, bias=False) for _ in range(last))
        self.vector = nn.ModuleList(nn.Linear(joint[i], vectors[i]) for i in range(sets))
        self.vector_mean = nn.ModuleList(nn.Linear(means, c, bias=False) for c in vectors)
        self.rest = nn.Linear(means, rest) if rest else None
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in (*vectors, *([channels] * last), *([rest] if rest else [])))

    def forward(self, state: ChainState) -> ChainState:
        """Map a state to one of the same shape."""
        means, joint = state.means(), self._joint(state)
        matrices = []
        for i, w in enumerate(state.matrices):
            known = self.row[i](joint[i + 1])[:, :, None] + self.column[i](joint[i])[:, None]
            matrices.append(self.own[i](w) + known + self.mean[i](means)[:, None, None])
        vectors = [self.vector[i](j) + self.vector_mean[i](means)[:, None] for i, j in enumerate(joint)]
        every = [*vectors, *matrices, *([self.rest(means)] if self.rest is not None else [])]
        every = [nn.functional.gelu(norm(x)) for norm, x in zip(self.norms, every, strict=True)]
        rest = every[-1] if self.rest is not None else state.rest
        return ChainState(every[: len(vectors)], every[len(vectors) : len(vectors) + len(matrices)], rest)

    @staticmethod
    def _joint(state: ChainState) -> list[Tensor]:
        joint = []
        for i, vector in enumerate(state.vectors):
            rows = [state.matrices[i - 1].mean(2)] if i else []
            columns = [state.matrices[i].mean(1)] if i < len(state.matrices) else []
            joint.append(torch.cat([vector, *rows, *columns], -1))
        return joint
