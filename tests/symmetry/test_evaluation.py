"""Certificates run the network itself: without copies, on buffers as they were, and on complex weights."""

import threading
import warnings
from collections import deque

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune, weight_norm

import metanet
from metanet.errors import SpaceError
from metanet.symmetry.evaluation import Evaluation, relative_change


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def normed():
    net = mlp()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weight_norm(net[0])
    return net


def pruned():
    net = mlp()
    prune.l1_unstructured(net[0], "weight", 0.5)
    return net


def locked():
    net = mlp()
    net.lock, net.derived = threading.Lock(), net[0].weight * 2
    return net


class Stateful(nn.Module):
    """Two layers and a function that may write to the module."""

    def __init__(self, function, **held):
        super().__init__()
        self.function, self.a, self.b = function, nn.Linear(4, 6), nn.Linear(6, 3)
        self.register_buffer("centre", torch.zeros(6))
        self.register_buffer("steps", torch.zeros(()), persistent=False)
        for name, thing in held.items():
            setattr(self, name, thing)

    def forward(self, x):
        return self.b(self.function(self, self.a(x)).relu())


def centred(m, h):
    m.centre.mul_(0.9).add_(h.mean(0) * 0.1)
    return h - m.centre


def reassigned(m, h):
    m.centre = m.centre * 0.9 + h.mean(0) * 0.1
    return h - m.centre


def counted(m, h):
    m.steps.add_(1)
    return h * m.steps


def plain(m, h):
    m.count += 1
    return h * m.count


def queued(m, h):
    m.queue.append(1)
    return h * len(m.queue)


def nested(m, h):
    m.cache["a"].append(1)
    return h * len(m.cache["a"])


def noisy(m, h):
    return h * float(np.random.rand())  # noqa: NPY002


STATEFUL = {
    "buffer in place": (centred, {}, 0), "buffer assigned": (reassigned, {}, 0), "buffer of no file": (counted, {}, 6),
    "number": (plain, {"count": 0}, 6), "queue": (queued, {"queue": deque()}, 6),
    "list in a dict": (nested, {"cache": {"a": []}}, 6), "noise": (noisy, {}, 6),
}  # fmt: skip


@pytest.mark.parametrize("make", [normed, pruned, locked, lambda: nn.DataParallel(mlp())])
def test_modules_that_cannot_be_copied_certify(make):
    net, x = make().eval(), torch.randn(2, 4)
    before = {name: t.clone() for name, t in net.state_dict().items()}
    space = metanet.trace(net, x, certify=True)
    assert space.certified
    assert space.neurons == metanet.trace(net, x).neurons
    assert all(torch.equal(before[name], t) for name, t in net.state_dict().items())


@pytest.mark.parametrize("name", STATEFUL)
def test_every_run_starts_from_the_same_state(name):
    function, held, neurons = STATEFUL[name]
    net, x = Stateful(function, **held), torch.randn(2, 4)
    evaluation = Evaluation(net, x)
    first, second = evaluation.outputs({}), evaluation.outputs({})
    assert relative_change(second, first) == 0
    space = metanet.trace(net, x, certify=True)
    assert space.certified
    assert space.neurons == neurons
    assert metanet.certify(net, space, x).ok
    assert not net.centre.any()


def test_weights_that_a_run_writes_are_left_alone():
    def renormed(m, h):
        with torch.no_grad():
            m.b.weight.div_(m.b.weight.norm())
        return h

    net, x = Stateful(renormed), torch.randn(2, 4)
    evaluation = Evaluation(net, x)
    state = {name: t.double() for name, t in net.state_dict().items()}
    kept = state["b.weight"].clone()
    for _ in range(3):
        evaluation.outputs(state)
        assert torch.equal(state["b.weight"], kept)


class Complex(nn.Module):
    """Three complex layers with a function between them."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        sizes = ((6, 4), (6, 6), (3, 6))
        self.weights = nn.ParameterList(torch.randn(*s, dtype=torch.cfloat) for s in sizes)
        self.bias = nn.Parameter(torch.randn(6, dtype=torch.cfloat))

    def forward(self, x):
        z = F.linear(x.to(torch.cfloat), self.weights[0], self.bias)
        return F.linear(self.function(F.linear(self.function(z), self.weights[1])), self.weights[2]).real


@pytest.mark.parametrize(
    ("function", "kind"), [(torch.tanh, "sign"), (lambda z: z * z.abs(), "scale"), (lambda z: z, "linear")]
)
def test_complex_weights_certify(function, kind):
    net, x = Complex(function), torch.randn(2, 4)
    space = metanet.trace(net, x, certify=True)
    assert space.certified
    assert space.neurons == 12
    assert kind in {g.kind for g in space.gauges}


def test_false_claims_on_complex_weights_are_refuted():
    x = torch.randn(2, 4)
    space = metanet.trace(Complex(torch.tanh), x)
    assert not metanet.certify(Complex(lambda z: z * z), space, x).ok


def test_outputs_that_are_no_numbers_count_as_changed():
    one, bad = torch.ones(2), torch.tensor([1.0, float("nan")])
    assert relative_change([one, bad], [one, one]) == float("inf")
    assert relative_change([bad, one], [one, one]) == float("inf")
    assert relative_change([one], [one, one]) == float("inf")


def test_what_does_not_run_on_random_weights_is_refused():
    class Picky(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 3)

        def forward(self, x):
            return self.a(x)

    net, x = Picky(), torch.randn(2, 4)
    space = metanet.trace(net, x)
    net.forward = lambda x: x.missing
    with pytest.raises(SpaceError, match=r"does not run on random weights in float64, got AttributeError"):
        metanet.certify(net, space, x)


def test_compressed_sparse_weights_are_refused():
    net = mlp()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net[0].weight = nn.Parameter(net[0].weight.detach().to_sparse_csr())
    with pytest.raises(SpaceError, match=r"'0.weight' has layout torch.sparse_csr"):
        metanet.trace(net, torch.randn(2, 4))
