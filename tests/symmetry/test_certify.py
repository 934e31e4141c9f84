"""Certificates, and that they fail where they must."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import metanet
from metanet.errors import SpaceError
from metanet.space import Axis, Label
from metanet.space.rules import registry
from metanet.symmetry.evaluation import Evaluation, randomised, relative_change


def relabelled(space, **labels):
    """A space in which tensors (dots as double underscores) have other labels."""
    changed = {name.replace("__", "."): new for name, new in labels.items()}
    tensors = tuple(replace(t, labels=changed.get(t.name, t.labels)) for t in space.tensors)
    return replace(space, tensors=tensors)


def test_true_claims_certify(traced):
    module, x, space = traced
    certificate = metanet.certify(module, space, x)
    assert certificate.ok
    assert certificate.worst_error < 1e-12
    assert {a.status for a in certificate.axes} == {"certified"}
    assert sum(a.size for a in certificate.axes) == space.neurons
    assert min(a.control for a in certificate.axes) > 1e-3
    assert "all axes together" in certificate.table()


def test_the_module_is_not_changed(traced_network):
    module, x, space = traced_network("residual")
    before = {name: t.clone() for name, t in module.state_dict().items()}
    module.train()
    metanet.certify(module, space, x)
    assert module.training
    assert module.state_dict()["stem.weight"].dtype == torch.float32
    assert all(torch.equal(before[name], t) for name, t in module.state_dict().items())


def test_forgetting_running_statistics_fails_though_the_norm_is_fresh(traced_network):
    """On a fresh batch norm (mean 0, variance 1) this wrong claim changes nothing: randomising shows it."""
    module, x, space = traced_network("residual")
    size = 6
    fixed = Axis("forgotten", size, "fixed", "test")
    label = (Label(size, "axis", "forgotten"),)
    wrong = replace(relabelled(space, bn1__running_mean=label, bn1__running_var=label), axes=(*space.axes, fixed))
    fresh = type(module)().double().eval()
    with torch.no_grad():
        base = fresh(x.double())
        fresh.load_state_dict(wrong.sample(0).apply(fresh.state_dict()))
        assert (fresh(x.double()) - base).abs().max() < 1e-12
    certificate = metanet.certify(module, wrong, x)
    assert not certificate.ok
    assert not certificate.space.certified
    assert [a.axis for a in certificate.failed] == [space.tensor["bn1.weight"].labels[0].axis]
    assert "bn1" in certificate.failed[0].claimed_by


def test_a_wrong_claim_is_named_and_no_other(traced_network):
    module, x, space = traced_network("mlp")
    name = space.tensor["0.weight"].labels[1].axis
    assert space.axis[name].kind == "input"
    axes = tuple(replace(a, kind="neuron", reason="") if a.name == name else a for a in space.axes)
    certificate = metanet.certify(module, replace(space, axes=axes), x)
    assert [a.axis for a in certificate.failed] == [name]
    assert sum(a.status == "certified" for a in certificate.axes) == 2
    row = next(line for line in certificate.table().splitlines() if "failed" in line)
    assert row.startswith(name)
    assert "claimed by 0" in row


def test_a_dead_axis_is_reported_dead():
    class Dead(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 5), nn.Linear(5, 4), nn.Linear(5, 2)

        def forward(self, x):
            h = self.a(x).relu()
            return self.c(h) + 0 * self.b(h).sum()

    module, x = Dead(), torch.randn(2, 3)
    certificate = metanet.certify(module, metanet.trace(module, x), x)
    assert certificate.ok
    assert {a.axis: a.status for a in certificate.axes} == {"a.weight[0]": "certified", "b.weight[0]": "dead"}


def test_code_that_asks_for_single_precision_certifies():
    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.scale = nn.Linear(3, 5), nn.Linear(5, 2), torch.rand(2, 1)

        def forward(self, x):
            h = self.a(x).float().softmax(-1, dtype=torch.float32)
            return self.b(h.type_as(x)) @ self.scale

    module, x = Single(), torch.randn(2, 3)
    certificate = metanet.certify(module, metanet.trace(module, x), x)
    assert certificate.worst_error < 1e-12
    assert [a.status for a in certificate.axes] == ["certified"]


def test_the_smaller_output_counts_too():
    """A wrong claim must not hide behind an output that is a billion times larger."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 5), nn.Linear(5, 2)

        def forward(self, x):
            h = self.a(x)
            return 1e12 * self.b(h), h

    module, x = Two(), torch.randn(2, 3)
    space = metanet.trace(module, x)
    axes = tuple(replace(a, kind="neuron", reason="") if a.name == "a.weight[0]" else a for a in space.axes)
    assert not metanet.certify(module, replace(space, axes=axes), x).ok


def test_all_axes_at_once_is_enough_to_refuse(traced_network):
    module, x, space = traced_network("mlp")
    assert metanet.certify(module, space, x, per_axis=False).axes == ()
    axes = tuple(replace(a, kind="neuron") for a in space.axes)
    certificate = metanet.certify(module, replace(space, axes=axes), x, per_axis=False)
    assert {a.axis for a in certificate.failed} == {a.name for a in axes} - {a.name for a in space.free_axes}


def test_outputs_without_floats_are_refused():
    class Place(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 2)

        def forward(self, x):
            return self.a(x).argmax(-1)

    module, x = Place(), torch.randn(2, 3)
    with pytest.raises(SpaceError, match="no floating-point outputs"):
        metanet.certify(module, metanet.trace(module, x), x)


class Wrong(nn.Module):
    """``cumsum`` over neurons, then two honest layers."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 5), nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.c(self.b(self.a(x).cumsum(-1)).relu())


@pytest.fixture
def wrong_rule(monkeypatch):
    """A rule that claims that ``cumsum`` does not care about order."""
    monkeypatch.setitem(registry._RULES, "aten.cumsum", lambda walk, node, x, *args, **kwargs: walk.like(node, x))


@pytest.mark.usefixtures("wrong_rule")
def test_a_wrong_rule_is_found_and_frozen():
    module, x = Wrong(), torch.randn(2, 3)
    space = metanet.trace(module, x)
    assert space.neurons == 9
    assert not metanet.certify(module, space, x).ok
    sound = metanet.trace(module, x, certify=True)
    assert sound.certified
    assert sound.neurons == 4
    assert [(o.op, o.reason) for o in sound.opaque] == [
        ("aten.cumsum.default", "its rule was refuted by the certificate")
    ]


@pytest.mark.usefixtures("wrong_rule")
def test_what_no_operation_explains_is_frozen_by_axis(monkeypatch):
    monkeypatch.setattr("metanet.symmetry.soundness.refuted", lambda *args: None)
    module, x = Wrong(), torch.randn(2, 3)
    sound = metanet.trace(module, x, certify=True)
    assert sound.certified
    assert sound.neurons == 4
    assert [(o.op, o.module) for o in sound.opaque] == [("certificate", "a.weight[0]")]


def test_certify_while_tracing(traced):
    module, x, space = traced
    certified = metanet.trace(module, x, certify=True)
    assert certified.certified
    assert certified == space


def test_tied_weights_move_together():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.inner, self.out = nn.Embedding(7, 6), nn.Linear(6, 6), nn.Linear(6, 7, bias=False)
            self.out.weight = self.table.weight

        def forward(self, words):
            return self.out(torch.tanh(self.inner(self.table(words))))

    module, words = Tied(), torch.tensor([[1, 2, 3]])
    space = metanet.trace(module, words)
    assert metanet.certify(module, space, words).ok
    assert space.neurons == 6


class Chaotic(nn.Module):
    """A recurrent map with large weights: differences grow until they are as large as the signal."""

    def __init__(self):
        super().__init__()
        self.stem, self.layer, self.head = nn.Linear(4, 12), nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x):
        x = self.stem(x)
        for _ in range(60):
            x = torch.sin(6 * self.layer(x))
        return self.head(x)


def test_a_network_that_magnifies_rounding_is_judged_on_smaller_weights():
    module, x = Chaotic().eval(), torch.randn(2, 4)
    space, evaluation = metanet.trace(module, x), Evaluation(module, x)
    state = randomised(evaluation.net.state_dict(), space, torch.Generator().manual_seed(0))
    moved = space.sample().apply(state)
    assert relative_change(evaluation.outputs(moved), evaluation.outputs(state)) > 0.1  # a true symmetry
    certificate = metanet.certify(module, space, x)
    assert certificate.ok
    assert [a.status for a in certificate.axes] == ["certified"]
    alone = Axis("layer.bias[0]", 12, "neuron")  # a bias apart from its layer
    wrong = relabelled(space, layer__bias=(Label(12, "axis", alone.name),))
    assert not metanet.certify(module, replace(wrong, axes=(*space.axes, alone)), x).ok
