import xml.etree.ElementTree as ElementTree

import pytest
import torch
from torch import nn

import metanet
from metanet.errors import GraphError
from metanet.graph import NeuronGraph
from metanet.graph.captions import above, below, extents
from metanet.graph.columns import plan
from metanet.graph.draw import draw
from metanet.graph.strongest import strongest


def words(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_every_network_is_drawn_as_svg_and_png(traced, tmp_path):
    module, _, space = traced
    graph = NeuronGraph.from_state_dicts(space, [module.state_dict()])
    draw(graph, tmp_path / "net.svg")
    assert ElementTree.parse(tmp_path / "net.svg").getroot().tag.endswith("svg")
    draw(graph, tmp_path / "net.png")
    assert (tmp_path / "net.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.png", "net.svg"]


def test_equal_graphs_give_equal_files(traced_network, tmp_path):
    module, _, space = traced_network("residual")
    graph = NeuronGraph.from_state_dicts(space, [module.state_dict()])
    for name in ("a.svg", "b.svg"):
        draw(graph, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_captions_say_what_is_shown_and_what_is_not():
    net = nn.Sequential(nn.Conv2d(3, 64, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 4, 10))
    graph = metanet.build(net, torch.zeros(1, 3, 8, 8))
    text = words(draw(graph, max_nodes=9, max_edges=20))
    assert "conv 0 5×5 /2" in text
    assert "… 64 channels · relu" in text
    assert "strongest 20 of 192 drawn" in text
    assert "strongest 20 of 640 drawn" in text
    assert "linear 3 @2×2" in text
    assert "10 outputs" not in text  # nine of ten are shown
    assert "… 10 outputs" in text
    assert {"input", "3 inputs"} <= set(text)


class Stream(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.up, self.down, self.fc = nn.Linear(4, 6), nn.Linear(6, 9), nn.Linear(9, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = self.stem(x)
        return self.fc(torch.relu(x + self.down(torch.tanh(self.up(x)))))


def test_a_residual_stream_stands_in_one_lane():
    graph = metanet.build(Stream(), torch.zeros(1, 4))
    layout = graph.layout
    placed = plan(layout)
    stem = next(b.target for b in layout.blocks if b.link.tensor == "stem.weight")
    assert [c for n, c in placed.copies if n == stem] == [1, 3]
    assert (stem, 1, 3) in placed.streams
    hidden = next(b.target for b in layout.blocks if b.link.tensor == "up.weight")
    assert placed.lane[hidden] != placed.lane[stem]
    text = words(draw(graph))
    assert "the same 6 neurons, written by stem, down" in text
    assert any("grey lines: the same neurons" in line for line in text)


def test_a_depthwise_block_continues_its_lane_without_a_stream():
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Conv2d(4, 3, 1))
    layout = metanet.graph.layout_of(metanet.trace(net, torch.zeros(1, 2, 8, 8)))
    placed = plan(layout)
    assert placed.streams == ()
    assert [c.kind for c in placed.copies.values()].count("coupled") == 1
    coupled = next(c for c in placed.copies.values() if c.kind == "coupled")
    assert above(layout, coupled) == ["conv 2 3×3 depthwise"]
    assert below(layout, coupled, {}, range(4)) == ["4 channels · relu"]


def test_a_deep_network_keeps_its_first_and_last_columns():
    net = nn.Sequential(*(nn.Linear(3, 3) for _ in range(40)))
    graph = metanet.build(net.state_dict(), transposed=False)
    placed = plan(graph.layout, max_columns=8)
    assert placed.columns == (0, 1, 2, 3, 37, 38, 39, 40)
    assert len(placed.elided) == 33
    assert any("33 columns" in text for text in words(draw(graph, max_columns=8)))


def test_the_strongest_edges_are_those_of_largest_magnitude():
    net = nn.Linear(6, 5)
    graph = metanet.build(net, torch.zeros(1, 6))
    block, values = graph.layout.blocks[0], graph.blocks()[0][0]
    edges = strongest(graph.layout, block, values, {0: list(range(6)), 1: list(range(5))}, 7)
    expected = net.weight.detach().abs().flatten().sort().values[-7:]
    assert torch.equal(edges.weight.abs(), expected)
    assert torch.equal(net.weight.detach()[edges.target, edges.source], edges.weight)
    assert edges.thinned
    assert edges.total == 30
    some = strongest(graph.layout, block, values, {0: [1, 4], 1: [0]}, 7)
    assert set(zip(some.source.tolist(), some.target.tolist(), strict=True)) == {(1, 0), (4, 0)}


def test_broken_weights_are_counted_and_drawn():
    net = nn.Linear(3, 2)
    with torch.no_grad():
        net.weight[0, 0], net.bias[1] = float("nan"), float("inf")
    assert "1 weights are not finite" in words(draw(metanet.build(net, torch.zeros(1, 3))))


def test_extents_are_kernel_taps_or_positions():
    net = nn.Sequential(nn.Conv2d(1, 4, (3, 5)), nn.Flatten(), nn.Linear(4 * 8, 2))
    layout = metanet.graph.layout_of(metanet.trace(net, torch.zeros(1, 1, 6, 6)))
    assert [extents(b) for b in layout.blocks] == [(3, 5), (4, 2)]


def test_nothing_global_is_touched(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # an import of it would now fail
    assert draw(metanet.build(nn.Linear(3, 2), torch.zeros(1, 3))).axes


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"path": "net.txt"}, "ending '.txt'"),
        ({"path": "nowhere/net.svg"}, "does not exist"),
        ({"number": 1}, "cannot draw net 1"),
        ({"max_nodes": 1}, "2 or more"),
    ],
)
def test_bad_requests_are_refused(kwargs, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GraphError, match=message):
        draw(metanet.build(nn.Linear(3, 2), torch.zeros(1, 3)), **kwargs)
    assert not list(tmp_path.iterdir())
