"""Checking a whole zoo finds what is wrong with it, and nothing in a good one."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from metanet.errors import ZooError
from metanet.zoo import Progress, verify_zoo


def shard_of(path):
    return sorted(path.rglob("*.safetensors"))[0]


def test_a_good_zoo_has_no_problems(built):
    seen: list[Progress] = []
    assert verify_zoo(built, seen.append) == []
    assert seen[-1].done == seen[-1].total == 20


def break_shard(path):
    shard_of(path).write_bytes(shard_of(path).read_bytes()[:-64])


def lose_shard(path):
    shard_of(path).unlink()


def add_file(path):
    (path / "weights" / "note.txt").write_text("x")


def break_space(path):
    next((path / "spaces").iterdir()).write_text("{}")


def table(change):
    def damage(path):
        found = pq.read_table(path / "models.parquet")
        pq.write_table(change(found), path / "models.parquet")

    return damage


def not_finite(path):
    tensors = load_file(shard_of(path))
    tensors["conv1.weight"][0] = np.inf
    save_file(tensors, shard_of(path))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_shard, "Cannot read shard"),
        (lose_shard, ": missing"),
        (add_file, "weights/note.txt: not in zoo.json"),
        (break_space, "Cannot read the weight space"),
        (not_finite, "1 nets have weights that are not finite and are not marked as diverged: 000"),
        (table(lambda t: t.slice(1)), "holds 3 nets, the table 2|are not 0..1, each once"),
        (table(lambda t: t.set_column(3, "row", pa.array([0] * len(t), pa.int32()))), "not 0..2, each once"),
        (
            table(lambda t: t.set_column(0, "id", pa.array(["a"] * len(t)))),
            "table: 1 names of nets occur more than once",
        ),
    ],
)
def test_what_is_wrong_is_named(zoo_copy, damage, message):
    damage(zoo_copy)
    found = "\n".join(verify_zoo(zoo_copy))
    assert any(part in found for part in message.split("|"))
    if damage is not add_file:
        assert "checksum" in found or ": missing" in found


def test_diverged_nets_may_hold_anything(zoo_copy):
    not_finite(zoo_copy)
    found = pq.read_table(zoo_copy / "models.parquet")
    place = found.column_names.index("diverged")
    pq.write_table(found.set_column(place, "diverged", pa.array([True] * len(found))), zoo_copy / "models.parquet")
    assert not any("not finite" in problem for problem in verify_zoo(zoo_copy))


def test_no_zoo(tmp_path):
    with pytest.raises(ZooError, match="No zoo"):
        verify_zoo(tmp_path)
