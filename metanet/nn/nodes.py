"""Node features: the first ones, from constants and unary parameters, and their update by messages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from metanet.graph.layout import layout_of
from metanet.graph.neuron_graph import NeuronGraph
from metanet.nn.features import NODE_FEATURES, layout_features, signed_log, vector_kind
from metanet.space.weight_space import VECTOR_KINDS, WeightSpace


class NodeEmbedding(nn.Module):
    """First node features: kind, depth, order of inputs and outputs, and every unary parameter.

    Args:
        width: Features per node.
        transfer: Leave sizes unsaid (see :class:`BlockEmbedding`).
        hidden: Width of the network that reads one unary parameter.
    """

    def __init__(self, width: int, transfer: bool = False, hidden: int = 32) -> None:
        super().__init__()
        self.transfer = transfer
        self.constant = nn.Sequential(nn.Linear(NODE_FEATURES, width), nn.SiLU(), nn.Linear(width, width))
        self.kind = nn.Embedding(len(VECTOR_KINDS), hidden)
        self.value = nn.Linear(2, hidden)
        self.out = nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, graph: NeuronGraph) -> list[Tensor]:
        """Features ``[B, N, width]`` of every node set of the layout."""
        _, nodes = layout_features(graph.space, sizes=not self.transfer)
        nodes = self.constant(nodes.to(self.out.weight)).expand(graph.batch_size, -1, -1)
        same: dict[int, list[Tensor]] = defaultdict(list)  # vectors with equally many entries per neuron: read at once
        for values in graph.vectors():
            same[values.shape[2]].append(values)
        for taps, group in same.items():
            rows, kinds = _places(graph.space, taps)
            nodes = nodes.index_add(1, rows.to(nodes.device), self._read(group, kinds.to(nodes.device)))
        return list(self.norm(nodes).split([n.size for n in graph.layout.nodes], 1))

    def _read(self, vectors: list[Tensor], kinds: Tensor) -> Tensor:
        """Vectors ``[B, N, K]`` to ``[B, N of all, width]``."""
        values = torch.cat(vectors, 1)[..., None]
        values = self.value(torch.cat([values, signed_log(10 * values)], -1))
        hidden = functional.silu(values + self.kind(kinds)[:, None])
        return self.out(hidden.mean(2) if hidden.shape[2] > 1 else hidden[:, :, 0])


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # cached: autograd could not use what is made in that mode
def _places(space: WeightSpace, taps: int) -> tuple[Tensor, Tensor]:
    """Node and kind of every neuron of all vectors with so many entries per neuron, ``[n]`` each."""
    layout = layout_of(space)
    chosen = [v for v in layout.vectors if v.piece.shape[1] == taps]
    rows = [torch.arange(layout.nodes[v.target].size) + layout.offsets[v.target] for v in chosen]
    kinds = [torch.full_like(r, vector_kind(v)) for v, r in zip(chosen, rows, strict=True)]
    return torch.cat(rows), torch.cat(kinds)


class Update(nn.Module):
    """New features of neurons from their own and the messages that they heard.

    A subclass writes :meth:`forward`, of which :mod:`metanet.nn.rounds` takes the gradients; it may write these itself.

    Args:
        messages: Messages per neuron.
    """

    def __init__(self, messages: int) -> None:
        super().__init__()
        self.messages = messages

    def forward(self, features: Tensor, *messages: Tensor, free: Tensor | None = None) -> Tensor:
        """Update ``[B, N, width]`` by messages of the same shape.

        Args:
            features: The neurons' own.
            messages: What they heard.
            free: ``[N, 1]``, one for neurons that are free of signs; it matters to :mod:`metanet.nn.gauge`.
        """
        raise NotImplementedError

    def tensors(self) -> Sequence[Tensor]:
        """The parameters, in the order in which :meth:`gradients` tells of them."""
        return list(self.parameters())

    def run(
        self, features: Tensor, heard: Tensor, free: Tensor | None, keep: bool
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The result for messages ``[B, N, M width]``, and what :meth:`gradients` needs, if that is to be kept."""
        with torch.set_grad_enabled(keep):
            features, heard = (v.detach().requires_grad_(keep) for v in (features, heard))
            out = self(features, *heard.chunk(self.messages, -1), free=free)
        return out.detach(), (features, heard, out)

    def gradients(
        self, known: Sequence[Tensor], grad: Tensor, free: Tensor | None, totals: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Gradients of the features and of the messages; those of the parameters are added to ``totals``.

        Args:
            known: What :meth:`run` found.
            grad: Gradient of its result.
            free: That given to :meth:`run`.
            totals: One tensor for each of :meth:`tensors`; empty at first.
        """
        features, heard, out = known
        wanted = [features, heard, *self.tensors()]
        found = torch.autograd.grad(out, wanted, grad, retain_graph=True, materialize_grads=True)
        totals[:] = [t + f for t, f in zip(totals, found[2:], strict=True)] if totals else found[2:]
        return found[0].clone(), found[1]  # a sum's two gradients are one tensor, and that of features is added to


class NodeUpdate(Update):
    """New features of neurons that heard messages: ``h' = norm(h + C silu(A h + sum_i B_i m_i + b) + c)``.

    The norm makes features comparable wherever they are used; messages are not normalised, for their size tells that
    of the weights.

    Args:
        width: Features per node.
        messages: Messages per neuron.
    """

    def __init__(self, width: int, messages: int = 1) -> None:
        super().__init__(messages)
        self.own = nn.Linear(width, width)
        self.heard = nn.Parameter(torch.randn(messages, width, width) / width**0.5)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Tensor, *messages: Tensor, free: Tensor | None = None) -> Tensor:
        """Update ``[B, N, width]`` by messages of the same shape; nothing depends on ``free``."""
        hidden = self.own(features) + torch.cat(messages, -1) @ self.heard.flatten(0, 1)
        return self.norm(features + self.out(functional.silu(hidden)))

    def tensors(self) -> Sequence[Tensor]:  # noqa: D102 (that of the base class)
        own, out, norm = self.own, self.out, self.norm
        return self.heard, own.weight, own.bias, out.weight, out.bias, norm.weight, norm.bias

    def run(  # noqa: D102 (that of the base class)
        self, features: Tensor, heard: Tensor, free: Tensor | None, keep: bool
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        rows, heard, norm = features.flatten(0, 1), heard.flatten(0, 1), self.norm
        hidden = torch.addmm(self.own.bias, rows, self.own.weight.t()).addmm_(heard, self.heard.flatten(0, 1))
        active = functional.silu(hidden)
        total = torch.addmm(rows, active, self.out.weight.t()).add_(self.out.bias)
        out, mean, rstd = torch.native_layer_norm(total, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        return out.view(features.shape), (rows, heard, hidden, active, total, mean, rstd)

    def gradients(  # noqa: D102 (that of the base class)
        self, known: Sequence[Tensor], grad: Tensor, free: Tensor | None, totals: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        rows, heard, hidden, active, total, mean, rstd = known
        norm = self.norm
        for_total, *for_norm = torch.ops.aten.native_layer_norm_backward(
            grad.flatten(0, 1), total, norm.normalized_shape, mean, rstd, norm.weight, norm.bias, [True] * 3
        )
        for_hidden = torch.ops.aten.silu_backward(for_total @ self.out.weight, hidden)
        if not totals:
            totals += [torch.zeros_like(p) for p in self.tensors()]
        for_heard, for_own, for_shift, for_out, for_bias, *for_norms = totals
        for_heard.flatten(0, 1).addmm_(heard.t(), for_hidden)
        for_own.addmm_(for_hidden.t(), rows)
        for_out.addmm_(for_total.t(), active)
        ends = [for_hidden.sum(0), for_total.sum(0), *for_norm]
        torch._foreach_add_([for_shift, for_bias, *for_norms], ends)
        for_rows = torch.addmm(for_total, for_hidden, self.own.weight).view(grad.shape)
        return for_rows, (for_hidden @ self.heard.flatten(0, 1).t()).view(*grad.shape[:2], -1)
