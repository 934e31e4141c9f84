"""What a weight editor answers beyond being equivariant, which the contract holds."""

import pytest
import torch

from metanet import testing
from metanet.errors import ConfigError
from metanet.graph import NeuronGraph
from metanet.models import EdgeStateMetanet, OperatorMetanet, WeightEditor
from metanet.nn.heads import WeightHead


def encoder():
    torch.manual_seed(0)
    return EdgeStateMetanet(width=8, edge_width=4, rounds=1)


def test_shapes_and_names_are_those_of_the_weights(traced):
    graph = testing.randomised_graph(traced[2], nets=2).to(torch.float32)
    for first in (encoder(), OperatorMetanet(width=8, heads=4, rounds=1)):
        new = WeightEditor(first, hidden=4).forward_weights(graph)
        assert {n: t.shape for n, t in new.items()} == {n: t.shape for n, t in graph.tensors.items()}
        assert isinstance(WeightEditor(first, hidden=4)(graph), NeuronGraph)


def test_residual_starts_from_the_weights_and_variances_stay_positive(traced_network):
    graph = testing.randomised_graph(traced_network("residual")[2], nets=2)
    editor = WeightEditor(encoder(), scale=0.0).double()
    assert all(torch.equal(t, graph.tensors[n]) for n, t in editor.forward_weights(graph).items())
    for residual in (True, False):
        new = testing.randomised_module(WeightEditor(encoder(), residual, scale=3.0)).forward_weights(graph)
        assert (new["bn1.running_var"] > 0).all()
        assert (new["bn1.running_mean"] < 0).any()


def test_it_learns_to_halve_weights(traced_network):
    graph = testing.randomised_graph(traced_network("cnn")[2], nets=4).to(torch.float32)
    editor = WeightEditor(encoder(), hidden=8)
    optimizer = torch.optim.Adam(editor.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        new = editor.forward_weights(graph)
        loss = torch.stack([(t - 0.5 * graph.tensors[n]).square().mean() for n, t in new.items()]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_every_parameter_gets_a_gradient(traced_network):
    graph = testing.randomised_graph(traced_network("residual")[2], nets=2)
    for residual in (True, False):
        editor = testing.randomised_module(WeightEditor(encoder(), residual, hidden=4))
        editor.encoder.requires_grad_(False)  # its pooling and last network answer per net
        for name, parameter in editor.head.named_parameters():
            loss = torch.stack([t.square().sum() for t in editor.forward_weights(graph).values()]).sum()
            (gradient,) = torch.autograd.grad(loss, parameter, allow_unused=True)
            assert gradient is not None, name
            assert gradient.abs().sum() > 0, name


def test_a_head_made_for_states_of_connections_wants_them(traced_network):
    graph = testing.randomised_graph(traced_network("mlp")[2], nets=2).to(torch.float32)
    with pytest.raises(ConfigError, match="edge_width > 0"):
        WeightHead(8, edge_width=4)(graph, encoder().encode(graph))
