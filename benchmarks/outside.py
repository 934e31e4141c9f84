"""Networks whose weights no ordinary layer holds: what a tensor means follows from how the code uses it."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PARTS = dict[str, tuple[int, ...] | nn.Module | Tensor]


class Net(nn.Module):
    """A function of the module and its input, with parameters of given shapes and other parts."""

    def __init__(self, function, **parts):
        super().__init__()
        object.__setattr__(self, "function", function)
        for name, part in parts.items():
            if isinstance(part, tuple):
                part = nn.Parameter(torch.randn(part) / max(1, math.prod(part[:-1])) ** 0.5)
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *inputs):
        """The function of the module and its inputs."""
        return self.function(self, *inputs)


def heads(s, x):
    q, k, v = (torch.einsum("bpd,hde->bhpe", x, w) for w in (s.W_Q, s.W_K, s.W_V))
    z = torch.einsum("bhpe,hed->bpd", torch.softmax(q @ k.mT / 2, -1) @ v, s.W_O)
    return s.u((x + z).relu())


def heads_with_biases(s, x):
    q = torch.einsum("bpd,hde->bphe", x, s.W_Q) + s.b_Q
    k = torch.einsum("bpd,hde->bphe", x, s.W_K) + s.b_K
    v = torch.einsum("bpd,hde->bphe", x, s.W_V) + s.b_V
    pattern = torch.einsum("bqhe,bkhe->bhqk", q, k).softmax(-1)
    z = torch.einsum("bkhe,bhqk->bqhe", v, pattern)
    return s.u(torch.einsum("bqhe,hed->bqd", z, s.W_O) + s.b_O)


def soft_experts(s, x):
    gates = s.gate(x).softmax(-1)
    hidden = torch.einsum("bd,edh->beh", x, s.w1).relu()
    return s.u(torch.einsum("beh,ehd,be->bd", hidden, s.w2, gates))


def routed_experts(s, x):
    best = s.gate(x).argmax(-1)
    hidden = torch.bmm(x[:, None], s.w1[best]).relu()
    return s.u(torch.bmm(hidden, s.w2.index_select(0, best))[:, 0])


def looped_experts(s, x):
    gates = s.gate(x).softmax(-1)
    return s.u(sum(gates[:, e, None] * F.linear(F.linear(x, s.w1[e]).relu(), s.w2[e]) for e in range(4)))


def spline(x, grid):
    """Cubic B-spline bases ``[B, in, grid - 4]`` by the recursion of Cox and de Boor, as in efficient-kan."""
    x = x[..., None]
    bases = ((x >= grid[:-1]) & (x < grid[1:])).to(x.dtype)
    for k in range(1, 4):
        left = (x - grid[: -(k + 1)]) / (grid[k:-1] - grid[: -(k + 1)]) * bases[..., :-1]
        bases = left + (grid[k + 1 :] - x) / (grid[k + 1 :] - grid[1:-k]) * bases[..., 1:]
    return bases


class KAN(nn.Module):
    """A layer of splines, in the form of efficient-kan."""

    def __init__(self, fan_in, out):
        super().__init__()
        self.base = nn.Parameter(torch.randn(out, fan_in))
        self.spline = nn.Parameter(torch.randn(out, fan_in, 6))
        self.scaler = nn.Parameter(torch.randn(out, fan_in))
        self.register_buffer("grid", torch.linspace(-2, 2, 10))

    def forward(self, x):
        """``[B, in] -> [B, out]``."""
        weight = self.spline * self.scaler[..., None]
        bases = spline(x, self.grid).flatten(1)
        return F.linear(F.silu(x), self.base) + F.linear(bases, weight.reshape(len(weight), -1))


def chebyshev(s, x):
    for c in (s.c1, s.c2):
        x = torch.cos(x.tanh().clamp(-0.99, 0.99).acos()[..., None] * torch.arange(3))
        x = torch.einsum("bid,iod->bo", x, c)
    return x


def members(s, x):
    x = x.expand(3, *x.shape)
    return torch.baddbmm(s.b2[:, None], torch.baddbmm(s.b1[:, None], x, s.w1).relu(), s.w2).mean(0)


def batch_ensemble(s, x):
    x = x.expand(3, *x.shape)
    for layer, r, q in ((s.first, s.r1, s.s1), (s.second, s.r2, s.s2)):
        x = torch.relu(layer(x * r[:, None]) * q[:, None])
    return x.mean(0)


def flat(s, x):
    w1, b1, w2, b2, w3 = s.p.split([24, 6, 30, 5, 15])
    return F.linear(F.linear(F.linear(x, w1.view(6, 4), b1).relu(), w2.view(5, 6), b2).relu(), w3.view(3, 5))


def flat_square(s, x):
    at, x = 24, F.linear(x, s.p[:24].view(6, 4)).relu()
    for _ in range(2):
        x = F.linear(x, s.p[at : at + 36].view(6, 6), s.p[at + 36 : at + 42]).relu() + x
        at += 42
    return F.linear(x, s.p[at:].view(2, 6))


def flat_conv(s, x):
    x = F.conv2d(x, s.p[:54].view(3, 2, 3, 3), s.p[54:57]).relu().mean((2, 3))
    return F.linear(x, s.p[57:].view(2, 3))


def low_rank(s, x):
    return F.linear(F.linear(x, s.U @ s.R).relu(), s.w + s.b @ s.a)


def three_factors(s, x):
    return torch.tanh(x @ (s.A @ s.B @ s.C)) @ s.D


def tucker(s, x):
    return s.u((x @ torch.einsum("ir,rst,os,kt->iok", s.A, s.core, s.B, s.C).flatten(1)).relu())


def class_token(s, x):
    tokens = torch.cat([s.cls.expand(len(x), -1, -1), s.embed(x)], 1) + s.position
    return s.head(s.encoder(tokens)[:, 0])


def position_bias(s, x):
    index = (torch.arange(5)[:, None] - torch.arange(5) + 4).flatten()
    q, k, v = s.qkv(x).reshape(len(x), 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
    scores = q @ k.mT * s.scale.exp() + s.table[index].view(5, 5, 2).permute(2, 0, 1)
    return s.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)).mean(1)


def prototypes(s, x):
    distances = torch.cdist(s.embed(x).tanh(), s.centres)
    return s.out(torch.exp(-distances / s.temperature.exp()))


def nearest(s, x):
    return -(s.embed(x)[:, None] - s.centres).square().sum(-1) * s.temperature


def initial_state(s, x):
    h, c = (v[:, None].expand(-1, len(x), -1).contiguous() for v in (s.h0, s.c0))
    return s.out(s.lstm(x, (h, c))[0][:, -1])


def own_cell(s, x):
    h = s.h0.expand(len(x), -1)
    for t in range(3):
        h = torch.tanh(x[:, t] @ s.W + h @ s.U + s.b)
    return s.out(h)


def pairs(s, x):
    h = s.embed(x).relu()
    return torch.einsum("bi,bj,oij->bo", h, h, s.T)


def queries(s, x):
    k, v = s.kv(x).chunk(2, -1)
    return s.out(F.scaled_dot_product_attention(s.query.expand(len(x), -1, -1), k, v)).mean(1)


def memory(s, x):
    return s.out((s.embed(x) @ s.keys.T).softmax(-1) @ s.values)


def hyper(s, x, z):
    w = s.generate(z).view(len(z), 5, 4)
    return s.out(torch.einsum("boi,bi->bo", w, x).relu())


def mixture_of_kernels(s, x):
    kernel = torch.einsum("bk,koihw->boihw", s.route(x.mean((2, 3))).softmax(-1), s.kernels)
    y = F.conv2d(x.reshape(1, -1, *x.shape[2:]), kernel.flatten(0, 1), padding=1, groups=len(x))
    return s.out(y.view(len(x), 4, -1).mean(-1).relu())


def gated_scalar(s, x):
    return s.b(s.act(s.a(x)) * s.gain + s.offset)


def state_space(s, x):
    h, out = x.new_zeros(len(x), 5, 3), []
    for t in range(4):
        h = h * torch.exp(-s.A.exp()) + s.embed(x[:, t])[..., None] * s.B
        out.append((h * s.C).sum(-1))
    return s.out(torch.stack(out).mean(0))


def stacked(s, x):
    for i in range(3):
        x = torch.relu(F.linear(x, s.W[i], s.b[i])) + x
    return s.out(x)


def unbound(s, x):
    for w, b in zip(s.W.unbind(), s.b.unbind(), strict=True):
        x = torch.relu(x @ w + b) + x
    return s.out(x)


def masked(s, x):
    return s.out(F.linear(x, s.W * torch.ones(6, 4).tril()).relu())


def weight_norm(s, x):
    return s.out(F.linear(x, s.g * s.v / s.v.norm(dim=1, keepdim=True)).relu())


def circulant(s, x):
    spectrum = torch.fft.rfft(x) * torch.fft.rfft(s.c)
    return s.out(torch.fft.irfft(spectrum, n=4).relu())


def lookup(s, i):
    return s.out((s.E[i] + s.position[: i.shape[1]]).relu().mean(1))


def field(s, i):
    v = s.E[i]
    return (v.sum(1).square() - v.square().sum(1)).sum(-1, keepdim=True) / 2 + s.w[i].sum(1) + s.b


def graph_attention(s, x):
    h = torch.einsum("nd,hde->hne", x, s.W)
    scores = F.leaky_relu((h * s.left[:, None]).sum(-1)[:, :, None] + (h * s.right[:, None]).sum(-1)[:, None])
    return s.out((scores.softmax(-1) @ h).mean(0).relu())


def capsules(s, x):
    votes = torch.einsum("bid,jide->bije", x, s.W)
    v = votes.softmax(2).sum(1)
    return (v / (1 + v.square().sum(-1, keepdim=True))).square().sum(-1)


L = nn.Linear
TEXT = torch.tensor([[0, 3, 1], [2, 2, 6]])
ATTENTION = {"W_Q": (2, 8, 4), "W_K": (2, 8, 4), "W_V": (2, 8, 4), "W_O": (2, 4, 8)}
EXPERTS = {"w1": (4, 6, 5), "w2": (4, 5, 6)}

OUTSIDE = {
    "attention by heads": lambda: (Net(heads, u=L(8, 3), **ATTENTION), torch.randn(2, 5, 8)),
    "attention with biases": lambda: (
        Net(heads_with_biases, u=L(8, 3), b_Q=(2, 4), b_K=(2, 4), b_V=(2, 4), b_O=(8,), **ATTENTION),
        torch.randn(2, 5, 8),
    ),
    "soft experts": lambda: (Net(soft_experts, gate=L(6, 4), u=L(6, 2), **EXPERTS), torch.randn(3, 6)),
    "routed experts": lambda: (Net(routed_experts, gate=L(6, 4), u=L(6, 2), **EXPERTS), torch.randn(3, 6)),
    "looped experts": lambda: (
        Net(looped_experts, gate=L(6, 4), u=L(6, 2), w1=(4, 5, 6), w2=(4, 6, 5)), torch.randn(3, 6)
    ),
    "splines": lambda: (nn.Sequential(KAN(4, 6), KAN(6, 3)), torch.rand(2, 4)),
    "polynomials": lambda: (Net(chebyshev, c1=(4, 6, 3), c2=(6, 2, 3)), torch.randn(2, 4)),
    "members": lambda: (Net(members, w1=(3, 4, 6), b1=(3, 6), w2=(3, 6, 2), b2=(3, 2)), torch.randn(5, 4)),
    "batch ensemble": lambda: (
        Net(batch_ensemble, first=L(4, 6), second=L(6, 2), r1=(3, 4), s1=(3, 6), r2=(3, 6), s2=(3, 2)),
        torch.randn(5, 4),
    ),
    "bilinear": lambda: (
        Net(
            lambda s, x: s.o(s.f(s.a(x).relu(), s.b(x).tanh()).relu()),
            a=L(4, 5), b=L(4, 6), f=nn.Bilinear(5, 6, 3), o=L(3, 2),
        ),
        torch.randn(2, 4),
    ),
    "bilinear of one": lambda: (
        Net(lambda s, x: s.f(*(s.a(x).relu(),) * 2), a=L(4, 5), f=nn.Bilinear(5, 5, 2)), torch.randn(2, 4)
    ),
    "cubic form": lambda: (
        Net(lambda s, x: s.o(s.f(*(s.a(x).relu(),) * 2) + s.a(x)), a=L(4, 5), f=nn.Bilinear(5, 5, 5), o=L(5, 2)),
        torch.randn(2, 4),
    ),
    "pairs": lambda: (Net(pairs, embed=L(4, 5), T=(2, 5, 5)), torch.randn(2, 4)),
    "embedding bag": lambda: (
        Net(lambda s, i: s.o(s.bag(i).relu()), bag=nn.EmbeddingBag(7, 5), o=L(5, 2)), TEXT
    ),
    "lookup": lambda: (Net(lookup, E=(7, 5), position=(4, 5), out=L(5, 2)), TEXT),
    "factorisation machine": lambda: (Net(field, E=(7, 5), w=(7, 1), b=(1,)), TEXT),
    "prototypes": lambda: (
        Net(prototypes, embed=L(4, 5), centres=(6, 5), temperature=(1,), out=L(6, 2)), torch.randn(2, 4)
    ),
    "nearest mean": lambda: (Net(nearest, embed=L(4, 5), centres=(3, 5), temperature=()), torch.randn(2, 4)),
    "low rank": lambda: (
        Net(low_rank, U=(6, 2), R=(2, 4), w=(3, 6), b=(3, 2), a=(2, 6)), torch.randn(2, 4)
    ),
    "three factors": lambda: (Net(three_factors, A=(4, 3), B=(3, 2), C=(2, 6), D=(6, 2)), torch.randn(2, 4)),
    "tucker": lambda: (
        Net(tucker, A=(4, 2), core=(2, 3, 2), B=(5, 3), C=(6, 2), u=L(30, 2)), torch.randn(2, 4)
    ),
    "class token": lambda: (
        Net(
            class_token, cls=(1, 1, 8), position=(1, 6, 8), embed=L(4, 8), head=L(8, 3),
            encoder=nn.TransformerEncoderLayer(8, 2, 12, batch_first=True),
        ),
        torch.randn(2, 5, 4),
    ),
    "position bias": lambda: (
        Net(position_bias, qkv=L(8, 24), out=L(8, 3), table=(9, 2), scale=(2, 1, 1)), torch.randn(2, 5, 8)
    ),
    "flat": lambda: (Net(flat, p=(80,)), torch.randn(2, 4)),
    "flat square": lambda: (Net(flat_square, p=(24 + 84 + 12,)), torch.randn(2, 4)),
    "flat convolution": lambda: (Net(flat_conv, p=(63,)), torch.randn(2, 2, 5, 5)),
    "initial state": lambda: (
        Net(initial_state, lstm=nn.LSTM(3, 5, batch_first=True), h0=(1, 5), c0=(1, 5), out=L(5, 2)),
        torch.randn(2, 4, 3),
    ),
    "own cell": lambda: (Net(own_cell, W=(4, 5), U=(5, 5), b=(5,), h0=(1, 5), out=L(5, 2)), torch.randn(2, 3, 4)),
    "queries": lambda: (Net(queries, query=(3, 6), kv=L(4, 12), out=L(6, 2)), torch.randn(2, 5, 4)),
    "memory": lambda: (Net(memory, embed=L(4, 5), keys=(7, 5), values=(7, 6), out=L(6, 2)), torch.randn(2, 4)),
    "hypernetwork": lambda: (Net(hyper, generate=L(3, 20), out=L(5, 2)), (torch.randn(2, 4), torch.randn(2, 3))),
    "mixture of kernels": lambda: (
        Net(mixture_of_kernels, route=L(2, 3), kernels=(3, 4, 2, 3, 3), out=L(4, 2)), torch.randn(2, 2, 5, 5)
    ),
    "scalars": lambda: (
        Net(gated_scalar, a=L(4, 6), act=nn.PReLU(), gain=(), offset=(1,), b=L(6, 2)), torch.randn(2, 4)
    ),
    "state space": lambda: (
        Net(state_space, A=(5, 3), B=(3,), C=(5, 3), embed=L(2, 5), out=L(5, 2)), torch.randn(2, 4, 2)
    ),
    "stacked layers": lambda: (Net(stacked, W=(3, 4, 4), b=(3, 4), out=L(4, 2)), torch.randn(2, 4)),
    "unbound layers": lambda: (Net(unbound, W=(3, 4, 4), b=(3, 4), out=L(4, 2)), torch.randn(2, 4)),
    "masked": lambda: (Net(masked, W=(6, 4), out=L(6, 2)), torch.randn(2, 4)),
    "weight norm": lambda: (Net(weight_norm, v=(6, 4), g=(6, 1), out=L(6, 2)), torch.randn(2, 4)),
    "circulant": lambda: (Net(circulant, c=(4,), out=L(4, 2)), torch.randn(2, 4)),
    "graph attention": lambda: (
        Net(graph_attention, W=(2, 4, 5), left=(2, 5), right=(2, 5), out=L(5, 2)), torch.randn(6, 4)
    ),
    "capsules": lambda: (Net(capsules, W=(3, 4, 5, 6)), torch.randn(2, 4, 5)),
    "unused": lambda: (
        Net(lambda s, x: s.b(s.a(x).relu()), a=L(4, 6), b=L(6, 2), token=(1, 1, 5), extra=(3, 4, 2)),
        torch.randn(2, 4),
    ),
}  # fmt: skip
