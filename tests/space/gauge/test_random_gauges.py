"""Random transformers and convolutional networks in many variants: every gauge that is claimed is true.

``METANET_EXAMPLES=1000 pytest tests/space/gauge/test_random_gauges.py`` tries more than the few of every run.
"""

import os
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import metanet

EXAMPLES = int(os.environ.get("METANET_EXAMPLES", "16"))
WIDTH, TOKENS = 12, 4
CAUSAL = torch.ones(TOKENS, TOKENS).triu(1).bool()

# What may happen to keys, to scores and to what attention gives: half of it breaks some symmetry.
KEYS = (
    lambda t: t, lambda t: t, lambda t: F.normalize(t, dim=-1), lambda t: t.softmax(1), lambda t: t.softmax(-1),
    lambda t: t.tanh(),
)  # fmt: skip
WEIGHTS = (
    lambda t: t.softmax(-1), lambda t: t.softmax(-1), lambda t: t.softmax(1), lambda t: t.softmax(-2),
    lambda t: t.sigmoid(), lambda t: (t * (1 + t.mean())).softmax(-1), lambda t: t.tril().softmax(-1),
    lambda t: t.masked_fill(CAUSAL, float("-inf")).softmax(-1), lambda t: t.masked_fill(CAUSAL, -5.0).softmax(-1),
)  # fmt: skip
RESULTS = (
    lambda t: t, lambda t: t, lambda t: t.softmax(1), lambda t: F.layer_norm(t, t.shape[-1:]), lambda t: t.flip(1),
    lambda t: t.sigmoid(), lambda t: t.mean(1, keepdim=True) + t, lambda t: t - t.amax(-1, keepdim=True),
)  # fmt: skip
WAVES = (
    torch.sin, lambda z: torch.sin(3 * z), lambda z: z + torch.sin(z), lambda z: torch.sin(z) ** 2, torch.cos,
    lambda z: -torch.sin(z / 2), lambda z: torch.sin(z) * z, lambda z: z, torch.relu, torch.tanh,
)  # fmt: skip
READS = (
    lambda z: z, lambda z: z.relu(), lambda z: z.abs(), lambda z: z.unflatten(-1, (2, 4)).softmax(-2).flatten(-2),
)  # fmt: skip
HEADS = (lambda t: t, lambda t: t.softmax(-1), lambda t: t.log_softmax(1), lambda t: t.mean(1).softmax(-1))


class Attention(nn.Module):
    """Attention of one of many makes."""

    def __init__(self, draw):
        super().__init__()
        self.heads, self.how, self.fused = draw.choice((2, 3)), draw.randrange(4), draw.random() < 0.3
        self.residual = draw.random() < 0.6
        self.norm = draw.choice((nn.Identity, lambda: nn.LayerNorm(WIDTH), lambda: nn.RMSNorm(WIDTH)))()
        self.groups = self.heads if self.how else draw.choice((1, self.heads))
        sizes = (self.heads, self.groups, self.groups) if self.how == 0 else (3 * self.heads,)
        bias = draw.random() < 0.7
        self.parts = nn.ModuleList(nn.Linear(WIDTH, 4 * s, bias=bias) for s in sizes)
        self.out = nn.Linear(4 * self.heads, WIDTH, bias=draw.random() < 0.7)
        self.keys, self.weights, self.result = draw.choice(KEYS), draw.choice(WEIGHTS), draw.choice(RESULTS)

    def taken_apart(self, x):
        y = [part(x) for part in self.parts]
        if self.how == 0:
            each = [t.unflatten(-1, (-1, 4)).transpose(1, 2) for t in y]
            return [t if t.shape[1] == self.heads else t.repeat_interleave(self.heads, 1) for t in each]
        if self.how == 1:
            return y[0].unflatten(-1, (3, self.heads, 4)).permute(2, 0, 3, 1, 4)
        if self.how == 2:
            return [t.unflatten(-1, (self.heads, 4)).transpose(1, 2) for t in y[0].chunk(3, -1)]
        return [t[..., 0].transpose(1, 2) for t in y[0].unflatten(-1, (self.heads, 4, 3)).split(1, -1)]

    def forward(self, x):
        q, k, v = self.taken_apart(self.norm(x))
        k = self.keys(k)
        mixed = F.scaled_dot_product_attention(q, k, v) if self.fused else self.weights(q @ k.mT / 2) @ v
        y = self.out(self.result(mixed).transpose(1, 2).flatten(2))
        return x + y if self.residual else y


def angles(size):
    return torch.arange(float(TOKENS))[:, None] * 0.5 ** torch.arange(size)


def halves(t, other=1.0):
    a, b = t.chunk(2, -1)
    angle = angles(a.shape[-1]).to(t)
    return torch.cat([a * angle.cos() - b * angle.sin(), a * (other * angle).sin() + b * (other * angle).cos()], -1)


def neighbours(t):
    cos, sin = (f(angles(t.shape[-1] // 2)).to(t).repeat_interleave(2, -1) for f in (torch.cos, torch.sin))
    return t * cos + torch.stack([-t[..., 1::2], t[..., ::2]], -1).flatten(-2) * sin


# What may happen to queries and keys of width eight, [2, heads, tokens, 8]: some leave rotations, some signs.
TURNS = (
    halves, halves, neighbours, neighbours, lambda t: t, lambda t: halves(t, 1.1), lambda t: halves(neighbours(t)),
    lambda t: torch.cat([halves(t[..., :4]), t[..., 4:]], -1),
    lambda t: torch.cat([t[..., :4], neighbours(t[..., 4:])], -1),
    lambda t: halves(t) + angles(8).to(t).sin(), lambda t: torch.cat([t[:, :, :1], halves(t)[:, :, 1:]], 2),
    lambda t: halves(t).flip(-1), lambda t: halves(t.flip(1)), lambda t: halves(t) * angles(4).cos().to(t).repeat(1, 2),
    lambda t: halves(t.softmax(1)), lambda t: halves(t) + t.mean(2, keepdim=True), lambda t: halves(t).relu(),
)  # fmt: skip
NORMS = (
    nn.Identity, nn.Identity, nn.Identity, lambda: nn.RMSNorm(8), lambda: nn.RMSNorm(8, elementwise_affine=False),
    lambda: nn.LayerNorm(8),
)  # fmt: skip


class Rotary(nn.Module):
    """Attention of one of many makes under positions, norms and shared keys."""

    def __init__(self, draw):
        super().__init__()
        self.turns = [draw.choice(TURNS)] * 2 if draw.random() < 0.9 else [draw.choice(TURNS) for _ in range(2)]
        self.norms = nn.ModuleList([draw.choice(NORMS)() for _ in range(2)] if draw.random() < 0.3 else
                                   [draw.choice(NORMS)()] * 2)  # fmt: skip
        self.queries, self.keys = draw.choice(((2, 2), (4, 2), (2, 1), (1, 2), (6, 2)))
        self.how, self.read = draw.randrange(4), draw.randrange(12)
        sizes = [8 * max(self.queries, self.keys), 8 * self.keys, 8 * self.keys]
        bias = draw.random() < 0.7
        self.parts = nn.ModuleList(nn.Linear(5, s, bias=bias) for s in ([sum(sizes)] if self.how == 0 else sizes))
        self.sizes, self.out = sizes, nn.Linear(sizes[0], 3)

    def forward(self, x):
        flat = self.parts[0](x).split(self.sizes, -1) if self.how == 0 else [p(x) for p in self.parts]
        q, k, v = (t.unflatten(-1, (-1, 8)).transpose(1, 2) for t in flat)
        q, k = (turn(norm(t)) for turn, norm, t in zip(self.turns, self.norms, (q, k), strict=True))
        v = k if self.read == 0 else v + q.mean() if self.read == 1 else v
        if self.how == 1:
            mixed = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        else:
            k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
            mixed = ((q @ k.mT) / 3 if self.how == 2 else torch.einsum("bhtd,bhsd->bhts", q, k)).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2)) + (q.sum((1, 3))[..., None] if self.read == 2 else 0)


class Feed(nn.Module):
    """Two layers with a function between them."""

    def __init__(self, draw):
        super().__init__()
        self.a, self.b = (nn.Linear(*s, bias=draw.random() < 0.8) for s in ((WIDTH, 8), (8, WIDTH)))
        self.norm = draw.choice((nn.Identity, lambda: nn.LayerNorm(8)))()
        self.wave, self.read, self.residual = draw.choice(WAVES), draw.choice(READS), draw.random() < 0.5

    def forward(self, x):
        y = self.b(self.read(self.norm(self.wave(self.a(x)))))
        return x + y if self.residual else y


class Transformer(nn.Module):
    """Blocks on a residual stream."""

    def __init__(self, draw):
        super().__init__()
        self.start, self.last = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 3)
        self.position = nn.Parameter(torch.randn(TOKENS, WIDTH)) if draw.random() < 0.5 else 0
        self.blocks = nn.Sequential(
            *(draw.choice((Attention, Attention, Feed))(draw) for _ in range(draw.choice((1, 2))))
        )
        self.norm = draw.choice((nn.Identity(), nn.LayerNorm(WIDTH), nn.BatchNorm1d(TOKENS)))
        self.head = draw.choice(HEADS)

    def forward(self, x):
        return self.head(self.last(self.norm(self.blocks(self.start(x) + self.position))))


class Grouped(nn.Module):
    """A function of channels in groups."""

    def __init__(self, groups, how):
        super().__init__()
        self.groups, self.how = groups, how

    def forward(self, x):
        y = x.unflatten(1, (self.groups, -1))
        if self.how == 3:
            return x * y.mean(1, keepdim=True).sigmoid().expand_as(y).flatten(1, 2)
        return (y.softmax(1), y.softmax(2), y.transpose(1, 2))[self.how].flatten(1, 2)


def convolutions(draw):
    """Convolutions, plain and transposed, grouped and not, with norms and functions of channels between."""
    layers, channels = [], 2
    for out in (draw.choice((4, 6, 8, 12)) for _ in range(3)):
        groups = draw.choice([g for g in (1, 2, 3, 4) if channels % g == 0 == out % g])
        some = draw.choice([g for g in (1, 2, 3, 4) if out % g == 0])
        kernel, make = draw.choice((1, 3)), draw.choice((nn.Conv2d, nn.Conv2d, nn.Conv2d, nn.ConvTranspose2d))
        layers.append(make(channels, out, kernel, padding=draw.choice((0, kernel // 2)), groups=groups))
        layers.append(
            draw.choice((nn.Identity(), nn.BatchNorm2d(out), nn.GroupNorm(some, out), nn.InstanceNorm2d(out)))
        )
        layers.append(
            draw.choice((nn.Identity(), nn.ReLU(), nn.GELU(), Grouped(some, draw.randrange(4)), nn.MaxPool2d(2, 1)))
        )
        channels = out
    side = draw.choice((1, 2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(side), nn.Flatten(), nn.Linear(channels * side**2, 3))


MASK = torch.rand(8, generator=torch.Generator().manual_seed(0)) < 0.5
NUMBERS = torch.linspace(0.5, 2, 8)

# What may happen to tokens of eight neurons, [2, tokens, 8], between layers: about half of it lets matrices pass.
MIXERS = (
    lambda t: t, lambda t: -2 * t / 3, lambda t: t + t.mean(1, keepdim=True), lambda t: t.softmax(1), F.relu,
    lambda t: t + t.mean(-1, keepdim=True), lambda t: t * NUMBERS.to(t), lambda t: t + NUMBERS.to(t),
    lambda t: t.flip(-1), lambda t: t.flip(1), lambda t: t[..., torch.arange(7, -1, -1)], lambda t: t.roll(1, -1),
    lambda t: torch.cat([t[..., :3], t[..., 3:]], -1), lambda t: torch.cat([t, t[:, :1]], 1)[:, 1:],
    lambda t: t.where(MASK, 0.0), lambda t: t.where(MASK[:TOKENS, None], t.mean(1, keepdim=True)), lambda t: t.tril(),
    lambda t: t @ t.mT @ t, lambda t: (t @ t.mT).softmax(-1) @ t, lambda t: t @ (t.mT @ t), lambda t: t * t[..., :1],
    lambda t: t.unflatten(-1, (2, 4)).transpose(-1, -2).flatten(-2),
    lambda t: t.unflatten(-1, (2, 4)).flip(-2).flatten(-2), lambda t: t.to(torch.int32).to(t.dtype),
    lambda t: t.unflatten(-1, (2, 4)).sum(-2).repeat(1, 1, 2), lambda t: torch.cat(t.chunk(2, -1)[::-1], -1),
    lambda t: t.unflatten(-1, (2, 4)).softmax(-2).flatten(-2), torch.zeros_like,
    lambda t: torch.einsum("bti,bsi->bts", t, t).sum(-1, keepdim=True) * t, lambda t: t.cumsum(1), lambda t: t.abs(),
    lambda t: F.normalize(t, dim=-1), lambda t: F.normalize(t, dim=1), lambda t: F.normalize(t, p=1, dim=-1),
    lambda t: F.rms_norm(t, (8,)), lambda t: F.rms_norm(t, (8,), NUMBERS.to(t)), lambda t: t * t.square(),
    lambda t: t * t.square().sum((1, 2), keepdim=True), lambda t: t / (1 + t.pow(4).mean(-1, keepdim=True)),
    lambda t: t * t.unflatten(-1, (2, 4)).square().mean(-1, keepdim=True).expand(-1, -1, -1, 4).flatten(-2),
    lambda t: t * t.unflatten(-1, (2, 4)).norm(dim=-2).repeat(1, 1, 2), lambda t: t.norm(dim=(1, 2), keepdim=True) * t,
    lambda t: (F.normalize(t, dim=-1) @ F.normalize(t, dim=-1).mT).softmax(-1) @ t, lambda t: t[..., :1].square() * t,
    lambda t: t.maximum(t.mean(1, keepdim=True)), lambda t: t / (1 + t.square().sum(-1, keepdim=True)),
)  # fmt: skip


class Mixer(nn.Module):
    """Linear layers with something between them; the weight of one may be that of another, whole or transposed."""

    def __init__(self, draw):
        super().__init__()
        self.start, self.last = nn.Linear(5, 8), nn.Linear(8, 3)
        self.layers = nn.ModuleList(nn.Linear(8, 8, bias=draw.random() < 0.7) for _ in range(draw.choice((1, 2, 3))))
        self.hows = [draw.randrange(7) for _ in self.layers]
        self.between = [draw.choice(MIXERS) for _ in range(len(self.layers) + 1)]
        self.gate, self.low = nn.Parameter(torch.randn(8)), nn.ParameterList(torch.randn(8, 2) for _ in range(2))

    def forward(self, x):
        t = self.between[0](self.start(x))
        for layer, how, between in zip(self.layers, self.hows, self.between[1:], strict=True):
            t = between(self.applied(layer, how, t))
        return self.last(t)

    def applied(self, layer, how, t):
        if how == 1:
            return t + layer(t)
        if how == 2:
            return t @ layer.weight
        if how == 3:
            return layer(t) @ layer.weight
        if how == 4:
            return self.gate * layer(t)
        a, b = self.low
        return F.linear(t, layer.weight + b @ a.T) if how == 5 else layer(t) + (t @ a) @ b.T


WANTED = {
    Transformer: {"permutation", "shift", "scale", "phase", "linear"},
    convolutions: {"permutation", "shift", "scale"},
    Rotary: {"scale", "sign", "rotation", "linear"},
    Mixer: {"shift", "scale", "sign", "linear", "orthogonal"},
}


@pytest.mark.parametrize("make", [Transformer, convolutions, Mixer, Rotary])
def test_what_is_claimed_is_true(make):
    seen = set()
    for seed in range(EXAMPLES if make in (Mixer, Rotary) else EXAMPLES // 2):
        torch.manual_seed(seed)
        module = make(random.Random(seed)).eval()
        x = torch.randn(2, TOKENS, 5) if make is not convolutions else torch.randn(2, 2, 9, 9)
        space = metanet.trace(module, x)
        certificate = metanet.certify(module, space, x, per_axis=False)
        assert certificate.ok, f"seed {seed}: {certificate.table()}\n{module}"
        seen |= {g.kind for g in space.gauges}
    assert seen >= WANTED[make]
