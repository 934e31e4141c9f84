"""Small layers against the formulas of their docstrings, written out with loops."""

import math

import pytest
import torch
from torch import nn

import metanet
from metanet import testing
from metanet.graph import layout_of
from metanet.nn.equivariant import Invariant, Symmetry, bounded, unit
from metanet.nn.nfn import ChainLayer, ChainState
from metanet.nn.nodes import NodeEmbedding, NodeUpdate
from metanet.nn.operators import BlockEmbedding
from metanet.nn.pna import Neighbourhood
from metanet.nn.pooling import GraphPooling
from metanet.nn.signed_update import SignedNorm
from metanet.nn.tokens import NeuronTokens

gelu = nn.functional.gelu


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_neighbourhoods_of_two_blocks():
    """Mean, deviation, largest and smallest of all messages, times 1, ``log(1 + n) / log 33`` and its inverse."""
    first, second = random(2, 3, 5, 4), random(2, 3, 2, 4, seed=1)  # five messages, then two, of four numbers
    found = Neighbourhood()
    for part in (first, second):
        found.add(part.shape[2], part.sum(2), part.square().sum(2), part.amax(2), part.amin(2))
    everything = torch.cat([first, second], 2)
    deviation = (everything.var(2, correction=0) + 1e-5).sqrt()
    statistics = torch.cat([everything.mean(2), deviation, everything.amax(2), everything.amin(2)], -1)
    degree = math.log(1 + 7) / math.log(33)
    wanted = torch.cat([statistics, statistics * degree, statistics / degree], -1)
    torch.testing.assert_close(found.read(random(2, 3, 9), 4), wanted, rtol=1e-10, atol=1e-12)


def test_a_neighbourhood_without_messages_is_zero():
    found = Neighbourhood().read(random(2, 3, 9), 4)
    assert found.shape == (2, 3, 48)
    assert not found.any()


def test_equal_messages_have_no_negative_variance():
    found, values = Neighbourhood(), torch.full((1, 1, 3), 1e3, dtype=torch.float64) / 3
    found.add(3, 3 * values, 3 * values.square() - 1e-9, values, values)
    assert found.read(values, 3)[0, 0, 3:6].tolist() == pytest.approx([math.sqrt(1e-5)] * 3, rel=0.1)


@pytest.mark.parametrize("rest", [0, 2])
def test_the_layer_of_neural_functionals(rest):
    """``W' = D W + R r_i + Q r_(i-1) + M m``, ``v' = P r + N m``, ``rest' = A m``; then norm and gelu."""
    torch.manual_seed(0)
    sizes, channels, vectors = [4, 3, 2], 5, [2, 3, 1]
    layer = testing.randomised_module(ChainLayer(vectors, channels, rest))
    state = ChainState(
        [random(2, n, c, seed=n) for n, c in zip(sizes, vectors, strict=True)],
        [random(2, sizes[i + 1], sizes[i], channels, seed=9 + i) for i in range(2)],
        random(2, rest, seed=20),
    )
    v, w = state.vectors, state.matrices
    means = torch.cat([*(x.mean(1) for x in v), *(x.mean((1, 2)) for x in w), state.rest], -1)
    joint = [
        torch.cat([v[0], w[0].mean(1)], -1),  # columns of the matrix that reads it
        torch.cat([v[1], w[0].mean(2), w[1].mean(1)], -1),
        torch.cat([v[2], w[1].mean(2)], -1),  # rows of the matrix that writes it
    ]
    found = layer(state)
    for i in range(2):
        wanted = torch.zeros_like(w[i])
        for t in range(sizes[i + 1]):
            for s in range(sizes[i]):
                known = layer.row[i](joint[i + 1][:, t]) + layer.column[i](joint[i][:, s]) + layer.mean[i](means)
                wanted[:, t, s] = gelu(layer.norms[3 + i](layer.own[i](w[i][:, t, s]) + known))
        torch.testing.assert_close(found.matrices[i], wanted, rtol=1e-10, atol=1e-12)
    for i in range(3):
        total = layer.vector[i](joint[i]) + layer.vector_mean[i](means)[:, None]
        torch.testing.assert_close(found.vectors[i], gelu(layer.norms[i](total)), rtol=1e-10, atol=1e-12)
    wanted = gelu(layer.norms[5](layer.rest(means))) if rest else state.rest
    torch.testing.assert_close(found.rest, wanted, rtol=1e-10, atol=1e-12)


def test_tokens_are_means_over_what_a_neuron_reads_and_over_its_readers():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    graph = testing.randomised_graph(metanet.trace(net, torch.zeros(1, 3)), nets=2)
    tokens = testing.randomised_module(NeuronTokens(6, 5))
    inputs, hidden, outputs = tokens.nodes(graph)
    first, second = (state[:, 0] for state in tokens.edges(graph))  # [B, targets, sources, 5]
    found = tokens(graph)
    for s in range(3):
        wanted = inputs[:, s] + tokens.writes(torch.stack([first[:, t, s] for t in range(4)]).mean(0))
        torch.testing.assert_close(found[0][:, s], wanted, rtol=1e-10, atol=1e-12)
    for n in range(4):
        reads = torch.stack([first[:, n, s] for s in range(3)]).mean(0)
        writes = torch.stack([second[:, t, n] for t in range(2)]).mean(0)
        wanted = hidden[:, n] + tokens.reads(reads) + tokens.writes(writes)
        torch.testing.assert_close(found[1][:, n], wanted, rtol=1e-10, atol=1e-12)
    for t in range(2):
        wanted = outputs[:, t] + tokens.reads(torch.stack([second[:, t, s] for s in range(4)]).mean(0))
        torch.testing.assert_close(found[2][:, t], wanted, rtol=1e-10, atol=1e-12)


def test_unit_and_bounded():
    """``x / |x|``, and ``x / sqrt(1 + mean x^2)``."""
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-0.3, 0.4], [3e9, -4e9]], dtype=torch.float64)
    wanted = torch.tensor([[0.6, 0.8], [0.0, 0.0], [-0.6, 0.8], [0.6, -0.8]], dtype=torch.float64)
    torch.testing.assert_close(unit(x), wanted, rtol=1e-12, atol=0)
    torch.testing.assert_close(bounded(x), x / (1 + x.square().mean(1, keepdim=True)).sqrt(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("sign", [False, True])
def test_invariant_functions(scale, sign):
    """``rho(r; c)``, or half of ``rho(r; c) + rho(-r; c)`` where signs change."""
    torch.manual_seed(0)
    layer = testing.randomised_module(Invariant(3, 2, 4))
    x, known = random(5, 3), random(5, 2, seed=1)

    def rho(r):
        return layer.out(gelu(layer.read(r) + layer.known(known)))

    r = unit(x) if scale else bounded(x)
    wanted = (rho(r) + rho(-r)) / 2 if sign else rho(r)
    torch.testing.assert_close(layer(x, known, Symmetry(scale, sign)), wanted, rtol=1e-10, atol=1e-12)


def test_pooling_joins_hidden_sets_the_deepest_and_outputs(traced_network):
    """Mean and deviation of each set; their mean over hidden sets, those of the deepest, their mean over outputs."""
    layout = layout_of(traced_network("mlp")[2])
    assert [n.kind for n in layout.nodes] == ["input", "neuron", "neuron", "output"]
    pool = testing.randomised_module(GraphPooling(6))
    features = [random(2, n.size, 6, seed=i) for i, n in enumerate(layout.nodes)]
    parts = []
    for values in features:
        values = pool.norm(values)
        parts.append(torch.cat([values.mean(1), (values.var(1, correction=0) + 1e-5).sqrt()], -1))
    wanted = torch.cat([(parts[1] + parts[2]) / 2, parts[2], parts[3]], -1)
    torch.testing.assert_close(pool(features, layout), wanted, rtol=1e-10, atol=1e-12)


def test_the_norm_of_odd_and_even_halves():
    norm = testing.randomised_module(SignedNorm(6))
    x = random(4, 6)
    odd = x[:, :3] / (x[:, :3].square().mean(1, keepdim=True) + 1e-6).sqrt() * norm.scale
    even = nn.functional.layer_norm(x[:, 3:], (3,), norm.norm.weight, norm.norm.bias)
    torch.testing.assert_close(norm(x), torch.cat([odd, even], 1), rtol=1e-10, atol=1e-12)


def test_symmetries_and_transfer_are_asked_for():
    """What a layer assumes of its own accord: no symmetry, sums in place of means."""
    assert Symmetry() == Symmetry(scale=False, sign=False)
    assert not BlockEmbedding(4).transfer
    assert not NodeEmbedding(4).transfer


def test_first_parameters_keep_the_size_of_signals():
    """Free parameters start normal, with the deviation ``1 / sqrt(n)`` for n numbers read, and .5 for sizes."""
    torch.manual_seed(0)
    heard = NodeUpdate(128, messages=2).heard
    assert heard.shape == (2, 128, 128)
    assert heard.std().item() == pytest.approx(128**-0.5, rel=0.02)
    embedding = BlockEmbedding(64)
    assert embedding.out.std().item() == pytest.approx(128**-0.5, rel=0.05)
    assert embedding.size.std().item() == pytest.approx(0.5, rel=0.2)
