import pytest
import torch
from torch import nn

import metanet
from metanet.errors import SpaceError
from metanet.space.weight_space import WeightSpace
from metanet.symmetry.evaluation import Evaluation
from metanet.symmetry.widening import widen


def twice_and_one_more(size):
    return torch.cat([torch.arange(size), torch.arange(size), torch.tensor([0])])


class Normed(nn.Module):
    """A residual block with batch norm, and a head after flattening."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.conv, self.head = nn.Conv2d(5, 5, 3, padding=1, bias=False), nn.Linear(5 * 16, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        return self.head((x + torch.relu(self.conv(x))).flatten(1))


def normed():
    return Normed(), torch.randn(2, 1, 4, 4)


@pytest.mark.parametrize("name", ["mlp", "cnn", "normed"])
def test_the_function_stays_on_every_axis_alone_and_on_all(traced_network, name):
    module, example = normed() if name == "normed" else traced_network(name)[:2]
    space = metanet.trace(module, example)
    evaluation = Evaluation(module, example)
    state, outputs = evaluation.weights(space)
    every = {axis.name: twice_and_one_more(axis.size) for axis in space.free_axes}
    for copies in [*({axis: index} for axis, index in every.items()), every]:
        widening = widen(space, copies)
        wide = widening.apply(state)
        assert {n: tuple(wide[n].shape) for n in space.tensor} == widening.wide.shapes
        changed = [n for n in space.tensor if wide[n].shape != state[n].shape]
        assert changed
        new = evaluation.outputs(wide)
        assert max((a - b).abs().max() / b.abs().max() for a, b in zip(new, outputs, strict=True)) < 1e-12
        broken = {**wide, changed[-1]: 2 * wide[changed[-1]]}  # as if shares had been forgotten
        assert max((a - b).abs().max() for a, b in zip(evaluation.outputs(broken), outputs, strict=True)) > 1e-3


def test_batches_and_json(traced_network):
    _, _, space = traced_network("cnn")
    widening = widen(space, {a.name: twice_and_one_more(a.size) for a in space.free_axes})
    stacked = {name: torch.randn(3, *shape) for name, shape in space.shapes.items()}
    wide = widening.apply(stacked, batched=True)
    for i in range(3):
        alone = widening.apply({name: tensor[i] for name, tensor in stacked.items()})
        assert all(torch.equal(wide[name][i], alone[name]) for name in space.tensor)
    assert WeightSpace.from_json(widening.wide.to_json()) == widening.wide
    assert not widening.wide.certified


def test_refusals(traced_network):
    _, _, space = traced_network("mlp")
    axis = space.free_axes[0]
    with pytest.raises(SpaceError, match="no free axis"):
        widen(space, {"nothing": torch.arange(3)})
    with pytest.raises(SpaceError, match="at least once"):
        widen(space, {axis.name: torch.arange(axis.size - 1)})


def test_a_matrix_that_reads_and_writes_the_same_axis():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.inner = nn.Linear(3, 5), nn.Linear(5, 5)

        def forward(self, x):
            x = torch.tanh(self.first(x))
            return (x + torch.tanh(self.inner(x))).sum(-1)

    space = metanet.trace(Tied(), torch.randn(2, 3))
    (axis,) = space.free_axes
    wide = widen(space, {axis.name: twice_and_one_more(5)})  # written along one dimension, read along the other
    state = {n: torch.randn(s, dtype=torch.float64) for n, s in space.shapes.items()}
    assert wide.apply(state)["inner.weight"].shape == (11, 11)
