"""Functions that commute with rescaling a neuron, on numbers as large and small as nets have."""

import pytest
import torch

from metanet.nn.equivariant import bounded, unit


@pytest.mark.parametrize("read", [unit, bounded])
@pytest.mark.parametrize("size", [0.0, 1e-40, 1e-20, 1e25, 3e38])
def test_values_and_gradients_are_finite(read, size):
    x = (torch.tensor([0.3, -1.0, 0.5]) * size).requires_grad_()
    out = read(x)
    out.sum().backward()
    assert out.isfinite().all()
    assert x.grad.isfinite().all()
    assert (out != 0).all() == (size > 0) or read is bounded


def test_unit_does_not_see_the_scale():
    x = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64)
    assert torch.allclose(unit(x), unit(1e-200 * x), rtol=1e-14)
    assert torch.allclose(unit(x), unit(1e200 * x), rtol=1e-14)
    assert not torch.allclose(unit(x), unit(x.flip(0)))


def test_bounded_is_odd_monotone_and_small_values_stay():
    x = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64)
    assert torch.equal(bounded(-x), -bounded(x))
    assert torch.allclose(bounded(1e-6 * x), 1e-6 * x, rtol=1e-10)
    norms = [bounded(s * x).norm() for s in (0.1, 1.0, 10.0, 1e3)]
    assert norms == sorted(norms)
    assert norms[-1] < 3**0.5
