"""Pickles are programs; none of them may run."""

import io
import os
import pickle
import resource
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metanet.checkpoint import load
from metanet.checkpoint.storage import Call
from metanet.checkpoint.unpickle import GLOBALS, Stub, unpickle
from metanet.errors import CheckpointError


class Run:
    """Runs a function when it is unpickled."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


def attacks(marker: Path) -> dict[str, Any]:
    command = f"touch {marker}"
    code = f"open({str(marker)!r}, 'w').close()"
    return {
        "system": Run(os.system, command),
        "eval": Run(eval, code),
        "exec": Run(exec, code),
        "open": Run(open, str(marker), "w"),
        "path": Run(Path.touch, marker),
        "chain": Run(getattr, Run(__import__, "os"), "system"),
    }


@pytest.mark.parametrize("name", ["system", "eval", "exec", "open", "path", "chain"])
@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_nothing_runs(tmp_path: Path, name: str, kind: str) -> None:
    marker, path = tmp_path / "marker", tmp_path / "a.pt"
    content = {"state_dict": {"w": torch.ones(2)}, "extra": attacks(marker)[name]}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    assert torch.equal(load(path).tensors["w"], torch.ones(2))
    assert not marker.exists()


def test_the_attack_is_a_real_one(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    pickle.loads(pickle.dumps(attacks(marker)["system"]))  # Python's own unpickler falls for it
    assert marker.exists()


def test_an_attack_alone_is_no_checkpoint(tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "a.pt"
    path.write_bytes(pickle.dumps(attacks(marker)["system"]))
    with pytest.raises(CheckpointError, match=r"no tensors in it \(got an object of (posix|nt)\.system\)"):
        load(path)
    assert not marker.exists()


def test_every_global_is_inert() -> None:
    for (module, name), value in GLOBALS.items():
        if isinstance(value, type):
            builtin = value in (set, frozenset, list, tuple, complex)
            assert builtin or value.__module__.startswith("metanet.checkpoint."), (module, name)
        else:
            allowed = isinstance(value, (Call, torch.dtype)) or type(value).__module__ == "metanet.checkpoint.storage"
            assert allowed, (module, name)


def test_unknown_globals_become_stubs_that_keep_what_they_were_given() -> None:
    data = b"\x80\x02cfoo.bar\nBaz\nK\x01\x85\x81}X\x01\x00\x00\x00aK\x05sb."
    stub = unpickle(io.BytesIO(data))
    assert isinstance(stub, Stub)
    assert (stub.origin, stub.args, stub.state) == ("foo.bar.Baz", (1,), {"a": 5})


def test_stand_ins_cannot_be_overwritten_by_a_pickle() -> None:
    before = {key: dict(vars(value)) for key, value in GLOBALS.items() if isinstance(value, Call)}
    for module, name in [("torch._utils", "_rebuild_tensor_v2"), ("torch", "FloatStorage"), ("_codecs", "encode")]:
        state = b"X\x08\x00\x00\x00functionK\x05s"
        slots = b"\x80\x02c%b\n%b\n}%b}%b\x86b." % (module.encode(), name.encode(), state, state)
        unpickle(io.BytesIO(slots))
    assert {key: dict(vars(value)) for key, value in GLOBALS.items() if isinstance(value, Call)} == before
    assert GLOBALS["torch", "FloatStorage"].dtype is torch.float32


def test_a_memo_index_does_not_reserve_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert unpickle(io.BytesIO(b"\x80\x02N" + b"r" + struct.pack("<I", 0xFFFFFFF0) + b".")) is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**15


@pytest.mark.parametrize("size", [10**15, 2**63 - 1])
def test_bytes_of_a_promised_size_are_not_reserved(size: int) -> None:
    data = b"\x80\x04c__builtin__\nbytearray\n\x8a\x08" + struct.pack("<q", size) + b"\x85R."
    assert unpickle(io.BytesIO(data)) == b""


def test_lists_that_hold_each_other_end(tmp_path: Path) -> None:
    node: list[Any] = [torch.ones(1)]
    for _ in range(60):
        node = [node, node]  # 2^60 paths in a kilobyte
    torch.save(node, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"nest too deep .* or too often"):
        load(tmp_path / "a.pt")


def test_many_paths_to_few_tensors_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metanet.checkpoint.collect.MAX_TENSORS", 5000)
    torch.save([{str(i): torch.ones(1) for i in range(100)}] * 51, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="names over 5,000 tensors"):
        load(tmp_path / "a.pt")


def test_cycles_end(tmp_path: Path) -> None:
    tree: dict[str, Any] = {"w": torch.ones(2), "child": {"b": torch.zeros(1)}}
    tree["child"]["parent"] = tree
    torch.save(tree, tmp_path / "a.pt")
    assert list(load(tmp_path / "a.pt").tensors) == ["w", "child.b"]


def test_arrays_of_objects_are_not_opened(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    array = np.array([attacks(marker)["system"]], dtype=object)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"bad": array, "good": np.ones(2)}))
    assert list(load(tmp_path / "a.pkl").tensors) == ["good"]
    np.savez(tmp_path / "a.npz", bad=array)
    with pytest.raises(CheckpointError, match="array 'bad' has pickled objects"):
        load(tmp_path / "a.npz")
    assert not marker.exists()


def test_a_storage_that_promises_more_than_it_has(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(300)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as source, zipfile.ZipFile(tmp_path / "b.pt", "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, data[:40] if name.endswith("data/0") else data)
    with pytest.raises(CheckpointError, match=r"storage '.*data/0' is truncated \(got 40 bytes, 1,200 promised\)"):
        load(tmp_path / "b.pt")
