"""Elements of every kind of gauge: they form groups, survive JSON, act alike on stacks, and a wrong action is seen."""

import dataclasses

import pytest
import torch
from torch import nn

import metanet
from metanet.space.weight_space import WeightSpace
from metanet.symmetry import kinds
from metanet.symmetry.wreath import carried_table, draw_table


class Sine(nn.Module):
    def forward(self, x):
        return torch.sin(3 * x)


class Rich(nn.Module):
    """A network with every kind of gauge: a sine, attention, rotary positions, a unit vector, a ReLU, norms."""

    def __init__(self):
        super().__init__()
        self.start = nn.Sequential(nn.Linear(3, 5), Sine(), nn.Linear(5, 6))
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.code, self.read, self.norm = nn.Linear(6, 3), nn.Linear(3, 6), nn.LayerNorm(6)
        self.query, self.key = nn.Linear(6, 8), nn.Linear(6, 8)
        self.last = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3), nn.Softmax(-1))

    def forward(self, x):
        x = self.start(x)
        x = x + self.turned(self.query(x)) @ self.turned(self.key(x)).mT @ x / 20
        x = x + self.read(nn.functional.normalize(self.code(x), dim=-1))
        return self.last(self.norm(x + self.attention(x, x, x, need_weights=False)[0]))

    def turned(self, x):
        a, b = x.chunk(2, -1)
        angle = torch.arange(4.0)[:, None] * torch.tensor([1.0, 0.5, 0.3, 0.1])
        cos, sin = angle.cos().to(x), angle.sin().to(x)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


@pytest.fixture(scope="module")
def rich():
    torch.manual_seed(0)
    module, x = Rich().double(), torch.randn(2, 4, 3, dtype=torch.float64)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn_like(p) / 2)
    return module.eval(), x, metanet.trace(module, x)


def outputs(module, state, x):
    return torch.func.functional_call(module, state, (x,)).detach()


def close(a, b):
    return all(torch.allclose(a[name], b[name], atol=1e-12, rtol=1e-10) for name in b)


def test_the_network_has_every_kind(rich):
    assert {g.kind for g in rich[2].gauges} >= {
        "permutation",
        "scale",
        "sign",
        "phase",
        "shift",
        "linear",
        "orthogonal",
        "rotation",
    }


@pytest.mark.parametrize("kind", [*kinds.KINDS, "all"])
def test_group_axioms(rich, kind):
    module, x, space = rich
    chosen = kinds.KINDS if kind == "all" else (kind,)
    state, base = module.state_dict(), outputs(module, module.state_dict(), x)
    a, b, c = (space.sample(seed, kinds=chosen) for seed in (1, 2, 3))
    assert not close(a.apply(state), state), "the element would show nothing"
    for move in (a, a.compose(b), a.inverse(), a.compose(b).inverse(), a.inverse().compose(b.compose(c))):
        assert torch.allclose(outputs(module, move.apply(state), x), base, atol=1e-10)
        assert close(move.inverse().apply(move.apply(state)), state)
        assert close(move.apply(move.inverse().apply(state)), state)
    assert close(b.compose(a).apply(state), b.apply(a.apply(state)))
    assert close(c.compose(b).compose(a).apply(state), c.compose(b.compose(a)).apply(state))


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_stacked_networks(rich, kind):
    module, _, space = rich
    state = module.state_dict()
    other = {n: t * 2 + 1 for n, t in state.items()}
    move = space.sample(5, kinds=(kind,))
    stacked = move.apply({n: torch.stack([state[n], other[n]]) for n in state}, batched=True)
    for number, alone in enumerate((state, other)):
        assert close({n: t[number] for n, t in stacked.items()}, move.apply(alone))


def test_json_keeps_every_kind(rich):
    space = rich[2]
    again = WeightSpace.from_json(space.to_json())
    assert again.gauges == space.gauges
    state = rich[0].state_dict()
    chosen = kinds.KINDS
    assert close(again.sample(3, kinds=chosen).apply(state), space.sample(3, kinds=chosen).apply(state))


def test_certificates_cover_every_kind(rich):
    module, x, space = rich
    certificate = metanet.certify(module, space, x)
    assert certificate.ok
    assert {g.kind for g in certificate.gauges} == {g.kind for g in space.gauges}
    assert all(g.control > 1e-6 for g in certificate.gauges)


BROKEN = {
    "permutation": lambda s, g, t, *rest: kinds.permute_apart(s, first_alone(g), t, *rest),
    "phase": lambda s, g, t, *rest: kinds.add(s, g, t + 0.5, *rest),
    "shift": lambda s, g, t, *rest: kinds.add(s, first_alone(g), t, *rest),
    "linear": lambda s, g, t, *rest: kinds.multiply(s, alike(g), t, *rest),
    "orthogonal": lambda s, g, t, *rest: kinds.multiply(s, first_alone(g), t, *rest),
    "rotation": lambda s, g, t, *rest: kinds.rotate(s, alike(g), t, *rest),
}


def first_alone(gauge):
    """The gauge without the tensors that must move together with the first."""
    return dataclasses.replace(gauge, parts=gauge.parts[:1])


def alike(gauge):
    """The gauge that multiplies all tensors by the same matrix or number."""
    return dataclasses.replace(gauge, parts=tuple(dataclasses.replace(p, exponent=1.0) for p in gauge.parts))


@pytest.mark.parametrize("kind", BROKEN)
def test_a_wrong_action_is_refuted(rich, kind, monkeypatch):
    module, x, space = rich
    monkeypatch.setitem(kinds.ACTIONS, kind, dataclasses.replace(kinds.ACTIONS[kind], act=BROKEN[kind]))
    certificate = metanet.certify(module, space, x)
    assert not certificate.ok
    failed = {n for g in certificate.gauges for n in g.failed}
    assert failed
    assert {space.gauges[n].kind for n in failed} == {kind}


def test_permutations_apart_are_none_of_the_axes_alone(rich):
    space = rich[2]
    gauge = next(g for g in space.gauges if g.kind == "permutation")
    table = draw_table(gauge, space, torch.Generator().manual_seed(0))
    assert not torch.equal(table[0], table[1])
    assert torch.equal(table.sort(-1)[0], torch.arange(table.shape[-1]).expand_as(table))
    perms = {a: torch.randperm(space.axis[a].size) for a in gauge.axes}
    there = carried_table(table, gauge, perms)
    back = {a: torch.argsort(p) for a, p in perms.items()}
    assert torch.equal(carried_table(there, gauge, back), table)


def test_a_false_permutation_apart_is_refuted_and_dropped():
    class Mixed(nn.Module):
        """Values of the two heads meet, neuron by neuron."""

        def __init__(self, mix):
            super().__init__()
            self.a, self.b, self.mix = nn.Linear(4, 6), nn.Linear(6, 3), mix

        def forward(self, x):
            h = self.a(x).unflatten(-1, (2, 3))
            return self.b((h.softmax(-2) if self.mix else h.softmax(-1)).flatten(1))

    x = torch.randn(2, 4)
    apart = metanet.trace(Mixed(False), x)
    (gauge,) = [g for g in apart.gauges if g.kind == "permutation"]
    mixed = metanet.trace(Mixed(True), x)
    assert gauge.axes not in [g.axes for g in mixed.gauges]  # heads may be permuted apart, but not neurons within
    claim = dataclasses.replace(mixed, gauges=(*mixed.gauges, gauge))
    certificate = metanet.certify(Mixed(True), claim, x)
    assert not certificate.ok
    assert next(g for g in certificate.gauges if g.kind == "permutation").failed == (len(mixed.gauges),)


def test_a_metanet_does_not_see_permutations_apart(rich):
    from metanet.models import OperatorMetanet
    from metanet.testing import assert_gauge_invariant, randomised_graph, randomised_module

    graph = randomised_graph(rich[2], nets=3)
    metanet_of_it = randomised_module(OperatorMetanet())
    assert assert_gauge_invariant(metanet_of_it, graph, "permutation") < 1e-9
    with pytest.raises(AssertionError, match="shift symmetries"):
        assert_gauge_invariant(metanet_of_it, graph, "shift")
