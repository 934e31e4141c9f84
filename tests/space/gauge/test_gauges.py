"""Each gauge of the reference table is found, acts exactly, and is not claimed for the nearest net that lacks it."""

import dataclasses

import pytest
import torch
from torch import nn

import metanet
from metanet import WeightSpace


class Net(nn.Module):
    """A module whose forward is a plain function of its layers."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.layers = nn.ModuleDict(layers)
        self.function = forward

    def forward(self, x):
        return self.function(x, **self.layers)


def mlp(activation):
    return nn.Sequential(nn.Linear(4, 6), activation, nn.Linear(6, 3))


def gated(gate):
    def forward(x, g, u, d):
        return d(gate(g(x)) * u(x))

    return Net(forward, g=nn.Linear(4, 6), u=nn.Linear(4, 6), d=nn.Linear(6, 3))


def attention(norm=False, rope=False, fused=False):
    """Two heads of width 4 on tokens of width 6."""

    def heads(x):
        return x.unflatten(-1, (2, 4)).transpose(1, 2)

    def turned(x):
        angle = torch.arange(5.0)[:, None] * torch.tensor([1.0, 0.3])
        a, b = x[..., :2], x[..., 2:]
        cos, sin = angle.cos().to(x), angle.sin().to(x)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)

    def forward(x, q=None, k=None, v=None, qkv=None, o=None, norm=None):
        if qkv is not None:
            a, b, c = qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        else:
            a, b, c = heads(q(x)), heads(k(x)), heads(v(x))
        if norm is not None:
            a, b = norm(a), norm(b)
        if rope:
            a, b = turned(a), turned(b)
        weights = (a @ b.transpose(-1, -2) / 2).softmax(-1)
        return o((weights @ c).transpose(1, 2).flatten(2))

    layers = {"qkv": nn.Linear(6, 24)} if fused else {n: nn.Linear(6, 8) for n in "qkv"}
    if norm:
        layers["norm"] = nn.LayerNorm(4, elementwise_affine=False)
    return Net(forward, **layers, o=nn.Linear(8, 3))


def convolution(activation, norm=True):
    middle = [nn.BatchNorm2d(6)] if norm else []
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), *middle, activation, nn.Conv2d(6, 6, 3, groups=3), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(6, 3),
    )  # fmt: skip


class LowRank(nn.Module):
    """``x (W + U V)``."""

    def __init__(self):
        super().__init__()
        self.w, self.u, self.v = (nn.Parameter(torch.randn(*s)) for s in ((4, 3), (4, 2), (2, 3)))

    def forward(self, x):
        return x @ (self.w + self.u @ self.v)


class Squared(nn.Module):
    """ReLU squared, of degree 2."""

    def forward(self, x):
        return torch.relu(x) ** 2


VECTOR, TOKENS, IMAGE = (2, 4), (2, 5, 6), (2, 2, 4, 4)

# name: (module, input shape, number of scale gauges, number of sign gauges)
CASES = {
    "relu": (lambda: mlp(nn.ReLU()), VECTOR, 1, 0),
    "leaky relu": (lambda: mlp(nn.LeakyReLU(0.1)), VECTOR, 1, 0),
    "prelu": (lambda: mlp(nn.PReLU(6)), VECTOR, 1, 0),
    "relu squared": (lambda: mlp(Squared()), VECTOR, 1, 0),
    "gelu has none": (lambda: mlp(nn.GELU()), VECTOR, 0, 0),
    "silu has none": (lambda: mlp(nn.SiLU()), VECTOR, 0, 0),
    "softplus has none": (lambda: mlp(nn.Softplus()), VECTOR, 0, 0),
    "relu6 has none": (lambda: mlp(nn.ReLU6()), VECTOR, 0, 0),
    "tanh": (lambda: mlp(nn.Tanh()), VECTOR, 0, 1),
    "hardtanh": (lambda: mlp(nn.Hardtanh()), VECTOR, 0, 1),
    "sigmoid has none": (lambda: mlp(nn.Sigmoid()), VECTOR, 0, 0),
    "linear": (lambda: mlp(nn.Identity()), VECTOR, 1, 1),
    "swiglu": (lambda: gated(nn.functional.silu), VECTOR, 1, 1),
    "bilinear gate": (lambda: gated(nn.Identity()), VECTOR, 2, 2),
    "softmax gate": (lambda: gated(nn.Softmax(-1)), VECTOR, 1, 1),
    "attention": (attention, TOKENS, 2, 2),
    "fused attention": (lambda: attention(fused=True), TOKENS, 2, 2),
    "rotary attention": (lambda: attention(rope=True), TOKENS, 2, 2),
    "normed attention keeps value-output": (lambda: attention(norm=True), TOKENS, 1, 1),
    "batch norm and relu": (lambda: convolution(nn.ReLU()), IMAGE, 4, 1),
    "batch norm and gelu": (lambda: convolution(nn.GELU()), IMAGE, 3, 1),
    "convolutions and relu": (lambda: convolution(nn.ReLU(), norm=False), IMAGE, 2, 0),
    "low rank": (LowRank, VECTOR, 1, 1),
}


@pytest.mark.parametrize("name", CASES)
def test_gauges_are_found_and_exact(name):
    make, shape, scales, signs = CASES[name]
    torch.manual_seed(0)
    module, x = make().double(), torch.randn(*shape, dtype=torch.float64)
    space = metanet.trace(module, x)
    gauges = {n: g for n, g in enumerate(space.gauges) if g.kind in ("scale", "sign")}
    assert [g.kind for g in gauges.values()] == ["scale"] * scales + ["sign"] * signs
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
        for key, buffer in module.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.rand_like(buffer) + (0.5 if "var" in key else -0.5))
    module.eval()
    state = module.state_dict()
    base = module(x).detach()
    for number, gauge in gauges.items():
        move = dataclasses.replace(space.sample(seed=1, kinds=(gauge.kind,)), perms={})
        move = dataclasses.replace(move, factors={number: move.factors[number]})
        new = move.apply(state)
        assert all((new[p.tensor] != state[p.tensor]).any() for p in gauge.parts), "the gauge moves nothing"
        assert change(module, new, x, base) < 1e-9
        alone = [change(module, {**state, p.tensor: new[p.tensor]}, x, base) for p in gauge.parts]
        if len({p.tensor for p in gauge.parts}) > 1:  # a control: one tensor alone must change the function
            assert max(alone) > 1e-6


def change(module, state, x, base):
    found = torch.func.functional_call(module, state, (x,)).detach()
    return ((found - base).abs().max() / base.abs().max()).item()


def test_rotary_attention_scales_by_frequency():
    space = metanet.trace(attention(rope=True), torch.randn(*TOKENS))
    query_key = next(g for g in space.gauges if any("q.weight" in p.tensor for p in g.parts))
    assert [space.axis[a].size for a in query_key.axes] == [2, 2]  # heads x frequencies, not heads x width


@pytest.mark.parametrize("name", ["relu", "tanh", "fused attention", "batch norm and relu", "low rank"])
def test_group_axioms_with_gauges(name):
    make, shape, *_ = CASES[name]
    torch.manual_seed(0)
    module = make().double()
    space = metanet.trace(module, torch.randn(*shape, dtype=torch.float64))
    state = module.state_dict()
    kinds = ("permutation", "scale", "sign")
    a, b = space.sample(seed=1, kinds=kinds), space.sample(seed=2, kinds=kinds)
    both = b.apply(a.apply(state))
    joint, back = b.compose(a).apply(state), a.inverse().apply(a.apply(state))
    stacked = {n: torch.stack([t, 2 * t]) for n, t in state.items()}
    for key in space.tensor:
        torch.testing.assert_close(joint[key], both[key])
        torch.testing.assert_close(back[key], state[key])
        torch.testing.assert_close(a.apply(stacked, batched=True)[key][0], a.apply(state)[key])


def test_json_keeps_gauges():
    space = metanet.trace(attention(fused=True), torch.randn(*TOKENS))
    again = WeightSpace.from_json(space.to_json())
    assert again.gauges == space.gauges
    assert sum(g.kind in ("scale", "sign") for g in space.gauges) == 4
    assert "qkv.weight" in str(space.gauges[0])


def test_certificates_cover_gauges():
    module, x = mlp(nn.Tanh()), torch.randn(*VECTOR)
    space = metanet.trace(module, x)
    certificate = metanet.certify(module, space, x)
    assert certificate.ok
    assert [(g.kind, g.count, g.failed) for g in certificate.gauges] == [("sign", 1, ())]
    assert certificate.gauges[0].control > 1e-6
    assert "sign gauges together" in certificate.table()


def test_a_wrong_gauge_is_refuted_and_dropped():
    module, x = mlp(nn.GELU()), torch.randn(*VECTOR)
    homogeneous = metanet.trace(mlp(nn.ReLU()), x)
    claim = dataclasses.replace(metanet.trace(module, x), gauges=homogeneous.gauges)  # as if GELU were homogeneous
    certificate = metanet.certify(module, claim, x)
    assert not certificate.ok
    assert certificate.gauges[0].failed == (0,)
    assert "failed: 0" in certificate.table()
    assert not certificate.space.certified

    from metanet.symmetry.evaluation import Evaluation
    from metanet.symmetry.soundness import ungauged

    sound = ungauged(certificate, Evaluation(module, x))
    assert sound.ok
    assert sound.space.gauges == ()
    assert "1 gauges failed" in sound.space.opaque[-1].reason


@pytest.mark.parametrize("fused", [False, True])
def test_attention_between_channels_leaves_no_scales(fused):
    class Channels(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.out = nn.Linear(4, 18), nn.Linear(6, 2)

        def forward(self, x):
            q, k, v = (t.transpose(-1, -2) for t in self.qkv(x).unflatten(-1, (3, 6)).unbind(-2))
            mixed = nn.functional.scaled_dot_product_attention(q, k, v) if fused else (q @ k.mT).softmax(-1) @ v
            return self.out(mixed.transpose(-1, -2))

    module, x = Channels(), torch.randn(2, 5, 4)
    space = metanet.trace(module, x)
    assert space.neurons == 6
    assert not space.gauges
    assert metanet.certify(module, space, x).ok


@pytest.mark.parametrize("kind", [torch.int64, torch.bool])
def test_what_is_rounded_may_not_move(kind):
    """A cast to integers or truth values is no copy: neither factors nor shifts nor matrices pass."""

    class Rounded(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)

        def forward(self, x):
            return self.c(self.b(self.a(x).to(kind).to(x.dtype)))

    x = torch.randn(2, 4)
    space = metanet.trace(Rounded(), x)
    moved = {p.tensor for g in space.gauges for p in g.parts}
    assert moved == {"b.weight", "b.bias", "c.weight", "c.bias"}
    assert metanet.certify(Rounded(), space, x).ok
