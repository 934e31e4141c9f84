"""Weights that no ordinary layer holds are in the graph, and every family of metanets reads them."""

import functools
import itertools
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import metanet
from metanet import testing
from metanet.errors import CoverageWarning, GraphError
from metanet.graph import NeuronGraph, layout, layout_of
from metanet.models import EdgeStateMetanet, GaugeMetanet, GMNMetanet, OperatorMetanet
from metanet.models.edge_list import EdgeListMetanet

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from outside import OUTSIDE

FAMILIES = (OperatorMetanet, GaugeMetanet, EdgeStateMetanet, GMNMetanet)
SEES_SIZES = (OperatorMetanet, EdgeStateMetanet, GMNMetanet)  # the size of a tensor alone may be a symmetry


@functools.cache
def space_of(name):
    torch.manual_seed(0)
    return metanet.trace(*OUTSIDE[name]())


@functools.cache
def small(family):
    torch.manual_seed(0)
    options = {"width": 12, "heads": 4} if family in (OperatorMetanet, GaugeMetanet) else {"width": 12, "edge_width": 6}
    return testing.randomised_module(family(**options, rounds=2))


@pytest.fixture(params=list(OUTSIDE))
def name(request):
    return request.param


def test_every_entry_is_shown(name):
    """Number all entries of all tensors; over blocks and vectors, every number must come back."""
    found = layout_of(space_of(name))
    for tensor, shape in found.space.shapes.items():
        numbered = torch.arange(torch.Size(shape).numel()).reshape(1, *shape)
        parts = [p for p in (*found.blocks, *found.vectors) if p.link.tensor == tensor]
        shown = torch.cat([p.piece.read(numbered).flatten() for p in parts])
        assert torch.equal(shown.unique(), numbered.flatten()), tensor
    assert found.unplaced == ()
    assert found.coverage == 1


def test_blocks_fit_their_node_sets(name):
    found = layout_of(space_of(name))
    for block in found.blocks:
        groups, targets, sources, taps = block.shape
        assert groups * targets == found.nodes[block.target].size
        assert groups * sources == found.nodes[block.source].size
        assert len(block.coordinates) == taps
    for vector in found.vectors:
        assert vector.piece.shape[0] == found.nodes[vector.target].size


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
def test_predictions_are_invariant(name, family):
    space, metanet_ = space_of(name), small(family)
    graph = testing.randomised_graph(space, nets=3)
    if any(a.size > 1 for a in space.free_axes):
        testing.assert_invariant(metanet_, graph)
    for kind in metanet_.claims & {g.kind for g in space.gauges}:
        testing.assert_gauge_invariant(metanet_, graph, kind)
    testing.assert_batch_independent(metanet_, graph)


@pytest.mark.parametrize("family", SEES_SIZES, ids=lambda f: f.__name__)
def test_predictions_see_every_tensor(name, family):
    graph, metanet_ = testing.randomised_graph(space_of(name), nets=2), small(family)
    with torch.no_grad():
        base = metanet_(graph)
        for tensor, values in graph.tensors.items():
            moved = metanet_(NeuronGraph(graph.space, {**graph.tensors, tensor: 2 * values}))
            assert ((moved - base).abs() / base.abs()).min() > 1e-8, tensor


def test_the_view_as_a_list_of_edges_gives_the_same(name):
    dense = small(EdgeStateMetanet)
    graph = testing.randomised_graph(space_of(name), nets=2)
    testing.assert_same_function(dense, EdgeListMetanet(dense), list(dense.parameters()), graph)


def blocks_of(name):
    found = layout_of(space_of(name))
    return {
        b.link.tensor: (found.nodes[b.target].axes, found.nodes[b.source].axes, b.shape, b.link.kind)
        for b in found.blocks
    }


def test_heads_write_and_are_read_as_one_product():
    blocks = blocks_of("attention by heads")
    heads, model, of_keys, of_values = "W_Q[0]", "W_Q[1]", "W_Q[2]", "W_V[2]"
    assert blocks["W_Q"] == ((heads, of_keys), (model,), (1, 8, 8, 1), "linear")
    assert blocks["W_K"] == blocks["W_Q"]
    assert blocks["W_V"] == ((heads, of_values), (model,), (1, 8, 8, 1), "linear")
    assert blocks["W_O"] == ((model,), (heads, of_values), (1, 8, 8, 1), "linear")


def test_factors_of_a_product_meet_at_their_own_neurons():
    blocks = blocks_of("three factors")
    chain = [blocks[n][:2] for n in "ABCD"]
    assert all(before[0] == after[1] for before, after in itertools.pairwise(chain))


def test_a_bilinear_form_stands_between_one_side_and_a_product():
    target, source, shape, _ = blocks_of("bilinear")["f.weight"]
    assert (len(target), len(source), shape) == (1, 2, (1, 3, 30, 1))


def test_a_table_read_by_number_is_an_embedding():
    target, source, shape, kind = blocks_of("lookup")["E"]
    assert (len(target), len(source), shape, kind) == (1, 1, (1, 5, 7, 1), "embedding")


def test_a_flat_vector_is_the_layers_that_it_holds():
    found = layout_of(space_of("flat"))
    sizes = [(found.nodes[b.source].size, found.nodes[b.target].size) for b in found.blocks]
    assert sizes == [(4, 6), (6, 5), (5, 3)]
    assert [found.nodes[v.target].size for v in found.vectors] == [6, 5]
    p = torch.arange(80.0)
    weight = next(b for b in found.blocks if found.nodes[b.target].size == 5).piece.read(p[None])
    assert torch.equal(weight[0, 0, :, :, 0], p[30:60].view(5, 6))


def test_a_form_too_large_to_be_held_is_named():
    with torch.device("meta"):
        net, x = Square(3000), torch.zeros(1, 4)
    found = layout_of(metanet.trace(net, x))
    assert found.unplaced == ("form.weight",)
    assert 0 < found.coverage < 1e-6
    assert all(n.size <= layout.NODES for n in found.nodes)


def test_what_is_left_out_is_said(monkeypatch):
    monkeypatch.setattr(layout, "NODES", 20)
    net, x = Square(11), torch.zeros(1, 4)
    with pytest.warns(CoverageWarning, match=r"sees 6.3% of the parameters. Outside of the graph: form.weight"):
        graph = metanet.build(net, x)
    assert "form.weight" in repr(graph)
    assert graph.coverage == pytest.approx(1 - 11**3 / graph.space.parameters)
    with pytest.warns(CoverageWarning, match="to_pyg: .*form.weight"):
        graph.to_pyg()


def test_a_network_without_parameters_is_refused_by_metanets():
    graph = metanet.build(nn.ReLU(), torch.zeros(1, 3))
    assert (repr(graph), graph.coverage) == ("NeuronGraph(no parameters)", 1)
    with pytest.raises(GraphError, match="no parameters"):
        OperatorMetanet()(graph)


class Square(nn.Module):
    """A layer, a bilinear form of what it gives, and a layer."""

    def __init__(self, width):
        super().__init__()
        self.first, self.form, self.last = nn.Linear(4, width), nn.Bilinear(width, width, width), nn.Linear(width, 2)

    def forward(self, x):
        x = self.first(x).relu()
        return self.last(self.form(x, x).relu())


PINNED = {
    "mlp": (
        lambda: nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3)),
        torch.zeros(2, 4),
        (0.404305339, 0.191058894),
        (0.536301145, 0.428171489),
    ),
    "transformer": (
        lambda: Encoder(),
        torch.zeros(2, 5, dtype=torch.long),
        (-0.406969267, -0.131008254),
        (-0.353416543, 0.787190863),
    ),
}


class Encoder(nn.Module):
    """Embeddings, positions, a transformer layer and a linear one."""

    def __init__(self):
        super().__init__()
        self.emb, self.pos = nn.Embedding(11, 8), nn.Parameter(torch.zeros(1, 5, 8))
        self.enc = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, numbers):
        return self.out(self.enc(self.emb(numbers) + self.pos).mean(1))


@pytest.mark.parametrize("which", PINNED)
def test_predictions_of_ordinary_networks_stay(which):
    """Computed before tensors without a link were placed: stored runs predict the same."""
    make, example, *expected = PINNED[which]
    graph = testing.randomised_graph(metanet.trace(make(), example), nets=2)
    for family, values in zip((OperatorMetanet, GaugeMetanet), expected, strict=True):
        torch.manual_seed(0)
        found = testing.randomised_module(family())(graph).detach().flatten()
        assert torch.allclose(found, torch.tensor(values, dtype=torch.float64), atol=1e-8), family
