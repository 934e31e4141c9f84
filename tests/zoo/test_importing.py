"""How imported nets become shards, whatever their reader."""

import errno
import os

import pytest
import torch

from metanet.errors import ZooError
from metanet.zoo import Progress, import_zoo, importing, verify_zoo
from metanet.zoo.readers.registry import _FORMATS, Source, SourceNet, zoo_reader


def net(number):
    """Nets of two architectures in turn, every third in float64."""
    generator = torch.Generator().manual_seed(number)
    width, dtype = (4, 5)[number % 2], torch.float64 if number % 3 == 0 else torch.float32
    shapes = {"0.weight": (width, 3), "0.bias": (width,), "2.weight": (2, width), "2.bias": (2,)}
    return {name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in shapes.items()}


@pytest.fixture
def format():
    @zoo_reader("counted", title="Counted", licence="MIT", source="here", holds="anything")
    def open_counted(path, *, nets: int = 24):
        def read(number):
            if number == 7:
                raise ValueError("seven is damaged")
            labels = {"number": number, "mixed": 1 if number % 2 else "text", "absent": None if number else 0.5}
            return SourceNet(net(number) | {"steps": torch.tensor(3)}, labels, run=f"r{number // 4}", activation="relu")

        return Source([f"{i:02d}" for i in range(nets)], read, {"number": ("", "place")}, ("a note",))

    yield "counted"
    del _FORMATS["counted"]


@pytest.mark.parametrize(("shard", "waiting"), [(1, 1 << 20), (600, 1 << 20), (1 << 20, 900), (1 << 20, 1 << 20)])
def test_shards_of_any_size_hold_the_same_nets(format, tmp_path, monkeypatch, shard, waiting):
    monkeypatch.setattr(importing, "SHARD_BYTES", shard)
    monkeypatch.setattr(importing, "BUFFERED_BYTES", waiting)
    seen: list[Progress] = []
    zoo = import_zoo(format, tmp_path, tmp_path / "zoo", progress=seen.append)
    assert verify_zoo(zoo.path) == []
    assert list(zoo.column("number")) == [i for i in range(24) if i != 7]
    for one in zoo:
        want = net(one.labels["number"])
        assert one.tensors.keys() == want.keys()
        assert all(torch.equal(one.tensors[name], value) for name, value in want.items())
        assert all(one.tensors[name].dtype == value.dtype for name, value in want.items())
    assert zoo.unreadable == [{"id": "07", "reason": "ValueError: seven is damaged"}]
    assert len(list(zoo.path.rglob("*.safetensors"))) >= {1: 23, 600: 8}.get(shard, 4)
    assert [(p.done, p.total) for p in seen] == [(i, 24) for i in range(1, 25)]
    assert list(zoo.column("mixed")[:2]) == ["text", "1"]
    assert [float(zoo.column("absent")[0]), str(zoo.column("absent")[1])] == [0.5, "nan"]
    assert zoo.card["notes"][0] == "a note"
    assert zoo.card["columns"]["number"] == {"unit": "", "meaning": "place"}


def test_runs_are_not_divided(format, tmp_path):
    zoo = import_zoo(format, tmp_path, tmp_path / "zoo")
    parts = [set(zoo.filter(split).column("run")) for split in ("train", "validation", "test")]
    assert all(parts)
    assert sum(map(len, parts)) == len(set(zoo.column("run"))) == 6


def test_a_full_disk_stops_the_import_and_leaves_nothing(format, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ZooError, match="No space left on device"):
        import_zoo(format, tmp_path, tmp_path / "zoo")
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")) == []
    monkeypatch.undo()
    assert len(import_zoo(format, tmp_path, tmp_path / "zoo")) == 23
