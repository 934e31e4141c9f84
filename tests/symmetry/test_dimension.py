"""The dimension of a group is the rank of its action on random weights, where no element leaves these as they are."""

import pytest
import torch
from torch import nn

import metanet
from metanet.symmetry.dimension import dimensions
from metanet.symmetry.move import Move

STEP = 1e-4


class Attention(nn.Module):
    """Fused projections, two heads, and a gated layer on their results."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.gate, self.up, self.down = nn.Linear(6, 5), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.down(self.gate(x).sigmoid() * self.up(x))


NETWORKS = {
    "ReLU": (lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), (2, 4), {"scale": 6}),
    "bottleneck": (
        lambda: nn.Sequential(nn.Linear(8, 3, bias=False), nn.Linear(3, 8, bias=False), nn.GELU()),
        (2, 8),
        {"linear": 9},
    ),
    "attention": (Attention, (2, 4, 6), {"linear": 36, "scale": 5, "shift": 12 + 6}),
    "unit vectors": (
        lambda: nn.Sequential(nn.Linear(8, 4), nn.RMSNorm(4, elementwise_affine=False), nn.Linear(4, 3)),
        (2, 8),
        {"orthogonal": 6},
    ),
    "GELU": (lambda: nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3)), (2, 4), {}),
}


def identity(space, gauge):
    sizes = [space.axis[name].size for name in gauge.axes]
    if gauge.kind in ("linear", "orthogonal"):
        return torch.eye(sizes[-1], dtype=torch.float64).expand(*sizes, sizes[-1])
    return torch.full(sizes, float(gauge.kind == "scale"), dtype=torch.float64)


def tangents(space, state):
    """What each number of an element next to the identity adds to the weights."""
    for number, gauge in enumerate(space.gauges):
        if gauge.kind in ("scale", "shift", "linear", "orthogonal"):
            still = identity(space, gauge)
            for entry in torch.eye(still.numel(), dtype=torch.float64):
                step = STEP * entry.view(still.shape)
                steps = [still + step, still - step]
                if gauge.kind == "orthogonal":  # rotations along the skew part
                    steps = [torch.matrix_exp(s * (step - step.mT)) for s in (1, -1)]
                there, back = (Move(space, factors={number: s}).apply(state) for s in steps)
                yield torch.cat([(there[name] - back[name]).flatten() for name in state]) / (2 * STEP)


@pytest.mark.parametrize("name", NETWORKS)
def test_dimensions(name):
    make, shape, expected = NETWORKS[name]
    module = make()
    space = metanet.trace(module, torch.randn(*shape))
    assert dimensions(space) == expected
    generator = torch.Generator().manual_seed(0)
    state = {n: torch.randn(t.shape, generator=generator, dtype=torch.float64) for n, t in module.state_dict().items()}
    rows = list(tangents(space, state))
    rank = (torch.linalg.svdvals(torch.stack(rows)) > 1e-6).sum().item() if rows else 0
    assert rank == sum(expected.values())
    assert len(rows) > rank or "linear" not in expected  # the diagonals of matrices are scalings too
