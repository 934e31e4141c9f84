"""safetensors: one file, shards, and what save writes."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from metanet.checkpoint import load, save
from metanet.errors import CheckpointError


def state() -> dict[str, torch.Tensor]:
    base = torch.arange(6.0).reshape(2, 3)
    return {
        "layer.10.weight": base,
        "layer.2.weight": base.T,
        "half": torch.ones(2, dtype=torch.bfloat16),
        "count": torch.tensor(3),
        "tied": base,
        "empty": torch.zeros(0, 2),
    }


@pytest.mark.parametrize("ending", ["safetensors", "pt", "pth"])
def test_what_is_saved_comes_back(tmp_path: Path, ending: str) -> None:
    path = save(tmp_path / f"a.{ending}", state(), {"accuracy": "0.9", "name": "α"})
    got = load(path)
    assert list(got.tensors) == list(state())
    assert all(got.tensors[name].dtype == v.dtype and torch.equal(got.tensors[name], v) for name, v in state().items())
    assert got.metadata == {"accuracy": "0.9", "name": "α"}
    assert got.path == path
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_saving_twice_gives_the_same_bytes(tmp_path: Path, ending: str) -> None:
    first = save(tmp_path / f"a.{ending}", state(), {"a": "b"}).read_bytes()
    assert save(tmp_path / f"b.{ending}", state(), {"a": "b"}).read_bytes() == first


def test_foreign_metadata_and_order(tmp_path: Path) -> None:
    save_file({"b": torch.ones(2), "a": torch.zeros(3)}, tmp_path / "a.safetensors", {"format": "pt"})
    got = load(tmp_path / "a.safetensors")
    assert got.metadata == {"format": "pt"}
    assert sorted(got.tensors) == ["a", "b"]
    assert repr(got) == (
        "Checkpoint('a.safetensors', format='safetensors', tensors=2, values=5, dtypes=float32, metadata=1)"
    )


def test_saving_bad_input(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"got the ending '.h5', accepted are .safetensors, .pt, .pth"):
        save(tmp_path / "a.h5", state())
    with pytest.raises(CheckpointError, match="'w' maps str to list, accepted is str to Tensor"):
        save(tmp_path / "a.pt", {"w": [1.0]})  # type: ignore[dict-item]
    with pytest.raises(CheckpointError, match="'n' maps str to int, accepted is str to str"):
        save(tmp_path / "a.pt", state(), {"n": 1})  # type: ignore[dict-item]
    for ending in ("pt", "safetensors"):
        with pytest.raises(CheckpointError, match=r"Cannot write .*No such file"):
            save(tmp_path / "absent" / f"a.{ending}", state())
    assert not list(tmp_path.iterdir())


def sharded(folder: Path) -> Path:
    save_file({"b": torch.ones(2), "c": torch.full((1,), 5.0)}, folder / "model-1.safetensors")
    torch.save({"a": torch.zeros(3)}, folder / "model-2.bin")
    weights = {"a": "model-2.bin", "b": "model-1.safetensors", "c": "model-1.safetensors"}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 24}, "weight_map": weights}))
    return index


def test_shards(tmp_path: Path) -> None:
    got = load(sharded(tmp_path))
    assert list(got.tensors) == ["a", "b", "c"]
    assert torch.equal(got.tensors["c"], torch.full((1,), 5.0))
    assert got.format == "sharded"


def test_bad_shards(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    text = index.read_text()
    index.write_text(text.replace('"b": "model-1.safetensors"', '"z": "model-1.safetensors"'))
    with pytest.raises(CheckpointError, match=r"'z' is not in 'model-1.safetensors'"):
        load(index)
    index.write_text(text.replace("model-2.bin", "../model-2.bin"))
    with pytest.raises(
        CheckpointError, match=r"names the shard '../model-2.bin', accepted are names of files in its own"
    ):
        load(index)
    (tmp_path / "other.json").write_text(text.replace("model-2.bin", index.name))
    index.write_text(text.replace("model-2.bin", "other.json"))  # the two name each other
    with pytest.raises(CheckpointError, match=r"the shard 'other.json' is an index itself") as caught:
        load(index)
    assert str(caught.value).count("Cannot read") == 1
    index.write_text(text.replace('"model-2.bin"', "null"))
    with pytest.raises(CheckpointError, match=r"no readable 'weight_map' .*'a' in None"):
        load(index)
    index.write_text(text)
    (tmp_path / "model-2.bin").unlink()
    with pytest.raises(CheckpointError, match=r"the shard 'model-2.bin' is missing"):
        load(index)
