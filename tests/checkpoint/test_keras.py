"""Keras: layouts and gate orders are judged by what the layers compute, on files in Keras' own layouts."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metanet.checkpoint import Checkpoint, load
from metanet.errors import CheckpointError

h5py = pytest.importorskip("h5py")
RNG = np.random.default_rng(0)
Weights = dict[str, dict[str, np.ndarray[Any, Any]]]


def draw(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.normal(size=shape).astype(np.float32)


def legacy(path: Path, layers: Weights, config: dict[str, Any] | None = None, chunks: bool = False) -> Path:
    """Write the .h5 of Keras 1 and 2: layers by name, weights by full name; whole models have them one group lower."""
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if config else file
        if config:
            file.attrs.update(model_config=json.dumps(config), keras_version="2.4.0", backend="tensorflow")
            file.create_group("optimizer_weights")["m"] = np.ones(3)
        names = [name.encode() for name in layers]
        for index, part in enumerate(([names[:1], names[1:]]) if chunks else [names]):
            root.attrs[f"layer_names{index}" if chunks else "layer_names"] = part
        for layer, weights in layers.items():
            group = root.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in weights]
            for name, value in weights.items():
                group[name] = value
    return path


def numbered(layers: Weights, labels: bool = True) -> bytes:
    """The model.weights.h5 of Keras 3: groups by class, weights by number, the optimiser beside them."""
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        for path, weights in {"optimizer": {"adam": draw(2)}, **layers}.items():
            group = file.create_group(f"{path}/vars")
            for index, (name, value) in enumerate(weights.items()):
                group[str(index)] = value
                if labels:
                    group.attrs["name"] = name.split("/")[0]
    return memory.getvalue()


def zipped(path: Path, weights: bytes, config: dict[str, Any]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights)
    return path


def layer(kind: str, name: str, **settings: Any) -> dict[str, Any]:
    return {"class_name": kind, "config": {"name": name, **settings}}


def model(*layers: dict[str, Any]) -> dict[str, Any]:
    return {"class_name": "Sequential", "config": {"name": "model", "layers": list(layers)}}


def one(
    tmp_path: Path, kind: str, weights: dict[str, np.ndarray[Any, Any]], **settings: Any
) -> dict[str, torch.Tensor]:
    """Weights of a net of one layer called ``user``, the same from a .h5 and a .keras file."""
    from metanet.checkpoint.keras_layouts import snake_case

    config = model(layer(kind, "user", **settings))
    old = load(
        legacy(tmp_path / "a.h5", {"user": {f"user/{name}:0": value for name, value in weights.items()}}, config)
    )
    inner = "/cell" if kind in ("LSTM", "GRU", "SimpleRNN") else ""
    data = numbered({f"layers/{snake_case(kind)}{inner}": {f"user/{name}": value for name, value in weights.items()}})
    new = load(zipped(tmp_path / "a.keras", data, config))
    assert list(old.tensors) == list(new.tensors)
    assert all(torch.equal(old.tensors[name], new.tensors[name]) for name in old.tensors)
    return dict(old.select("user").tensors)


def first(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """Channels last to channels first."""
    return torch.from_numpy(array).movedim(-1, 1)


def test_convolution(tmp_path: Path) -> None:
    kernel, bias, x = draw(3, 2, 4, 5), draw(5), draw(1, 6, 6, 4)
    got = one(tmp_path, "Conv2D", {"kernel": kernel, "bias": bias})
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 2), axis=(1, 2))  # [b, h, w, c, kh, kw]
    wanted = np.einsum("bhwcij,ijco->bhwo", windows, kernel) + bias
    torch.testing.assert_close(F.conv2d(first(x), got["weight"], got["bias"]), first(wanted), rtol=1e-5, atol=1e-5)


def test_depthwise_convolution(tmp_path: Path) -> None:
    kernel, x = draw(3, 3, 4, 2), draw(1, 6, 6, 4)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    wanted = np.einsum("bhwcij,ijcm->bhwcm", windows, kernel).reshape(1, 4, 4, 8)
    for name in ("depthwise_kernel", "kernel"):  # the name in Keras 2 and in Keras 3
        got = one(tmp_path, "DepthwiseConv2D", {name: kernel})
        assert list(got) == ["weight"]
        torch.testing.assert_close(F.conv2d(first(x), got["weight"], groups=4), first(wanted), rtol=1e-5, atol=1e-5)


def test_transposed_and_separable_convolution(tmp_path: Path) -> None:
    kernel = draw(3, 2, 4, 5)  # [kh, kw, out, in]
    got = one(tmp_path, "Conv2DTranspose", {"kernel": kernel, "bias": draw(4)})
    assert torch.equal(got["weight"], torch.from_numpy(kernel).permute(3, 2, 0, 1))
    depthwise, pointwise = draw(3, 3, 4, 2), draw(1, 1, 8, 6)
    got = one(tmp_path, "SeparableConv2D", {"depthwise_kernel": depthwise, "pointwise_kernel": pointwise})
    assert {name: tuple(value.shape) for name, value in got.items()} == {
        "depthwise.weight": (8, 1, 3, 3),
        "pointwise.weight": (6, 8, 1, 1),
    }


def test_dense_norm_embedding_and_attention(tmp_path: Path) -> None:
    kernel = draw(3, 7)
    assert torch.equal(one(tmp_path, "Dense", {"kernel": kernel})["weight"], torch.from_numpy(kernel).T)
    norm = {name: draw(4) for name in ("gamma", "beta", "moving_mean", "moving_variance")}
    got = one(tmp_path, "BatchNormalization", norm)
    assert list(got) == ["weight", "bias", "running_mean", "running_var"]
    got = one(tmp_path, "BatchNormalization", {k: v for k, v in norm.items() if k != "gamma"}, scale=False)
    assert torch.equal(got["bias"], torch.from_numpy(norm["beta"]))
    assert torch.equal(one(tmp_path, "Embedding", {"embeddings": kernel})["weight"], torch.from_numpy(kernel))
    assert one(tmp_path, "PReLU", {"alpha": draw(1, 1, 6)})["weight"].shape == (6,)
    assert one(tmp_path, "EinsumDense", {"kernel": draw(7, 2, 3)})["weight"].shape == (7, 2, 3)
    assert one(tmp_path, "Conv1D", {"kernel": draw(7, 2, 3)})["weight"].shape == (3, 2, 7)


def sigmoid(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return 1 / (1 + np.exp(-x))


def run(module: nn.RNNBase, got: dict[str, torch.Tensor], x: np.ndarray[Any, Any]) -> torch.Tensor:
    state = {name: torch.zeros_like(value) for name, value in module.state_dict().items()}
    module.load_state_dict(state | got)
    with torch.no_grad():
        return module(torch.from_numpy(x)[None])[0][0, -1]


def test_lstm(tmp_path: Path) -> None:
    kernel, recurrent, bias, x = draw(3, 20), draw(5, 20), draw(20), draw(6, 3)
    got = one(tmp_path, "LSTM", {"kernel": kernel, "recurrent_kernel": recurrent, "bias": bias})
    hidden = cell = np.zeros(5, np.float32)
    for step in x:  # the equations of keras.layers.LSTMCell
        i, f, c, o = np.split(step @ kernel + hidden @ recurrent + bias, 4)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(c)
        hidden = sigmoid(o) * np.tanh(cell)
    torch.testing.assert_close(run(nn.LSTM(3, 5, batch_first=True), got, x), torch.from_numpy(hidden))


def test_gru(tmp_path: Path) -> None:
    kernel, recurrent, bias, x = draw(3, 15), draw(5, 15), draw(2, 15), draw(6, 3)
    got = one(tmp_path, "GRU", {"kernel": kernel, "recurrent_kernel": recurrent, "bias": bias})
    hidden = np.zeros(5, np.float32)
    for step in x:  # the equations of keras.layers.GRUCell with reset_after=True
        xz, xr, xh = np.split(step @ kernel + bias[0], 3)
        hz, hr, hh = np.split(hidden @ recurrent + bias[1], 3)
        update = sigmoid(xz + hz)
        hidden = update * hidden + (1 - update) * np.tanh(xh + sigmoid(xr + hr) * hh)
    torch.testing.assert_close(run(nn.GRU(3, 5, batch_first=True), got, x), torch.from_numpy(hidden))
    got = one(tmp_path, "GRU", {"kernel": kernel, "recurrent_kernel": recurrent, "bias": bias[0]}, reset_after=False)
    assert list(got) == ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0"]


def names(checkpoint: Checkpoint) -> list[str]:
    return list(checkpoint.tensors)


def test_names_in_weights_only_files_of_keras_2(tmp_path: Path) -> None:
    layers: Weights = {
        "lstm_1": {"lstm_1/lstm_cell_1/kernel:0": draw(2, 4), "lstm_1/lstm_cell_1/recurrent_kernel:0": draw(1, 4)},
        "dropout": {},
        "head": {"dense/kernel:0": draw(2, 3), "dense_1/kernel:0": draw(3, 4)},
        "block/conv": {"block/conv/kernel:0": draw(3, 3, 1, 2)},
        "depthwise_conv2d_7": {"depthwise_conv2d_7/depthwise_kernel:0": draw(3, 3, 2, 1)},
    }
    for chunks in (False, True):
        got = load(legacy(tmp_path / "a.h5", layers, chunks=chunks))
        assert names(got) == [
            *("lstm_1.weight_ih_l0", "lstm_1.weight_hh_l0", "head.dense.weight", "head.dense_1.weight"),
            *("block/conv.weight", "depthwise_conv2d_7.weight"),
        ]
        assert got.tensors["head.dense_1.weight"].shape == (4, 3)
        assert got.tensors["block/conv.weight"].shape == (2, 1, 3, 3)


def test_nested_models_keep_their_order_and_names(tmp_path: Path) -> None:
    nested = layer("Sequential", "head", layers=[layer("Dense", "wide"), layer("Dense", "narrow")])
    config = model(layer("Dense", "start"), layer("Dropout", "drop"), nested, layer("Dense", "end"))
    weights = {
        "layers/dense": {"start/kernel": draw(2, 3)},
        "layers/dense_1": {"end/kernel": draw(3, 1)},
        "layers/sequential/layers/dense": {"wide/kernel": draw(3, 9)},
        "layers/sequential/layers/dense_1": {"narrow/kernel": draw(9, 3)},
    }
    for labels in (True, False):  # early Keras 3 wrote no labels, the configuration has the names too
        got = load(zipped(tmp_path / "a.keras", numbered(weights, labels), config))
        assert names(got) == ["start.weight", "head.wide.weight", "head.narrow.weight", "end.weight"]
        assert got.metadata["keras_version"] == "3.15.1"
    (tmp_path / "a.weights.h5").write_bytes(numbered(weights))
    assert sorted(load(tmp_path / "a.weights.h5").tensors) == sorted(
        ["start.weight", "end.weight", "sequential.wide.weight", "sequential.narrow.weight"]
    )


def test_bfloat16(tmp_path: Path) -> None:
    values = torch.tensor([[1.5, -2.0], [0.25, 3.0]], dtype=torch.bfloat16)
    opaque = values.view(torch.int16).numpy().view("V2")
    got = load(
        zipped(tmp_path / "a.keras", numbered({"layers/dense": {"d/kernel": opaque}}), model(layer("Dense", "d")))
    )
    assert got.tensors["d.weight"].dtype == torch.bfloat16
    assert torch.equal(got.tensors["d.weight"], values.T)


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'user' is quantised \(got int8"):
        one(tmp_path, "Dense", {"kernel": np.ones((2, 2), np.int8)})
    with pytest.raises(CheckpointError, match=r"recurrent kernel of shape .5, 12., whose gates"):
        one(tmp_path, "LSTM", {"kernel": draw(3, 12), "recurrent_kernel": draw(5, 12)})
    (tmp_path / "a.weights.h5").write_bytes(numbered({"layers/layer_normalization": {"n/gamma": draw(3)}}))
    with pytest.raises(CheckpointError, match="has 1 of the weights gamma, beta and the file does not say which"):
        load(tmp_path / "a.weights.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["params"] = draw(3)
    with pytest.raises(CheckpointError, match="an HDF5 file, but not one of Keras"):
        load(tmp_path / "b.h5")


def test_files_that_reach_out_or_promise_too_much(tmp_path: Path) -> None:
    path = legacy(tmp_path / "a.h5", {"d": {"d/kernel:0": draw(2, 2)}})
    for link, reason in [
        (h5py.ExternalLink("/etc/other.h5", "/x"), "is a link to another place"),
        (h5py.SoftLink("/d"), "is a link to another place"),
        (None, "the weight 'd/kernel:0' is missing"),
    ]:
        with h5py.File(path, "a") as file:
            del file["d/d/kernel:0"]
            if link is not None:
                file["d/d/kernel:0"] = link
        with pytest.raises(CheckpointError, match=reason):
            load(path)
    with h5py.File(path, "a") as file:
        (tmp_path / "raw.bin").write_bytes(bytes(16))
        file["d/d"].create_dataset("kernel:0", (2, 2), "f4", external=[(str(tmp_path / "raw.bin"), 0, 16)])
    with pytest.raises(CheckpointError, match="lies in another file, which is not opened"):
        load(path)
    with h5py.File(path, "a") as file:
        del file["d/d/kernel:0"]
        file["d/d"].create_dataset("kernel:0", (10**6, 10**6), "f4", chunks=(1000, 1000))
    with pytest.raises(CheckpointError, match="would take 4,000,004,000,192 bytes of memory"):
        load(path)


def test_heaps_that_the_library_would_walk_for_ever(tmp_path: Path) -> None:
    path = legacy(tmp_path / "a.h5", {"d": {"d/kernel:0": draw(2, 2)}}, model(layer("Dense", "d")))
    whole = bytearray(path.read_bytes())
    heap = whole.index(b"GCOL")
    for offset, value in [
        (24, 255),
        (8, 3),
        (16, 0),
    ]:  # size of the first object, of the heap, index of the first object
        data = whole.copy()
        data[heap + offset] = value
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match="got a global heap of the wrong size"):
            load(path)
    path.write_bytes(whole)
    assert names(load(path)) == ["d.weight"]


def test_a_text_that_is_said_to_be_longer_than_the_file_is_not_allocated(tmp_path: Path) -> None:
    path = legacy(tmp_path / "a.h5", {"d": {"d/kernel:0": draw(2, 2)}}, model(layer("Dense", "d")))
    data = bytearray(path.read_bytes())
    address = data.index(b"GCOL").to_bytes(8, "little")
    first = address + (1).to_bytes(4, "little")  # what refers to the first entry, after the entry's length
    data[data.index(first) - 1] = 0x7F  # two gigabytes
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="got a global heap of the wrong size"):
        load(path)


def test_attributes_that_are_no_text(tmp_path: Path) -> None:
    path = legacy(tmp_path / "a.h5", {"d": {"d/kernel:0": draw(2, 2)}})
    with h5py.File(path, "a") as file:
        file.attrs["layer_names"] = np.arange(3)
    with pytest.raises(CheckpointError, match=r"attribute 'layer_names' is damaged .got type int64, text is accepted"):
        load(path)


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = legacy(tmp_path / "a.h5", {"d": {"d/kernel:0": draw(2, 2)}})
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(CheckpointError, match=r"pip install torch-metanet\[keras\]"):
        load(path)
