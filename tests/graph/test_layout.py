import pytest
import torch
from torch import nn

import metanet
from metanet.graph import layout_of
from metanet.graph.layout import _grid


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.grouped = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3, groups=4)
        self.depthwise, self.norm = nn.Conv2d(12, 12, 3, groups=12, padding=1), nn.BatchNorm2d(12)
        self.fc = nn.Linear(12 * 4, 5)

    def forward(self, x):
        x = torch.relu(self.grouped(torch.relu(self.stem(x))))
        return self.fc(torch.relu(self.norm(self.depthwise(x))).flatten(1))


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(10, 2, 1)
        self.norm, self.fc = nn.BatchNorm2d(12), nn.Linear(12 * 4, 5)

    def forward(self, x):
        x = self.stem(x)
        x = torch.cat([x, torch.relu(self.a(x))], 1)
        x = torch.cat([x, torch.relu(self.b(x))], 1)
        return self.fc(self.norm(x).flatten(1))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.up, self.down, self.fc = nn.Linear(4, 6), nn.Linear(6, 9), nn.Linear(9, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = self.stem(x)
        return self.fc(torch.relu(x + self.down(torch.tanh(self.up(x)))))


NETS = {
    "mlp": (nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 1)), (2, 4)),
    "cnn1d": (nn.Sequential(nn.Conv1d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)), (2, 2, 6)),
    "grouped": (Grouped(), (2, 3, 6, 6)),
    "dense": (Dense(), (2, 3, 4, 4)),
    "residual": (Residual(), (2, 4)),
}


@pytest.fixture(params=list(NETS), scope="module")
def layout(request):
    module, shape = NETS[request.param]
    return layout_of(metanet.trace(module, torch.zeros(*shape)))


def test_every_entry_appears_exactly_once(layout):
    """Number all entries of all tensors; over blocks and vectors, every number must come back exactly once."""
    start, numbered = 0, {}
    for name, shape in layout.space.shapes.items():
        count = int(torch.tensor(shape).prod()) if shape else 1
        numbered[name] = torch.arange(start, start + count).reshape(1, *shape)
        start += count
    found = [part.piece.read(numbered[part.link.tensor]).flatten() for part in (*layout.blocks, *layout.vectors)]
    assert torch.equal(torch.cat(found).sort().values, torch.arange(start))
    assert layout.unplaced == ()


def test_blocks_and_vectors_fit_their_node_sets(layout):
    for block in layout.blocks:
        groups, targets, sources, taps = block.shape
        assert groups * targets == layout.nodes[block.target].size
        assert groups * sources == layout.nodes[block.source].size
        assert len(block.coordinates) == taps
        assert sorted(block.source_order) == list(range(len(layout.nodes[block.source].sizes)))
    for vector in layout.vectors:
        assert vector.piece.shape[0] == layout.nodes[vector.target].size


def test_nodes_are_sorted_by_depth_and_numbered_through(layout):
    depths = [node.depth for node in layout.nodes]
    assert depths == sorted(depths)
    assert layout.offsets[0] == 0
    assert layout.offsets[-1] + layout.nodes[-1].size == layout.size
    assert {n.kind for n in layout.nodes} == {"input", "neuron", "output"}


def test_the_layout_is_computed_once(layout):
    assert layout_of(layout.space) is layout


def test_residual_stream_is_one_node_set():
    module, shape = NETS["residual"]
    layout = layout_of(metanet.trace(module, torch.zeros(*shape)))
    writers = {b.link.tensor: b.target for b in layout.blocks}
    assert writers["stem.weight"] == writers["down.weight"]
    assert [n.size for n in layout.nodes] == [4, 6, 9, 2]


def test_a_grouped_convolution_has_one_block_entry_per_weight():
    module, shape = NETS["grouped"]
    layout = layout_of(metanet.trace(module, torch.zeros(*shape)))
    shapes = {b.link.tensor: b.shape for b in layout.blocks}
    assert shapes["grouped.weight"] == (4, 3, 2, 9)
    assert shapes["depthwise.weight"] == (12, 1, 1, 9)
    assert shapes["fc.weight"] == (1, 5, 12, 4)


def test_a_concatenation_gives_one_block_per_piece():
    module, shape = NETS["dense"]
    layout = layout_of(metanet.trace(module, torch.zeros(*shape)))
    pieces = [(layout.nodes[b.source].size, b.shape) for b in layout.blocks if b.link.tensor == "b.weight"]
    assert sorted(pieces) == [(4, (1, 2, 4, 1)), (6, (1, 2, 6, 1))]
    assert sorted(v.piece.shape[0] for v in layout.vectors if v.link.tensor == "norm.weight") == [2, 4, 6]


def test_coordinates_of_extents():
    """From -1 to 1 along each extent, the middle for one of a single entry; the last three of more."""
    assert _grid([]) == ((0.0, 0.0, 0.0),)
    assert _grid([1]) == ((0.0, 0.0, 0.0),)
    assert _grid([2]) == ((0.0, 0.0, -1.0), (0.0, 0.0, 1.0))
    assert _grid([5]) == tuple((0.0, 0.0, x) for x in (-1.0, -0.5, 0.0, 0.5, 1.0))
    assert _grid([3, 2]) == tuple((0.0, y, x) for y in (-1.0, 0.0, 1.0) for x in (-1.0, 1.0))
    assert _grid([2, 1, 2]) == tuple((z, 0.0, x) for z in (-1.0, 1.0) for x in (-1.0, 1.0))
    assert _grid([2, 2, 1, 1]) == tuple((y, 0.0, 0.0) for _ in range(2) for y in (-1.0, 1.0))


def test_kinds_of_sets_and_of_lone_neurons():
    """A lone neuron has no axis: it is an input, an output or a neuron by whether it is read and written."""
    net = nn.Sequential(nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1))
    layout = layout_of(metanet.trace(net, torch.zeros(2, 1)))
    found = [(n.kind, n.size, n.sizes, n.depth, n.activation) for n in layout.nodes]
    assert found == [
        ("input", 1, (1,), 0, None),
        ("neuron", 1, (1,), 1, "tanh"),
        ("neuron", 3, (3,), 2, "relu"),
        ("output", 1, (1,), 3, None),
    ]
    assert layout.deepest == 3
    assert layout.size == 6
    assert layout.offsets == (0, 1, 2, 5)
    assert [(b.source, b.target, b.shape, b.fan_in) for b in layout.blocks] == [
        (0, 1, (1, 1, 1, 1), 1),
        (1, 2, (1, 3, 1, 1), 1),
        (2, 3, (1, 1, 3, 1), 3),
    ]
    assert [v.target for v in layout.vectors] == [1, 2, 3]


def test_pieces_read_what_a_concatenation_joins():
    """Each block of ``b`` holds the channels of its source, contiguous or not."""
    module, shape = NETS["dense"]
    layout = layout_of(metanet.trace(module, torch.zeros(*shape)))
    weight = torch.randn(3, 5, 12 * 4)
    pieces = {b.shape[2]: b.piece.read(weight) for b in layout.blocks if b.link.tensor == "fc.weight"}
    maps = weight.reshape(3, 5, 12, 4)
    assert torch.equal(pieces[6], maps[:, None, :, :6])
    assert torch.equal(pieces[4], maps[:, None, :, 6:10])
    assert torch.equal(pieces[2], maps[:, None, :, 10:])


def test_coverage_is_the_share_of_parameters_shown(layout):
    assert layout.coverage == 1.0


def test_a_network_without_parameters_is_shown_whole():
    assert layout_of(metanet.trace(nn.ReLU(), torch.zeros(2, 3))).coverage == 1.0
