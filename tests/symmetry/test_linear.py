"""Matrices: how they are drawn, how they act, and how they are carried along by permutations."""

import pytest
import torch
from torch import nn

import metanet
from metanet.symmetry.linear import carried_matrices, draw_matrices, draw_orthogonal, multiply
from metanet.symmetry.move import Move


@pytest.fixture(scope="module")
def bottleneck():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 4), nn.GELU()), torch.randn(2, 5)
    space = metanet.trace(net, x)
    (number,) = (n for n, g in enumerate(space.gauges) if g.kind == "linear")
    return space, number, {name: t.double() for name, t in net.state_dict().items()}


def test_the_action_is_the_documented_one(bottleneck):
    space, number, state = bottleneck
    g = draw_matrices(space.gauges[number], space, torch.Generator().manual_seed(1))
    moved = Move(space, factors={number: g}).apply(state)
    torch.testing.assert_close(moved["0.weight"], g @ state["0.weight"])
    torch.testing.assert_close(moved["0.bias"], g @ state["0.bias"])
    torch.testing.assert_close(moved["1.weight"], state["1.weight"] @ torch.linalg.inv(g))
    assert torch.equal(moved["1.bias"], state["1.bias"])


def test_matrices_are_well_conditioned(bottleneck):
    space, number, _ = bottleneck
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([draw_matrices(space.gauges[number], space, generator) for _ in range(50)])
    values = torch.linalg.svdvals(drawn)
    assert values.min() >= 0.5
    assert values.max() <= 2
    assert values.std() > 0.1
    assert (drawn - torch.diag_embed(drawn.diagonal(dim1=-2, dim2=-1))).abs().amax((1, 2)).min() > 1e-3


def test_orthogonal_matrices_are_orthogonal(bottleneck):
    space, number, _ = bottleneck
    q = draw_orthogonal(space.gauges[number], space, torch.Generator().manual_seed(0))
    torch.testing.assert_close(q @ q.mT, torch.eye(3, dtype=torch.float64))
    assert (q - torch.eye(3)).abs().max() > 0.1


def test_matrices_carried_by_a_permutation(bottleneck):
    space, number, state = bottleneck
    gauge = space.gauges[number]
    g = draw_matrices(gauge, space, torch.Generator().manual_seed(1))
    perms = {gauge.axes[-1]: torch.tensor([2, 0, 1])}
    before = Move(space, perms, {number: g}).apply(state)
    after = Move(space, factors={number: carried_matrices(g, gauge, perms)}).apply(Move(space, perms).apply(state))
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor)


def test_float32_tensors_stay_float32(bottleneck):
    space, number, state = bottleneck
    single = {name: t.float() for name, t in state.items()}
    g = draw_matrices(space.gauges[number], space, torch.Generator().manual_seed(1))
    double = {name: t.clone() for name, t in state.items()}
    for tensors in (single, double):
        multiply(space, space.gauges[number], g, tensors)
    for name, tensor in single.items():
        torch.testing.assert_close(tensor, double[name].float())
