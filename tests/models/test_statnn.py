import numpy as np
import pytest
import torch
from torch import nn

import metanet
from metanet.errors import MetanetError
from metanet.graph import NeuronGraph
from metanet.graph.match import activations
from metanet.models.statnn import STATISTICS, StatNN, statistics


def mlp(activation, hidden=5, layers=1):
    parts = [nn.Linear(3, hidden), activation()]
    for _ in range(layers - 1):
        parts += [nn.Linear(hidden, hidden), activation()]
    net = nn.Sequential(*parts, nn.Linear(hidden, 2))
    return metanet.trace(net, torch.randn(2, 3))


def batch(space, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = space.shapes
    return NeuronGraph(space, {name: torch.randn(count, *shape, generator=generator) for name, shape in shapes.items()})


def test_the_seven_statistics_are_those_of_the_paper():
    tensor = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 8.0]]])
    expected = [[2.5, 1.25, 1.0, 1.75, 2.5, 3.25, 4.0], [2.0, 12.0, 0.0, 0.0, 0.0, 2.0, 8.0]]
    assert len(STATISTICS) == 7
    np.testing.assert_allclose(statistics(tensor), expected)


def test_it_learns_the_spread_of_a_tensor_and_ignores_permutations():
    graph = batch(mlp(nn.ReLU), 200)
    y = graph.tensors["0.weight"].std((1, 2)).numpy()
    model = StatNN(seed=1).fit(graph.select(slice(0, 150)), y[:150])
    held_out = graph.select(slice(150, 200))
    predicted = model.predict(held_out)
    assert np.corrcoef(predicted, y[150:])[0, 1] > 0.8
    moved = held_out.permute(held_out.space.sample(seed=3))
    assert not torch.equal(moved.tensors["0.weight"], held_out.tensors["0.weight"])
    np.testing.assert_allclose(model.predict(moved), predicted, rtol=1e-9)


def test_spaces_share_columns_by_tensor_name_and_lacking_tensors_are_missing():
    small, large = batch(mlp(nn.ReLU), 4), batch(mlp(nn.Tanh, layers=2), 3)
    model = StatNN(min_samples_leaf=1, max_iter=5).fit([small, large], np.arange(7.0))
    table = model.features([small, large])
    assert model.tensors == ["0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias"]
    assert table.shape == (7, 6 * 7 + 1)
    assert np.isnan(table[:4, 28:42]).all()
    assert not np.isnan(table[4:]).any()
    np.testing.assert_allclose(table[4:, :7], statistics(large.tensors["0.weight"]))


def test_the_activation_is_a_feature():
    relu, tanh = mlp(nn.ReLU), mlp(nn.Tanh)
    assert (activations(relu), activations(tanh)) == ("relu", "tanh")
    graph = batch(relu, 40)
    same_weights = NeuronGraph(tanh, graph.tensors)
    y = np.concatenate([np.zeros(40), np.ones(40)])
    model = StatNN(max_iter=100, max_features=1.0).fit([graph, same_weights], y)
    assert model.predict(graph).max() < 0.1
    assert model.predict(same_weights).min() > 0.9
    assert np.isnan(model.features(batch(mlp(nn.Sigmoid), 2))[:, -1]).all()


def test_equal_seeds_give_equal_trees():
    graph = batch(mlp(nn.ReLU), 60)
    y = graph.tensors["0.bias"].mean(1)
    one, same, other = (StatNN(seed=s, max_iter=20).fit(graph, y).predict(graph) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_bad_input_is_said():
    graph = batch(mlp(nn.ReLU), 4)
    with pytest.raises(MetanetError, match="got 4 nets and 3 targets"):
        StatNN().fit(graph, np.zeros(3))
    with pytest.raises(MetanetError, match="not fitted"):
        StatNN().predict(graph)
