import torch
from torch import nn
from torch_geometric.data import Batch

import metanet
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
    assert data.edge_index.shape == (2, connections)
    assert len(data.edge_attr) == len(data.edge_taps) == len(data.edge_kind) == len(data.edge_depth) == connections
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
    width, taps = max(d.x.shape[1] for d in datas), max(d.edge_attr.shape[1] for d in datas)
    for data in datas:  # one batch needs one width of features
        data.x = nn.functional.pad(data.x, (0, width - data.x.shape[1]))
        data.x_kind = nn.functional.pad(data.x_kind, (0, width - data.x_kind.shape[1]), value=-1)
        data.edge_attr = nn.functional.pad(data.edge_attr, (0, taps - data.edge_attr.shape[1]))
    batch = Batch.from_data_list(datas)
    assert batch.num_nodes == sum(d.num_nodes for d in datas)
    for original, found in zip(datas, batch.to_data_list(), strict=True):
        assert set(original.keys()) == set(found.keys())
        for key, value in original.items():
            assert torch.equal(torch.as_tensor(found[key]), torch.as_tensor(value)), key
