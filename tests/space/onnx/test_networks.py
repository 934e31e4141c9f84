"""ONNX files as networks: the same space and graph as the module they were exported from, control flow, sizes."""

# ruff: noqa: E501 (tables: one row a case)

import copy
import io
import warnings
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import metanet
from metanet.errors import SpaceError
from metanet.space.onnx import onnx_network

onnx = pytest.importorskip("onnx")
helper, array = onnx.helper, onnx.numpy_helper.from_array
FLOAT, INT = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


class Block(nn.Module):
    """A transformer block with separate projections."""

    def __init__(self):
        super().__init__()
        self.inp, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 12), nn.Linear(12, 8)
        self.position = nn.Parameter(torch.randn(1, 5, 8))

    def forward(self, x):
        x = self.inp(x) + self.position
        h = self.norm(x)
        q, k, v = (p(h).unflatten(-1, (2, 4)).transpose(1, 2) for p in (self.q, self.k, self.v))
        x = x + self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.head((x + self.down(F.gelu(self.up(x)))).mean(1))


class Convolutions(nn.Module):
    """A residual block with a depthwise convolution and a slope a channel, flattened."""

    def __init__(self):
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.slope, self.mix, self.head = nn.PReLU(6), nn.Conv2d(6, 6, 1, bias=False), nn.Linear(6 * 16, 4)

    def forward(self, x):
        x = self.stem(x).relu()
        x = x + self.mix(self.slope(self.depthwise(x)))
        return self.head(F.max_pool2d(x, 2).flatten(1))


class Recurrent(nn.Module):
    """A recurrent layer between two linear ones."""

    def __init__(self, layer, width):
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(3, 5), layer, nn.Linear(width, 2)

    def forward(self, x):
        return self.last(self.layer(self.first(x))[0])


NETWORKS = {
    "mlp": lambda: (nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 5, bias=False), nn.Tanh(), nn.Linear(5, 3)), (1, 4)),
    "convolutions": lambda: (Convolutions(), (1, 3, 8, 8)),
    "transformer": lambda: (Block(), (1, 5, 6)),
    "lstm": lambda: (Recurrent(nn.LSTM(5, 4, 2, batch_first=True, bidirectional=True), 8), (1, 6, 3)),
    "gru": lambda: (Recurrent(nn.GRU(5, 4, batch_first=True), 4), (1, 6, 3)),
}  # fmt: skip


def export(module, x, path, dynamo):
    """Write a module with one of PyTorch's two exporters."""
    if dynamo:
        pytest.importorskip("onnxscript")
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (x,), str(path), dynamo=dynamo)
    return path


def structure(graph):
    """Node sets, links and the sorted entries of all blocks and vectors: what does not depend on names and layouts."""
    layout = graph.layout
    nodes = sorted((n.size, n.kind, n.depth, str(n.activation)) for n in layout.nodes)
    blocks = [
        (layout.nodes[b.source].size, layout.nodes[b.target].size, b.link.kind, b.link.depth) for b in layout.blocks
    ]
    vectors = [(layout.nodes[v.target].size, v.link.kind, v.link.depth) for v in layout.vectors]
    numbers = [t.flatten().sort()[0] for t in (*graph.blocks(), *graph.vectors())]
    kinds = [*blocks, *vectors]
    order = sorted(range(len(kinds)), key=lambda n: (str(kinds[n]), round(numbers[n].sum().item(), 4)))
    return nodes, [kinds[n] for n in order], [numbers[n] for n in order]


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_same_as_the_module_it_was_exported_from(name, dynamo, tmp_path):
    torch.manual_seed(0)
    module, shape = NETWORKS[name]()
    for parameter in module.parameters():  # exporters merge equal tensors: scales of one, biases of zero
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(shape)
    path = export(module.eval(), x, tmp_path / "a.onnx", dynamo)
    network, _ = onnx_network(path)
    torch.testing.assert_close(network(x), module(x), rtol=1e-4, atol=1e-5)
    ours, theirs = metanet.build(module, x), metanet.build(path)
    assert theirs.space.certified
    assert not theirs.space.opaque
    assert theirs.space.neurons == ours.space.neurons > 0
    assert sorted(a.size for a in ours.space.free_axes) == sorted(a.size for a in theirs.space.free_axes)
    assert ours.space.parameters == theirs.space.parameters
    assert len(ours.space.gauges) == len(theirs.space.gauges)
    (nodes, kinds, numbers), (nodes_, kinds_, numbers_) = structure(ours), structure(theirs)
    assert nodes == nodes_
    assert kinds == kinds_
    for a, b in zip(numbers, numbers_, strict=True):
        torch.testing.assert_close(a, b)


def test_batch_norms_that_an_exporter_folds(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 3, 1)).eval()
    nn.init.normal_(net[1].running_mean)
    x = torch.randn(1, 2, 6, 6)
    folded = copy.deepcopy(net)
    folded[0] = nn.utils.fusion.fuse_conv_bn_eval(folded[0], folded.pop(1))
    ours, theirs = metanet.build(folded, x), metanet.build(export(net, x, tmp_path / "a.onnx", False))
    assert structure(ours)[:2] == structure(theirs)[:2]
    assert theirs.space.neurons == 6


def write(path, nodes, initialisers=(), inputs=(("x", FLOAT, [1, 4]),), outputs=("y",), **extra):
    graph = helper.make_graph(
        list(nodes), "net", [helper.make_tensor_value_info(*i) for i in inputs],
        [helper.make_empty_tensor_value_info(o) for o in outputs], [array(v, n) for n, v in initialisers],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 18)]
    path.write_bytes(helper.make_model(graph, opset_imports=opset, ir_version=10, **extra).SerializeToString())
    return path


def random(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


WEIGHTS = [("a.weight", random(4, 6)), ("b.weight", random(6, 2))]
BETWEEN = {
    "shape arithmetic": (
        [
            ("Shape", ["h"], ["s"]), ("Gather", ["s", "zero"], ["batch"]), ("Concat", ["batch", "rest"], ["wanted"]),
            ("Reshape", ["h", "wanted"], ["h3"]), ("ConstantOfShape", ["wanted"], ["zeros"]), ("Add", ["h3", "zeros"], ["h4"]),
            ("Shape", ["h4"], ["s4"]), ("ReduceProd", ["s4"], ["n"]), ("Range", ["nought", "n0", "one"], ["places"]),
            ("Cast", ["places"], ["float"]), ("Mul", ["float", "tenth"], ["ramp"]), ("Reshape", ["h4", "back"], ["h5"]),
            ("Add", ["h5", "ramp"], ["g"]),
        ],
        [("zero", np.array([0])), ("rest", np.array([2, 3])), ("back", np.array([1, -1])), ("nought", np.array(0)), ("n0", np.array(6)),
         ("one", np.array(1)), ("tenth", np.array(0.1, np.float32))],
        0,  # positions are added to the neurons: they are ordered
    ),
    "zeros of a known shape": ([("Shape", ["h"], ["s"]), ("ConstantOfShape", ["s"], ["z"]), ("Add", ["h", "z"], ["g"])], [], 6),
    "a scalar constant": ([("Mul", ["h", "half"], ["m"]), ("Relu", ["m"], ["g"])], [("half", np.array(0.5, np.float32))], 6),
    "a weight transposed": ([("Transpose", ["w"], ["wt"]), ("MatMul", ["h", "wt"], ["g"])], [("w", random(6, 6))], 12),
    "a weight under a logarithm": ([("Sqrt", ["w"], ["r"]), ("Mul", ["h", "r"], ["g"])], [("w", np.abs(random(6)))], 6),
}  # fmt: skip


@pytest.mark.parametrize("name", BETWEEN)
def test_between_two_layers(name, tmp_path):
    nodes, constants, neurons = BETWEEN[name]
    attributes = {"Cast": {"to": 1}, "ReduceProd": {"keepdims": 0}, "Concat": {"axis": 0}}
    made = [helper.make_node(op, i, o, **attributes.get(op, {})) for op, i, o in nodes]
    made = [
        helper.make_node("MatMul", ["x", "a.weight"], ["h"]),
        *made,
        helper.make_node("MatMul", ["g", "b.weight"], ["y"]),
    ]
    graph = metanet.build(write(tmp_path / "a.onnx", made, [*WEIGHTS, *constants]))
    assert graph.space.certified
    assert graph.space.neurons == neurons
    assert {"a.weight", "b.weight"} <= set(graph.space.tensor)


def test_names_that_torch_forbids(tmp_path):
    names = ["forward", "a", "a.b", ".c", "onnx::MatMul_1", "nodes"]
    values = ["x", *(f"v{n}" for n in range(len(names) - 1)), "y"]
    nodes = [helper.make_node("MatMul", [values[n], name], [values[n + 1]]) for n, name in enumerate(names)]
    path = write(tmp_path / "a.onnx", nodes, [(name, random(4, 4)) for name in names])
    module, _ = onnx_network(path)
    assert list(module.state_dict()) == ["forward_", "a", "onnx::MatMul_1", "nodes_", "a_.b", "_.c"]
    assert metanet.build(path).space.neurons == 4 * 5


def branch(name, value):
    node = helper.make_node("Constant", [], [f"{name}.w"], value=array(np.full((6, 6), value, np.float32)))
    out = helper.make_empty_tensor_value_info(f"{name}.y")
    return helper.make_graph([node, helper.make_node("MatMul", ["h", f"{name}.w"], [f"{name}.y"])], name, [], [out])


def test_a_branch_whose_condition_is_known(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "a.weight"], ["h"]),
        helper.make_node("If", ["flag"], ["g"], "choose", then_branch=branch("then", 2), else_branch=branch("else", 3)),
        helper.make_node("MatMul", ["g", "b.weight"], ["y"]),
    ]
    path = write(tmp_path / "a.onnx", nodes, [*WEIGHTS, ("flag", np.array(False))])
    assert set(metanet.build(path).space.tensor) == {"a.weight", "else.w", "b.weight"}
    nodes[0:0] = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "half"], ["flag"]),
    ]
    path = write(tmp_path / "b.onnx", nodes, [*WEIGHTS, ("half", np.array(0.5, np.float32))])
    with pytest.raises(SpaceError, match=r"node 'choose' \(If\): its condition depends on the values"):
        metanet.build(path)


def loop_body():
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("MatMul", ["state", "w"], ["next"]),
        helper.make_node("Identity", ["cond"], ["again"]),
        helper.make_node("Relu", ["next"], ["row"]),
    ]
    inputs = [value("turn", INT, []), value("cond", onnx.TensorProto.BOOL, []), value("state", FLOAT, [1, 6])]
    return helper.make_graph(
        nodes, "body", inputs, [helper.make_empty_tensor_value_info(o) for o in ("again", "next", "row")]
    )


def test_a_loop_whose_length_is_known_is_unrolled(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "a.weight"], ["h"]),
        helper.make_node("Loop", ["times", "", "h"], ["last", "rows"], "turn", body=loop_body()),
        helper.make_node("ReduceSum", ["rows", "first"], ["sum"], keepdims=0),
        helper.make_node("Add", ["sum", "last"], ["g"]),
        helper.make_node("MatMul", ["g", "b.weight"], ["y"]),
    ]  # fmt: skip
    constants = [*WEIGHTS, ("w", random(6, 6)), ("times", np.array(3)), ("first", np.array([0]))]
    path = write(tmp_path / "a.onnx", nodes, constants)
    module, _ = onnx_network(path)
    x, h, total = torch.randn(1, 4), None, 0
    state = {name: torch.from_numpy(value) for name, value in constants}
    h = x @ state["a.weight"]
    for _ in range(3):
        h = h @ state["w"]
        total = total + h.relu()
    torch.testing.assert_close(module(x), (total + h) @ state["b.weight"])
    space = metanet.build(path).space
    assert (space.certified, space.neurons) == (True, 6)
    with pytest.raises(SpaceError, match="it runs more than 1024 times"):
        metanet.build(write(tmp_path / "b.onnx", nodes, [*constants[:3], ("times", np.array(5000)), constants[4]]))


def test_sizes_that_a_file_leaves_open(tmp_path):
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"]), helper.make_node("GlobalAveragePool", ["h"], ["y"])]
    path = write(tmp_path / "a.onnx", nodes, [("w", random(6, 3, 3, 3))], [("x", FLOAT, ["batch", 3, "h", "w"])])
    assert [tuple(x.shape) for x in onnx_network(path)[1]] == [(1, 3, 224, 224)]
    assert [tuple(x.shape) for x in onnx_network(path, [torch.zeros(2, 3, 8, 9)])[1]] == [(2, 3, 8, 9)]
    assert metanet.build(path, torch.zeros(2, 3, 8, 8)).space.certified
    with pytest.raises(SpaceError, match=r"the input 'x' is \?x3x\?x\?, got 1x1x8x8"):
        onnx_network(path, [torch.zeros(1, 1, 8, 8)])
    with pytest.raises(SpaceError, match=r"got 2 inputs; it takes 1 \(x\)"):
        onnx_network(path, [torch.zeros(1, 3, 8, 8)] * 2)


def test_whole_number_inputs_are_tokens(tmp_path):
    nodes = [helper.make_node("Gather", ["table", "x"], ["h"]), helper.make_node("MatMul", ["h", "b.weight"], ["y"])]
    path = write(tmp_path / "a.onnx", nodes, [("table", random(9, 6)), WEIGHTS[1]], [("x", INT, ["batch", "length"])])
    graph = metanet.build(path)
    assert (graph.space.certified, graph.space.neurons) == (True, 6)
    assert [link.kind for link in graph.space.links] == ["embedding", "linear"]


def test_functions_of_the_file_are_inlined(tmp_path):
    body = [helper.make_node("Relu", ["a"], ["r"]), helper.make_node("Neg", ["r"], ["b"])]
    function = helper.make_function("mine", "Fold", ["a"], ["b"], body, [helper.make_opsetid("", 18)])
    nodes = [
        helper.make_node("MatMul", ["x", "a.weight"], ["h"]), helper.make_node("Fold", ["h"], ["g"], domain="mine"),
        helper.make_node("MatMul", ["g", "b.weight"], ["y"]),
    ]  # fmt: skip
    graph = helper.make_graph(nodes, "net", [helper.make_tensor_value_info("x", FLOAT, [1, 4])],
                              [helper.make_empty_tensor_value_info("y")], [array(v, n) for n, v in WEIGHTS])  # fmt: skip
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    model = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10)
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    space = metanet.build(tmp_path / "a.onnx").space
    assert (space.neurons, space.links[0].activation) == (6, "relu")


def test_what_cannot_be_certified_says_so(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "a.weight"], ["h"]), helper.make_node("Log", ["h"], ["g"]),
        helper.make_node("MatMul", ["g", "b.weight"], ["y"]),
    ]  # fmt: skip
    space = metanet.build(write(tmp_path / "a.onnx", nodes, WEIGHTS)).space
    assert (space.certified, space.neurons, space.source) == (False, 6, "onnx")
