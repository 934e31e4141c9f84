"""The gauge metanet: exactly invariant to permutations, positive scalings and signs, as the space has them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from metanet.errors import ConfigError
from metanet.graph import NeuronGraph
from metanet.graph.layout import Layout
from metanet.models.base import PooledMetanet
from metanet.models.operator import SCHEDULES
from metanet.nn.gauge import SignedBlockEmbedding, SignedNodeEmbedding
from metanet.nn.parity import free_nodes
from metanet.nn.signed_update import SignedNodeUpdate
from metanet.symmetry.fixing import Step, fix, fixing_of

LARGEST = 64.0  # frames are read between one over this and this


class GaugeMetanet(PooledMetanet):
    """Operator message passing, both ways, that respects every scale and sign gauge of the space.

    A neuron's features are covariant ``h = nu h'``, contravariant ``g = g' / nu`` and invariant ones, where the frame
    ``nu`` is multiplied by ``c`` like the neuron's value (:mod:`metanet.symmetry.fixing`). ``W h`` is covariant and
    ``W^T g`` contravariant, so in terms of the primed features messages run over ``W'_ts = W_ts nu_s / nu_t``, which is
    invariant. What is invariant may pass any nonlinearity, what flips with a sign only linear maps and products in
    pairs (:mod:`metanet.nn.gauge`). Node sets with scalings, with signs and with neither may mix in one network, and
    gauges of norms, of fused projections and of attention are respected as the space states them.

    Compared with ScaleGMN (Kalogeropoulos et al., NeurIPS 2024, arXiv:2406.10685): exact for both directions of
    messages, and for any architecture that can be traced.

    Args:
        width: Features per neuron, half of which flip with its sign if it has one.
        heads: Operators R per block; even, and must divide ``width``.
        rounds: Passes through the network and back.
        out_features: Numbers predicted per net.
        dropout: Dropout before the last layer.
        schedule: ``sweep`` or ``parallel``, as in :class:`~metanet.models.OperatorMetanet`.
        raw: Also read the logarithm of every frame, between bounds: how large weights are says nothing about the
            function, but something about how it was trained. Predictions then depend on scales, and ``claims`` says so.
        limit: Operator values kept in memory, as in :class:`~metanet.models.OperatorMetanet`.
    """

    claims = frozenset({"permutation", "scale", "sign"})

    def __init__(
        self,
        width: int = 64,
        heads: int = 16,
        rounds: int = 2,
        out_features: int = 1,
        dropout: float = 0.0,
        schedule: Literal["sweep", "parallel"] = "sweep",
        raw: bool = False,
        limit: int = 2**28,
    ) -> None:
        if width % heads or heads % 2:
            raise ConfigError(
                f"GaugeMetanet: heads must be even and divide width; got heads={heads}, width={width}. Choose others"
            )
        if schedule not in SCHEDULES:
            raise ConfigError(f"GaugeMetanet: got schedule={schedule!r}; accepted: {', '.join(SCHEDULES)}")
        super().__init__(width, out_features, dropout)
        self.raw, self.limit = raw, limit
        if raw:
            self.claims = self.claims - {"scale"}
        self.nodes = SignedNodeEmbedding(width)
        self.blocks = SignedBlockEmbedding(heads)
        self.rounds = nn.ModuleList(SCHEDULES[schedule](width, heads, update=SignedNodeUpdate) for _ in range(rounds))

    def encode(self, graph: NeuronGraph) -> list[Tensor]:
        """Features of every neuron, ``[B, N, width]`` per node set, invariant under scalings and signs."""
        layout = graph.layout
        tensors, frames = fix(graph.space, graph.tensors)
        fixed = NeuronGraph(graph.space, tensors)
        features = self.nodes(fixed, _logarithms(layout, frames) if self.raw else [])
        free = free_nodes(layout).to(features[0])
        operators = self.blocks.operators(fixed, self.limit, 2 * len(self.rounds))
        for step in self.rounds:
            features = step(features, operators, layout, free)
        odd, even = torch.cat(features, 1).chunk(2, -1)
        invariant = torch.cat([torch.where(free > 0, odd, odd.square()), even], -1)
        return list(invariant.split([n.size for n in layout.nodes], 1))


def _logarithms(layout: Layout, frames: list[Tensor]) -> list[tuple[int, int, Tensor]]:
    """Logarithms of the frames of all scale gauges that belong to a node set: the set, their kind, ``[B, N, 1]``."""
    found = []
    for step, frame in zip(fixing_of(layout.space).steps, frames, strict=True):
        number = next((i for i, n in enumerate(layout.nodes) if set(step.gauge.axes) <= set(n.axes)), None)
        if step.gauge.kind == "scale" and number is not None:
            values = frame.clamp(1 / LARGEST, LARGEST).log() / 2  # of a dead neuron it would be as small as you like
            found.append((number, step.rank, _spread(layout, number, step, values)))
    return found


def _spread(layout: Layout, number: int, step: Step, values: Tensor) -> Tensor:
    """``[B, *sizes of the gauge] -> [B, N, 1]``."""
    node = layout.nodes[number]
    order = [step.gauge.axes.index(name) for name in node.axes if name in step.gauge.axes]
    sizes = [s if name in step.gauge.axes else 1 for name, s in zip(node.axes, node.sizes, strict=True)]
    values = values.permute(0, *(1 + i for i in order)).reshape(-1, *sizes)
    return values.expand(-1, *node.sizes).reshape(len(values), -1, 1)
