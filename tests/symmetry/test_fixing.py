"""Fixed networks: the same function, and the same for every member of an orbit under scalings."""

import pytest
import torch
from torch import nn

import metanet
from metanet import testing
from metanet.symmetry import fixing
from metanet.symmetry.fixing import fix, fixing_of
from metanet.symmetry.move import sample


class Norms(nn.Module):
    """Batch norms before a tanh and before a ReLU, and an attention block whose projection is fused."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = (
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4),
        )  # fmt: skip
        self.block = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.0, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = torch.relu(self.bn2(self.conv2(torch.tanh(self.bn1(self.conv1(x))))))
        return self.head(self.block(x.flatten(2).transpose(1, 2)).mean(1))


@pytest.fixture(scope="module")
def norms():
    torch.manual_seed(0)
    module, example = Norms(), torch.randn(2, 1, 6, 6)
    return module, example, metanet.trace(module, example)


@pytest.fixture(params=["mlp", "cnn", "residual", "norms"])
def case(request, traced_network, norms):
    return norms if request.param == "norms" else traced_network(request.param)


def largest_change(space, one, other):
    return max((one[n] - other[n]).abs().max().item() for n in space.tensor)


def test_fixed_networks_do_not_depend_on_scales(case):
    space, graph = case[2], testing.randomised_graph(case[2])
    move = sample(space, seed=1, kinds=("scale",))
    assert move.factors
    moved = move.apply(graph.tensors, batched=True)
    assert largest_change(space, moved, graph.tensors) > 0.1
    assert largest_change(space, fix(space, moved)[0], fix(space, graph.tensors)[0]) < 1e-12
    assert fixing_of(space).left == ()


def test_frames_carry_the_scales(case):
    space, graph = case[2], testing.randomised_graph(case[2])
    move = sample(space, seed=1, kinds=("scale",))
    before = fix(space, graph.tensors)[1]
    after = fix(space, move.apply(graph.tensors, batched=True))[1]
    steps = [s for s in fixing_of(space).steps if s.gauge.kind == "scale"]
    for step, old, new in zip(steps, before, after, strict=False):
        factors = move.factors[space.gauges.index(step.gauge)]
        torch.testing.assert_close(new, old * factors)


def test_the_function_stays(case):
    module, example, space = case
    graph = testing.randomised_graph(space, nets=2)
    fixed = fix(space, graph.tensors)[0]
    assert largest_change(space, fixed, graph.tensors) > 0.1
    double = nn.Module.double(module).eval()
    for number in range(2):
        outputs = [
            torch.func.functional_call(double, {n: t[number] for n, t in tensors.items()}, (example.double(),))
            for tensors in (graph.tensors, fixed)
        ]
        assert ((outputs[0] - outputs[1]).abs().max() / outputs[0].abs().max()) < 1e-11
    module.float()


def test_permuting_and_fixing_commute(case):
    space, graph = case[2], testing.randomised_graph(case[2])
    move = testing.random_move(space, 2)
    one = move.apply(fix(space, graph.tensors)[0], batched=True)
    other = fix(space, move.apply(graph.tensors, batched=True))[0]
    assert largest_change(space, one, other) < 1e-12


def test_what_remains_of_the_signs_acts_on_fixed_networks(norms):
    module, example, space = norms
    signs = fixing_of(space).signs
    assert sum(g.kind == "sign" for g in space.gauges) == len(signs) + 3  # the scales of three norms carry one each
    graph = testing.randomised_graph(space, nets=1)
    fixed = fix(space, graph.tensors)[0]
    double = nn.Module.double(module).eval()
    base = torch.func.functional_call(double, {n: t[0] for n, t in fixed.items()}, (example.double(),))
    assert all((fixed[f"bn{i}.weight"] > 0).all() for i in (1, 2))
    for gauge in signs:
        state = {n: t[0].clone() for n, t in fixed.items()}
        factors = torch.ones([space.axis[a].size for a in gauge.axes], dtype=torch.float64)
        factors.view(-1)[0] = -1
        fixing.rescale(space, gauge, factors, state)
        found = torch.func.functional_call(double, state, (example.double(),))
        assert ((found - base).abs().max() / base.abs().max()) < 1e-11
    module.float()


def test_a_neuron_without_incoming_weights_becomes_zero(traced_network):
    space = traced_network("cnn")[2]
    graph = testing.randomised_graph(space)
    graph.tensors["2.weight"][:, 1] = 0
    fixed = fix(space, graph.tensors)[0]
    assert all(t.isfinite().all() for t in fixed.values())
    assert (fixed["6.weight"][:, :, 1] == 0).all()
    assert (fixed["6.weight"][:, :, 0] != 0).any()
