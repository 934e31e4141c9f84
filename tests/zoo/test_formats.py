"""Files of newer formats are refused in one sentence that says what to do; odd texts do not end a command."""

import json
import lzma
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metanet.cli import main
from metanet.errors import MetanetError, SpaceError, ZooError
from metanet.space import WeightSpace
from metanet.space.recognise.index import load_index
from metanet.zoo import build_part, build_zoo, load_recipe, merge_zoos, open_zoo

NEWER = r"has format version 2; this metanet reads 1: update metanet"


def rewrite(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_newer_cards_and_spaces_are_refused(zoo_copy, capsys):
    space = next(zoo_copy.glob("spaces/*"))
    rewrite(space, format=2)
    with pytest.raises(ZooError, match=NEWER):
        open_zoo(zoo_copy).spaces[space.stem]
    with pytest.raises(SpaceError, match=NEWER):
        WeightSpace.from_json(space.read_text())
    rewrite(zoo_copy / "zoo.json", format=2)
    with pytest.raises(ZooError, match=NEWER):
        open_zoo(zoo_copy)
    assert main(["zoo", "info", str(zoo_copy)]) == 2
    assert "update metanet" in capsys.readouterr().err
    assert main(["zoo", "verify", str(zoo_copy)]) == 1
    assert "update metanet" in capsys.readouterr().out


@pytest.mark.parametrize("found", ["true", "1.0", "0", "-1", '"1"', "null", "[]", "1" + "0" * 5000, "1" + "0" * 4000])
def test_what_is_no_format_is_refused(zoo_copy, found):
    text = (zoo_copy / "zoo.json").read_text()
    assert '"format": 1,' in text
    (zoo_copy / "zoo.json").write_text(text.replace('"format": 1,', f'"format": {found},'))
    with pytest.raises(ZooError, match=r"format version|Exceeds the limit") as caught:
        open_zoo(zoo_copy)
    assert len(str(caught.value)) < 500


def test_newer_indices_are_refused(tmp_path):
    (tmp_path / "index.json.xz").write_bytes(lzma.compress(b'{"format": 2}'))
    with pytest.raises(SpaceError, match=NEWER):
        load_index(tmp_path / "index.json.xz")
    (tmp_path / "broken").write_bytes(b"no archive")
    with pytest.raises(SpaceError, match="Cannot read the index"):
        load_index(tmp_path / "broken")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, NEWER),
        ({"part": 1}, "'part' is 1"),
        ({"part": [3, 2]}, "'part' is 3/2"),
        ({"made_with": []}, "'made_with' is no mapping"),
        ({"sha256": {"x": 1}}, "'sha256' is no mapping"),
        ({"digest": "0"}, "its recipe is not that of its digest"),
        ({"recipe": {"name": 1}}, "recipe"),
    ],
)
def test_newer_and_damaged_parts_are_refused(tmp_path, changes, message):
    recipe = load_recipe("digits-cnn").with_(nets=2, shard_size=1, max_steps=1)
    part = build_part(recipe, (1, 2), tmp_path / "part", workers=0)
    rewrite(part / "part.json", **changes)
    with pytest.raises(MetanetError, match=message):
        merge_zoos(tmp_path / "whole", [part])


def test_a_newer_unfinished_build_is_refused(tmp_path):
    (tmp_path / "zoo.building").mkdir()
    (tmp_path / "zoo.building" / "recipe.json").write_text('{"format": 2}')
    with pytest.raises(ZooError, match=NEWER):
        build_zoo(load_recipe("digits-cnn").with_(nets=1, max_steps=1), tmp_path / "zoo", workers=0)


def test_odd_texts_and_numbers_do_not_end_a_command(zoo_copy, tmp_path, monkeypatch, capsys):
    rewrite(zoo_copy / "zoo.json", description="[/bold] text", name="[/x]")
    monkeypatch.setenv("METANET_DATA", str(tmp_path / "data"))
    shutil.copytree(zoo_copy, tmp_path / "data" / "zoos" / "[")
    assert main(["zoo", "list"]) == 0
    assert "[/bold] text" in capsys.readouterr().out
    table = pq.read_table(zoo_copy / "models.parquet")
    far = pa.array([1.7e308, -1.7e308] * (len(table) // 2))
    pq.write_table(table.append_column("far", far), zoo_copy / "models.parquet")
    assert main(["zoo", "info", str(zoo_copy), "--label", "far"]) == 2
    assert "too far apart for a histogram" in capsys.readouterr().err


def test_a_recipe_with_a_key_twice_is_refused(tmp_path):
    (tmp_path / "r.yaml").write_text("name: a\nname: b\n")
    with pytest.raises(ZooError, match="the key 'name' occurs more than once"):
        load_recipe(tmp_path / "r.yaml")
