"""The operator metanet keeps what every metanet promises, on randomised and on trained weights."""

import pytest
import torch
from torch import nn

from metanet import testing
from metanet.errors import ConfigError
from metanet.graph import NeuronGraph
from metanet.models import OperatorMetanet


def model(seed=0, **kwargs):
    torch.manual_seed(seed)
    return OperatorMetanet(**{"width": 16, "heads": 4, "rounds": 2, **kwargs})


class OrderedMetanet(OperatorMetanet):
    """Broken on purpose: neurons are weighted by their place before pooling."""

    def embed(self, graph):
        features = self.nodes(graph)
        features = [f * torch.linspace(1, 1.01, f.shape[1], dtype=f.dtype)[:, None] for f in features]
        return self.pool(features, graph.layout)


class BatchNormalised(OperatorMetanet):
    """Broken on purpose: features are centred over the batch."""

    def embed(self, graph):
        vector = super().embed(graph)
        return vector - vector.mean(0)


class SeparatePooling(OperatorMetanet):
    """Broken on purpose: blind to which row meets which column, for it sees sorted entries only."""

    def embed(self, graph):
        tensors = {n: t.flatten(1).sort(1).values.reshape(t.shape) for n, t in graph.tensors.items()}
        return super().embed(NeuronGraph(graph.space, tensors))


def test_invariant_and_batch_independent_and_sensitive(traced):
    space = traced[2]
    graph = testing.randomised_graph(space)
    metanet = testing.randomised_module(model())
    assert testing.assert_invariant(metanet, graph) < 1e-10
    assert testing.assert_batch_independent(metanet, graph) < 1e-10
    assert testing.assert_sensitive(metanet, graph) > 1e-6


@pytest.mark.parametrize("name", ["cnn", "residual", "grouped"])
def test_every_parameter_gets_a_gradient(traced_network, name):
    # an MLP has no kernel taps, so the coefficients of their coordinates rightly get none
    graph = testing.randomised_graph(traced_network(name)[2])
    testing.assert_gradients(testing.randomised_module(model(out_features=2)), graph)


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (OrderedMetanet, testing.assert_invariant),
        (BatchNormalised, testing.assert_batch_independent),
        (SeparatePooling, testing.assert_sensitive),
    ],
)
def test_checks_fail_on_broken_metanets(traced_network, broken, check):
    graph = testing.randomised_graph(traced_network("cnn")[2])
    metanet = testing.randomised_module(broken(width=16, heads=4))
    with pytest.raises(AssertionError, match="predictions"):
        check(metanet, graph)


def test_constant_predictions_are_not_taken_for_invariant(traced_network):
    graph = testing.randomised_graph(traced_network("mlp")[2])
    with pytest.raises(AssertionError, match="do not differ"):
        testing.assert_invariant(lambda g: torch.ones(g.batch_size, 1, dtype=torch.float64), graph)


@pytest.fixture
def trained(traced_network):
    """A metanet trained for a few steps on small nets to tell how large their weights are."""
    space = traced_network("residual")[2]
    graph = testing.randomised_graph(space, nets=32)
    scales = torch.linspace(0.2, 2, 32, dtype=torch.float64)
    graph = NeuronGraph(space, {n: t * scales.reshape(-1, *[1] * (t.ndim - 1)) for n, t in graph.tensors.items()})
    metanet = model().double()
    optimizer = torch.optim.AdamW(metanet.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = nn.functional.mse_loss(metanet(graph)[:, 0], scales)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0], "the metanet did not learn, so its weights are not trained weights"
    return metanet.eval(), graph


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_trained_predictions_do_not_move(trained, dtype, tolerance):
    metanet, graph = trained
    metanet, graph = metanet.to(dtype), graph.to(dtype)
    with torch.no_grad():
        base = metanet(graph)
        others = {
            "alone": torch.cat([metanet(graph.select([i])) for i in range(graph.batch_size)]),
            "in another batch": metanet(graph.select(list(range(31, -1, -1))))[list(range(31, -1, -1))],
            "permuted": metanet(graph.permute(testing.random_move(graph.space, 1))),
        }
    for how, found in others.items():
        error = ((found - base).abs() / base.abs()).max().item()
        assert error < tolerance, f"{how}: relative change {error:.1e}"


def test_heads_must_divide_width():
    with pytest.raises(ConfigError, match="heads=5, width=16"):
        OperatorMetanet(width=16, heads=5)


def test_save_and_load(tmp_path, traced_network):
    graph = testing.randomised_graph(traced_network("cnn")[2]).to(torch.float32)
    first, second = model(seed=0), model(seed=1)
    torch.save(first.state_dict(), tmp_path / "metanet.pt")
    assert not torch.equal(first(graph), second(graph))
    second.load_state_dict(torch.load(tmp_path / "metanet.pt", weights_only=True))
    assert torch.equal(first(graph), second(graph))
