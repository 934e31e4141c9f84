import pytest
import torch

import metanet
from metanet.errors import SpaceError
from metanet.symmetry import Move


def state_of(module):
    torch.manual_seed(1)
    return {
        name: torch.rand_like(t.double()) if t.is_floating_point() else t for name, t in module.state_dict().items()
    }


def equal(a, b):
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_inverse_undoes(traced):
    module, _, space = traced
    state, move = state_of(module), space.sample(seed=3)
    moved = move.apply(state)
    assert not equal(moved, state)
    assert equal(move.inverse().apply(moved), state)
    assert equal(move.inverse().inverse().apply(state), moved)


def test_composition_is_acting_twice(traced):
    module, _, space = traced
    state, a, b, c = state_of(module), *(space.sample(seed=s) for s in range(3))
    assert equal(a.compose(b).apply(state), a.apply(b.apply(state)))
    assert equal(a.compose(b).compose(c).apply(state), a.compose(b.compose(c)).apply(state))
    assert equal(a.compose(a.inverse()).apply(state), state)
    assert equal(Move(space).compose(a).apply(state), a.compose(Move(space)).apply(state))


def test_no_axis_keeps_its_order(traced):
    _, _, space = traced
    for seed in range(20):
        perms = space.sample(seed).perms
        assert set(perms) == {a.name for a in space.free_axes if a.size > 1}
        assert all(not torch.equal(p, torch.arange(len(p))) for p in perms.values())
        assert all(torch.equal(p.sort()[0], torch.arange(len(p))) for p in perms.values())


def test_samples_follow_their_seed(traced):
    module, _, space = traced
    state = state_of(module)
    assert equal(space.sample(5).apply(state), space.sample(5).apply(state))
    assert not equal(space.sample(5).apply(state), space.sample(6).apply(state))


def test_running_statistics_move_with_their_channels(traced_network):
    module, _, space = traced_network("residual")
    state = state_of(module)
    moved = space.sample(0).apply(state)
    axis = space.tensor["bn1.weight"].labels[0].axis
    perm = space.sample(0).perms[axis]
    for name in ("weight", "bias", "running_mean", "running_var"):
        assert torch.equal(moved[f"bn1.{name}"], state[f"bn1.{name}"][perm])
    assert torch.equal(moved["bn1.num_batches_tracked"], state["bn1.num_batches_tracked"])


def test_nothing_is_changed_in_place(traced_network):
    module, _, space = traced_network("residual")
    state = state_of(module)
    before = {name: t.clone() for name, t in state.items()}
    space.sample(0).apply(state)
    assert equal(state, before)


def test_stacks_of_nets_move_alike(traced):
    module, _, space = traced
    state = state_of(module)
    stacked = {name: torch.stack([t, 2 * t]) for name, t in state.items()}
    moved, single = space.sample(0).apply(stacked, batched=True), space.sample(0).apply(state)
    assert equal({name: t[0] for name, t in moved.items()}, single)
    assert equal({name: t[1] for name, t in moved.items()}, {name: 2 * t for name, t in single.items()})


def test_tied_tensors_move_together():
    module = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(4)))
    module[2].weight = module[1].weight
    space = metanet.trace(module, torch.randn(2, 4))
    moved = space.sample(0).apply(module.state_dict())
    assert torch.equal(moved["1.weight"], moved["2.weight"])
    assert not torch.equal(moved["1.weight"], module[1].weight)


def test_bad_states_are_refused(traced_network):
    module, _, space = traced_network("mlp")
    state, move = state_of(module), space.sample(0)
    with pytest.raises(SpaceError, match=r"'0.weight' \[7, 4\] is missing"):
        move.apply({name: t for name, t in state.items() if name != "0.weight"})
    with pytest.raises(SpaceError, match=r"'2.bias' has shape \[6\], the space says \[5\]"):
        move.apply({**state, "2.bias": torch.zeros(6)})
    with pytest.raises(SpaceError, match="got no tensors"):
        move.apply({})


def test_bad_requests_are_refused(traced_network):
    space = traced_network("mlp")[2]
    with pytest.raises(SpaceError, match="accepted: permutation"):
        space.sample(0, kinds=("spin",))
    with pytest.raises(SpaceError, match="not free axes"):
        metanet.symmetry.sample(space, axes=["nowhere"])


def test_repr_counts(traced_network):
    assert repr(traced_network("mlp")[2].sample()) == "Move(permutes 12 neurons on 2 axes)"
