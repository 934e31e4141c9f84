"""Whose tensors a checkpoint holds: names and shapes must be exactly those of the space, below one dotted prefix."""

import pytest
import torch
from torch import nn

import metanet
from metanet.graph.match import matches


@pytest.fixture(scope="module")
def known():
    """A network and its space."""
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    return net, metanet.trace(net, torch.zeros(2, 3))


def found(tensors, *spaces):
    return [(match.space, match.prefix) for match in matches(tensors, spaces)]


@pytest.mark.parametrize("prefix", ["", "module.", "model.net."])
def test_any_dotted_prefix_is_accepted(known, prefix):
    net, space = known
    assert found({prefix + name: tensor for name, tensor in net.state_dict().items()}, space) == [(space, prefix)]


@pytest.mark.parametrize("prefix", ["1", "my", "module", "net_"])
def test_a_prefix_ends_in_a_dot(known, prefix):
    """``10.weight`` is the weight of layer 10, not that of layer 0 below the prefix ``1``."""
    net, space = known
    assert found({prefix + name: tensor for name, tensor in net.state_dict().items()}, space) == []


def test_a_tensor_more_or_less_or_of_another_shape_is_no_match(known):
    net, space = known
    state = net.state_dict()
    assert found({**state, "4.weight": torch.zeros(2, 2)}, space) == []
    assert found({name: tensor for name, tensor in state.items() if name != "3.bias"}, space) == []
    assert found({**state, "3.weight": state["3.weight"].t()}, space) == []
    assert found({**state, "number": torch.tensor(0)}, space) == [(space, "")], "counters have no meaning here"
    assert found({**state, "codes": torch.zeros(3, dtype=torch.long)}, space) == []


def test_two_nets_in_one_file_are_no_match(known):
    net, space = known
    assert found({p + name: tensor for p in ("a.", "b.") for name, tensor in net.state_dict().items()}, space) == []


def test_every_space_that_fits_is_told(known):
    net, space = known
    other = metanet.trace(nn.Sequential(*net[:2], nn.Tanh(), net[3]), torch.zeros(2, 3))
    smaller = metanet.trace(net[0], torch.zeros(2, 3))
    assert found(net.state_dict(), space, smaller, other) == [(space, ""), (other, "")]


def test_tied_names_belong_to_the_space():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(torch.tanh(self.a(x)))

    net = Tied()
    space = metanet.trace(net, torch.zeros(2, 3))
    assert found(net.state_dict(), space) == [(space, "")]
    assert found({"module." + n: t for n, t in net.state_dict().items()}, space) == [(space, "module.")]
