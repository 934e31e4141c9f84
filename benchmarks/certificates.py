"""How many false claims do certificates refute? Claims of every kind are injected into random networks.

python benchmarks/certificates.py --nets 2000 --json benchmarks/results/certificates.json

A claim is that the neurons of one layer may be moved: that their signs, factors, phases, shifts, bases or order are
free, whatever the network computes. Whether that is true is found out without the code of certificates: generic
elements, written out here for the two layers that they move, act on 200 other draws of weights and inputs. A claim that
passes its certificate must hold on all of these, and one that is refuted must fail on some.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from common import parser, report
from torch import Tensor, nn

import metanet
from metanet.space import Axis, Label, WeightSpace
from metanet.space.gauges import Gauge, GaugePart, Pairs

KINDS = ("sign", "scale", "phase", "shift", "linear", "orthogonal", "rotation", "permutation", "wreath")
DRAWS = 200
EXACT = 1e-9
Act = Callable[[Tensor], Tensor]


def pairs(z: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of the table of all pairs of neurons, which are the last dimension."""
    return z[..., :, None], z[..., None, :]


# Functions of neurons in the last dimension, as wide as they are: most let some of the kinds pass, none lets all.
STEPS: dict[str, Act] = {
    "nothing": lambda z: z,
    "relu": F.relu, "leaky relu": F.leaky_relu, "gelu": F.gelu, "tanh": torch.tanh, "sigmoid": torch.sigmoid,
    "softplus": F.softplus, "sine": torch.sin, "cosine": torch.cos, "square": torch.square, "cube": lambda z: z**3,
    "absolute value": torch.abs, "softmax": lambda z: z.softmax(-1), "clamp": lambda z: z.clamp(-0.5, 0.5),
    "unit vector": lambda z: F.normalize(z, dim=-1), "layer norm": lambda z: F.layer_norm(z, z.shape[-1:]),
    "centred": lambda z: z - z.mean(-1, keepdim=True), "running sum": lambda z: z.cumsum(-1),
    "running product": lambda z: z.cumprod(-1), "running maximum": lambda z: z.cummax(-1)[0],
    "flipped product": lambda z: z * z.flip(-1), "neighbours' product": lambda z: z * z.roll(1, -1),
    "table": lambda z: z + torch.linspace(-1, 1, z.shape[-1], dtype=z.dtype), "sorted": lambda z: z.sort(-1)[0],
    "pair products": lambda z: torch.mul(*pairs(z)).sum(-1),
    "signs of pairs": lambda z: torch.mul(*pairs(z)).tanh().sum(-1),
    "quotients": lambda z: torch.div(*pairs(z.abs() + 0.1)).sum(-1),
    "outer sums": lambda z: torch.add(*pairs(z)).relu().mean(-1),
    "distances": lambda z: torch.sub(*pairs(z)).square().sum(-1),
    "softmax of pairs": lambda z: torch.mul(*pairs(z)).softmax(-1).sum(-2),
    "gram matrix": lambda z: z @ (z.mT @ z) if z.ndim > 2 else z * (z @ z.mT).sum(-1, keepdim=True),
    "product of all": lambda z: z * z.prod(-1, keepdim=True), "norm": lambda z: z * z.square().sum(-1, keepdim=True),
    "first neuron": lambda z: z * z[..., :1], "products of sines": lambda z: torch.mul(*pairs(z.sin())).sum(-1),
    "squares of sines": lambda z: z.sin().square(), "difference of halves": lambda z: z - z.flip(-1),
    "a neuron alone": lambda z: torch.cat([z[..., :1].tanh(), z[..., 1:]], -1),
    "complex modulus": lambda z: z * (z.square() + z.roll(z.shape[-1] // 2, -1).square()),
}  # fmt: skip


class Net(nn.Module):
    """A layer that writes neurons, a random function of them, a layer that reads them, and perhaps more behind it."""

    def __init__(self, draw: random.Random, size: int, groups: int) -> None:
        super().__init__()
        self.size, self.groups = size, groups
        self.names = draw.choices(list(STEPS), k=draw.choice((1, 1, 2)))
        self.residual, self.deep = draw.random() < 0.15, draw.random() < 0.5
        self.first, self.last = nn.Linear(3, size * groups), nn.Linear(size * groups, 4)
        self.end = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function to each group of neurons."""
        z = start = self.first(x).unflatten(-1, (self.groups, self.size)) if self.groups > 1 else self.first(x)
        for name in self.names:
            z = STEPS[name](z)
        z = self.last((z + start if self.residual else z).flatten(-2) if self.groups > 1 else z + start * self.residual)
        return self.end(z.tanh()) if self.deep else z


# Claims ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """What is claimed of the neurons of a network.

    Attributes:
        kind: The kind of symmetry.
        reader: Whether the layer that reads the neurons moves too; else only the one that writes them does.
    """

    kind: str
    reader: bool


def claimed(space: WeightSpace, net: Net, claim: Claim) -> WeightSpace:
    """The space with one claim instead of all others."""
    kind, size, groups = claim.kind, net.size, net.groups
    own = Axis("own", size, "neuron" if kind == "permutation" else "fixed")
    outer = (Axis("outer", groups, "fixed"),) if groups > 1 else ()
    label = Label(size, "axis", "own")
    if outer:
        label = Label(size * groups, "product", parts=(Label(groups, "axis", "outer"), label))
    places = {"first.weight": 0, "first.bias": 0} | ({"last.weight": 1} if claim.reader else {})

    def labels(name: str, shape: Sequence[int]) -> tuple[Label, ...]:
        return tuple(label if places.get(name) == d else Label(s, "axis", f"{name}[{d}]") if s > 1 else Label(1, "unit")
                     for d, s in enumerate(shape))  # fmt: skip

    tensors = tuple(replace(t, labels=labels(t.name, t.shape)) for t in space.tensors)
    fixed = [Axis(f"{t.name}[{d}]", s, "fixed") for t in tensors for d, s in enumerate(t.shape)
             if s > 1 and places.get(t.name) != d]  # fmt: skip
    gauges = () if kind == "permutation" else (_gauge(claim, size),)
    return replace(space, axes=(own, *outer, *fixed), tensors=tensors, gauges=gauges, certified=False)


def _gauge(claim: Claim, size: int) -> Gauge:
    kind = claim.kind
    written, read = [("first.weight", 0), ("first.bias", 0)], [("last.weight", 1)] * claim.reader
    if kind == "wreath":
        return Gauge("permutation", ("outer", "own"), tuple(GaugePart(t, (d,), 1.0) for t, d in (*written, *read)))
    if kind == "phase":
        moved = GaugePart("first.bias", (0,), 0.0, shift=math.pi)
        return Gauge("phase", ("own",), (moved, *(GaugePart(t, (d,), 1.0) for t, d in read)))
    if kind == "shift":
        back = [GaugePart("last.bias", (1,), 0.0, shift=-1.0, through="last.weight")] * claim.reader
        return Gauge("shift", ("own",), (GaugePart("first.bias", (0,), 0.0, shift=1.0), *back))
    if kind == "rotation":
        together = Pairs(0, (), size // 2, 1, size // 2)
        return Gauge("rotation", (), tuple(GaugePart(t, (d,), 1.0, pairs=together) for t, d in (*written, *read)))
    back_by = 1.0 if kind == "sign" else -1.0
    parts = [GaugePart(t, (d,), 1.0) for t, d in written] + [GaugePart(t, (d,), back_by) for t, d in read]
    return Gauge(kind, ("own",), tuple(parts))  # type: ignore[arg-type]


# What is true ---------------------------------------------------------------------------------------------------------


def acted(claim: Claim, net: Net, state: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Act with a generic element on the neurons, written out for the two layers."""
    n, g = net.size, net.groups
    weight, bias, reader = state["first.weight"], state["first.bias"], state["last.weight"]
    new = dict(state)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    if claim.kind in ("permutation", "wreath"):
        order = torch.cat([torch.randperm(n, generator=generator) + n * k for k in range(g)])
        forth, back = torch.eye(n * g, dtype=torch.float64)[order], torch.eye(n * g, dtype=torch.float64)[order].T
    elif claim.kind == "shift":
        moved = normal(n)
        new["first.bias"] = bias + moved
        return new | ({"last.bias": state["last.bias"] - reader @ moved} if claim.reader else {})
    elif claim.kind == "phase":
        count = torch.randint(-3, 4, (n,), generator=generator).double()
        new["first.bias"] = bias + math.pi * count
        return new | ({"last.weight": reader * (1 - 2 * count.remainder(2))} if claim.reader else {})
    else:
        forth = _matrix(claim.kind, n, generator)
        back = torch.linalg.inv(forth)
    new |= {"first.weight": forth @ weight, "first.bias": forth @ bias}
    return new | ({"last.weight": reader @ back} if claim.reader else {})


def _matrix(kind: str, n: int, generator: torch.Generator) -> Tensor:
    """A generic matrix of a group: diagonal, orthogonal, any, or turns of pairs."""
    entries = torch.randn(n, n, generator=generator, dtype=torch.float64)
    if kind == "sign":
        return torch.diag(entries.diagonal().sign())
    if kind == "scale":
        return torch.diag(entries.diagonal().exp())
    if kind == "linear":
        return entries + 0.5 * torch.eye(n, dtype=torch.float64)
    if kind == "orthogonal":
        return torch.linalg.qr(entries)[0] * entries[0].sign()
    half = n // 2
    cos, sin = entries[0, :half].mul(3).cos().diag(), entries[0, :half].mul(3).sin().diag()
    return torch.cat([torch.cat([cos, -sin], 1), torch.cat([sin, cos], 1)])


@torch.no_grad()
def largest_change(net: Net, claim: Claim, generator: torch.Generator) -> float:
    """The largest relative change of the outputs over many draws of weights, inputs and elements."""
    worst = 0.0
    for _ in range(DRAWS):
        state = {
            k: torch.randn(t.shape, generator=generator, dtype=torch.float64) * (0.7 if t.ndim > 1 else 0.3)
            for k, t in net.state_dict().items()
        }
        x = torch.randn(16, 3, generator=generator, dtype=torch.float64)
        if "gram matrix" in net.names:
            x = x[:3]
        base = torch.func.functional_call(net, state, (x,))
        new = torch.func.functional_call(net, acted(claim, net, state, generator), (x,))
        worst = max(worst, ((new - base).abs().max() / base.abs().max()).item())
        if worst > 1e-6:
            break
    return worst


def trial(seed: int) -> dict[str, object]:
    """Inject one claim into one network."""
    torch.manual_seed(seed)
    draw = random.Random(seed)
    kind = KINDS[seed % len(KINDS)]
    least = 1 if kind not in ("rotation", "permutation", "wreath") else 2
    size = draw.choice([n for n in range(least, 9) if kind != "rotation" or n % 2 == 0])
    net = Net(draw, size, draw.choice((2, 3)) if kind == "wreath" else 1).double().eval()
    claim = Claim(kind, draw.random() < 0.8)
    x = torch.randn(3, 3, dtype=torch.float64)
    space = claimed(metanet.trace(net, x), net, claim)
    passed = metanet.certify(net, space, x, per_axis=draw.random() < 0.5).ok
    change = largest_change(net, claim, torch.Generator().manual_seed(seed))
    return {"kind": kind, "size": size, "passed": passed, "true": change < EXACT, "seed": seed, "steps": net.names}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the shares by kind and by size; fail if a false claim passed or a true one was refuted."""
    found = parser(__doc__.splitlines()[0])
    found.add_argument("--nets", type=int, default=1800, help="random networks, each with one claim")
    options = found.parse_args(argv)
    if options.nets < 1:
        found.error(f"--nets: got {options.nets}; accepted: numbers from 1")
    trials = [trial(seed) for seed in range(90 if options.quick else options.nets)]
    wrong = [f"a claim of kind {t['kind']} over {t['size']} entries {'passed' if t['passed'] else 'failed'} wrongly: "
             f"seed {t['seed']}, {t['steps']}" for t in trials if t["passed"] is not t["true"]]  # fmt: skip
    rows = []
    for column, values in (("kind", KINDS), ("size", range(1, 9))):
        for value in values:
            own = [t for t in trials if t[column] == value]
            false = [t for t in own if not t["true"]]
            refuted = sum(not t["passed"] for t in false)
            rows.append({
                "claims": f"{column} {value}", "injected": len(own), "false": len(false), "refuted": refuted,
                "share refuted": f"{refuted / len(false):.3f}" if false else "none false",
                "true after all": len(own) - len(false),
                "of these passed": sum(bool(t["passed"]) for t in own if t["true"]),
            })  # fmt: skip
    return report(f"Claims injected into {len(trials)} random networks", rows, wrong, options.json)


if __name__ == "__main__":
    raise SystemExit(main())
