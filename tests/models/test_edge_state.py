"""The edge-state metanet on dense blocks against the same mathematics on a list of edges."""

import torch

from metanet import testing
from metanet.models import EdgeStateMetanet
from metanet.models.edge_list import EdgeListMetanet, joined


def model(seed=0, **kwargs):
    torch.manual_seed(seed)
    return EdgeStateMetanet(**{"width": 12, "edge_width": 6, "rounds": 2, "out_features": 2, **kwargs})


def values_and_gradients(metanet, graph, parameters):
    predictions = metanet(graph)
    found = torch.autograd.grad(predictions.square().sum(), parameters, allow_unused=True)
    return [predictions, *(g for g in found if g is not None)]


def test_dense_blocks_equal_the_edge_list_of_to_pyg_in_values_and_gradients(traced):
    graph = testing.randomised_graph(traced[2], nets=3)
    dense = testing.randomised_module(model())
    parameters = list(dense.parameters())
    found = values_and_gradients(dense, graph, parameters)
    wanted = values_and_gradients(EdgeListMetanet(dense), graph, parameters)
    assert len(found) == len(wanted) == len(parameters) + 1
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_the_comparison_sees_a_wrong_edge(traced_network):
    graph = testing.randomised_graph(traced_network("residual")[2], nets=2)
    dense, edges = testing.randomised_module(model()), joined(graph)
    edges.edge_index[0, 3] += 1
    with torch.no_grad():
        assert (EdgeListMetanet(dense)(graph, edges) - dense(graph)).abs().max() > 1e-6


def test_every_parameter_gets_a_gradient(traced_network):
    for name in ("cnn", "residual", "grouped"):
        testing.assert_gradients(testing.randomised_module(model()), testing.randomised_graph(traced_network(name)[2]))
