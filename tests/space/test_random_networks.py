"""Random networks of supported blocks: what is claimed is true, and spaces and moves are what they say.

``METANET_EXAMPLES=5000 pytest tests/space/test_random_networks.py`` tries more than the few of every run.
"""

import os

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import metanet
from metanet.errors import MetanetError
from metanet.space import WeightSpace
from metanet.space.rules import registry

EXAMPLES = int(os.environ.get("METANET_EXAMPLES", "30"))
SETTINGS = settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
                    suppress_health_check=list(HealthCheck))  # fmt: skip
SIZES = st.sampled_from((2, 4, 6, 8, 12))


class Random(nn.Module):
    """A network that is written down as a list of steps; each is a function of the module, its number and the value.

    Args:
        steps: Names of blocks with their settings.
        shape: The shape of the input without its batch.
    """

    def __init__(self, steps, shape):
        super().__init__()
        self.steps = nn.ModuleList()
        x = torch.zeros(2, *shape)
        for name, choice in steps:
            makers = MAKERS[x.ndim]
            maker = makers[name % len(makers)]
            step = maker(x, choice)
            if step is None:
                continue
            self.steps.append(step)
            with torch.no_grad():
                x = step.eval()(x)
        self.head = nn.Linear(x.shape[1] if x.ndim == 4 else x.shape[-1], 3)
        self.named = len(steps) % 3 == 0

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        x = x.mean((2, 3)) if x.ndim == 4 else x
        y = self.head(x)
        return {"y": y, "shape": y.sum(-1)} if self.named else y


class Fun(nn.Module):
    """A function of named parts."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


def pick(choice, items):
    return items[choice % len(items)]


def activation(x, choice):
    return pick(choice, (nn.ReLU, nn.GELU, nn.Tanh, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.ELU))()


def divisors(n):
    return [d for d in range(1, n + 1) if n % d == 0]


# rows [B, C] ----------------------------------------------------------------------------------------------------------


def linear(x, choice):
    return nn.Linear(x.shape[-1], pick(choice, (4, 6, 8, 12)), bias=choice % 3 > 0)


def residual(x, choice):
    c = x.shape[-1]
    return Fun(lambda m, x: x + m.b(m.a(x).relu()), a=nn.Linear(c, 5), b=nn.Linear(5, c))


def dense(x, choice):
    return Fun(lambda m, x: torch.cat([x, m.a(x).tanh()], -1), a=nn.Linear(x.shape[-1], pick(choice, (2, 3, 4))))


def gated(x, choice):
    c = x.shape[-1]
    how = choice % 3
    if how == 0:
        return Fun(lambda m, x: m.c(F.silu(m.a(x)) * m.b(x)), a=nn.Linear(c, 6), b=nn.Linear(c, 6), c=nn.Linear(6, c))
    if how == 1:
        return Fun(lambda m, x: F.glu(m.a(x)), a=nn.Linear(c, 8))

    def chunked(m, x):
        u, v = m.a(x).chunk(2, -1)
        return u * v.sigmoid()

    return Fun(chunked, a=nn.Linear(c, 12))


def parts(x, choice):
    """Split, act on the parts, join in some order."""
    c = x.shape[-1]
    at = 1 + choice % max(c - 1, 1)
    if at >= c:
        return None
    if choice % 2:
        return Fun(lambda m, x: torch.cat([x[..., at:], x[..., :at].relu()], -1))
    return Fun(lambda m, x: torch.cat([m.a(x[..., :at]), x[..., at:]], -1), a=nn.Linear(at, at))


def folded(x, choice):
    """Reshape the last dimension into two, act there, and back; possibly transposed."""
    c = x.shape[-1]
    g = pick(choice, divisors(c))
    if choice % 3 == 0:
        return Fun(lambda m, x: x.unflatten(-1, (g, c // g)).softmax(-1).flatten(-2))
    if choice % 3 == 1:
        return Fun(lambda m, x: x.unflatten(-1, (g, c // g)).transpose(-1, -2).flatten(-2))
    return Fun(lambda m, x: m.a(x.unflatten(-1, (g, c // g))).flatten(-2), a=nn.Linear(c // g, 2))


def shared(x, choice):
    """One weight used twice, or a weight tied to its own transpose."""
    c = x.shape[-1]
    if choice % 2:
        return Fun(lambda m, x: m.a(m.a(x).relu()), a=nn.Linear(c, c))
    return Fun(lambda m, x: F.linear(m.a(x).tanh(), m.a.weight.t()), a=nn.Linear(c, 5))


def normed(x, choice):
    c = x.shape[-1]
    return (
        pick(choice, (nn.LayerNorm, nn.RMSNorm))(c)
        if choice % 3
        else Fun(lambda m, x: x / (1 + x.norm(dim=-1, keepdim=True)))
    )


def scaled(x, choice):
    """Parameters that act entry by entry."""
    p = nn.Parameter(torch.rand(x.shape[-1]) + 0.5)
    return Fun(lambda m, x: x * m.p + m.p if choice % 2 else x * m.p, p=p)


def ordered(x, choice):
    """Operations in which the order of neurons matters: nothing may be claimed."""
    table = torch.arange(float(x.shape[-1]))
    return Fun(pick(choice, (
        lambda m, x: x.cumsum(-1), lambda m, x: x.flip(-1), lambda m, x: x.roll(1, -1), lambda m, x: x + table,
        lambda m, x: x.sort(-1)[0], lambda m, x: x * (1 + x[..., :1]), lambda m, x: x - x.argmax(-1, keepdim=True),
    )))  # fmt: skip


def strided(x, choice):
    c = x.shape[-1]
    if c % 2:
        return None
    return Fun(pick(choice, (
        lambda m, x: x[..., ::2] * x[..., 1::2], lambda m, x: x[..., : c // 2] + x[..., c // 2 :],
        lambda m, x: torch.stack([x, x.relu()], -1).flatten(-2), lambda m, x: x.repeat(*[1] * (x.ndim - 1), 2),
        lambda m, x: x.unflatten(-1, (2, c // 2)).sum(-2), lambda m, x: x.repeat_interleave(2, -1),
        lambda m, x: F.pad(x, (1, 2)), lambda m, x: torch.stack(x.unflatten(-1, (2, -1)).unbind(-2), -1).flatten(-2),
    )))  # fmt: skip


def experts(x, choice):
    c = x.shape[-1]
    w, v = nn.Parameter(torch.randn(3, c, 4)), nn.Parameter(torch.randn(3, 4, c))
    return Fun(
        lambda m, x: torch.einsum("...eh,ehc->...c", torch.einsum("...c,ech->...eh", x, m.w).relu(), m.v), w=w, v=v
    )


def low_rank(x, choice):
    c = x.shape[-1]
    u, v = nn.Parameter(torch.randn(c, 3)), nn.Parameter(torch.randn(3, c))
    return Fun(
        lambda m, x: x @ (m.u @ m.v) if choice % 2 else F.linear(x, m.w + m.u @ m.v),
        u=u,
        v=v,
        w=nn.Parameter(torch.randn(c, c)),
    )


def paired(x, choice):
    """An axis that meets itself: products, quotients, sums and differences of pairs, running sums, gram matrices."""
    i, j = lambda x: x[..., :, None], lambda x: x[..., None, :]
    return Fun(pick(choice, (
        lambda m, x: (i(x) * j(x)).sum(-1), lambda m, x: (i(x) * j(x)).tril().flatten(-2)[..., :16],
        lambda m, x: (i(x) - j(x)).abs().mean(-1), lambda m, x: (i(x) / (3 + j(x).square())).sum(-2),
        lambda m, x: (i(x) + j(x)).softmax(-1).sum(-2), lambda m, x: (i(x.sin()) * j(x.sin())).sum(-1),
        lambda m, x: (i(x) * j(x)).cumsum(-1).mean(-1), lambda m, x: x @ (x.mT @ x) / 10, lambda m, x: x.cumprod(-1),
        lambda m, x: (x @ x.mT) @ x / 10, lambda m, x: x @ (m.w - m.w.T) + x,
    )), w=nn.Parameter(torch.randn(x.shape[-1], x.shape[-1])))  # fmt: skip


def act(x, choice):
    return activation(x, choice)


ROWS = [
    linear,
    residual,
    dense,
    gated,
    parts,
    folded,
    shared,
    normed,
    scaled,
    ordered,
    strided,
    experts,
    low_rank,
    act,
    linear,
    paired,
]


# sequences [B, T, C] --------------------------------------------------------------------------------------------------


def attention(x, choice):
    """Self-attention, fused or not, masked or not."""
    c = x.shape[-1]
    heads = pick(choice, [h for h in (1, 2, 3) if c % h == 0])
    width = c // heads
    causal = choice % 5 == 0

    def split(t):
        return t.unflatten(-1, (heads, width)).transpose(1, 2)

    def attend(q, k, v):
        if choice % 2:
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return (q @ k.transpose(-2, -1) / width**0.5).softmax(-1) @ v

    def separate(m, x):
        return x + m.o(attend(split(m.q(x)), split(m.k(x)), split(m.v(x))).transpose(1, 2).flatten(2))

    def fused(m, x):
        q, k, v = m.qkv(x).unflatten(-1, (3, heads, width)).permute(2, 0, 3, 1, 4).unbind(0)
        return x + m.o(attend(q, k, v).transpose(1, 2).flatten(2))

    def per_head(m, x):
        q, k, v = m.qkv(x).unflatten(-1, (heads, 3 * width)).transpose(1, 2).chunk(3, -1)
        return x + m.o(attend(q, k, v).transpose(1, 2).flatten(2))

    def chunked(m, x):
        q, k, v = m.qkv(x).chunk(3, -1)
        return x + m.o(attend(split(q), split(k), split(v)).transpose(1, 2).flatten(2))

    how = choice // 7 % 4
    if how == 0:
        return Fun(separate, q=nn.Linear(c, c), k=nn.Linear(c, c, bias=False), v=nn.Linear(c, c), o=nn.Linear(c, c))
    return Fun(pick(how, (fused, per_head, chunked)), qkv=nn.Linear(c, 3 * c), o=nn.Linear(c, c))


def recurrent(x, choice):
    c = x.shape[-1]
    layer = pick(choice, (nn.LSTM, nn.GRU, nn.RNN))(c, 4, batch_first=True, bidirectional=choice % 2 == 0)
    return Fun(lambda m, x: m.r(x)[0], r=layer)


def mixer(x, choice):
    """Mix positions, which are not neurons of the input."""
    t = x.shape[1]
    return Fun(
        lambda m, x: x + m.b(m.a(x.transpose(1, 2)).relu()).transpose(1, 2), a=nn.Linear(t, 5), b=nn.Linear(5, t)
    )


def convolved(x, choice):
    c = x.shape[-1]
    groups = c if choice % 2 else 1
    return Fun(lambda m, x: m.a(x.transpose(1, 2)).transpose(1, 2), a=nn.Conv1d(c, c, 3, padding=1, groups=groups))


def flattened(x, choice):
    return Fun(lambda m, x: x.flatten(1)) if choice % 2 else Fun(lambda m, x: x.mean(1))


SEQUENCES = [attention, attention, recurrent, mixer, convolved, flattened, *ROWS]


# images [B, C, H, W] --------------------------------------------------------------------------------------------------


def conv(x, choice):
    c = x.shape[1]
    groups = pick(choice, [g for g in divisors(c) if 12 % g == 0])
    return nn.Conv2d(c, pick(choice, (12, 12, 4 * groups)), pick(choice, (1, 3)), padding=choice % 2, groups=groups)


def depthwise(x, choice):
    return nn.Conv2d(x.shape[1], x.shape[1] * (1 + choice % 2), 3, padding=1, groups=x.shape[1])


def transposed(x, choice):
    c = x.shape[1]
    if x.shape[-1] > 8:
        return None
    return nn.ConvTranspose2d(c, 6 if c % 2 else 4, 2, stride=2, groups=1 if c % 2 else 2)


def image_norm(x, choice):
    c = x.shape[1]
    return pick(choice, (nn.BatchNorm2d, lambda c: nn.GroupNorm(pick(choice, divisors(c)), c),
                         lambda c: nn.InstanceNorm2d(c, affine=True)))(c)  # fmt: skip


def image_residual(x, choice):
    c = x.shape[1]
    return Fun(lambda m, x: x + m.n(m.a(x)).relu(), a=nn.Conv2d(c, c, 3, padding=1, bias=False), n=nn.BatchNorm2d(c))


def image_dense(x, choice):
    return Fun(lambda m, x: torch.cat([x, m.a(x).relu()], 1), a=nn.Conv2d(x.shape[1], 4, 3, padding=1))


def squeeze(x, choice):
    c = x.shape[1]
    return Fun(
        lambda m, x: x * m.b(m.a(x.mean((2, 3), keepdim=True)).relu()).sigmoid(),
        a=nn.Conv2d(c, 3, 1),
        b=nn.Conv2d(3, c, 1),
    )


def shuffled(x, choice):
    c = x.shape[1]
    g = pick(choice, divisors(c))
    if choice % 2:
        return Fun(lambda m, x: x.unflatten(1, (g, c // g)).transpose(1, 2).flatten(1, 2))
    return Fun(lambda m, x: torch.cat(x.chunk(g, 1)[::-1], 1))


def space_to_depth(x, choice):
    if x.shape[1] % 4 == 0 and x.shape[-1] <= 6 and choice % 2:
        return nn.PixelShuffle(2)
    return nn.PixelUnshuffle(2) if x.shape[-1] % 2 == 0 and x.shape[-2] % 2 == 0 and x.shape[1] <= 8 else None


def pooled(x, choice):
    return (
        pick(choice, (nn.MaxPool2d(2, 1), nn.AvgPool2d(2, 1, 1), nn.AdaptiveAvgPool2d(3)))
        if min(x.shape[2:]) > 3
        else None
    )


def to_rows(x, choice):
    return nn.Flatten() if x[0].numel() <= 256 else None


def to_sequence(x, choice):
    return (
        Fun(lambda m, x: x.flatten(2).transpose(1, 2))
        if choice % 2
        else Fun(lambda m, x: x.permute(0, 2, 3, 1).flatten(1, 2))
    )


def split_channels(x, choice):
    c = x.shape[1]
    if c < 2:
        return None
    at = 1 + choice % (c - 1)
    return Fun(lambda m, x: torch.cat([m.a(x[:, :at]), x[:, at:]], 1), a=nn.Conv2d(at, at, 1))


IMAGES = [conv, conv, depthwise, transposed, image_norm, image_residual, image_dense, squeeze, shuffled, space_to_depth,
          pooled, to_rows, to_sequence, split_channels, activation]  # fmt: skip
MAKERS = {2: ROWS, 3: SEQUENCES, 4: IMAGES}
FIRST = {
    (5,): lambda: nn.Linear(5, 12),
    (4, 5): lambda: nn.Linear(5, 12),
    (3, 6, 6): lambda: nn.Conv2d(3, 12, 3, padding=1),
}


@st.composite
def networks(draw):
    """A random network and an input for it."""
    shape = draw(st.sampled_from(list(FIRST)))
    steps = draw(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=1, max_size=7))
    torch.manual_seed(0)
    start = FIRST[shape]()
    with torch.no_grad():
        inner = Random(steps, start(torch.zeros(2, *shape)).shape[1:])
    inner.steps.insert(0, start)
    return inner.eval(), torch.randn(2, *shape)


def check(module: nn.Module, x: Tensor) -> WeightSpace:
    """The space, after everything that must hold of it."""
    space = metanet.trace(module, x)
    certificate = metanet.certify(module, space, x, per_axis=False)
    assert certificate.ok, certificate.table()
    assert WeightSpace.from_json(space.to_json()) == space
    assert WeightSpace.from_json(space.to_json()).gauges == space.gauges
    kinds = ("permutation", "scale", "sign")
    state = {name: t.double() for name, t in module.state_dict().items()}
    move, other = space.sample(1, kinds=kinds), space.sample(2, kinds=kinds)
    there = move.apply(state)
    back = move.inverse().apply(there)
    both, composed = other.apply(there), other.compose(move).apply(state)
    for name, tensor in state.items():
        torch.testing.assert_close(back[name], tensor, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(both[name], composed[name], rtol=1e-9, atol=1e-12)
    return space


@SETTINGS
@given(networks())
def test_random_networks_certify_or_are_refused(network):
    module, x = network
    try:
        check(module, x)
    except MetanetError as error:
        assert "cannot certify" in str(error)  # noqa: PT017 (a refusal is as good as a certificate)


@pytest.mark.parametrize(
    ("shape", "steps"),
    [
        ((3, 6, 6), [(6, 0), (3, 1)]),  # groups of a transposed convolution that do not fit the concatenation they read
        ((5,), [(9, 5), (6, 1)]),  # a weight used twice between dimensions of which one entry is singled out
        ((5,), [(9, 5), (6, 0)]),  # a weight and its transpose between the same
    ],
)
def test_networks_that_were_wrong_once(shape, steps):
    torch.manual_seed(0)
    start = FIRST[shape]()
    with torch.no_grad():
        module = Random(steps, start(torch.zeros(2, *shape)).shape[1:])
    module.steps.insert(0, start)
    assert len(module.steps) == len(steps) + 1
    check(module.eval(), torch.randn(2, *shape))


def test_a_false_rule_is_found(monkeypatch):
    monkeypatch.setitem(registry._RULES, "aten.cumsum", lambda walk, node, x, *args, **kwargs: walk.like(node, x))
    with pytest.raises(AssertionError, match="failed"):
        check(Random([(0, 2), (9, 0)], (5,)), torch.randn(2, 5))
