"""Every file that cannot be read gives one CheckpointError that says why, and nothing else, whatever its bytes."""

import copy
import io
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from metanet.checkpoint import formats, load, save
from metanet.errors import CheckpointError


def refused(path: Path, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"Cannot read {path}")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.pt", b"", r"the file is empty \(got 0 bytes\)"),
        ("a.pt", b"hello, these are not weights\n", r"got a text file \(it starts with 'hello, these"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\noid\n", "Git LFS pointer.*git lfs pull"),
        ("a.onnx", b"<!DOCTYPE html><html><body>404</body></html>", "got an HTML page"),
        ("a.pth", b"PK\x03\x04" + bytes(100), "zip archive without a readable directory: .*truncated"),
        ("a.pt", b"\x80\x02}q\x00X\x05\x00\x00\x00mod", "the pickle is truncated or damaged"),
        ("a.bin", b"GGUF" + bytes(60), "GGUF file: its weights are quantised"),
        ("a.tflite", b"\x1c\x00\x00\x00TFL3" + bytes(60), "TensorFlow Lite"),
        ("a.tar.gz", b"\x1f\x8b\x08\x00" + bytes(60), "gzip archive. Unpack it first"),
        ("a.dat", b"\x00\x01\x02\x03\xff\xfe" * 9, r"unknown content \(first bytes 00 01 02 .*Accepted: .*onnx"),
        ("a.h5", b"\x89HDF\r\n\x1a\n" + bytes(90), "HDF5 file is truncated or damaged"),
        ("a.onnx", b"\x08\x08\x12\x04spox\x3a\xff", "protobuf is truncated or damaged"),
        ("a.npy", b"\x93NUMPY\x01\x00v\x00{'descr'", "array 'array' is damaged"),
        ("a.safetensors", (10**6).to_bytes(8, "little") + b'{"w":{"dtype"', "the header is truncated"),
        ("model.safetensors.index.json", b'{"metadata": {}}', "no readable 'weight_map'"),
    ],
)  # fmt: skip
def test_each_kind_of_bad_file(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    refused(path, reason)


def test_missing_file_and_directory(tmp_path: Path) -> None:
    refused(tmp_path / "absent.pt", "there is no such file")
    refused(tmp_path, "^Cannot read [^:]*: got a directory, a checkpoint is one file")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "got a pipe or device, a checkpoint is a file")


def test_a_zip_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("notes.txt", "hello")
    refused(tmp_path / "a.zip", r"zip archive with other content \(it holds notes.txt")


def test_an_exported_program(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt2", "w") as archive:  # members of torch.export.save in PyTorch 2.13
        for name in ("data/weights/weight_0", "data/weights/model_weights_config.json", "models/model.json"):
            archive.writestr(f"a/{name}", "{}")
    refused(tmp_path / "a.pt2", "torch.export program. Save its state_dict")


def test_zip_bombs(tmp_path: Path) -> None:
    for name in ("w.npy", "archive/data.pkl", "policy.pth"):
        path = tmp_path / "bomb.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            with archive.open(name, "w", force_zip64=True) as member:
                for _ in range(200):
                    member.write(bytes(2**20))
            if name == "policy.pth":
                archive.writestr("data", "{}")
        assert path.stat().st_size < 300_000
        refused(path, "would take 209,71.* bytes of memory.*zip bomb")


def test_members_that_overlap_do_not_hide_a_bomb(tmp_path: Path) -> None:
    """Each directory entry of 300 names the same megabyte of data, so that their sum says nothing."""
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        content = io.BytesIO()
        np.save(content, np.zeros(10**6, np.uint8))
        archive.writestr("w.npy", content.getvalue())
        for number in range(300):
            again = copy.copy(archive.infolist()[0])
            again.filename = f"w{number}.npy"
            archive.filelist.append(again)
    assert path.stat().st_size < 40_000
    refused(path, "in the zip archive is damaged .got File name in directory .* differ")


def test_an_array_that_promises_terabytes(tmp_path: Path) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    header += b" " * (117 - len(header)) + b"\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(16))
    refused(tmp_path / "a.npy", r"truncated or damaged \(got 16 bytes, 8,000,000,000,000 promised\)")


def test_truncated_safetensors(tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", {"w": torch.ones(100)})
    data = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(data[:-7])
    refused(tmp_path / "a.safetensors", f"truncated .got {len(data) - 7:,} bytes, {len(data):,} promised")


def test_formats_are_listed() -> None:
    assert {"pytorch", "torchscript", "safetensors", "sharded", "onnx", "keras", "keras-h5", "numpy"} <= set(formats())


def write_pt(path: Path) -> None:
    torch.save({"state_dict": nn.Linear(3, 2).state_dict(), "epoch": 1}, path)


def write_legacy(path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(3, 2)), path, _use_new_zipfile_serialization=False)


def write_safetensors(path: Path) -> None:
    save(path, nn.Linear(3, 2).state_dict(), {"note": "x"})


def write_npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, a=np.ones((3, 2), np.float32), b=np.zeros(4))


def write_onnx(path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    weight = onnx.numpy_helper.from_array(np.ones((3, 2), np.float32), "w")
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph([node], "g", [value("x", 1, [1, 3])], [value("y", 1, [1, 2])], [weight])
    onnx.save(onnx.helper.make_model(graph), path)


def write_h5(path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"dense"]
        group = file.create_group("dense")
        group.attrs["weight_names"] = [b"dense/kernel:0", b"dense/bias:0"]
        group["dense/kernel:0"], group["dense/bias:0"] = np.ones((3, 2), np.float32), np.zeros(2, np.float32)


@pytest.mark.parametrize("write", [write_pt, write_legacy, write_safetensors, write_npz, write_onnx, write_h5])
def test_no_damage_escapes_as_another_error(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / "model.safetensors"  # the content, not this name, must decide
    write(path)
    whole = path.read_bytes()
    assert load(path).numel > 0
    rng = random.Random(0)
    messages = []
    for trial in range(150):
        data = bytearray(whole)
        if trial % 3 == 0:
            data = data[: rng.randrange(1, len(data))]
        else:
            for _ in range(rng.randrange(1, 9)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            load(path)
        except CheckpointError as error:
            messages.append(str(error))
    assert len(messages) > 50
    assert all(str(path) in message for message in messages)
