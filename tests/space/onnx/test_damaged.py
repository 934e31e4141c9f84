"""Damaged and hostile ONNX files: one MetanetError that names file, node and operator, and little memory."""

# ruff: noqa: E501 (tables: one row a case)

import itertools

import numpy as np
import pytest
import torch

import metanet
from metanet.errors import CheckpointError, MetanetError, SpaceError
from metanet.space import unfolded
from metanet.space.onnx import builder, onnx_network

onnx = pytest.importorskip("onnx")
helper, array = onnx.helper, onnx.numpy_helper.from_array
FLOAT, INT = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


def numbers(*values):
    """Whole numbers."""
    return np.array(values, np.int64)


def write(path, nodes, held=(), shape=(1, 4), kind=FLOAT, output="y", functions=()):
    """Write a model from x to y."""
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", kind, shape)], [helper.make_empty_tensor_value_info(output)],
        [array(np.asarray(v), n) for n, v in dict(held).items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def node(op, inputs, outputs="y", name="some", **attributes):
    """One node; inputs and outputs are names with spaces between them."""
    return helper.make_node(op, inputs.split(), outputs.split(), name, **attributes)


def counting(times, body):
    """A loop over a body of nodes that add to a state."""
    known = helper.make_tensor_value_info
    graph = helper.make_graph(
        body, "body", [known("i", INT, []), known("go", onnx.TensorProto.BOOL, []), known("s", FLOAT, [1, 4])],
        [known("go", onnx.TensorProto.BOOL, []), known("t", FLOAT, [1, 4])],
    )  # fmt: skip
    return [
        node("Constant", "", "n", value=array(np.array(times))),
        helper.make_node("Loop", ["n", "", "x"], ["y"], "some", body=graph),
    ]


BIG = 2**30
HOSTILE = {  # nodes, what the file holds, and what is said; each would take a gigabyte or more, or hours
    "constants": ([node("ConstantOfShape", "n", "c"), node("Add", "x c")], {"n": numbers(BIG, 4)}, "computes more"),
    "expanded": ([node("Expand", "v n", "c"), node("Neg", "c", "d"), node("Add", "x d")], {"v": np.ones((1, 4), np.int32), "n": numbers(BIG, 4)}, "more than 2,147,483,648|computes more"),
    "tiled": ([node("Tile", "v n", "c"), node("Add", "x c")], {"v": np.ones((1, 4), np.float32), "n": numbers(2**27, 1)}, "computes more"),
    "padded": ([node("Pad", "v n", "c"), node("Add", "x c")], {"v": np.ones((1, 4), np.float32), "n": numbers(0, 0, BIG, 0)}, "its pads"),
    "resized": ([node("Resize", "v r s", "c", mode="linear"), node("Add", "x c")], {"v": np.ones((1, 1, 4, 4), np.float32), "r": np.zeros(0, np.float32), "s": np.array([1, 1, 1e8, 1e8], np.float32)}, "16,384 are accepted"),
    "range": ([node("Range", "a b c", "r"), node("Cast", "r", "f", to=1), node("Add", "x f")], {"a": np.array(0), "b": np.array(2**40), "c": np.array(1)}, "it counts to"),
    "one hot": ([node("OneHot", "i n v", "o"), node("ReduceSum", "o", "s"), node("Add", "x s")], {"i": numbers(*range(64)), "n": np.array(2**33), "v": np.ones(2, np.float32)}, "computes more"),
    "grown step by step": ([node("Concat", "v v", "v1", axis=0), *[node("Concat", f"v{i} v{i}", f"v{i + 1}", axis=0) for i in range(1, 40)], node("Add", "x v40")], {"v": np.ones((1, 4), np.float32)}, "computes more"),
    "outer product": ([node("MatMul", "a b", "c"), node("Add", "x c")], {"a": np.ones((40000, 1), np.int32), "b": np.ones((1, 40000), np.int32)}, "computes more"),
    "long product": ([node("ConstantOfShape", "n", "c"), node("MatMul", "c c", "d"), node("ReduceSum", "d", "s"), node("Add", "x s")], {"n": numbers(2000, 2000)}, "additions and multiplications"),
    "wide convolution": ([node("ConstantOfShape", "n", "c"), node("ConstantOfShape", "k", "w"), node("Conv", "c w", "d"), node("ReduceSum", "d", "s"), node("Add", "x s")], {"n": numbers(1, 1, 2000, 2000), "k": numbers(1, 1, 65, 65)}, "computes more"),
    "many turns": (counting(2**40, [node("Identity", "s", "t")]), {}, "more than 1024 times"),
    "a huge value": ([node("Expand", "x n")], {"n": numbers(2**40, 4)}, "more than 2,147,483,648 entries"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name, tmp_path):
    nodes, held, reason = HOSTILE[name]
    with pytest.raises(SpaceError, match=rf"a\.onnx: cannot build node 'some' \(\w+\): .*({reason})"):
        onnx_network(write(tmp_path / "a.onnx", nodes, held))


def test_loops_in_loops_end(tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "NODES", 2000)
    path = write(tmp_path / "a.onnx", counting(1000, [node("Identity", "s", "t", name="inner")] * 4))
    with pytest.raises(SpaceError, match=r"'inner' \(Identity\): it is one of more than 2,000 nodes"):
        onnx_network(path)


def test_a_huge_input_is_not_made(tmp_path):
    with pytest.raises(SpaceError, match="the input 'x' is 1x1099511627776, more than"):
        onnx_network(write(tmp_path / "a.onnx", [node("Neg", "x")], shape=(1, 2**40)))


def test_a_run_that_takes_much_memory_is_not_certified_unasked(tmp_path):
    held = {"n": numbers(2**23, 4), "w": np.ones((4, 4), np.float32)}
    nodes = [node("MatMul", "x w", "h"), node("Expand", "h n", "e"), node("Exp", "e", "f"), node("ReduceMax", "f", "y")]
    path = write(tmp_path / "a.onnx", nodes, held)
    assert not metanet.build(path).space.certified
    with pytest.raises(SpaceError, match=r"a run takes about .* so it is not certified"):
        onnx_network(path)[0].check_run()
    held["n"] = numbers(2, 4)
    assert metanet.build(write(path, nodes, held)).space.certified


def test_a_run_that_takes_long_is_not_certified_unasked(tmp_path):
    names = ["x", *(f"x{i}" for i in range(1, 20)), "y"]
    nodes = [node("MatMul", f"{a} {a}", b) for a, b in itertools.pairwise(names)]
    module = onnx_network(write(tmp_path / "a.onnx", nodes, shape=(1, 512, 512)))[0]
    assert module.run_work == 20 * 2 * (512**3 + 512**2)  # every product is made and reshaped
    with pytest.raises(SpaceError, match=r"a run takes about [\d,]+ additions and multiplications, more than"):
        module.check_run()


def test_a_run_counts_what_operators_take_inside(tmp_path):
    held = {"w": np.ones((1, 8, 15, 15), np.float32)}
    module = onnx_network(write(tmp_path / "a.onnx", [node("Conv", "x w")], held, (1, 8, 128, 128)))[0]
    assert module.run_bytes == 8 * (unfolded.PIECE + 114**2)


def test_more_memory_on_demand(tmp_path):
    held = {"n": numbers(2**23, 4), "v": np.array([0], np.float32)}
    path = write(
        tmp_path / "a.onnx", [node("ConstantOfShape", "n", "c"), node("ReduceMax", "c", "m"), node("Add", "x m")], held
    )
    with pytest.raises(SpaceError, match="computes more"):
        onnx_network(path)
    module, inputs = onnx_network(path, memory=2**30)
    assert torch.equal(module(*inputs), torch.zeros(1, 4))


def function(name, *called):
    """A function of the file's own that calls others."""
    nodes = [helper.make_node(c, ["a"], [f"b{i}"], domain="own") for i, c in enumerate(called)]
    last = helper.make_node("Identity", ["b0" if called else "a"], ["b"])
    return helper.make_function(
        "own", name, ["a"], ["b"], [*nodes, last], [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    )


def test_functions_without_end(tmp_path):
    call = helper.make_node("f", ["x"], ["y"], domain="own")
    path = write(tmp_path / "a.onnx", [call], functions=[function("f", "g"), function("g", "f")])
    with pytest.raises(CheckpointError, match=r"a\.onnx: the function 'f' calls itself"):
        onnx_network(path)
    chain = [function(f"f{i}", *[f"f{i + 1}"] * 10) for i in range(20)] + [function("f20")]
    path = write(tmp_path / "a.onnx", [helper.make_node("f0", ["x"], ["y"], domain="own")], functions=chain)
    with pytest.raises(CheckpointError, match="its functions, written out where they are called, take"):
        onnx_network(path)


DAMAGED = {
    "an input from nowhere": ([node("Neg", "z")], {}, "its input 'z' is computed nowhere"),
    "a result that is not computed": ([node("BatchNormalization", "x w w w w", "b c", "norm"), node("Add", "b c")], {"w": np.ones(1, np.float32)}, r"its input 'c' is an output of node 'norm' \(BatchNormalization\) that metanet does not"),
    "an input left out": ([node("Neg", "x", "h"), helper.make_node("Add", ["x", ""], ["y"], "some")], {}, r"it fails \("),
    "recurrent weights": ([node("LSTM", "x w r", "y", hidden_size=3)], {"w": np.ones((1, 11, 4), np.float32), "r": np.ones((1, 12, 3), np.float32)}, "which do not fit each other"),
    "no constant": ([node("Constant", "", "y")], {}, "it has 0 values"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_name_their_node(name, tmp_path):
    nodes, held, reason = DAMAGED[name]
    with pytest.raises(SpaceError, match=rf"a\.onnx: cannot build node 'some' \(\w+\): .*({reason})"):
        onnx_network(write(tmp_path / "a.onnx", nodes, held, shape=(1, 1, 4)))


def test_whatever_is_raised_names_file_node_and_operator(tmp_path, monkeypatch):
    path = write(tmp_path / "a.onnx", [node("Neg", "x")])

    def fail(*_):
        raise RecursionError("deep")

    monkeypatch.setattr(builder, "check", fail)
    with pytest.raises(SpaceError, match=r"a\.onnx: cannot build node 'some' \(Neg\): RecursionError: deep"):
        onnx_network(path)
    monkeypatch.setattr("metanet.space.onnx.build.Builder", fail)
    with pytest.raises(SpaceError, match=r"a\.onnx: its network cannot be built: RecursionError: deep"):
        onnx_network(path)


def test_what_a_run_or_a_trace_raises_names_node_and_operator(tmp_path):
    path = write(tmp_path / "a.onnx", [node("Gather", "e x")], {"e": np.ones((3, 2), np.float32)}, kind=INT)
    module, _ = onnx_network(path)
    assert module(torch.tensor([[0, -1, 2, -3]])).shape == (1, 4, 2)
    with pytest.raises(SpaceError, match=r"node 'some' \(Gather\) of the ONNX file fails on inputs of the shapes"):
        module(torch.tensor([[0, 1, 2, 3]]))

    def fail(*_):
        raise KeyError("inside")

    module.nodes.some.function = fail
    with pytest.raises(SpaceError, match=r"node 'some' \(Gather\) of the ONNX file fails"):
        metanet.trace(module, torch.tensor([[0, 1, 2, 2]]))


def test_damaged_constants_name_their_tensor(tmp_path):
    path = write(tmp_path / "a.onnx", [node("Gather", "x i")], {"i": numbers(0, 0)})
    model = onnx.load(path)
    for change, said in (
        ({"dims": [2**40]}, "'i' .*truncated or damaged"),
        ({"dims": [-2]}, r"'i' has the shape \[-2\]"),
        ({"data_type": 12}, r"'i' holds a type without arithmetic in torch \(UINT32\)"),
        ({"data_type": 8}, "'i' holds text"),
        ({"data_type": 99}, "'i' holds a type without arithmetic"),
    ):
        damaged = onnx.ModelProto.FromString(model.SerializeToString())
        (tensor,) = damaged.graph.initializer
        if "dims" in change:
            tensor.dims[:] = change["dims"]
        else:
            tensor.data_type = change["data_type"]
        path.write_bytes(damaged.SerializeToString())
        with pytest.raises(CheckpointError, match=rf"a\.onnx: {said}"):
            onnx_network(path)


def test_external_data_outside_the_folder_is_refused(tmp_path):
    (tmp_path / "secret").write_bytes(b"\0" * 16)
    (tmp_path / "inner").mkdir()
    path = write(tmp_path / "inner" / "a.onnx", [node("Gather", "x i")], {"i": numbers(0, 0)})
    model = onnx.load(path)
    (tensor,) = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    for place in ("../secret", str(tmp_path / "secret"), "a\0b", ""):
        del tensor.external_data[:]
        tensor.external_data.add(key="location", value=place)
        path.write_bytes(model.SerializeToString())
        with pytest.raises(MetanetError, match=r"a\.onnx: 'i' lies in"):
            onnx_network(path)


def test_a_weight_of_a_loop_is_one_weight(tmp_path):
    body = [node("Constant", "", "w", value=array(np.full((1, 4), 2, np.float32))), node("Mul", "s w", "t")]
    module, inputs = onnx_network(write(tmp_path / "a.onnx", counting(3, body)))
    assert len(module.state_dict()) == 1
    assert torch.equal(module(torch.ones_like(*inputs)), torch.full((1, 4), 8.0))
