"""Parts of a zoo: built apart, refused where they do not fit, merged into the bytes of one build."""

import json
import shutil

import pytest

from metanet.errors import ZooError
from metanet.zoo import build_part, build_zoo, merge, merge_zoos


@pytest.fixture(scope="module")
def small(recipe):
    return recipe.with_(nets=7, max_steps=1, shard_size=1, seed=3)


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    return build_zoo(small, tmp_path_factory.mktemp("zoos") / "whole", workers=0).path


@pytest.fixture(scope="module")
def made(small, tmp_path_factory):
    """Parts that no test changes."""
    folder = tmp_path_factory.mktemp("parts")
    return [build_part(small, (i, 3), folder / f"part{i}", workers=0) for i in (1, 2, 3)]


@pytest.fixture
def parts(made, tmp_path):
    return [shutil.copytree(path, tmp_path / path.name) for path in made]


def test_parts_in_any_order_merge_into_the_bytes_of_one_build(hashes, whole, made, tmp_path):
    seen = []
    zoo = merge_zoos(tmp_path / "zoo", [made[2], made[0], made[1]], progress=seen.append)
    assert hashes(zoo.path) == hashes(whole)
    assert [state.done for state in seen] == [1, 2, 3, 4, 5, 6, 7]
    assert seen[-1].total == 7
    assert len(merge_zoos(tmp_path / "zoo", made)) == 7  # it is there already


def test_parts_by_name_beside_the_zoos(hashes, small, whole, tmp_path, monkeypatch):
    monkeypatch.setenv("METANET_DATA", str(tmp_path))
    built = [build_part(small, (i, 2), workers=0) for i in (1, 2)]
    assert [path.name for path in built] == ["digits-cnn.part-1-of-2", "digits-cnn.part-2-of-2"]
    zoo = merge_zoos("merged", [path.name for path in built])
    assert zoo.path == tmp_path / "zoos" / "merged"
    assert hashes(zoo.path) == hashes(whole)


def test_a_finished_part_is_not_built_again_and_another_one_is_refused(hashes, small, parts):
    before = hashes(parts[0])
    assert build_part(small, (1, 3), parts[0], workers=0) == parts[0]
    assert hashes(parts[0]) == before
    with pytest.raises(ZooError, match=r"part1 holds part 1/3. Delete that folder"):
        build_part(small, (2, 3), parts[0], workers=0)
    with pytest.raises(ZooError, match=r"part1 holds another recipe"):
        build_part(small.with_(seed=1), (1, 3), parts[0], workers=0)


@pytest.mark.parametrize("writes", [1, 2, 3, 9, 10, 11, 12, 13, 14])
def test_a_merge_that_was_stopped_can_be_repeated(hashes, whole, made, tmp_path, monkeypatch, writes):
    from metanet.zoo import building, finish, write

    count = 0

    def failing(path, content):
        nonlocal count
        count += 1
        if count == writes:
            raise KeyboardInterrupt
        write.write_file(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(building, "write_file", failing)
        patch.setattr(finish, "write_file", failing)
        with pytest.raises(KeyboardInterrupt):
            merge_zoos(tmp_path / "zoo", made)
    assert not (tmp_path / "zoo").exists()
    assert hashes(merge_zoos(tmp_path / "zoo", made).path) == hashes(whole)


def test_parts_that_are_missing_or_given_twice_are_named(parts, tmp_path):
    with pytest.raises(ZooError, match=r"Parts are missing: 2/3 \(got 1/3, 3/3\)"):
        merge_zoos(tmp_path / "zoo", [parts[0], parts[2]])
    with pytest.raises(ZooError, match=r"Part 2/3 is given twice: .*part2 and .*part2\."):
        merge_zoos(tmp_path / "zoo", [*parts, parts[1]])
    again = shutil.copytree(parts[1], tmp_path / "again")
    with pytest.raises(ZooError, match=r"Part 2/3 is given twice: .*part2 and .*again\."):
        merge_zoos(tmp_path / "zoo", [*parts, again])
    with pytest.raises(ZooError, match="No parts given"):
        merge_zoos(tmp_path / "zoo", [])
    assert not list(tmp_path.glob("zoo*"))


def test_parts_of_other_builds_are_refused(small, parts, tmp_path):
    other = build_part(small.with_(seed=1), (2, 3), tmp_path / "other", workers=0)
    with pytest.raises(ZooError, match=r"other and .*part1 are not parts of one build: .* another recipe"):
        merge_zoos(tmp_path / "zoo", [parts[0], other, parts[2]])
    halves = build_part(small, (2, 2), tmp_path / "half", workers=0)
    with pytest.raises(ZooError, match=r"half and .*part1 are not .* of part 2/2, not of 3"):
        merge_zoos(tmp_path / "zoo", [parts[0], halves])
    note = json.loads((parts[2] / merge.PART).read_text())
    note["made_with"]["torch"] = "1.0"
    (parts[2] / merge.PART).write_text(json.dumps(note))
    with pytest.raises(ZooError, match=r"part3 and .*part1 are not parts of one build: .* torch 1.0, not 2"):
        merge_zoos(tmp_path / "zoo", parts)
    assert not list(tmp_path.glob("zoo*"))


def test_a_zoo_of_another_recipe_is_not_overwritten(hashes, built, parts):
    before = hashes(built)
    with pytest.raises(ZooError, match=r"holds a zoo of another recipe"):
        merge_zoos(built, parts)
    assert hashes(built) == before


@pytest.mark.parametrize("given", ["part", "part.building"])
def test_an_unfinished_part_is_refused(small, parts, tmp_path, monkeypatch, given):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("metanet.zoo.build.write_part", stop)
        with pytest.raises(KeyboardInterrupt):
            build_part(small, (3, 3), tmp_path / "part", workers=0)
    with pytest.raises(ZooError, match=r"Part 3/3 in .*part.building is not finished. Go on with its build"):
        merge_zoos(tmp_path / "zoo", [*parts[:2], tmp_path / given])


def test_what_is_no_part_is_refused(built, parts, tmp_path):
    with pytest.raises(ZooError, match=r"No part of a zoo at .*nothing: there is no such folder"):
        merge_zoos(tmp_path / "zoo", [*parts[:2], tmp_path / "nothing"])
    with pytest.raises(ZooError, match=r"tiny is a whole zoo, not a part"):
        merge_zoos(tmp_path / "zoo", [*parts[:2], built])
    (parts[2] / merge.PART).write_text("{")
    (parts[2] / "recipe.json").unlink()
    with pytest.raises(ZooError, match=r"part3: got a folder without a readable part.json"):
        merge_zoos(tmp_path / "zoo", parts)


@pytest.mark.parametrize("damage", ["flip", "cut", "missing", "space", "list"])
def test_a_damaged_part_is_refused_and_its_file_named(hashes, whole, made, parts, tmp_path, damage):
    file = next(parts[1].glob("spaces/*" if damage == "space" else "weights/*/*"))
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[-1] ^= 1
    if damage == "list":
        note = json.loads((parts[1] / merge.PART).read_text())
        note["sha256"].popitem()
        (parts[1] / merge.PART).write_text(json.dumps(note))
    else:
        file.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    if damage == "missing":
        file.unlink()
    with pytest.raises(ZooError, match=r"part2.*(Delete that folder and build the part again)"):
        merge_zoos(tmp_path / "zoo", parts)
    assert not (tmp_path / "zoo").exists()
    shutil.rmtree(parts[1])
    shutil.copytree(made[1], parts[1])
    assert hashes(merge_zoos(tmp_path / "zoo", parts).path) == hashes(whole)


@pytest.mark.parametrize("part", [(0, 2), (3, 2), (1, 0), (-1, 2)])
def test_there_are_parts_1_to_n_only(small, tmp_path, part):
    with pytest.raises(ZooError, match=r"There is no part .* Accepted"):
        build_part(small, part, tmp_path / "part", workers=0)


def test_more_parts_than_shards(hashes, small, whole, tmp_path):
    parts = [build_part(small, (i, 9), tmp_path / f"part{i}", workers=0) for i in range(1, 10)]
    assert hashes(merge_zoos(tmp_path / "zoo", parts).path) == hashes(whole)
