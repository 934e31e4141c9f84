"""ONNX: where weights hide in a graph."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metanet.checkpoint import load
from metanet.errors import CheckpointError

onnx = pytest.importorskip("onnx")
helper, array = onnx.helper, onnx.numpy_helper.from_array
FLOAT = onnx.TensorProto.FLOAT


def write(path: Path, nodes: list[Any], initialisers: list[Any], **extra: Any) -> Path:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "net", [value("x", FLOAT, [1, 3])], [value("y", FLOAT, [1, 2])], initialisers)
    model = helper.make_model(graph, producer_name="maker", producer_version="1.2", **extra)
    helper.set_model_props(model, {"note": "hello"})
    path.write_bytes(model.SerializeToString())
    return path


def constant(name: str, value: np.ndarray[Any, Any]) -> Any:
    return helper.make_node("Constant", [], [name], value=array(value))


def ones(*shape: int, by: float = 1.0) -> np.ndarray[Any, Any]:
    return np.full(shape, by, np.float32)


def test_initialisers_constants_subgraphs_and_functions(tmp_path: Path) -> None:
    then = helper.make_graph([constant("inner", ones(2, by=3))], "then", [], [], [array(ones(2, by=4), "held")])
    other = helper.make_graph([constant("inner", ones(3, by=5))], "else", [], [])
    nodes = [
        constant("c", ones(3, 2, by=2)),
        helper.make_node("If", ["flag"], ["y"], "choose", then_branch=then, else_branch=other),
        helper.make_node("ConstantOfShape", ["shape"], ["z"], value=array(ones(1))),
    ]
    function = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [constant("k", ones(4))], [helper.make_opsetid("", 18)]
    )
    shape = array(np.array([1, 3], np.int64), "shape")
    got = load(write(tmp_path / "a.onnx", nodes, [array(ones(3, 2), "w"), shape], functions=[function]))
    assert {name: (tuple(t.shape), t.flatten()[0].item()) for name, t in got.tensors.items()} == {
        "k": ((4,), 1.0),
        "w": ((3, 2), 1.0),
        "c": ((3, 2), 2.0),
        "held": ((2,), 4.0),
        "inner": ((3,), 5.0),  # attributes are stored by name, so the else branch comes first
        "choose.then_branch.inner": ((2,), 3.0),
    }
    assert got.metadata["producer"] == "maker 1.2"
    assert got.metadata["note"] == "hello"


def test_types_in_both_encodings(tmp_path: Path) -> None:
    values = [0.5, -2.0, 3.25]
    types = {"FLOAT": torch.float32, "DOUBLE": torch.float64, "FLOAT16": torch.float16, "BFLOAT16": torch.bfloat16}
    types |= {"COMPLEX64": torch.complex64, "COMPLEX128": torch.complex128}
    tensors = []
    for name, dtype in types.items():
        kind = getattr(onnx.TensorProto, name)
        wanted = torch.tensor(values, dtype=dtype)
        tensors.append(helper.make_tensor(f"{name}.typed", kind, [3], values))
        bits = wanted.view(torch.uint8).numpy().tobytes()
        tensors.append(helper.make_tensor(f"{name}.raw", kind, [3], bits, raw=True))
    got = load(write(tmp_path / "a.onnx", [], tensors)).tensors
    for name, dtype in types.items():
        for encoding in ("typed", "raw"):
            assert torch.equal(got[f"{name}.{encoding}"], torch.tensor(values, dtype=dtype)), (name, encoding)


def external(path: Path, location: str, **fields: str) -> Path:
    tensor = onnx.TensorProto(name="w", data_type=FLOAT, dims=[2, 3], data_location=onnx.TensorProto.EXTERNAL)
    for key, value in {"location": location, **fields}.items():
        tensor.external_data.add(key=key, value=value)
    return write(path, [], [tensor])


def test_external_data(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32)
    (tmp_path / "weights.bin").write_bytes(b"12345678" + values.tobytes() + b"more")
    got = load(external(tmp_path / "a.onnx", "weights.bin", offset="8", length="24"))
    assert torch.equal(got.tensors["w"], torch.from_numpy(values).reshape(2, 3))
    for location, fields, reason in [
        ("absent.bin", {}, "'w' lies in the file 'absent.bin', which is missing"),
        ("weights.bin", {"offset": "20", "length": "24"}, "'weights.bin' is truncated"),
        ("weights.bin", {"offset": "x"}, "'w' has a damaged place"),
        ("weights.bin", {"offset": "8"}, r"'w' \[2, 3\] is truncated or damaged \(got 28 bytes, 24 promised\)"),
        ("weights.bin", {"length": "8"}, r"'w' \[2, 3\] is truncated or damaged \(got 8 bytes, 24 promised\)"),
        ("../../etc/hostname", {}, "accepted are files in the model's own folder"),
        ("/etc/hostname", {}, "accepted are files in the model's own folder"),
    ]:
        with pytest.raises(CheckpointError, match=reason):
            load(external(tmp_path / "a.onnx", location, **fields))


def test_external_data_to_the_end_of_the_file(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32)
    (tmp_path / "weights.bin").write_bytes(b"12345678" + values.tobytes())
    got = load(external(tmp_path / "a.onnx", "weights.bin", offset="8"))
    assert torch.equal(got.tensors["w"], torch.from_numpy(values).reshape(2, 3))


def test_links_of_a_download_cache(tmp_path: Path) -> None:
    """Model and data are links into one folder of blobs; a link to any other place is refused."""
    for folder in ("blobs", "snapshot", "elsewhere"):
        (tmp_path / folder).mkdir()
    external(tmp_path / "blobs" / "1a", "weights.bin")
    for folder in ("blobs", "elsewhere"):
        (tmp_path / folder / "2b").write_bytes(ones(6).tobytes())
    model, data = tmp_path / "snapshot" / "a.onnx", tmp_path / "snapshot" / "weights.bin"
    model.symlink_to(tmp_path / "blobs" / "1a")
    data.symlink_to(tmp_path / "blobs" / "2b")
    assert torch.equal(load(model).tensors["w"], torch.ones(2, 3))
    data.unlink()
    data.symlink_to(tmp_path / "elsewhere" / "2b")
    with pytest.raises(CheckpointError, match="accepted are files in the model's own folder"):
        load(model)


@pytest.mark.parametrize("kind", ["DequantizeLinear", "QuantizeLinear", "QLinearConv", "ConvInteger", "MatMulNBits"])
def test_quantised_graphs_are_refused(tmp_path: Path, kind: str) -> None:
    node = helper.make_node(kind, ["w", "s"], ["y"], "step")
    path = write(tmp_path / "a.onnx", [node], [array(np.ones(3, np.int8), "w"), array(ones(1), "s")])
    with pytest.raises(CheckpointError, match=f"node 'step' is {kind}: the model is quantised"):
        load(path)


def test_damaged_and_empty_tensors(tmp_path: Path) -> None:
    short = onnx.TensorProto(name="w", data_type=FLOAT, dims=[10**6, 10**6], raw_data=b"1234")
    with pytest.raises(CheckpointError, match=r"'w' \[1000000, 1000000\] is truncated or damaged"):
        load(write(tmp_path / "a.onnx", [], [short]))
    with pytest.raises(CheckpointError, match="two weights are named 'w'"):
        load(write(tmp_path / "a.onnx", [], [array(ones(1), "w"), array(ones(2), "w")]))
    with pytest.raises(CheckpointError, match="holds no weights"):
        load(write(tmp_path / "a.onnx", [], [array(np.array([1, 2]), "shape")]))


def test_a_file_without_its_ending(tmp_path: Path) -> None:
    assert load(write(tmp_path / "a", [], [array(ones(2), "w")])).format == "onnx"


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.onnx", [], [array(ones(2), "w")])
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(CheckpointError, match=r"pip install torch-metanet\[onnx\]"):
        load(path)


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    """Integers, texts, and numbers in attributes of other nodes; floats of Constant nodes are kept in every form."""
    nodes = [
        helper.make_node("Constant", [], ["one"], value_float=2.5),
        helper.make_node("Constant", [], ["row"], value_floats=[1.0, -2.0]),
        helper.make_node("Constant", [], ["steps"], value_ints=[1, 2]),
        constant("axes", np.array([1], np.int64)),
        helper.make_node("LinearRegressor", ["x"], ["y"], "linear", coefficients=[1.0, 2.0, 3.0], targets=1),
        helper.make_node("ConstantOfShape", ["shape"], ["z"], value=array(ones(1))),
        helper.make_node("LeakyRelu", ["z"], ["q"], alpha=0.1),
    ]
    initialisers = [array(ones(3, 2), "w"), array(np.array([[1, 2]], np.int8), "codes"), array(np.array(["a"]), "text")]
    got = load(write(tmp_path / "a.onnx", nodes, initialisers))
    assert {name: tensor.tolist() for name, tensor in got.tensors.items()} == {
        "w": [[1.0, 1.0]] * 3,
        "one": 2.5,
        "row": [1.0, -2.0],
    }
    named = ["steps", "axes", "linear.coefficients", "ConstantOfShape_5.value", "codes", "text"]
    assert sorted(got.metadata["left_out"].split(", ")) == sorted(named)
    assert "left_out" not in load(write(tmp_path / "b.onnx", [], [array(ones(3, 2), "w")])).metadata
