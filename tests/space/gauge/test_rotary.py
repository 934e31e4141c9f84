"""Rotations of queries and keys under rotary positions of many makes, and what must stop them."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import metanet
from metanet.space.weight_space import WeightSpace
from metanet.symmetry.dimension import dimensions
from metanet.symmetry.move import Move
from metanet.symmetry.rotation import scales

TOKENS, WIDTH, HEAD = 5, 6, 8
X = (2, TOKENS, WIDTH)


def angles(width=HEAD):
    return torch.arange(float(TOKENS))[:, None] * 0.5 ** torch.arange(width // 2)


def halves(x, angle=None):
    """Rotary positions as in Llama: entry ``i`` with entry ``i + width / 2``."""
    angle = angles(x.shape[-1]) if angle is None else angle
    cos, sin = torch.cat([angle, angle], -1).cos().to(x), torch.cat([angle, angle], -1).sin().to(x)
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def neighbours(x):
    """Rotary positions as in GPT-J: entry ``2 i`` with entry ``2 i + 1``."""
    cos, sin = (t.to(x).repeat_interleave(2, -1) for t in (angles(x.shape[-1]).cos(), angles(x.shape[-1]).sin()))
    return x * cos + torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2) * sin


def numbers(x):
    """The same as complex numbers."""
    turns = torch.polar(torch.ones(1, dtype=torch.double), angles(x.shape[-1]).double())
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """Attention on grouped queries, or on fused projections.

    Args:
        turn: What is done to queries and keys, given the module, ``[B, heads, tokens, width]``.
        queries: Heads of queries.
        keys: Heads of keys.
        fused: ``"pieces"`` if one layer writes all of queries, then keys, then values, ``"heads"`` if head by head.
        joined: Whether the bias of the fused layer is joined from pieces, that of keys zero.
    """

    def __init__(self, turn, queries=2, keys=2, fused="", joined=False, bias=True):
        super().__init__()
        self.turn, self.heads, self.fused = turn, (queries, keys), fused
        sizes = [HEAD * (queries + 2 * keys)] if fused else [HEAD * queries, HEAD * keys, HEAD * keys]
        self.parts = nn.ModuleList(nn.Linear(WIDTH, s, bias=bias and not joined) for s in sizes)
        self.out = nn.Linear(HEAD * queries, 3)
        self.register_buffer("table", angles())
        self.register_buffer("fixed", angles(), persistent=False)
        if joined:
            self.a, self.c = (nn.Parameter(torch.randn(s)) for s in (HEAD * queries, HEAD * keys))
            self.register_buffer("b", torch.zeros(HEAD * keys), persistent=False)

    def projected(self, x):
        queries, keys = self.heads
        if not self.fused:
            return [p(x).unflatten(-1, (-1, HEAD)).transpose(1, 2) for p in self.parts]
        bias = torch.cat([self.a, self.b, self.c]) if hasattr(self, "a") else self.parts[0].bias
        y = F.linear(x, self.parts[0].weight, bias)
        if self.fused == "heads":
            return y.unflatten(-1, (keys, 3 * HEAD)).transpose(1, 2).chunk(3, -1)
        pieces = y.split([HEAD * queries, HEAD * keys, HEAD * keys], -1)
        return [t.unflatten(-1, (-1, HEAD)).transpose(1, 2) for t in pieces]

    def forward(self, x):
        q, k, v = self.projected(x)
        q, k = self.turn(self, q), self.turn(self, k)
        seen = F.scaled_dot_product_attention(q, k, v, enable_gqa=q.shape[1] != k.shape[1])
        return self.out(seen.transpose(1, 2).flatten(2))


class Reading(Attention):
    """Attention whose queries or keys serve something else too."""

    def __init__(self, read):
        super().__init__(lambda m, t: halves(t))
        self.read, self.other = read, nn.Linear(HEAD, HEAD)

    def forward(self, x):
        q, k, v = self.projected(x)
        q, k, v, mask = self.read(self, halves(q), halves(k), v)
        return self.out(F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2))


def plain(turn):
    return lambda module, t: turn(t)


def part(turn, first, size):
    """Rotary positions on a part of the width."""
    pieces = [first, size, HEAD - first - size]
    return lambda m, t: torch.cat([turn(p) if n == 1 else p for n, p in enumerate(t.split(pieces, -1))], -1)


# name: (network, its rotations as (pairs, apart, whether they scale))
CLAIMED = {
    "halves": (lambda: Attention(plain(halves)), (4, 4, True)),
    "neighbours": (lambda: Attention(plain(neighbours)), (4, 1, True)),
    "complex numbers": (lambda: Attention(plain(numbers)), (4, 1, True)),
    "the first part": (lambda: Attention(part(halves, 0, 4)), (2, 2, True)),
    "the last part": (lambda: Attention(part(neighbours, 4, 4)), (2, 1, True)),
    "angles in a buffer": (lambda: Attention(lambda m, t: halves(t, m.table)), (4, 4, True)),
    "angles in the code's buffer": (lambda: Attention(lambda m, t: halves(t, m.fixed)), (4, 4, True)),
    "grouped queries": (lambda: Attention(plain(halves), 4, 2), (4, 4, True)),
    "one key": (lambda: Attention(plain(neighbours), 3, 1), (4, 1, True)),
    "fused": (lambda: Attention(plain(halves), fused="pieces"), (4, 4, True)),
    "fused grouped queries": (lambda: Attention(plain(neighbours), 4, 2, fused="pieces"), (4, 1, True)),
    "fused head by head": (lambda: Attention(plain(halves), fused="heads"), (4, 4, True)),
    "joined bias": (lambda: Attention(plain(neighbours), fused="pieces", joined=True), (4, 1, True)),
    "no bias": (lambda: Attention(plain(halves), bias=False), (4, 4, True)),
    "normed": (lambda: Attention(lambda m, t: halves(F.normalize(t, dim=-1))), (4, 4, False)),
    "normed part": (lambda: Attention(part(lambda t: halves(F.rms_norm(t, (4,))), 0, 4)), (2, 2, False)),
    "also of heads that are not turned": (
        lambda: Attention(lambda m, t: torch.cat([t[:, :, :1], halves(t)[:, :, 1:]], 2)), (4, 4, True)
    ),
}  # fmt: skip

SCALE = torch.arange(1.0, HEAD + 1)
LACKING = {
    "no positions": lambda: Attention(lambda m, t: 2 * t),
    "other frequencies in the second half": lambda: Attention(
        lambda m, t: t * SCALE.outer(SCALE)[:TOKENS].cos().to(t) + torch.cat([-t[..., 4:], t[..., :4]], -1)
    ),
    "a reflection": lambda: Attention(lambda m, t: t * SCALE.outer(SCALE)[:TOKENS].cos().to(t)),
    "learned positions": lambda: Attention(lambda m, t: halves(t) + m.out.bias.sum() * SCALE.to(t)),
    "a norm with scales": lambda: Attention(lambda m, t: halves(F.rms_norm(t, (HEAD,), SCALE.to(t)))),
    "a layer norm": lambda: Attention(lambda m, t: halves(F.layer_norm(t, (HEAD,)))),
    "a function": lambda: Attention(lambda m, t: halves(t.tanh())),
    "a function afterwards": lambda: Attention(lambda m, t: halves(t).clamp(-1, 1)),
    "two kinds of pairs": lambda: Attention(lambda m, t: halves(neighbours(t))),
    "values are keys": lambda: Reading(lambda m, q, k, v: (q, k, k, None)),
    "values are read off keys": lambda: Reading(lambda m, q, k, v: (q, k, v + k.sum(-1, keepdim=True), None)),
    "keys are read off queries": lambda: Reading(lambda m, q, k, v: (q, m.other(q), v, None)),
    "a mask of queries": lambda: Reading(lambda m, q, k, v: (q, k, v, q[..., :1] + k[..., :1].mT)),
    "truth values of queries": lambda: Reading(lambda m, q, k, v: (q, k.where(q > 0, 0.0), v, None)),
}


def rotations(space):
    return [g for g in space.gauges if g.kind == "rotation"]


@pytest.mark.parametrize("name", CLAIMED)
def test_claimed_and_certified(name):
    make, (count, apart, scaled) = CLAIMED[name]
    torch.manual_seed(0)
    module, x = make(), torch.randn(*X)
    space = metanet.trace(module, x)
    (gauge,) = rotations(space)
    assert all((p.pairs.count, p.pairs.apart) == (count, apart) for p in gauge.parts)
    assert any(p.exponent == -1 for p in gauge.parts) is scaled
    assert {n for n, _ in module.named_parameters()} - {p.tensor for p in gauge.parts} <= {
        "out.weight", "out.bias", "parts.2.weight", "parts.2.bias", "c"
    }  # fmt: skip
    certificate = metanet.certify(module, space, x, per_axis=False)
    assert certificate.ok, certificate.table()
    assert next(g for g in certificate.gauges if g.kind == "rotation").control > 1e-6


@pytest.mark.parametrize("name", LACKING)
def test_not_claimed_where_it_does_not_hold(name):
    torch.manual_seed(0)
    module, x = LACKING[name](), torch.randn(*X)
    space = metanet.trace(module, x)
    assert not rotations(space)
    assert metanet.certify(module, space, x, per_axis=False).ok


def test_a_wrong_number_of_pairs_is_refuted():
    module, x = Attention(part(halves, 0, 4)), torch.randn(*X)
    space = metanet.trace(module, x)
    whole = metanet.trace(Attention(plain(halves)), x)
    claim = dataclasses.replace(space, gauges=tuple(rotations(whole)))
    assert not metanet.certify(module, claim, x, per_axis=False).ok


def test_tables_that_a_checkpoint_may_overwrite_are_not_believed():
    """Cosines in a buffer: the architecture's own if the buffer is not kept in the state dict, else any numbers."""

    class Cached(Attention):
        def __init__(self, persistent):
            super().__init__(None)
            self.register_buffer("cos", angles().cos().repeat(1, 2), persistent)
            self.register_buffer("sin", angles().sin().repeat(1, 2), persistent)
            self.turn = lambda m, t: t * m.cos + torch.cat([-t[..., 4:], t[..., :4]], -1) * m.sin

    x = torch.randn(*X)
    assert [len(rotations(metanet.trace(Cached(p), x))) for p in (False, True)] == [1, 0]
    with torch.device("meta"):
        unknown = Cached(False)
    assert not rotations(metanet.trace(unknown, x))
    module = Cached(False)
    assert metanet.certify(module, metanet.trace(module, x), x, per_axis=False).ok


def test_without_weights():
    """On the meta device frequencies are unknown, but which entries share one follows from the graph."""
    with torch.device("meta"):
        module = Attention(lambda m, t: halves(t, m.fixed), 4, 2)
    space = metanet.trace(module, torch.randn(*X))
    assert rotations(space) == rotations(metanet.trace(Attention(plain(halves), 4, 2), torch.randn(*X)))


def test_shared_parameters_do_not_move():
    """A layer that is called twice, or whose bias another one adds, is none to move for one of its uses."""
    module = Attention(plain(halves))
    module.parts[1] = module.parts[0]
    assert not rotations(metanet.trace(module, torch.randn(*X)))
    module = Attention(plain(halves))
    module.parts[1].bias = module.parts[0].bias
    assert not rotations(metanet.trace(module, torch.randn(*X)))


def test_elements_form_a_group_and_survive_json_and_permutations():
    module, x = Attention(plain(halves), 4, 2), torch.randn(*X)
    space = metanet.trace(module, x)
    again = WeightSpace.from_json(space.to_json())
    assert again.gauges == space.gauges
    state = {n: torch.randn(t.shape, dtype=torch.float64) for n, t in module.state_dict().items() if n in space.tensor}
    a, b = (s.sample(seed, kinds=("permutation", "rotation")) for s, seed in ((space, 1), (again, 2)))
    moved = a.apply(state)
    assert not all(torch.equal(moved[n], state[n]) for n in state)
    for name, tensor in state.items():
        torch.testing.assert_close(a.inverse().apply(moved)[name], tensor)
        torch.testing.assert_close(b.compose(a).apply(state)[name], b.apply(moved)[name])
    stacked = a.apply({n: torch.stack([t, 2 * t]) for n, t in state.items()}, batched=True)
    assert all(torch.equal(stacked[n][0], moved[n]) for n in state)


@pytest.mark.parametrize(("make", "expected"), [
    (lambda: Attention(plain(halves)), {"rotation": 8, "scale": 8}),  # the scale has a gauge of its own
    (lambda: Attention(plain(neighbours), 4, 2, fused="pieces"), {"rotation": 8, "scale": 8}),  # it has none
    (lambda: Attention(lambda m, t: halves(F.normalize(t, dim=-1))), {"rotation": 8}),
])  # fmt: skip
def test_dimension(make, expected):
    """The dimension is the rank of the action: angles and moduli are counted once."""
    module = make()
    space = metanet.trace(module, torch.randn(*X))
    wanted = [(n, g) for n, g in enumerate(space.gauges)
              if g.kind in ("rotation", "scale") and any("parts.0" in p.tensor for p in g.parts)]  # fmt: skip
    own = dataclasses.replace(space, gauges=tuple(g for _, g in wanted))
    assert dimensions(own) == expected
    state = {n: torch.randn(t.shape, dtype=torch.float64) for n, t in module.state_dict().items() if n in space.tensor}
    rows = []
    for number, gauge in wanted:
        shape = [space.axis[a].size for a in gauge.axes]
        shape += [gauge.parts[0].pairs.count] if gauge.kind == "rotation" else []
        units = [torch.tensor(u, dtype=torch.complex128) for u in (1, 1j)] if gauge.kind == "rotation" else [1.0]
        for entry in torch.eye(torch.Size(shape).numel(), dtype=torch.float64):
            for unit in units if scales(gauge) or gauge.kind != "rotation" else units[1:]:
                there, back = (Move(space, factors={number: (s * unit * entry.view(shape)).exp()}).apply(state)
                               for s in (1e-4, -1e-4))  # fmt: skip
                rows.append(torch.cat([(there[n] - back[n]).flatten() for n in state]) / 2e-4)
    assert (torch.linalg.svdvals(torch.stack(rows)) > 1e-6).sum() == sum(expected.values())
