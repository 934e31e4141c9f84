import pytest
import torch
from torch import nn
from torch_geometric.data import Batch

import metanet
from metanet import testing
from metanet.errors import GraphError
from metanet.graph import NeuronGraph


def graph_of(traced):
    module, _, space = traced
    return NeuronGraph.from_state_dicts(space, [module.state_dict()])


def edges_of(data):
    """Edges as a sorted table that does not name neurons: attributes, kinds, and the parameters of both ends."""
    ends = torch.cat([data.x[data.edge_index[0]], data.x[data.edge_index[1]]], 1)
    sets = torch.stack([data.node_set[data.edge_index[0]], data.node_set[data.edge_index[1]]], 1)
    rows = torch.cat([data.edge_attr, data.edge_kind[:, None], data.edge_depth[:, None], sets, ends], 1)
    return sorted(map(tuple, rows.tolist()))


def test_counts_and_fields(traced):
    graph = graph_of(traced)
    data, layout = graph.to_pyg(), graph.layout
    connections = sum(b.shape[0] * b.shape[1] * b.shape[2] for b in layout.blocks)
    assert data.num_nodes == layout.size == len(data.x) == len(data.node_kind) == len(data.position)
    assert data.edge_attr.shape[1] == 9
    assert int((data.edge_start == 0).sum()) == connections
    assert len(data.edge_attr) == len(data.edge_taps) == len(data.edge_kind) == len(data.edge_depth)
    assert data.edge_index.shape == (2, len(data.edge_attr))
    assert len(data.unary) == sum(v[0].numel() for v in graph.vectors())
    assert data.edge_index.max() < data.num_nodes
    assert data.validate()
    weights = sum(
        int(b.link.tensor is not None) * b.piece.read(graph.tensors[b.link.tensor]).numel() for b in layout.blocks
    )
    assert int(data.edge_taps.sum()) == weights


def test_the_edge_list_is_the_weight_matrix():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    data = metanet.build(net, torch.zeros(1, 3)).to_pyg()
    dense = torch.zeros(9, 9)
    dense[data.edge_index[1], data.edge_index[0]] = data.edge_attr[:, 0]
    assert torch.equal(dense[3:7, :3], net[0].weight)
    assert torch.equal(dense[7:, 3:7], net[2].weight)
    assert torch.equal(data.x[3:7, 0], net[0].bias)


def test_the_edge_multiset_is_invariant_under_permutation(traced):
    graph = graph_of(traced)
    moved = graph.permute(graph.space.sample(seed=3))
    before, after = graph.to_pyg(), moved.to_pyg()
    assert edges_of(before) == edges_of(after)
    assert not torch.equal(before.edge_attr, after.edge_attr)
    weight = next(b.link.tensor for b in graph.layout.blocks)
    broken = NeuronGraph(graph.space, {**graph.tensors, weight: moved.tensors[weight] + 1})
    assert edges_of(before) != edges_of(broken.to_pyg())


def test_a_zero_weight_is_still_an_edge():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].weight[1, 2] = 0
        net[2].weight.zero_()
    data = metanet.build(net, torch.zeros(1, 3)).to_pyg()
    assert data.edge_index.shape == (2, 20)
    pairs = set(map(tuple, data.edge_index.T.tolist()))
    assert (2, 4) in pairs
    assert len(pairs) == 20


def test_a_batch_of_two_architectures_comes_apart_again(traced_network):
    graphs = [NeuronGraph.from_state_dicts(s, [m.state_dict()]) for m, _, s in map(traced_network, ("mlp", "residual"))]
    datas = [graph.to_pyg() for graph in graphs]
    batch = Batch.from_data_list(datas)
    assert batch.num_nodes == sum(d.num_nodes for d in datas)
    for original, found in zip(datas, batch.to_data_list(), strict=True):
        assert set(original.keys()) == set(found.keys())
        for key, value in original.items():
            assert torch.equal(torch.as_tensor(found[key]), torch.as_tensor(value)), key


def test_more_taps_than_an_edge_holds_are_parallel_edges():
    net = nn.Sequential(nn.Conv2d(1, 2, 5), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    data = metanet.build(net, torch.zeros(1, 1, 6, 6)).to_pyg()
    first = data.edge_block == 0
    assert data.edge_taps[first].tolist() == [9, 9, 9, 9, 7, 7]
    weights = torch.cat([data.edge_attr[i, :n] for i, n in enumerate(data.edge_taps.tolist()) if first[i]])
    assert torch.equal(weights.sort().values, net[0].weight.detach().flatten().sort().values)
    whole = metanet.build(net, torch.zeros(1, 1, 6, 6)).to_pyg(taps=25)
    assert torch.equal(whole.edge_attr[:2].flatten(), net[0].weight.detach().flatten())


def test_a_layer_of_pyg_gives_the_same_alone_and_beside_another_architecture(traced_network):
    from torch_geometric.nn import GINEConv

    torch.manual_seed(0)
    layer = GINEConv(nn.Linear(12, 5), edge_dim=9).double()
    datas = [testing.randomised_graph(traced_network(n)[2], nets=1).to_pyg() for n in ("mlp", "residual", "grouped")]
    both = Batch.from_data_list(datas)
    found = layer(both.x, both.edge_index, both.edge_attr)
    alone = torch.cat([layer(d.x, d.edge_index, d.edge_attr) for d in datas])
    assert torch.allclose(found, alone, rtol=1e-12)


def test_statistics_are_those_of_the_unary_parameters(traced):
    data = testing.randomised_graph(traced[2], nets=1).to_pyg()
    node = int(data.unary_index[0])
    mine = data.unary[(data.unary_index == node) & (data.unary_kind == data.unary_kind[0])]
    expected = torch.stack([mine.mean(), mine.square().mean().sqrt(), torch.tensor(float(len(mine))).double()])
    start = 3 * int(data.unary_kind[0])
    assert torch.allclose(data.x[node, start : start + 3], expected)


def test_what_cannot_be_shown_is_refused():
    with pytest.raises(GraphError, match="no parameters"):
        metanet.build(nn.ReLU(), torch.zeros(1, 3)).to_pyg()
    graph = metanet.build(nn.Linear(3, 2), torch.zeros(1, 3))
    with pytest.raises(GraphError, match="net 1 of a batch of 1"):
        graph.to_pyg(1)
    with pytest.raises(GraphError, match="taps=0"):
        graph.to_pyg(taps=0)
