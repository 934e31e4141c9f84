"""An axis that meets itself: values over all pairs of neurons, of which single factors and shifts are no symmetries."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import metanet

N = 5


class Net(nn.Module):
    """Five neurons ``z``, a function of them, and a layer that reads it."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.first, self.again, self.last = nn.Linear(3, N), nn.Linear(N, N), nn.LazyLinear(2)
        self.weight, self.vector = nn.Parameter(torch.randn(N, N)), nn.Parameter(torch.randn(N))

    def forward(self, x):
        return self.last(self.function(self, self.first(x)).flatten(1))


def rows(z):
    return z[:, :, None]


def columns(z):
    return z[:, None]


def pair(z):
    return rows(z) * columns(z)


def heads(z):
    """Products between two heads that one layer writes."""
    return z.unflatten(-1, (N, 1)) @ z.unflatten(-1, (N, 1)).mT


NOTHING = {
    "product": lambda m, z: pair(z),
    "quotient": lambda m, z: rows(z) / columns(z),
    "sum": lambda m, z: rows(z) + columns(z),
    "difference": lambda m, z: rows(z) - columns(z),
    "weighted difference": lambda m, z: rows(z) - 2 * columns(z),
    "difference with biases": lambda m, z: rows(z) - columns(z) + m.weight,
    "einsum": lambda m, z: torch.einsum("bi,bj->bij", z, z),
    "triples": lambda m, z: torch.einsum("bi,bj,bk->bijk", z, z, z),
    "kron": lambda m, z: torch.stack([torch.kron(a, a) for a in z]),
    "tril": lambda m, z: pair(z).tril(),
    "triu of sums": lambda m, z: (rows(z) + columns(z)).triu(),
    "product, summed": lambda m, z: pair(z).sum(2),
    "quotient, summed": lambda m, z: (rows(z) / columns(z)).sum(1),
    "quotient, averaged": lambda m, z: (rows(z) / columns(z)).mean(2),
    "largest product": lambda m, z: pair(z).amax(2),
    "softmax of products": lambda m, z: pair(z).softmax(-1),
    "normalised products": lambda m, z: F.normalize(pair(z), dim=-1),
    "matrix product": lambda m, z: rows(z) @ columns(z),
    "cumulative sum of products": lambda m, z: pair(z).cumsum(1),
    "products of sines": lambda m, z: pair(z.sin()),
    "sine times cosine": lambda m, z: rows(z.sin()) * columns(z.cos()),
    "products of tanhs": lambda m, z: pair(z.tanh()),
    "products of ReLUs": lambda m, z: pair(z.relu()),
    "repeated": lambda m, z: z.repeat_interleave(N, 1) * z.repeat(1, N),
    "expanded": lambda m, z: rows(z).expand(-1, -1, N) * columns(z).expand(-1, N, -1),
    "products with weights": lambda m, z: pair(z) * (m.weight + 1),
    "products with a bias": lambda m, z: rows(z) * m.first.bias,
    "gram matrix of a weight": lambda m, z: (z @ (m.first.weight @ m.first.weight.T)).relu(),
    "square of a weight": lambda m, z: z + m.again(z) + z @ (m.again.weight @ m.again.weight),
    "products between heads": lambda m, z: heads(z),
    "weight minus its transpose": lambda m, z: z + z @ (m.weight - m.weight.T),
    "weight plus its transpose": lambda m, z: z + z @ (m.weight + m.weight.T),
    "weight times its transpose": lambda m, z: z + z @ (m.weight * m.weight.T),
    "clamped weight": lambda m, z: z + z @ m.weight + z @ m.weight.clamp(-1, 2),
    "masked weight": lambda m, z: z + z @ (m.weight * torch.ones(N, N, dtype=z.dtype).tril()),
    "larger": lambda m, z: torch.maximum(rows(z), columns(z)),
}  # fmt: skip


def traced(function):
    torch.manual_seed(0)
    net, x = Net(function).double().eval(), torch.randn(3, 3, dtype=torch.float64)
    net(x)
    return net, x, metanet.trace(net, x)


def largest_change(net, x, space, kinds):
    """The largest relative change under some elements of these kinds."""
    with torch.no_grad():
        base = net(x)
        moved = [space.sample(seed, kinds=kinds).apply(net.state_dict()) for seed in range(8)]
        outputs = [torch.func.functional_call(net, state, x) for state in moved]
    return max(((y - base).abs().max() / base.abs().max()).item() for y in outputs)


@pytest.mark.parametrize("name", NOTHING)
def test_pairs_leave_no_gauge_of_the_neurons(name):
    net, x, space = traced(NOTHING[name])
    moving = [g for g in space.gauges if any(p.tensor.startswith("first") for p in g.parts)]
    assert [str(g) for g in moving if not (g.kind == "phase" and even(g))] == []
    assert largest_change(net, x, space, [g.kind for g in space.gauges]) < 1e-9


def even(gauge):
    """Whether a phase is one of whole periods, which are true of every sine."""
    return len(gauge.parts) == 1 and gauge.parts[0].shift == pytest.approx(2 * torch.pi)


TRUE = {
    "quadratic form": (lambda m, z: (z @ m.weight * z).sum(-1, keepdim=True), {"scale", "sign"}),
    "elementwise functions of a weight": (lambda m, z: z + z @ m.weight + z @ m.weight.tanh(), {"sign"}),
    "squared norm": (lambda m, z: z.square().sum(-1, keepdim=True), {"sign", "orthogonal"}),
    "the same neuron twice": (lambda m, z: z.tanh() * z.tanh(), {"sign"}),
    "sine squared": (lambda m, z: (s := z.sin()) * s, {"sign", "phase"}),
    "relu times vector": (lambda m, z: z.relu() * m.vector, {"scale"}),
    "roots and their inverses": (lambda m, z: rows(z.abs().sqrt()) * columns(z.abs().rsqrt()), {"sign"}),
    "softmax of sums": (lambda m, z: (rows(z) + columns(z)).softmax(2).sum(1), {"shift"}),
    "product with its own transpose over positions": (
        lambda m, z: torch.einsum("bpi,bqi->bpq", *[torch.stack([z, z.sin()], 1)] * 2), {"sign"}),
}  # fmt: skip


@pytest.mark.parametrize("name", TRUE)
def test_what_is_true_beside_pairs_stays_claimed(name):
    function, kinds = TRUE[name]
    net, x, space = traced(function)
    assert {g.kind for g in space.gauges if any(p.tensor == "first.bias" for p in g.parts)} == kinds
    assert largest_change(net, x, space, [g.kind for g in space.gauges]) < 1e-9
