"""What ``transfer=True`` promises: a network of which every neuron was doubled gets the same prediction, exactly."""

import pytest
import torch

from metanet import testing
from metanet.graph import NeuronGraph
from metanet.models import OperatorMetanet
from metanet.symmetry.widening import widen


def change(graph, transfer, schedule, axes, copies):
    """How far predictions move, relative to their spread, when the neurons of some axes are copied."""
    torch.manual_seed(0)
    predict = testing.randomised_module(OperatorMetanet(16, 4, 2, schedule=schedule, transfer=transfer))
    widening = widen(graph.space, {a.name: torch.arange(a.size).repeat(copies) for a in axes})
    wide = NeuronGraph(widening.wide, widening.apply(graph.tensors, batched=True))
    with torch.no_grad():
        base = predict(graph)
        return ((predict(wide) - base).abs() / testing.spread(base)).max().item()


@pytest.mark.parametrize("schedule", ["sweep", "parallel"])
@pytest.mark.parametrize("copies", [2, 3])
def test_exact_under_copies_of_all_neurons_of_any_axis_and_of_all(traced, schedule, copies):
    graph = testing.randomised_graph(traced[2])
    for axes in [*([a] for a in graph.space.free_axes), graph.space.free_axes]:
        assert change(graph, True, schedule, axes, copies) < 1e-12


@pytest.mark.parametrize("schedule", ["sweep", "parallel"])
def test_sums_over_neurons_move(traced, schedule):
    """Without it they do, so the test above can fail."""
    graph = testing.randomised_graph(traced[2])
    for axes in [*([a] for a in graph.space.free_axes), graph.space.free_axes]:
        assert change(graph, False, schedule, axes, 2) > 1e-2
