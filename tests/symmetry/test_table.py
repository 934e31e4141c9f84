"""Every row of ``docs/symmetries.md``: a network that has the symmetry, and the nearest one that lacks it.

What is claimed must hold to 1e-9 in float64 (``metanet.certify`` refuses otherwise) and must move something; what the
neighbour lacks must not be claimed, and what it does claim must hold too.
"""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import metanet


class Net(nn.Module):
    """A module whose forward is a plain function of its layers."""

    def __init__(self, forward, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.function = forward

    def forward(self, x):
        return self.function(self, x)


class Sine(nn.Module):
    """``sin(omega z)``, and ``z + sin(omega z)`` if asked for."""

    def __init__(self, omega, residual=False):
        super().__init__()
        self.omega, self.residual = omega, residual

    def forward(self, z):
        return torch.sin(self.omega * z) + (z if self.residual else 0)


def parameter(*shape):
    return nn.Parameter(torch.randn(*shape))


def mlp(middle, last=None, bias=True):
    return nn.Sequential(nn.Linear(4, 6, bias=bias), middle, nn.Linear(6, 3), *([last] if last else []))


def lasting(function):
    """An MLP with a function of its hidden neurons."""
    return Net(lambda m, x: m.b(function(m.a(x).tanh())), a=nn.Linear(4, 6), b=nn.Linear(6, 3))


def normed(norm):
    """A layer that writes into a norm."""
    return Net(lambda m, x: m.b(m.norm(m.a(x))), a=nn.Linear(4, 6), norm=norm, b=nn.Linear(6, 3))


def convolutions(middle, groups=1, size=6):
    return nn.Sequential(nn.Conv2d(2, size, 3, padding=1), nn.ReLU(), nn.Conv2d(size, size, 3, groups=groups), middle,
                         nn.Flatten(), nn.Linear(size * 4, 3))  # fmt: skip


ANGLES = torch.arange(5.0)[:, None] * torch.tensor([1.0, 0.3])


def turned(x, other=ANGLES):
    """Rotary positions on the two halves of heads of width 4; wrong ones if the second half has other angles."""
    a, b = x.chunk(2, -1)
    cos, sin, cosine, sine = (t.to(x) for t in (ANGLES.cos(), ANGLES.sin(), other.cos(), other.sin()))
    return torch.cat([a * cos - b * sin, a * sine + b * cosine], -1)


def interleaved(x):
    """Rotary positions on neighbouring entries, as complex numbers."""
    turns = torch.polar(torch.ones_like(ANGLES), ANGLES).to(torch.complex128 if x.dtype == torch.double else None)
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turns).flatten(-2)


def attention(queries=2, keys=2, rotary=None, weights=lambda s: s.softmax(-1), bias=True, mix=lambda v: v,
              norm=lambda q: q, fused=False):  # fmt: skip
    """Attention with grouped queries; heads of width 4 on tokens of width 6."""

    def forward(m, x):
        q, k, v = (f(x).unflatten(-1, (-1, 4)).transpose(1, 2) for f in (m.q, m.k, m.v))
        q, k = (getattr(m, "norm", norm)(t) for t in (q, k))
        q, k = (rotary(q), rotary(k)) if rotary else (q, k)
        k, v = (t[:, :, None].expand(-1, -1, queries // keys, -1, -1).flatten(1, 2) for t in (k, v))
        seen = F.scaled_dot_product_attention(q, k, v) if fused else weights(q @ k.mT / 2) @ v
        return m.o(mix(seen).transpose(1, 2).flatten(2))

    sizes = {"q": 4 * queries, "k": 4 * keys, "v": 4 * keys}
    layers = {n: nn.Linear(6, s) for n, s in sizes.items()}
    layers |= {"norm": norm} if isinstance(norm, nn.Module) else {}
    return Net(forward, **layers, o=nn.Linear(4 * queries, 3, bias=bias))


def unit(q):
    """Rows of norm one."""
    return F.normalize(q, dim=-1)


def scaled(q):
    """An RMS norm with a scale for every entry."""
    return F.rms_norm(q, (4,), torch.arange(1.0, 5).to(q))


def multihead(weights=False):
    """PyTorch's own attention, with one weight for queries, keys and values."""
    return Net(lambda m, x: m.a(x, x, x, need_weights=weights)[0], a=nn.MultiheadAttention(6, 2, batch_first=True))


def adapted(between=lambda z: z, merged=False):
    """A layer with a low-rank adapter, added to its result or to its weight."""

    def forward(m, x):
        if merged:
            return m.last(F.gelu(F.linear(x, m.first.weight + 2 * between(m.up.weight) @ m.down.weight, m.first.bias)))
        return m.last(F.gelu(m.first(x) + 2 * m.up(between(m.down(x)))))

    layers = {"down": nn.Linear(4, 2, bias=False), "up": nn.Linear(2, 6, bias=False)}
    return Net(forward, first=nn.Linear(4, 6), last=nn.Linear(6, 3), **layers)


def gated(gate, up=lambda z: z):
    return Net(lambda m, x: m.d(gate(m.g(x)) * up(m.u(x))), g=nn.Linear(4, 6), u=nn.Linear(4, 6), d=nn.Linear(6, 3))


def stream(norm, position=None):
    """A residual stream: two blocks, each behind a norm."""

    def forward(m, x):
        x = m.start(x) if position is None else m.start(x) + position
        for block in (m.first, m.second):
            x = x + block(x)
        return m.head(m.norm(x))

    def block():
        return nn.Sequential(norm(6), nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 6))

    return Net(forward, start=nn.Linear(4, 6), first=block(), second=block(), norm=norm(6), head=nn.Linear(6, 3))


def recurrent(kind, read=lambda h: h):
    return Net(lambda m, x: m.out(read(m.cell(x)[0])), cell=kind(4, 5, batch_first=True), out=nn.Linear(5, 3))


def experts(route):
    """Three experts of five neurons each, weighted by a router."""

    def forward(m, x):
        h = F.gelu(torch.einsum("bi,ehi->beh", x, m.up))
        return torch.einsum("be,beh,eho->bo", route(m.router(x)), h, m.down)

    return Net(forward, router=nn.Linear(4, 3), up=parameter(3, 5, 4), down=parameter(3, 5, 2))


def radial(read=lambda r: r):
    """Gaussians around centres, each with a width and a weight."""

    def forward(m, x):
        squares = (x[:, None] - m.centres).square().sum(-1)
        return m.weight(read((-squares / m.width.square()).exp()))

    return Net(forward, centres=parameter(6, 4), width=parameter(6), weight=nn.Linear(6, 3))


def depthwise(read=lambda x: x):
    return Net(lambda m, x: m.c(read(m.b(F.gelu(m.a(x)))).mean((2, 3))), a=nn.Conv2d(2, 6, 1),
               b=nn.Conv2d(6, 6, 3, groups=6), c=nn.Linear(6, 3))  # fmt: skip


def mixed_groups():
    """A grouped convolution whose groups meet, channel by channel, in a softmax."""
    between = Net(lambda m, x: x.unflatten(1, (3, 2)).softmax(1).flatten(1, 2))
    return convolutions(between, groups=3)


def neurons(space):
    return space.neurons


def gauges(kind, *tensors):
    """How many gauges of a kind move all tensors named (and, for some kinds, nothing else)."""
    return lambda space: sum(g.kind == kind and {*tensors} <= {p.tensor for p in g.parts} for g in space.gauges)


def size_of(tensor, dim, least=1):
    """Whether a dimension of a tensor runs over so many free neurons at least, counted axis by axis."""
    sizes = lambda space: (space.axis[a].size for a in space.tensor[tensor].labels[dim].axes if space.axis[a].free)  # noqa: E731
    return lambda space: sum(sizes(space)) >= least


V, T, I = (2, 4), (2, 5, 6), (2, 2, 4, 4)  # noqa: E741

# row: what is claimed, kinds to certify, input shape, the network that has it, the nearest that lacks it
ROWS = {
    "1 permutation": (neurons, V, lambda: mlp(nn.GELU()), lambda: lasting(lambda h: h.cumsum(-1))),
    "1 permutation, batch norm": (neurons, I, lambda: convolutions(nn.BatchNorm2d(6)),
                                  lambda: convolutions(Net(lambda m, x: x.flip(1)), groups=6)),
    "2 positive scaling": (gauges("scale"), V, lambda: mlp(nn.ReLU()), lambda: mlp(nn.GELU())),
    "3 sign": (gauges("sign"), V, lambda: mlp(nn.Tanh()), lambda: mlp(nn.Sigmoid())),
    "4 phase": (gauges("phase", "0.bias", "2.weight"), V, lambda: mlp(Sine(30)), lambda: mlp(Sine(30, residual=True))),
    "4 phase needs a bias": (gauges("phase"), V, lambda: mlp(Sine(1)), lambda: mlp(Sine(1), bias=False)),
    "5 linear layers": (gauges("linear", "0.weight", "0.bias", "2.weight"), V, lambda: mlp(nn.Identity()),
                        lambda: mlp(nn.ReLU())),
    "5 bottleneck": (gauges("linear", "0.weight", "2.weight"), V, lambda: mlp(nn.Dropout()),
                     lambda: mlp(nn.LayerNorm(6))),
    "5 times a parameter": (gauges("linear"), V, lambda: mlp(Net(lambda m, x: x * m.c, c=parameter(1))),
                            lambda: mlp(Net(lambda m, x: x * m.c, c=parameter(6)))),
    "5 convolutions": (gauges("linear", "2.weight", "5.weight"), I, lambda: convolutions(nn.AvgPool2d(1)),
                       lambda: convolutions(nn.MaxPool2d(1))),
    "5 convolution in groups": (gauges("linear", "2.weight", "5.weight"), I,
                                lambda: convolutions(nn.Identity(), groups=3),
                                lambda: convolutions(nn.BatchNorm2d(6), groups=3)),
    "5 transposed convolution": (gauges("linear", "0.weight", "1.weight"), I,
                                 lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ConvTranspose2d(4, 3, 3), nn.GELU()),
                                 lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ConvTranspose2d(4, 8, 3, groups=4),
                                                       nn.Conv2d(8, 4, 1, groups=2), nn.GELU())),
    "5 residual stream": (gauges("linear", "start.weight", "first.1.weight", "first.3.bias", "head.weight"), V,
                          lambda: stream(lambda n: nn.Identity()), lambda: stream(nn.RMSNorm)),
    "6 radial function": (gauges("orthogonal", "0.weight", "0.bias", "2.weight"), V,
                          lambda: mlp(Net(lambda m, z: z * z.norm(dim=-1, keepdim=True).tanh())),
                          lambda: mlp(Net(lambda m, z: z * z.norm(p=1, dim=-1, keepdim=True).tanh()))),
    "6 sum of squares": (gauges("orthogonal", "0.weight", "2.weight"), V,
                         lambda: mlp(Net(lambda m, z: z / (1 + z.square().sum(-1, keepdim=True)))),
                         lambda: mlp(Net(lambda m, z: z / (1 + z.square())))),
    "6 is 5 without a norm": (gauges("orthogonal"), V, lambda: mlp(nn.RMSNorm(6, elementwise_affine=False)),
                              lambda: mlp(nn.Identity())),
    "7 batch norm": (gauges("scale", "2.weight", "3.running_var"), I, lambda: convolutions(nn.BatchNorm2d(6)),
                     lambda: convolutions(nn.GroupNorm(1, 6))),
    "8 layer norm does not see a shift": (gauges("shift", "a.weight"), V, lambda: normed(nn.LayerNorm(6)),
                                          lambda: normed(nn.RMSNorm(6))),
    "8 group norm does not see a bias": (gauges("shift", "2.bias"), I, lambda: convolutions(nn.GroupNorm(2, 6)),
                                         lambda: convolutions(nn.Tanh())),
    "9 softmax": (gauges("shift", "2.weight"), V, lambda: mlp(nn.GELU(), nn.Softmax(-1)), lambda: mlp(nn.GELU())),
    "10 queries and keys": (gauges("linear", "q.weight", "q.bias", "k.weight", "k.bias"), T, attention,
                            lambda: attention(rotary=turned)),
    "10 grouped queries": (gauges("linear", "q.weight", "k.weight"), T, lambda: attention(4, 2),
                           lambda: attention(4, 2, norm=unit)),
    "10 one key for all queries": (gauges("linear", "q.weight", "k.weight"), T, lambda: attention(4, 1),
                                   lambda: attention(4, 1, rotary=turned)),
    "10 fused": (gauges("linear", "q.weight", "k.weight"), T, lambda: attention(fused=True),
                 lambda: attention(fused=True, rotary=turned)),
    "10 without softmax": (gauges("linear", "q.weight", "k.weight"), T, lambda: attention(weights=torch.sigmoid),
                           lambda: attention(norm=lambda q: F.rms_norm(q, (4,)))),
    "10a rotary positions": (gauges("rotation", "q.weight", "q.bias", "k.weight", "k.bias"), T,
                             lambda: attention(rotary=turned),
                             lambda: attention(rotary=lambda x: turned(x, 1.1 * ANGLES))),
    "10a with values of their own": (gauges("rotation", "q.weight", "k.bias"), T,
                                     lambda: attention(rotary=turned, fused=True),
                                     lambda: attention(rotary=lambda x: turned(x) + ANGLES.repeat(1, 2).to(x))),
    "10a neighbours": (gauges("rotation", "q.weight", "k.weight"), T, lambda: attention(rotary=interleaved),
                       lambda: attention(rotary=lambda x: turned(interleaved(x)))),
    "10a grouped queries": (gauges("rotation", "q.weight", "k.weight"), T, lambda: attention(4, 2, rotary=turned),
                            lambda: attention(4, 2, rotary=turned, norm=scaled)),
    "10a scale of grouped queries": (gauges("scale", "q.weight", "k.weight"), T,
                                     lambda: attention(4, 2, rotary=turned),
                                     lambda: attention(4, 2, rotary=turned, norm=unit)),
    "10a normed queries and keys": (gauges("rotation", "q.weight", "k.weight"), T,
                                    lambda: attention(rotary=turned, norm=unit),
                                    lambda: attention(rotary=turned, norm=lambda q: F.layer_norm(q, (4,)))),
    "10a is 10 without positions": (gauges("rotation"), T, lambda: attention(rotary=turned), attention),
    "10b signs": (gauges("sign", "q.weight", "q.bias", "k.weight", "k.bias"), T, lambda: attention(norm=scaled),
                  lambda: attention(norm=lambda q: F.layer_norm(q, (4,)))),
    "10b signs of grouped queries": (gauges("sign", "q.weight", "q.bias", "k.weight", "k.bias"), T,
                                     lambda: attention(4, 2, norm=scaled),
                                     lambda: attention(4, 2, norm=lambda q: F.layer_norm(q, (4,)))),
    "10b signs with rotary positions": (gauges("sign", "q.weight", "k.weight"), T,
                                        lambda: attention(4, 1, norm=nn.RMSNorm(4), rotary=turned),
                                        lambda: attention(4, 1, norm=nn.RMSNorm(4),
                                                          rotary=lambda x: turned(x) + ANGLES.repeat(1, 2).to(x))),
    "10b normed queries and keys": (gauges("orthogonal", "q.weight", "k.weight", "k.bias"), T,
                                    lambda: attention(norm=unit), lambda: attention(norm=unit, rotary=turned)),
    "10b grouped queries": (gauges("orthogonal", "q.weight", "k.weight"), T,
                            lambda: attention(4, 2, norm=lambda q: F.rms_norm(q, (4,))),
                            lambda: attention(4, 2, norm=lambda q: F.rms_norm(q, (4,), torch.arange(4.0).to(q)))),
    "10b along the features": (gauges("orthogonal", "q.weight"), T, lambda: attention(norm=unit),
                               lambda: attention(norm=lambda q: F.normalize(q, dim=2))),
    "11 values and output": (gauges("linear", "v.weight", "v.bias", "o.weight"), T, attention,
                             lambda: attention(mix=torch.tanh)),
    "11 with rotary positions": (gauges("linear", "v.weight", "o.weight"), T, lambda: attention(rotary=turned),
                                 lambda: attention(rotary=turned, mix=lambda v: F.layer_norm(v, (4,)))),
    "11 grouped queries": (gauges("linear", "v.weight", "o.weight"), T, lambda: attention(4, 2, fused=True),
                           lambda: attention(4, 2, mix=lambda v: v.softmax(-1))),
    "12 heads": (size_of("k.weight", 0, 2 + 4), T, attention, lambda: attention(mix=lambda v: v.flip(1))),
    "12 heads apart": (gauges("permutation", "v.weight", "o.weight"), T, attention,
                       lambda: attention(mix=lambda v: v.softmax(1))),
    "12 grouped queries": (gauges("permutation", "q.weight", "o.weight"), T, lambda: attention(4, 2),
                           lambda: attention(4, 2, mix=lambda v: v.unflatten(1, (2, 2)).softmax(1).flatten(1, 2))),
    "13 key bias": (gauges("shift", "k.bias"), T, attention, lambda: attention(rotary=turned)),
    "13 value bias": (gauges("shift", "v.bias", "o.bias"), T, attention, lambda: attention(weights=torch.sigmoid)),
    "13 value bias needs a bias": (gauges("shift", "v.bias"), T, attention, lambda: attention(bias=False)),
    "14 gated": (gauges("scale", "u.weight", "d.weight"), V, lambda: gated(F.silu), lambda: gated(F.silu, torch.tanh)),
    "15 adapter": (gauges("linear", "down.weight", "up.weight"), V, adapted, lambda: adapted(F.relu)),
    "15 adapter, merged": (gauges("linear", "down.weight", "up.weight"), V, lambda: adapted(merged=True),
                           lambda: adapted(unit, merged=True)),
    "16 residual stream": (gauges("orthogonal", "start.weight", "first.1.weight", "second.3.bias", "head.weight"), V,
                           lambda: stream(lambda n: nn.RMSNorm(n, elementwise_affine=False)),
                           lambda: stream(nn.RMSNorm)),
    "16 layer norm": (gauges("orthogonal"), V, lambda: stream(lambda n: nn.RMSNorm(n, elementwise_affine=False)),
                      lambda: stream(lambda n: nn.LayerNorm(n, elementwise_affine=False))),
    "17 residual stream": (size_of("head.weight", 1), V, lambda: stream(nn.LayerNorm),
                           lambda: stream(nn.LayerNorm, torch.arange(6.0))),
    "18 flatten": (size_of("5.weight", 1), I, lambda: convolutions(nn.ReLU()),
                   lambda: convolutions(Net(lambda m, x: x.flatten(1).roll(1, 1).reshape(x.shape)))),
    "19 depthwise": (neurons, I, depthwise, lambda: depthwise(lambda x: x.flip(1))),
    "19 groups": (gauges("permutation", "0.weight", "2.weight"), I, lambda: convolutions(nn.GELU(), groups=3),
                  lambda: convolutions(nn.GELU(), groups=6)),
    "19 channels of groups": (gauges("permutation", "2.weight", "5.weight"), I,
                              lambda: convolutions(nn.GELU(), groups=3), mixed_groups),
    "20 LSTM": (neurons, (*T[:2], 4), lambda: recurrent(nn.LSTM), lambda: recurrent(nn.LSTM, lambda h: h.cumsum(-1))),
    "20 GRU": (neurons, (*T[:2], 4), lambda: recurrent(nn.GRU), lambda: recurrent(nn.GRU, lambda h: h.cumsum(-1))),
    "21 experts": (size_of("router.weight", 0), V, lambda: experts(lambda r: r.softmax(-1)),
                   lambda: experts(lambda r: r.cumsum(-1))),
    "21 router": (gauges("shift", "router.weight"), V, lambda: experts(lambda r: r.softmax(-1)),
                  lambda: experts(torch.sigmoid)),
    "22 radial basis functions": (neurons, V, radial, lambda: radial(lambda r: r.cumsum(-1))),
}  # fmt: skip

NOT_CLAIMED = {"23"}


def traced(make, shape):
    torch.manual_seed(0)
    module, x = make(), torch.randn(*shape)
    return module, x, metanet.trace(module, x)


@pytest.mark.parametrize("row", ROWS)
def test_claimed_and_certified(row):
    claims, shape, make, _ = ROWS[row]
    module, x, space = traced(make, shape)
    assert claims(space)
    certificate = metanet.certify(module, space, x)
    assert certificate.ok, certificate.table()
    assert certificate.worst_error < 1e-9
    assert not space.opaque


@pytest.mark.parametrize("row", ROWS)
def test_not_claimed_where_it_does_not_hold(row):
    claims, shape, _, make = ROWS[row]
    module, x, space = traced(make, shape)
    assert not claims(space)
    assert metanet.certify(module, space, x).ok


def test_one_matrix_for_every_head_and_piece_of_a_fused_projection():
    """Row 10 and 11 in PyTorch's own attention: queries, keys and values are pieces of one tensor."""
    for weights in (False, True):
        module, x, space = traced(lambda: multihead(weights), T)  # noqa: B023
        found = [g for g in space.gauges if g.kind == "linear"]
        assert [
            sorted((p.tensor, p.chosen[0][1] if p.chosen else None, p.exponent) for p in g.parts) for g in found
        ] == [
            [
                ("a.in_proj_bias", 0, 1),
                ("a.in_proj_bias", 1, -1),
                ("a.in_proj_weight", 0, 1),
                ("a.in_proj_weight", 1, -1),
            ],
            [("a.in_proj_bias", 2, 1), ("a.in_proj_weight", 2, 1), ("a.out_proj.weight", None, -1)],
        ]
        assert [[space.axis[a].size for a in g.axes] for g in found] == [[2, 3], [2, 3]]
        certificate = metanet.certify(module, space, x)
        assert certificate.ok, certificate.table()


def test_grouped_queries_share_the_matrix_of_their_keys():
    *_, space = traced(lambda: attention(4, 2), T)
    assert [[space.axis[a].size for a in g.axes] for g in space.gauges if g.kind == "linear"] == [[2, 4], [2, 4]]


def test_grouped_queries_share_the_signs_and_numbers_of_their_keys():
    """Rows 10a and 10b: one per head of keys, and entry or, under rotary positions, pair of entries."""
    for rotary, norm, kind, sizes in (
        (None, scaled, "sign", [2, 4]), (turned, nn.RMSNorm(4), "sign", [2, 2]), (turned, lambda q: q, "scale", [2, 2]),
        (turned, lambda q: q, "rotation", [2]),
    ):  # fmt: skip
        *_, space = traced(lambda: attention(4, 2, rotary=rotary, norm=norm), T)  # noqa: B023
        own = [g for g in space.gauges if g.kind == kind and "q.weight" in {p.tensor for p in g.parts}]
        assert [[space.axis[a].size for a in g.axes] for g in own] == [sizes]


def test_the_scale_before_a_layer_norm_is_approximate_and_not_claimed():
    """Row 8: a common factor changes the output by about the norm's epsilon, so it is not a symmetry to 1e-9."""
    module, x, space = traced(lambda: normed(nn.LayerNorm(6)).double(), V)
    assert not gauges("scale", "a.weight")(space)
    state = module.state_dict()
    scaled = {name: 2 * t if name.startswith("a.") else t for name, t in state.items()}
    base, new = (torch.func.functional_call(module, s, (x.double(),)) for s in (state, scaled))
    assert 1e-9 < (new - base).abs().max() / base.abs().max() < 1e-3


def test_documented_rows_and_example():
    """Every row of the table is here or says that it is not claimed; its example runs."""
    text = Path(__file__).parents[2].joinpath("docs", "symmetries.md").read_text()
    rows = set(re.findall(r"^\| (\d+[ab]?) \|", text, flags=re.MULTILINE))
    assert {str(n) for n in range(1, 24)} | {"10a", "10b"} == rows
    assert rows - {name.split()[0] for name in ROWS} == NOT_CLAIMED
    assert set(re.findall(r"^\| (\d+[ab]?) \|.*\*\*not claimed\*\*", text, flags=re.MULTILINE)) == NOT_CLAIMED
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    exec(compile(example, "docs/symmetries.md", "exec"), {})
