import gc

import pytest
import torch
from torch import nn
from torch.nn.modules import module as everywhere

import metanet
from metanet.errors import SpaceError
from metanet.space import record as recording
from metanet.space.exporting import evaluating, export


def program(module, *inputs):
    with evaluating(module):
        return recording.Recorder().run(module, inputs, {})


def operations(graph):
    """Names and shapes, without the aliases that differ between the two ways."""
    calls = [n for n in graph.nodes if n.op == "call_function" and isinstance(n.meta["val"], torch.Tensor)]
    return [(str(n.target), tuple(n.meta["val"].shape)) for n in calls if "alias" not in str(n.target)]


class Reads(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.a, self.c = nn.Linear(5, 6), nn.Linear(6, 2)
        self.register_buffer("kept_out", torch.arange(6.0), persistent=False)
        self.plain = torch.ones(6)
        self.compute = forward

    def forward(self, x):
        return self.c(self.compute(self, self.a(x)))


IMAGES = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten())
MODULES = {
    "convolution": (IMAGES, (2, 3, 8, 8)),
    "attention": (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (2, 5, 8)),
    "recurrent": (nn.GRU(5, 6, batch_first=True), (2, 4, 5)),
    "buffer": (Reads(lambda m, x: x.relu() * m.kept_out), (3, 5)),
    "constant": (Reads(lambda m, x: x.tanh() + m.plain), (3, 5)),
}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_a_recording_is_what_export_gives(name):
    module, shape = MODULES[name]
    x = torch.randn(shape)
    recorded, exported = program(module, x), export(module, (x,), {})
    assert operations(recorded) == operations(exported)
    assert [t for _, t in recorded.sources.values() if t in module.state_dict()] == [
        t for _, t in exported.sources.values() if t in module.state_dict()
    ]


def test_a_recording_runs_as_the_module_does():
    module, x = MODULES["convolution"][0].eval(), torch.randn(2, 3, 8, 8)
    graph = program(module, x)
    state = dict(module.named_parameters()) | dict(module.named_buffers())
    values = [x if target is None else state[target] for _, target in graph.sources.values()]
    assert torch.equal(graph.interpreter().run(*values)[0], module(x))


def test_nothing_is_left_behind_in_the_module():
    module = MODULES["attention"][0].train()
    before = dict(module.named_parameters())
    program(module, torch.randn(2, 5, 8))
    assert module.training
    assert all(before[n] is p for n, p in module.named_parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    assert not everywhere._global_forward_hooks
    assert not everywhere._global_forward_pre_hooks
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_garbage_collector_is_left_as_it_was():
    metanet.trace(nn.Linear(2, 3), torch.ones(1, 2))
    with pytest.raises(SpaceError):
        metanet.trace(nn.Linear(2, 3), torch.ones(1, 5))
    assert gc.isenabled()
    gc.disable()
    try:
        metanet.trace(nn.Linear(2, 3), torch.ones(1, 2))
        assert not gc.isenabled()
    finally:
        gc.enable()


def overwrite_part(module, x):
    x[:, :2] = 0.0
    return x


def overwrite_base(module, x):
    rows = x.view(-1, 2, 3)
    x.relu_()
    return rows.flatten(1)


def overwrite_weight(module, x):
    return x + module.kept_out.add_(1.0)


@pytest.mark.parametrize("forward", [overwrite_part, overwrite_base, overwrite_weight])
def test_writing_to_what_others_see_is_left_to_export(forward):
    module, x = Reads(forward), torch.randn(3, 5)
    with pytest.raises(recording.Unrecorded):
        program(module, x)
    space = metanet.trace(module, x)
    assert metanet.certify(module, space, x).ok or forward is overwrite_weight


def test_outputs_that_nobody_can_look_into_are_refused():
    class Hidden:
        def __init__(self, x):
            self.x = lambda: x

    with pytest.raises(SpaceError, match="returns a Hidden, in which no tensors are found"):
        metanet.trace(
            nn.Sequential(nn.Linear(2, 3), type("Wrap", (nn.Module,), {"forward": lambda s, x: Hidden(x)})()),
            torch.ones(1, 2),
        )


def test_a_failure_prints_nothing(capfd, caplog):
    class Branches(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(SpaceError):
        metanet.trace(nn.Sequential(nn.Linear(2, 3), Branches()), torch.ones(1, 2))
    assert capfd.readouterr() == ("", "")
    assert not [r for r in caplog.records if r.levelname in ("WARNING", "ERROR", "CRITICAL")]
