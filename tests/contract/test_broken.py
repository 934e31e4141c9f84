"""Every check of the contract fails on a layer that is broken on purpose."""

import pytest
import torch
from torch import nn

from metanet import testing
from metanet.models import EdgeStateMetanet, NeuronPredictor, ScaleGMNMetanet, WeightEditor
from metanet.models.edge_list import EdgeListMetanet


def small(cls=EdgeStateMetanet):
    torch.manual_seed(0)
    return cls(width=8, edge_width=4, rounds=1) if issubclass(cls, EdgeStateMetanet) else cls(width=8, channels=4)


class OrderedPredictor(NeuronPredictor):
    """Neurons are weighted by their place."""

    def forward(self, graph):
        return [p * torch.linspace(1, 1.01, p.shape[1], dtype=p.dtype)[:, None] for p in super().forward(graph)]


class OrderedEditor(WeightEditor):
    """The first row of every tensor is treated differently."""

    def forward_weights(self, graph):
        new = super().forward_weights(graph)
        return {name: torch.cat([1.01 * t[:, :1], t[:, 1:]], 1) for name, t in new.items()}


class Normalised(WeightEditor):
    """The change is divided by its deviation over the batch."""

    def forward_weights(self, graph):
        return {name: t / (t - t.mean(0)).square().mean().sqrt() for name, t in super().forward_weights(graph).items()}


class ColumnBlind(EdgeStateMetanet):
    """Weights are sorted within each row, so that columns may be permuted alone."""

    def forward(self, graph):
        tensors = {n: t.sort(2).values if t.ndim > 2 else t for n, t in graph.tensors.items()}
        return super().forward(type(graph)(graph.space, tensors))


class Unused(EdgeStateMetanet):
    """One parameter is never used."""

    def __init__(self, **options):
        super().__init__(**options)
        self.spare = nn.Parameter(torch.ones(3))


class Unsaved(EdgeStateMetanet):
    """Part of the function is no parameter and no buffer."""

    def __init__(self, **options):
        super().__init__(**options)
        self.factor = 1 + torch.rand(()).item()

    def forward(self, graph):
        return self.factor * super().forward(graph)


class Shifted(ScaleGMNMetanet):
    """The size of the weights is added to what must not depend on it."""

    def encode(self, graph):
        size = next(iter(graph.tensors.values())).flatten(1).norm(dim=1)[:, None, None]
        return [h + size * torch.linspace(0, 0.1, h.shape[2], dtype=h.dtype) for h in super().encode(graph)]


@pytest.fixture
def graph(traced_network):
    return testing.randomised_graph(traced_network("cnn")[2], nets=4)


def test_equivariance(graph):
    for broken in (OrderedPredictor, OrderedEditor):
        module = testing.randomised_module(broken(small()))
        layer = module.forward_weights if isinstance(module, WeightEditor) else module
        with pytest.raises(AssertionError, match="answers differ"):
            testing.assert_equivariant(layer, graph)


def test_a_constant_answer_is_not_taken_for_equivariant(graph):
    with pytest.raises(AssertionError, match="do not differ between nets"):
        testing.assert_equivariant(lambda g: {n: torch.ones_like(t) for n, t in g.tensors.items()}, graph)


def test_batch_independence(graph):
    with pytest.raises(AssertionError, match="within the batch"):
        testing.assert_batch_independent(testing.randomised_module(Normalised(small())).forward_weights, graph)


def test_sensitivity_to_a_single_dimension(graph):
    testing.assert_sensitive(testing.randomised_module(small()), graph)
    with pytest.raises(AssertionError, match=r"dimension 1, alone is permuted"):
        testing.assert_sensitive(testing.randomised_module(small(ColumnBlind)), graph)


def test_gradients(graph):
    with pytest.raises(AssertionError, match="'spare' gets no usable gradient"):
        testing.assert_gradients(testing.randomised_module(small(Unused)), graph)


def test_reloading(graph):
    torch.manual_seed(0)
    first, second = (Unsaved(width=8, edge_width=4, rounds=1).double() for _ in range(2))
    with pytest.raises(AssertionError, match="gives other answers"):
        testing.assert_reloads(first, second, graph)
    with pytest.raises(AssertionError, match="would show nothing"):
        testing.assert_reloads(small().double(), small().double(), graph)


def test_gauges(graph):
    testing.assert_gauge_invariant(testing.randomised_module(small(ScaleGMNMetanet)), graph, "scale")
    with pytest.raises(AssertionError, match="under scale symmetries"):
        testing.assert_gauge_invariant(testing.randomised_module(small(Shifted)), graph, "scale")
    with pytest.raises(AssertionError, match="no gauges of kind sign"):
        testing.assert_gauge_invariant(small(ScaleGMNMetanet), graph, "sign")


def test_paths(graph):
    dense = testing.randomised_module(small())
    slow, parameters = EdgeListMetanet(dense), list(dense.parameters())
    with pytest.raises(AssertionError, match="implementations differ"):
        testing.assert_same_function(lambda g: dense(g) * (1 + 1e-6), slow, parameters, graph)
    with pytest.raises(AssertionError, match="implementations differ"):  # the same values, other gradients
        testing.assert_same_function(lambda g: dense(g).detach() + 0 * dense(g), slow, parameters, graph)
