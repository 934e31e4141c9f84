"""Normalisation of weights: one mean and one deviation a tensor, so that every symmetry by permutation stays."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from metanet.errors import GraphError
from metanet.graph import NeuronGraph

EPSILON = 1e-12


@dataclass(frozen=True)
class WeightStatistics:
    """Mean and standard deviation of every tensor of one space, over nets and entries together.

    Published statistics have one number an entry; those do not survive a permutation of neurons, these do.

    Attributes:
        mean: By name of the tensor.
        std: By name of the tensor.
    """

    mean: Mapping[str, float]
    std: Mapping[str, float]

    def normalise(self, graph: NeuronGraph) -> NeuronGraph:
        """``(w - mean) / std``, tensor by tensor; a tensor that never varies becomes zero.

        Raises:
            GraphError: The graph has a tensor that was not measured.
        """
        unknown = [name for name in graph.space.tensor if name not in self.mean]
        if unknown:
            raise GraphError(f"no statistics of tensor '{unknown[0]}'; they were measured on {', '.join(self.mean)}")
        tensors = {n: (graph.tensors[n] - self.mean[n]) / max(self.std[n], EPSILON) for n in graph.space.tensor}
        return NeuronGraph(graph.space, tensors)


def weight_statistics(graphs: Iterable[NeuronGraph]) -> dict[str, WeightStatistics]:
    """Statistics by digest of the space, over graphs of one space each, in float64.

    Sums of squares are merged chunk by chunk about the running mean. Source: Chan, Golub, LeVeque, "Algorithms for
    Computing the Sample Variance" (1983).
    """
    seen: dict[str, dict[str, tuple[int, float, float]]] = {}
    for graph in graphs:
        known = seen.setdefault(graph.space.digest, {})
        for name in graph.space.tensor:
            values = graph.tensors[name].detach().double()
            count, mean = values.numel(), float(values.mean())
            squares = float(((values - mean) ** 2).sum())
            before, old, old_squares = known.get(name, (0, 0.0, 0.0))
            total, gap = before + count, mean - old
            known[name] = (total, old + gap * count / total, old_squares + squares + gap**2 * before * count / total)
    return {
        digest: WeightStatistics(
            {name: mean for name, (_, mean, _) in known.items()},
            {name: math.sqrt(squares / count) for name, (count, _, squares) in known.items()},
        )
        for digest, known in seen.items()
    }
