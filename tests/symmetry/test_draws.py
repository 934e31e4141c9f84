"""What random elements of gauges and random weights look like: their ranges and their sizes."""

import itertools
import math

import pytest
import torch
from torch import nn

import metanet
from metanet.space.gauges import Gauge, GaugePart, Pairs
from metanet.symmetry.adding import draw_phases, draw_shift
from metanet.symmetry.evaluation import GAINS, randomised, relative_change
from metanet.symmetry.rotation import draw_rotations
from metanet.symmetry.scaling import draw, spread


@pytest.fixture(scope="module")
def wide():
    """A network with an axis of 2,000 neurons, and its space."""
    net = nn.Sequential(nn.Linear(50, 2000), nn.BatchNorm1d(2000), nn.ReLU(), nn.Linear(2000, 40))
    return net, metanet.trace(net, torch.zeros(2, 50))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gauge_of(space, kind):
    axis = next(a.name for a in space.free_axes)
    return Gauge(kind, (axis,), (GaugePart("0.weight", (0,), 1.0),))


def test_factors_lie_between_one_over_e_and_e_and_none_is_close_to_one(wide):
    found = draw(gauge_of(wide[1], "scale"), wide[1], generator())
    assert found.shape == (2000,)
    assert 1 / math.e <= found.min() < 0.37
    assert 2.7 < found.max() <= math.e
    assert (found.log().abs() >= 0.1).all()
    assert len(found.unique()) == 2000
    assert (found > 1).double().mean() == pytest.approx(0.5, abs=0.05)


def test_spread_numbers_are_apart():
    found = spread((4, 25), generator()).flatten().sort().values
    assert found.abs().min() >= 0.1
    assert found.abs().max() <= 1
    assert found.diff().min() > 0.2 * 1.8 / 100, "one in the inner part of each interval"
    assert spread((3, 2), generator()).shape == (3, 2)


def test_signs_are_half_negative_and_one_at_least(wide):
    found = draw(gauge_of(wide[1], "sign"), wide[1], generator())
    assert set(found.tolist()) == {-1.0, 1.0}
    assert (found < 0).double().mean() == pytest.approx(0.5, abs=0.05)
    assert all(draw(gauge_of(wide[1], "sign"), wide[1], generator(s))[0] == -1 for s in range(5))


def test_phases_are_whole_numbers_from_minus_three_to_three(wide):
    found = draw_phases(gauge_of(wide[1], "phase"), wide[1], generator())
    assert set(found.tolist()) == {-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0}
    assert found.dtype == torch.float64
    assert all(draw_phases(gauge_of(wide[1], "phase"), wide[1], generator(s))[0] == 1 for s in range(5))


def test_shifts_are_normal(wide):
    found = draw_shift(gauge_of(wide[1], "shift"), wide[1], generator())
    assert found.std().item() == pytest.approx(1, rel=0.1)
    assert found.mean().item() == pytest.approx(0, abs=0.1)


def test_random_weights_keep_the_size_of_signals(wide):
    """Weights of deviation ``gain sqrt(2 / fan_in)``, biases and means of .3, scales and variances in [.5, 1.5]."""
    net, space = wide
    state = net.state_dict()
    found = randomised(state, space, generator(), gain=0.5)
    assert found["0.weight"].std().item() == pytest.approx(0.5 * math.sqrt(2 / 50), rel=0.02)
    assert found["3.weight"].std().item() == pytest.approx(0.5 * math.sqrt(2 / 2000), rel=0.02)
    for name in ("0.bias", "1.bias", "1.running_mean"):
        assert found[name].std().item() == pytest.approx(0.3, rel=0.1)
        assert found[name].mean().item() == pytest.approx(0, abs=0.03)
    for name in ("1.weight", "1.running_var"):
        assert 0.5 <= found[name].min() < 0.51
        assert 1.49 < found[name].max() <= 1.5
    assert found["1.num_batches_tracked"] is state["1.num_batches_tracked"]
    assert {t.dtype for n, t in found.items() if n in space.tensor} == {torch.float64}


def test_relative_changes_are_the_largest_of_all_outputs():
    base = [torch.tensor([2.0, -4.0]), torch.tensor([0.0, 0.0]), torch.tensor([100.0])]
    new = [torch.tensor([2.0, -3.0]), torch.tensor([0.0, 0.125]), torch.tensor([110.0])]
    assert relative_change(new, base) == pytest.approx(1 / 4)
    assert relative_change([base[0], new[1], base[2]], base) == pytest.approx(0.125)
    assert relative_change([base[0], base[1], new[2]], base) == pytest.approx(0.1)
    assert relative_change(base, base) == 0


@pytest.mark.parametrize("scaling", [False, True])
def test_rotations_are_by_distinct_angles_and_moduli(wide, scaling):
    """Angles up to .95 pi either way and none near zero; moduli between 1/2 and 2, or 1."""
    parts = [GaugePart("0.weight", (0,), 1.0, pairs=Pairs(0, (80,), 40, 2, 1))]
    parts += [GaugePart("3.weight", (1,), -1.0, pairs=Pairs(0, (80,), 40, 2, 1))] if scaling else []
    space, axis = wide[1], wide[1].free_axes[0].name
    found = draw_rotations(Gauge("rotation", (axis,), tuple(parts)), space, generator())
    assert found.shape == (2000, 40)
    angles, moduli = found.angle().abs() / math.pi, found.abs()
    assert 0.094 < angles.min() < 0.097
    assert 0.94 < angles.max() <= 0.9501
    if scaling:
        assert 0.5 <= moduli.min() < 0.51
        assert 1.98 < moduli.max() <= 2
        assert (moduli.log2().abs() >= 0.099).all()
    else:
        torch.testing.assert_close(moduli, torch.ones_like(moduli), rtol=1e-12, atol=0)


def test_weights_are_drawn_smaller_and_smaller():
    assert GAINS[0] == 1
    assert all(0 < small < large for large, small in itertools.pairwise(GAINS))
