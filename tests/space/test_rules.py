"""One small network per family of operations: certified, with the number of neurons that must be found."""

# ruff: noqa: E501 (a table: one row a case)

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import metanet
from metanet.space import rule
from metanet.space.rules import registry
from metanet.space.trace import Traced
from metanet.symmetry.evaluation import Evaluation
from metanet.symmetry.soundness import refuted


class Net(nn.Module):
    """A function of named parts: parameters, given by their shapes, and modules."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(torch.randn(part)) if isinstance(part, tuple) else part)
        self.function = forward

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


def mlp(forward, hidden=6, out=None):
    """``c(body(a(x)))``: what happens to the ``hidden`` neurons in the middle."""
    return around(forward, nn.Linear(5, hidden), nn.Linear(out or hidden, 2))


def cnn(forward, channels=6, out=None):
    """The same with images."""
    conv = functools.partial(nn.Conv2d, kernel_size=3, padding=1)
    return around(forward, conv(2, channels), conv(out or channels, 2))


def around(body, first, last):
    """A module or a function between two layers."""
    parts = {"body": body} if isinstance(body, nn.Module) else {}
    return Net(lambda m, x: m.c(m.body(m.a(x)) if parts else body(m.a(x))), a=first, c=last, **parts)


def attention(heads, keys=None, mask=None, causal=False, fused=True):
    """Self-attention of width 8 from projections, with ``keys`` key heads."""
    keys = keys or heads
    width = 4

    def forward(m, x):
        q, k, v = (p(x).unflatten(-1, (-1, width)).transpose(1, 2) for p in (m.q, m.k, m.v))
        if fused:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=keys != heads)
        else:
            scores = (q @ k.transpose(-2, -1)) / width**0.5
            y = (scores if mask is None else scores + mask).softmax(-1) @ v
        return m.o(y.transpose(1, 2).flatten(2))

    sizes = {"q": heads, "k": keys, "v": keys}
    parts = {name: nn.Linear(5, n * width) for name, n in sizes.items()}
    return Net(forward, **parts, o=nn.Linear(heads * width, 2))


def rope(x):
    """Rotate pairs of the last dimension by angles that depend on the position."""
    angle = torch.arange(x.shape[-2])[:, None] * torch.tensor([1.0, 0.1])
    a, b = x[..., ::2], x[..., 1::2]
    rotated = (a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos())
    return torch.stack(rotated, -1).flatten(-2)


class Cell(nn.Module):
    """A recurrent cell in a Python loop."""

    def __init__(self, cell, states):
        super().__init__()
        self.cell, self.head, self.states = cell, nn.Linear(4, 2), states

    def forward(self, x):
        h = torch.zeros(x.shape[0], 4)
        state = (h, h) if self.states == 2 else h
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state[0] if self.states == 2 else state)


class Expert(nn.Module):
    """Softmax mixture of experts kept in one tensor each."""

    def __init__(self):
        super().__init__()
        self.router, self.up, self.down = (
            nn.Linear(5, 3),
            nn.Parameter(torch.randn(3, 5, 4)),
            nn.Parameter(torch.randn(3, 4, 2)),
        )

    def forward(self, x):
        weight = self.router(x).softmax(-1)
        hidden = torch.einsum("bi,eih->beh", x, self.up).relu()
        return torch.einsum("be,beh,eho->bo", weight, hidden, self.down)


ROW, IMAGE, SEQUENCE = (3, 5), (2, 2, 8, 8), (2, 7, 5)
GRID = torch.rand(2, 3, 3, 2)
MASK = torch.randn(7, 7)

CASES = {
    # elementwise
    "activation": (mlp(F.relu), ROW, 6),
    "binary": (mlp(lambda x: torch.maximum(x, x.sin()) * 2 + x / (x.abs() + 1)), ROW, 6),
    "constant vector": (mlp(lambda x: x + torch.arange(6.0)), ROW, 0),
    "uniform vector": (mlp(lambda x: x + torch.ones(6)), ROW, 6),
    "where": (mlp(lambda x: torch.where(x > 0, x, x.tanh())), ROW, 6),
    "prelu": (Net(lambda m, x: m.c(m.p(m.a(x))), a=nn.Linear(5, 6), p=nn.PReLU(6), c=nn.Linear(6, 2)), ROW, 6),
    "glu": (mlp(F.glu, 12, 6), ROW, 6),
    "gate": (mlp(lambda x: F.silu(x[:, :6]) * x[:, 6:], 12, 6), ROW, 6),
    "random": (mlp(lambda x: x * torch.rand(6)), ROW, 0),
    # contractions
    "einsum": (Net(lambda m, x: torch.einsum("bi,hi,ho->bo", x, m.u, m.v), u=(6, 5), v=(6, 2)), ROW, 6),
    "low rank": (Net(lambda m, x: x @ (m.u @ m.v), u=(5, 3), v=(3, 2)), ROW, 3),
    "experts": (Expert(), ROW, 3 + 4),
    "bilinear": (Net(lambda m, x: m.c(m.b(m.a(x), x)), a=nn.Linear(5, 4), b=nn.Bilinear(4, 5, 6), c=nn.Linear(6, 2)), ROW, 10),
    "baddbmm": (Net(lambda m, x: m.c(torch.baddbmm(m.b, x, m.w)), b=(2, 1, 6), w=(2, 5, 6), c=nn.Linear(6, 2)), SEQUENCE, 6),
    "cdist": (Net(lambda m, x: m.c(torch.exp(-torch.cdist(x, m.k))), k=(6, 5), c=nn.Linear(6, 2)), ROW, 6),
    # convolutions
    "conv1d": (nn.Sequential(nn.Conv1d(7, 6, 3), nn.ReLU(), nn.Conv1d(6, 2, 1)), SEQUENCE, 6),
    "conv3d": (nn.Sequential(nn.Conv3d(2, 6, 3), nn.ReLU(), nn.Conv3d(6, 2, 1)), (1, 2, 4, 4, 4), 6),
    "grouped": (cnn(nn.Conv2d(6, 4, 3, groups=2), out=4), IMAGE, 2 + 3 + 2),
    "depthwise": (cnn(nn.Conv2d(6, 6, 3, groups=6)), IMAGE, 6),
    "depth multiplier": (cnn(nn.Conv2d(6, 12, 3, groups=6), out=12), IMAGE, 6 + 2),
    "transposed": (cnn(nn.ConvTranspose2d(6, 4, 2, stride=2), out=4), IMAGE, 10),
    "transposed in groups": (cnn(nn.ConvTranspose2d(6, 4, 2, groups=2), out=4), IMAGE, 2 + 3 + 2),
    "flatten": (nn.Sequential(nn.Conv2d(2, 6, 3), nn.Flatten(), nn.Linear(6 * 36, 2)), IMAGE, 6),
    # norms
    "batch norm": (cnn(nn.BatchNorm2d(6)), IMAGE, 6),
    "instance norm": (cnn(nn.InstanceNorm2d(6, affine=True)), IMAGE, 6),
    "instance norm with statistics": (cnn(nn.InstanceNorm2d(6, affine=True, track_running_stats=True)), IMAGE, 6),
    "group norm": (cnn(nn.GroupNorm(2, 6)), IMAGE, 2 + 3),
    "layer norm": (mlp(nn.LayerNorm(6)), ROW, 6),
    "rms norm": (mlp(nn.RMSNorm(6)), ROW, 6),
    "local response norm": (cnn(nn.LocalResponseNorm(3)), IMAGE, 0),
    "weight norm": (
        Net(lambda m, x: m.c(m.a(x)), a=nn.utils.parametrizations.weight_norm(nn.Linear(5, 6)), c=nn.Linear(6, 2)),
        ROW,
        6,
    ),
    # reductions
    "mean": (cnn(lambda x: x * x.mean((2, 3), keepdim=True).sigmoid()), IMAGE, 6),
    "norm over neurons": (mlp(lambda x: x / x.norm(dim=-1, keepdim=True)), ROW, 6),
    "largest neuron": (mlp(lambda x: x - x.max(-1, keepdim=True)[0] + x.std()), ROW, 6),
    "place of the largest": (mlp(lambda x: x + x.argmax(-1, keepdim=True)), ROW, 0),
    "sorted": (mlp(lambda x: x.sort(-1)[0]), ROW, 6),
    "top": (mlp(lambda x: x.topk(3, -1)[0], out=3), ROW, 6),
    "cumsum": (mlp(lambda x: x.cumsum(-1)), ROW, 0),
    "softmax": (mlp(lambda x: x.softmax(-1)), ROW, 6),
    "fourier over positions": (cnn(lambda x: torch.fft.fft2(x).abs()), IMAGE, 6),
    "fourier over channels": (mlp(lambda x: torch.fft.fft(x).abs()), ROW, 0),
    # views
    "heads": (mlp(lambda x: x.view(3, 2, 3).relu().flatten(1)), ROW, 5),
    "shuffle": (cnn(lambda x: nn.functional.channel_shuffle(x, 2)), IMAGE, 2 + 3),
    "pixel shuffle": (cnn(lambda x: F.pixel_shuffle(x, 2), 12, 3), IMAGE, 3),
    "pixel unshuffle": (cnn(lambda x: F.pixel_unshuffle(x, 2), 3, 12), IMAGE, 3),
    "repeat": (mlp(lambda x: x.repeat(1, 2), out=12), ROW, 6 + 2),
    "repeat interleave": (mlp(lambda x: x.repeat_interleave(2, 1), out=12), ROW, 6 + 2),
    "roll of positions": (cnn(lambda x: x.roll((1, 2), (2, 3))), IMAGE, 6),
    "roll of channels": (cnn(lambda x: x.roll(1, 1)), IMAGE, 0),
    "roll of everything": (cnn(lambda x: x.roll(1)), IMAGE, 0),
    "flip": (cnn(lambda x: x.flip(3)), IMAGE, 6),
    "unfold": (cnn(lambda x: F.unfold(x, 3, padding=1).view(2, 54, 8, 8), out=54), IMAGE, 6),
    "fold": (cnn(lambda x: F.fold(x.flatten(2), (9, 9), 2), 12, 3), IMAGE, 3),
    "windows": (cnn(lambda x: x.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))), IMAGE, 6),
    "strides that do not matter": (cnn(lambda x: x.mean((2, 3), True).as_strided((2, 6, 1, 1), (6, 1, 6, 6))), IMAGE, 6),
    "strides of its own": (mlp(lambda x: x.as_strided((3, 6), (1, 3))), ROW, 0),
    "complex": (mlp(lambda x: torch.view_as_real(torch.complex(x, x.relu())).sum(-1)), ROW, 6),
    # parts
    "cat": (mlp(lambda x: torch.cat([x, x.relu()], 1), out=12), ROW, 6),
    "split": (mlp(lambda x: torch.cat(x.split([2, 4], 1)[::-1], 1)), ROW, 6),
    "stack": (mlp(lambda x: torch.stack([x, x.relu()], 1).flatten(1), out=12), ROW, 6),
    "slice": (mlp(lambda x: x * x[:, 2:3]), ROW, 2 + 3),
    "one neuron": (mlp(lambda x: x * x.select(1, 0)[:, None]), ROW, 0),
    "every second": (mlp(lambda x: x[:, ::2] * x[:, 1::2], out=3), ROW, 3),
    "pad": (cnn(lambda x: F.pad(x, (1, 1, 1, 1, 0, 2)), out=8), IMAGE, 6),
    "border": (cnn(lambda x: F.pad(x, (1, 1, 2, 2), mode="reflect")), IMAGE, 6),
    "index with constants": (cnn(lambda x: x[:, :, torch.tensor([0, 2, 1])]), IMAGE, 6),
    "neurons by number": (mlp(lambda x: x[:, torch.tensor([3, 1, 0, 2, 5, 4])]), ROW, 0),
    "written in place": (mlp(lambda x: put(x), out=12), ROW, 6),
    "embedding": (Net(lambda m, x: m.c(m.e(x.long().abs())), e=nn.Embedding(40, 6), c=nn.Linear(6, 2)), ROW, 6),
    "tied": (tied := nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)), ROW, 6),
    # positions
    "pooling": (cnn(lambda x: F.avg_pool2d(F.max_pool2d(x, 2, 1), 2)), IMAGE, 6),
    "pooling one image": (Net(lambda m, x: F.max_pool2d(m.a(x)[0], 2).sigmoid().mean(0), a=nn.Conv2d(2, 6, 1)), IMAGE, 6),
    "adaptive pooling": (cnn(lambda x: F.adaptive_max_pool2d(x, 3) + F.adaptive_avg_pool2d(x, 3)), IMAGE, 6),
    "upsampling": (cnn(lambda x: F.interpolate(F.interpolate(x, scale_factor=2), size=7, mode="bicubic")), IMAGE, 6),
    "grid": (cnn(lambda x: F.grid_sample(x, GRID, align_corners=False)), IMAGE, 6),
    # attention: heads, query/key width, value width
    "attention": (attention(2), SEQUENCE, 2 + 4 + 4),
    "attention in steps": (attention(2, fused=False), SEQUENCE, 2 + 4 + 4),
    "attention with a mask": (attention(2, mask=MASK), SEQUENCE, 2 + 4 + 4),
    "causal attention": (attention(2, causal=True), SEQUENCE, 2 + 4 + 4),
    "grouped queries": (attention(6, 2), SEQUENCE, 2 + 3 + 4 + 4),
    "one key head": (attention(3, 1), SEQUENCE, 3 + 4 + 4),
    "rotary": (Net(lambda m, x: m.c(rope(m.q(x)) * rope(m.k(x))), q=nn.Linear(5, 4), k=nn.Linear(5, 4), c=nn.Linear(4, 2)), SEQUENCE, 0),
    "multihead module": (
        Net(lambda m, x: m.c(m.t(m.a(x))), a=nn.Linear(5, 8), c=nn.Linear(8, 2),
            t=nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)),
        SEQUENCE, 8 + 12 + 2 + 4,
    ),
    # recurrent: input neurons, hidden neurons
    "lstm": (Net(lambda m, x: m.c(m.r(m.a(x))[0]), a=nn.Linear(5, 6), r=nn.LSTM(6, 4), c=nn.Linear(4, 2)), SEQUENCE, 10),
    "lstm stacked both ways": (
        Net(lambda m, x: m.c(m.r(x)[0]), r=nn.LSTM(5, 4, 2, batch_first=True, bidirectional=True), c=nn.Linear(8, 2)),
        SEQUENCE, 16,
    ),
    "lstm projected": (Net(lambda m, x: m.c(m.r(x)[0]), r=nn.LSTM(5, 4, proj_size=3), c=nn.Linear(3, 2)), SEQUENCE, 7),
    "last state": (Net(lambda m, x: m.c(m.r(x)[1][0][-1]), r=nn.LSTM(5, 4, 2), c=nn.Linear(4, 2)), SEQUENCE, 4),
    "gru": (Net(lambda m, x: m.c(m.r(x)[0]), r=nn.GRU(5, 4), c=nn.Linear(4, 2)), SEQUENCE, 4),
    "elman": (Net(lambda m, x: m.c(m.r(x)[0]), r=nn.RNN(5, 4, nonlinearity="relu"), c=nn.Linear(4, 2)), SEQUENCE, 4),
    "lstm cell": (Cell(nn.LSTMCell(5, 4), 2), SEQUENCE, 4),
    "gru cell": (Cell(nn.GRUCell(5, 4), 1), SEQUENCE, 4),
}  # fmt: skip
tied[2].weight = tied[1].weight
OPAQUE = {"random", "strides of its own"}


def put(x):
    """Write two halves into an empty tensor."""
    y = torch.empty(x.shape[0], 12)
    y[:, :6] = x
    y[:, 6:] = x.relu()
    return y


class Together(nn.Module):
    """Many networks side by side, so that they are traced in one go; each has an output of its own."""

    def __init__(self, nets):
        super().__init__()
        self.nets = nn.ModuleDict(nets)

    def forward(self, x):
        return {name: net(x) for name, net in self.nets.items()}


@functools.cache
def traced(shape):
    """All cases with that input: the network, its space, and its certificate."""
    torch.manual_seed(0)
    module = Together({key(name): case[0] for name, case in CASES.items() if case[1] == shape})
    x = torch.randn(shape)
    space = metanet.trace(module, x)
    return module, space, metanet.certify(module, space, x, per_axis=False)


def key(name):
    return name.replace(" ", "_")


@pytest.mark.parametrize("name", CASES)
def test_rule(name):
    """Everything claimed is true, and everything that should be claimed is."""
    _, shape, neurons = CASES[name]
    _, space, certificate = traced(shape)
    prefix = f"nets.{key(name)}."
    assert [a.axis for a in certificate.failed if a.axis.startswith(prefix)] == []
    assert certificate.ok
    mine = [a for a in space.axes if a.name.startswith(prefix)]
    assert sum(a.size for a in mine if a.free) == neurons, mine
    opaque = [o for o in space.opaque if f"{o.module}.".startswith(prefix)]
    assert bool(opaque) == (name in OPAQUE), opaque


@pytest.mark.parametrize("shape", [ROW, SEQUENCE])
def test_every_value_inside_moves_as_labelled(shape):
    """Stronger than a certificate: no intermediate value of any rule's making is labelled wrongly."""
    module, _, _ = traced(shape)
    x = torch.randn(shape)
    assert refuted(Traced.of(module, x), Evaluation(module, x)) is None


@torch.library.custom_op("metanet_tests::swish", mutates_args=())
def swish(x: torch.Tensor) -> torch.Tensor:
    """An operation that metanet has never heard of."""
    return x * x.sigmoid()


@swish.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def test_a_rule_for_an_operation_of_ones_own(monkeypatch):
    module, x = mlp(swish), torch.randn(ROW)
    space = metanet.trace(module, x)
    assert space.neurons == 0
    assert [(o.op, o.reason) for o in space.opaque] == [("metanet_tests.swish.default", "no rule is registered for it")]
    monkeypatch.setattr("metanet.space.rules.registry._RULES", dict(registry._RULES))

    @rule("metanet_tests.swish")
    def elementwise(walk, node, x):
        return walk.like(node, x, activation="swish")

    space = metanet.trace(module, x, certify=True)
    assert (space.neurons, space.opaque, space.certified) == (6, (), True)
    assert space.links[0].activation == "swish"


@pytest.mark.parametrize("bad", [lambda *a: 1 / 0 if not a else a[9], lambda walk, node, x: walk.make(x.dims[:1], x)])
def test_a_rule_that_fails_freezes_and_says_so(monkeypatch, bad):
    monkeypatch.setitem(registry._RULES, "metanet_tests.swish", bad)
    space = metanet.trace(mlp(swish), torch.randn(ROW))
    assert space.neurons == 0
    assert "its rule" in space.opaque[0].reason


def test_blocks_under_a_setting_are_walked():
    def settings(x):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=True):
            y = x.relu()
        with torch.no_grad():
            y = y + x
        with torch.enable_grad():
            return y * 2

    module, x = mlp(settings), torch.randn(ROW)
    space = metanet.trace(module, x)
    assert (space.neurons, space.opaque) == (6, ())


def test_both_branches_of_a_condition_are_walked():
    module = mlp(lambda x: torch.cond(x.sum() > 0, lambda y: y.relu(), lambda y: y.flip(-1), (x,)))
    space = metanet.trace(module, torch.randn(ROW))
    assert (space.neurons, space.opaque) == (0, ())  # one branch reverses the neurons
    module = mlp(lambda x: torch.cond(x.sum() > 0, lambda y: y.relu(), lambda y: y.tanh(), (x,)))
    assert metanet.trace(module, torch.randn(ROW)).neurons == 6
