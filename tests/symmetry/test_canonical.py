import math

import pytest
import torch
from torch import nn

import metanet
from metanet.errors import SpaceError
from metanet.symmetry.canonical import canonicalise


class Sine(nn.Module):
    def forward(self, x):
        return torch.sin(30 * x)


class Encoder(nn.Module):
    """A transformer layer, norm first, and a softmax."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True, norm_first=True)
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.norm(self.layer(x)).mean(1)).softmax(-1)


NETWORKS = {
    "encoder": (Encoder, (2, 4, 6)),
    "siren": (lambda: nn.Sequential(nn.Linear(2, 5), Sine(), nn.Linear(5, 6), Sine(), nn.Linear(6, 1)), (4, 2)),
    "linear": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 2)), (4, 3)),
    "batch norm": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)),
        (3, 2, 4, 4),
    ),
}


def example(name):
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    module, x = make().double().eval(), torch.randn(*shape, dtype=torch.float64)
    space = metanet.trace(module, x)
    state = {
        n: torch.randn_like(t) if t.is_floating_point() and "var" not in n else t
        for n, t in module.state_dict().items()
    }
    return module, x, space, state


def run(module, state, x):
    return torch.func.functional_call(module, state, (x,)).detach()


@pytest.mark.parametrize("name", NETWORKS)
def test_one_member_for_the_whole_orbit(name):
    module, x, space, state = example(name)
    canonical = canonicalise(space, state)
    assert any(not torch.allclose(canonical[n], state[n]) for n in state), "it was canonical already"
    torch.testing.assert_close(run(module, canonical, x), run(module, state, x), atol=1e-9, rtol=1e-9)
    moved = space.sample(3, kinds=("phase", "shift")).apply(state)
    for key, tensor in canonicalise(space, moved).items():
        torch.testing.assert_close(tensor, canonical[key], atol=1e-9, rtol=1e-9)
    for key, tensor in canonicalise(space, canonical).items():
        torch.testing.assert_close(tensor, canonical[key], atol=1e-9, rtol=1e-9)


def test_what_becomes_of_an_encoder():
    _, _, space, state = example("encoder")
    canonical = canonicalise(space, state)
    queries, keys, values = canonical["layer.self_attn.in_proj_bias"].unflatten(0, (3, 6))
    assert keys.abs().max() < 1e-12
    assert values.abs().max() < 1e-12
    assert queries.abs().max() > 0.1
    for written in ("layer.self_attn.out_proj", "layer.linear2", "head"):
        assert canonical[f"{written}.weight"].mean(0).abs().max() < 1e-12
        assert canonical[f"{written}.bias"].mean().abs() < 1e-12
    assert canonical["norm.bias"].abs().max() < 1e-12


def test_phases_are_the_smallest():
    _, _, space, state = example("siren")
    canonical = canonicalise(space, state)
    for name in ("0.bias", "2.bias"):
        assert (30 * state[name]).abs().max() > math.pi / 2
        assert (30 * canonical[name]).abs().max() <= math.pi / 2 + 1e-9


def test_stacks_and_refusals():
    _, _, space, state = example("encoder")
    stacked = {n: torch.stack([t, 2 * t]) for n, t in state.items()}
    found, alone = canonicalise(space, stacked, batched=True), canonicalise(space, state)
    assert all(torch.equal(found[n][0], alone[n]) for n in alone)
    with pytest.raises(SpaceError, match="missing"):
        canonicalise(space, {})
