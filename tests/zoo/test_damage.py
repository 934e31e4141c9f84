"""Damage to the files of zoos, finished and unfinished, is found."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metanet.errors import ZooError
from metanet.zoo import build_zoo, load_recipe, verify_zoo
from metanet.zoo.store import read_zoo


def test_a_bit_that_flips_in_a_finished_shard_is_found_when_the_build_goes_on(tmp_path, monkeypatch):
    recipe = load_recipe("digits-cnn").with_(nets=6, shard_size=2, max_steps=2)
    whole = build_zoo(recipe, tmp_path / "whole", workers=0)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("metanet.zoo.building.write_table", stop)
        with pytest.raises(KeyboardInterrupt):
            build_zoo(recipe, tmp_path / "zoo", workers=0)
    shards = sorted((tmp_path / "zoo.building").glob("weights/*/*"))
    flipped, cut = bytearray(shards[0].read_bytes()), shards[1].read_bytes()[:500]
    flipped[-9] ^= 1
    shards[0].write_bytes(flipped)
    shards[1].write_bytes(cut)
    zoo = build_zoo(recipe, tmp_path / "zoo", workers=0)
    assert verify_zoo(zoo.path) == []
    for file in (p for p in whole.path.rglob("*") if p.is_file()):
        assert (zoo.path / file.relative_to(whole.path)).read_bytes() == file.read_bytes()


def test_a_complete_zoo_opens_where_nothing_can_be_written(tiny_zoo, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    recipe = load_recipe("digits-cnn").with_(nets=40, shard_size=10, max_steps=25)
    assert len(build_zoo(recipe, tiny_zoo.path)) == 40


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "this metanet reads 1: update metanet"),
        ({"format": "x"}, "has the format version 'x'"),
        ({"name": 3}, "'name' in zoo.json is not a text"),
        ({"sha256": []}, "'sha256' in zoo.json is not a mapping"),
        ({"unreadable": 1}, "'unreadable' in zoo.json is not a list"),
        ({"architectures": None}, "'architectures' in zoo.json is not a mapping of mappings"),
    ],
)
def test_a_damaged_or_newer_card_is_one_line(tiny_zoo, tmp_path, change, said):
    copy = shutil.copytree(tiny_zoo.path, tmp_path / "zoo")
    card = json.loads((copy / "zoo.json").read_text())
    (copy / "zoo.json").write_text(json.dumps(card | change))
    with pytest.raises(ZooError, match=said):
        read_zoo(copy)


@pytest.mark.parametrize(
    ("column", "value"),
    [("shard", "x"), ("row", 0.5), ("space", "../../etc"), ("space", None), ("id", 3), ("split", 1)],
)
def test_a_damaged_table_is_one_line(tiny_zoo, tmp_path, column, value):
    copy = shutil.copytree(tiny_zoo.path, tmp_path / "zoo")
    table = pq.read_table(copy / "models.parquet")
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, pa.array([value] * len(table))), copy / "models.parquet")
    with pytest.raises(ZooError, match=r"column|digest"):
        read_zoo(copy)
    (copy / "models.parquet").write_bytes(b"PAR1 not a table PAR1")
    with pytest.raises(ZooError, match="Cannot open the zoo"):
        read_zoo(copy)
