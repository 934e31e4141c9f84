"""Convolutions in pieces: the same values as torch's own, and never more windows at once than are allowed."""

import random

import pytest
import torch

from metanet.space import unfolded
from metanet.symmetry.evaluation import double_precision

PLAIN = torch.ops.aten.convolution.default


def drawn(seed):
    """The arguments of a random convolution of one to three dimensions."""
    rng = random.Random(seed)
    n, groups, batch = rng.choice([1, 2, 3]), rng.choice([1, 1, 2]), rng.choice([1, 2, 30])
    kernel, dilation = [rng.randint(1, 3) for _ in range(n)], [rng.randint(1, 2) for _ in range(n)]
    stride, padding = [rng.randint(1, 3) for _ in range(n)], [rng.randint(0, 2) for _ in range(n)]
    generator = torch.Generator().manual_seed(seed)
    x, weight, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in (
            [batch, 2 * groups, *(rng.randint(5, 13) for _ in range(n))], [3 * groups, 2, *kernel], [3 * groups],
        )
    )  # fmt: skip
    return x, weight, rng.choice([None, bias]), stride, padding, dilation, False, [0] * n, groups


@pytest.mark.parametrize("seed", range(60))
def test_pieces_give_the_whole(seed, monkeypatch):
    given = drawn(seed)
    whole = PLAIN(*given)
    taken = []

    def watched(x, weight, *rest):
        result = PLAIN(x, weight, *rest)
        taken.append(unfolded.windows(weight, [result.shape[0], *result.shape[2:]]))
        return result

    monkeypatch.setattr(unfolded, "PIECE", 300)
    monkeypatch.setattr(unfolded, "_plain", watched)
    assert torch.allclose(unfolded.convolution(*given), whole, rtol=1e-12, atol=1e-12)
    assert max(taken) <= unfolded.copied(given[0], given[1], whole, False)
    assert sum(taken) == unfolded.windows(given[1], [whole.shape[0], *whole.shape[2:]])


def test_certificates_convolve_in_pieces(monkeypatch):
    calls = []
    monkeypatch.setattr(unfolded, "PIECE", 300)
    monkeypatch.setattr(unfolded, "_plain", lambda *given: calls.append(1) or PLAIN(*given))
    net, x = torch.nn.Conv2d(2, 3, 3).double(), torch.randn(1, 2, 20, 20, dtype=torch.float64)
    with double_precision(), torch.no_grad():
        found = net(x)
    assert len(calls) == 18
    assert torch.allclose(found, net(x), rtol=1e-12, atol=1e-12)
