"""What certificates try generates what is claimed."""

import dataclasses
import math

import pytest
import torch

import metanet
from metanet.space.gauges import Gauge, GaugePart
from metanet.symmetry.generic import _independent, permutations, tables, words
from metanet.symmetry.scaling import spread


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(("size", "count"), [(1, 6), (2, 6), (3, 8), (5, 6), (6, 6), (31, 6), (64, 16), (512, 11)])
def test_signs_are_told_apart(size, count):
    found = words(size, count, generator())
    seen = {tuple(word) for word in found.tolist()}
    opposite = {tuple(1 - bit for bit in word) for word in seen}
    assert found.any()
    if size <= count:
        assert _independent(found)
    else:
        assert len(seen) == size
        assert not seen & opposite
        assert all(0 < sum(word) < count for word in seen)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_permutations_generate_all_of_them(size):
    first, *rest = permutations(size, 8, generator())
    assert (first != torch.arange(size)).all()
    known = {tuple(range(size))}
    while True:
        more = {tuple(p[list(q)].tolist()) for p in (first, *rest[:1]) for q in known} | known
        if more == known:
            break
        known = more
    assert len(known) == (math.factorial(size) if size > 3 else len(known))
    assert size > 3 or len({tuple(p.tolist()) for p in (first, *rest)}) >= math.factorial(size) - 1
    assert any(len({tuple(r) for r in t.tolist()}) > 1 for t in tables([3, size], 8, generator()))


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_factors_are_distinct_and_not_one(size):
    numbers = spread([size], generator()).sort()[0]
    assert numbers.abs().min() > 0.05
    assert size == 1 or numbers.diff().min() > 0.2 / size


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_a_sign_of_pairs_is_refuted_at_every_size(size):
    class Pairs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = torch.nn.Linear(3, size + 1), torch.nn.Linear((size + 1) ** 2, 2)

        def forward(self, x):
            z = self.first(x)
            return self.last((z[:, :, None] * z[:, None]).flatten(1))

    net, x = Pairs(), torch.randn(2, 3)
    space = metanet.trace(net, x)
    axis = space.tensor["first.bias"].labels[0].axis
    parts = (GaugePart("first.weight", (0,), 1.0), GaugePart("first.bias", (0,), 1.0))
    claim = dataclasses.replace(space, gauges=(Gauge("sign", (axis,), parts),))
    for seed in range(5):
        assert not metanet.certify(net, claim, x, seed=seed).ok
