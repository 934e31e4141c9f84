"""Operations that were seen before are written from templates: the graph must be as if they were not."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor

from metanet.space.exporting import evaluating
from metanet.space.record import Recorder, Unrecorded, outcomes, recorder
from metanet.space.record.standins import Memory, StandIn, layout_of


class Computes(nn.Module):
    def __init__(self, compute):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.register_buffer("numbers", torch.arange(4.0))
        self.compute = compute

    def forward(self, *inputs):
        return self.compute(self, *inputs)


def program(module, *inputs):
    with evaluating(module):
        return Recorder().run(module, inputs, {})


def calls(graph):
    """Operations with the numbers of the nodes that they read, and what they yield."""
    nodes = list(graph.nodes)
    return [
        (str(n.target), [nodes.index(a) for a in n.all_input_nodes], tuple(n.meta["val"].shape), n.meta["val"].dtype)
        for n in nodes
        if n.op == "call_function" and isinstance(n.meta["val"], torch.Tensor)
    ]


def runs_as(module, *inputs):
    """Whether the recorded graph computes what the module does, the first time and from templates."""
    module.eval()
    recorder.TEMPLATES.clear()
    first, again = program(module, *inputs), program(module, *inputs)
    state = dict(module.named_parameters()) | dict(module.named_buffers())
    for graph in (first, again):
        own = iter(inputs)
        values = [
            next(own) if t is None else state[t] if t in state else graph.constants[t]
            for _, t in graph.sources.values()
        ]
        with torch.no_grad():
            assert torch.allclose(graph.interpreter().run(*values)[0], module(*inputs))
    return calls(first.graph) == calls(again.graph)


BLOCKS = {
    "convolutions": nn.Sequential(*(nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(3))),
    "splits": Computes(lambda m, x: sum(p.sin().sum() for p in (*x.split([1, 3], 1), *x.unbind(1)))),
    "in place": Computes(lambda m, x: (x + 1).relu_().mul_(2).add_(x)),
}  # fmt: skip


@pytest.mark.parametrize("name", BLOCKS)
def test_a_recording_from_templates_is_the_first_recording(name):
    assert runs_as(BLOCKS[name], torch.randn(2, 4, 8, 8))


@pytest.mark.parametrize("second", [lambda x, y: x + x, lambda x, y: y + x, lambda x, y: y + y])
def test_which_arguments_are_the_same_is_told_apart(second):
    assert runs_as(Computes(lambda m, x, y: (x + y) * second(x, y)), torch.randn(3, 4), torch.randn(3, 4))


def test_a_third_argument_that_repeats_the_first_is_told_from_one_that_repeats_the_second():
    where = torch.addcmul
    assert runs_as(Computes(lambda m, x, y: where(x, y, x) - where(x, y, y)), torch.randn(4), torch.randn(4))


def test_numbers_that_are_equal_but_of_other_types_are_told_apart():
    graph = program(Computes(lambda m, x: (x + 1, x + 1.0, x + True)), torch.arange(3)).graph
    assert [n.meta["val"].dtype for n in graph.nodes if "add" in n.name] == [torch.int64, torch.float32, torch.int64]


def test_types_follow_the_default_type_of_the_day():
    module = Computes(lambda m, x: x + torch.ones(3))
    program(module, torch.zeros(3, dtype=torch.float64))
    torch.set_default_dtype(torch.float64)
    try:
        graph = program(module, torch.zeros(3, dtype=torch.float64)).graph
    finally:
        torch.set_default_dtype(torch.float32)
    assert {n.meta["val"].dtype for n in graph.nodes if n.op == "call_function"} == {torch.float64}


def test_whether_a_matrix_is_trained_tells_how_torch_multiplies_by_it():
    x = torch.randn(2, 4, 4, 3)
    trained = program(Computes(lambda m, x: x.permute(0, 3, 2, 1) @ m.weight.t()), x)
    fixed = Computes(lambda m, x: x.permute(0, 3, 2, 1) @ m.weight.t()).requires_grad_(False)
    assert {"aten.mm.default"} <= {c[0] for c in calls(trained.graph)}
    assert {"aten.bmm.default"} <= {c[0] for c in calls(program(fixed, x).graph)}


def part_of_what_is_gone(module, x):
    part = torch.cat([x.sin(), x.cos()], 1)[:, :4]
    part += x
    return part


def part_of_what_is_kept(module, x):
    whole = torch.cat([x.sin(), x.cos()], 1)
    whole[:, :4].add_(x)
    return whole


def test_writing_to_a_part_is_recorded_if_nobody_holds_the_whole():
    assert runs_as(Computes(part_of_what_is_gone), torch.randn(2, 4))
    with pytest.raises(Unrecorded):
        program(Computes(part_of_what_is_kept), torch.randn(2, 4))


def test_dimensions_may_be_moved_in_place():
    def compute(module, x):
        y = x.sin().unsqueeze_(0).relu_()
        return y.reshape(y.shape[1], -1) + y.squeeze_(0)

    assert runs_as(Computes(compute), torch.randn(2, 4))


def test_what_overwrites_its_argument_does_so_every_time():
    assert runs_as(Computes(lambda m, x: x.sin().fill_(2.0) + x.cos().fill_(2.0)), torch.randn(4))


def test_code_may_ask_whether_tensors_are_fake_before_it_reads_them():
    module = Computes(lambda m, x: x.sin() if isinstance(x, FakeTensor) or x.sum() > 0 else x)
    assert "aten.sin.default" in {c[0] for c in calls(program(module, torch.randn(3)).graph)}


@pytest.mark.parametrize("read", [lambda t: t.tolist(), lambda t: t.sum().item(), lambda t: t.numpy(), bool])
def test_values_of_buffers_are_not_read(read):
    with pytest.raises((RuntimeError, Unrecorded, DataDependentOutputException)):
        program(Computes(lambda m, x: x * (1 if read(m.numbers[:1]) else 2)), torch.randn(4))


def test_a_stand_in_is_refused_after_the_recording():
    kept = []
    program(Computes(lambda m, x: kept.append(x) or x.sin()), torch.randn(3))
    with pytest.raises(Unrecorded):
        kept[0] + 1


# The rules for the layouts of common operations, against running the operation on torch's fake tensors.

A, B, V = torch.randn(2, 4, 6, 6), torch.randn(1, 4, 1, 1), torch.randn(4)
LAST = A.to(memory_format=torch.channels_last)
M, N = torch.randn(3, 5), torch.randn(5, 2)
aten = torch.ops.aten
CASES = [
    (aten.relu.default, (A,)), (aten.gelu.default, (LAST,)), (aten.clamp.default, (A, 0, 6.0)),
    (aten.neg.default, (A,)), (aten.relu.default, (A.transpose(1, 3),)), (aten.pow.Tensor_Scalar, (A, 2)),
    (aten.relu.default, (torch.arange(3),)),
    (aten.add.Tensor, (A, A)), (aten.add.Tensor, (A, B)), (aten.mul.Tensor, (B, A)), (aten.mul.Tensor, (LAST, LAST)),
    (aten.mul.Tensor, (LAST, B)), (aten.add.Tensor, (A, 1)), (aten.div.Tensor, (A, torch.tensor(2))),
    (aten.empty.memory_format, ([2, 3],)), (aten.add.Tensor, (A[:1], A[:, :1])), (aten.add.Tensor, (A, A.double())),
    (aten.linear.default, (M, torch.randn(7, 5), torch.randn(7))), (aten.mm.default, (M, N)),
    (aten.mm.default, (N.t(), M.t())), (aten.bmm.default, (A[0], A[1])),
    (aten.addmm.default, (torch.randn(2), M, N)), (aten.cat.default, ([A, A], 1)),
    (aten.cat.default, ([LAST, LAST], 1)),
    (aten.linear.default, (LAST, torch.randn(7, 6), torch.randn(7))), (aten.linear.default, (LAST, torch.randn(7, 6))),
    (aten.linear.default, (A[0].transpose(0, 1), torch.randn(7, 6), torch.randn(7))),
    (aten._native_batch_norm_legit_no_training.default, (LAST, V, V, V, V, 0.1, 1e-5)),
    (aten.convolution.default, (A, torch.randn(8, 4, 3, 3), None, [2, 2], [1, 1], [1, 1], False, [0, 0], 1)),
    (aten.convolution.default, (LAST, torch.randn(8, 1, 3, 3), torch.randn(8), [1], [1], [2], False, [0], 4)),
    (aten.convolution.default, (A, torch.randn(4, 2, 2, 2), None, [2, 2], [0, 0], [1, 1], True, [0, 0], 1)),
    (aten._native_batch_norm_legit_no_training.default, (A, V, V, V, V, 0.1, 1e-5)),
    (aten._native_batch_norm_legit.no_stats, (A, V, V, True, 0.1, 1e-5)),
    (aten._native_batch_norm_legit.no_stats, (A, None, None, True, 0.1, 1e-5)),
    (aten.native_layer_norm.default, (A, [6], torch.randn(6), torch.randn(6), 1e-5)),
    (aten.native_layer_norm.default, (A, [6, 6], None, None, 1e-5)),
    (aten.clone.default, (A.transpose(1, 3),)), (aten.clone.default, (A[:, 1:],)),
    (aten._softmax.default, (A, -1, False)),
    (aten.copy.default, (A, A)), (aten.mean.dim, (A, [2, 3], True)), (aten.mean.dim, (A, [-1])),
    (aten.sum.dim_IntList, (A, [0, 2])),
    (aten.mean.dim, (LAST, [2, 3], True)), (aten.sum.dim_IntList, (torch.arange(4.0).bool(), [0])),
]  # fmt: skip


NAMED = {aten.empty.memory_format: {"dtype": torch.float32, "device": torch.device("cpu"), "pin_memory": False}}


def stood_in(item):
    if isinstance(item, torch.Tensor):
        return StandIn.of(layout_of(item), Memory(), None)
    return [stood_in(i) for i in item] if isinstance(item, list) else item


@pytest.mark.parametrize("number", range(len(CASES)))
def test_rules_tell_what_running_tells(number):
    func, args = CASES[number]
    args = tuple(stood_in(a) for a in args)
    named = NAMED.get(func, {})
    assert outcomes.outcome(func, args, named) == outcomes._run(func, args, named)
    tried = {f for f, _ in CASES}
    shared = {rule for f, rule in outcomes.RULES.items() if f in tried}
    assert shared == set(outcomes.RULES.values())  # no rule without a case
