import pickle

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from metanet.errors import ZooError
from metanet.zoo import open_zoo, shard_files
from metanet.zoo.images import load_images
from metanet.zoo.plain import SmallCNN
from metanet.zoo.store import COLUMNS


def a_shard(path):
    return sorted(path.rglob("*.safetensors"))[0]


def read_all(path):
    return list(open_zoo(path))


def test_nets_read_alone_and_stacked_are_what_the_shards_hold(built):
    zoo = open_zoo(built)
    assert len(zoo) == 20
    assert tuple(zoo.table.column_names[: len(COLUMNS)]) == COLUMNS
    for digest, rows in zoo.by_space().items():
        order = rows[::-1]
        space, tensors = zoo.stack(order)
        assert space.digest == digest
        for i, row in enumerate(order):
            net, where = zoo[int(row)], zoo.table.slice(int(row), 1).to_pylist()[0]
            stored = load_file(built / "weights" / digest / f"{where['shard']:05d}.safetensors")
            assert net.tensors.keys() == stored.keys()
            for name, value in net.tensors.items():
                assert torch.equal(value, stored[name][where["row"]])
                assert torch.equal(value, tensors[name][i])
    assert len({tuple(net.tensors["conv1.bias"].tolist()) for net in zoo}) == 20


def test_a_net_changed_by_its_user_does_not_change_the_zoo(built):
    zoo = open_zoo(built)
    zoo[0].tensors["conv1.weight"].zero_()
    assert zoo[0].tensors["conv1.weight"].abs().sum() > 0


def test_labels_are_those_of_the_stored_weights(built, recipe):
    zoo, images = open_zoo(built), load_images("digits")
    for net in zoo:
        module = SmallCNN(recipe.architecture.draw(np.random.default_rng(0), net.labels)).eval()
        module.load_state_dict(net.tensors)
        with torch.no_grad():
            guess = module(torch.from_numpy(images.pixels[images.test]).float()).argmax(1).numpy()
        assert net.labels["test_accuracy"] == pytest.approx((guess == images.classes[images.test]).mean(), abs=2e-3)
        gap = net.labels["train_accuracy"] - net.labels["test_accuracy"]
        assert net.labels["generalization_gap"] == pytest.approx(gap)


def test_rows_and_filter(built):
    zoo = open_zoo(built)
    splits = [zoo.rows(split) for split in ("train", "validation", "test")]
    assert sorted(np.concatenate(splits)) == list(range(20))
    assert [len(rows) for rows in splits] == [14, 2, 4]
    relu = zoo.filter(activation="relu")
    assert 0 < len(relu) < 20
    assert set(relu.column("activation")) == {"relu"}
    assert len(relu.spaces) == 1
    best = zoo.rows(test_accuracy=lambda a: a > np.median(a), optimizer=["sgd", "adam", "rmsprop"])
    assert len(best) == 10
    assert relu[0].id == zoo[int(zoo.rows(activation="relu")[0])].id


def test_graph_stacks_nets_of_one_space(built):
    zoo = open_zoo(built)
    rows = next(iter(zoo.by_space().values()))
    graph = zoo.graph(rows[:2])
    assert graph.batch_size == 2
    assert torch.equal(graph.tensors["conv2.weight"][1], zoo[int(rows[1])].tensors["conv2.weight"])


def test_filters_of_many_kinds(built):
    zoo = open_zoo(built)
    accuracy = zoo.column("test_accuracy")
    middle = float(np.median(accuracy))
    over = np.flatnonzero(accuracy > middle)
    assert list(zoo.rows(where=pc.field("test_accuracy") > middle)) == list(over)
    assert list(zoo.rows(where=lambda table: np.asarray(table["test_accuracy"]) > middle)) == list(over)
    assert list(zoo.rows(test_accuracy={"min": np.nextafter(middle, 1)})) == list(over)
    assert list(zoo.rows(test_accuracy={"max": middle})) == sorted(set(range(20)) - set(over))
    both = zoo.filter(where=pc.field("test_accuracy") > middle).filter(activation="relu")
    assert [net.id for net in both] == [zoo[i].id for i in over if zoo.column("activation")[i] == "relu"]
    with pytest.raises(ZooError, match="Accepted in a range: min, max"):
        zoo.rows(test_accuracy={"above": 0.5})
    with pytest.raises(ZooError, match="a range needs numbers"):
        zoo.rows(activation={"min": 0.5})
    with pytest.raises(ZooError, match=r"Cannot filter by .*nothing.*Columns: id"):
        zoo.rows(where=pc.field("nothing") > 0)
    with pytest.raises(ZooError, match=r"A mask is needed: bool \[20\]"):
        zoo.rows(test_accuracy=lambda a: a)


def test_missing_labels_are_nan_or_none_and_never_pass_a_filter_by_chance(zoo_copy):
    table = pq.read_table(zoo_copy / "models.parquet")
    rewards = pa.array([None, 1, 2, *range(17)], pa.int64())
    names = pa.array([None, "a", "b", *["c"] * 17])
    pq.write_table(table.append_column("reward", rewards).append_column("task", names), zoo_copy / "models.parquet")
    zoo = open_zoo(zoo_copy)
    assert np.isnan(zoo.column("reward")[0])
    assert zoo.column("task")[0] is None
    assert 0 not in zoo.rows(reward={"min": -1e9})
    assert 0 not in zoo.rows(where=pc.field("reward") >= 0)
    assert list(zoo.rows(reward=[1])) == [1, 4]
    assert list(zoo.rows(task=["a", "b"])) == [1, 2]
    assert list(zoo.rows(task=None)) == list(zoo.rows(reward=None)) == [0]
    assert zoo[0].labels["reward"] is None
    assert len(zoo.rows(activation=None)) == 0


def test_splits_keep_runs_together_and_follow_the_seed(zoo_copy):
    table = pq.read_table(zoo_copy / "models.parquet")
    table = table.set_column(table.column_names.index("run"), "run", pa.array([f"run{i // 4}" for i in range(20)]))
    table = table.append_column("published", pa.array(["test"] * 5 + ["train"] * 13 + ["validation", None]))
    pq.write_table(table, zoo_copy / "models.parquet")
    zoo = open_zoo(zoo_copy)
    again = zoo.split((0.6, 0.2, 0.2), seed=1)
    assert {s: len(again.rows(s)) for s in ("train", "validation", "test")} == {"train": 12, "validation": 4, "test": 4}
    assert all(len(set(again.column("split")[i : i + 4])) == 1 for i in range(0, 20, 4))
    assert list(again.column("split")) == list(zoo.split((0.6, 0.2, 0.2), seed=1).column("split"))
    assert any(list(again.column("split")) != list(zoo.split((0.6, 0.2, 0.2), seed=s).column("split")) for s in (2, 3))
    straddling = zoo.split((0.6, 0.2, 0.2), by="id")  # nothing else keeps them together
    assert any(len(set(straddling.column("split")[i : i + 4])) > 1 for i in range(0, 20, 4))
    assert [len(zoo.split(column="published").rows(s)) for s in ("train", "validation", "test")] == [13, 1, 5]
    with pytest.raises(ZooError, match=r"'activation' names no splits: got .*'relu'"):
        zoo.split(column="activation")
    with pytest.raises(ZooError, match="that sum to 1"):
        zoo.split((0.5, 0.2, 0.2))


def test_nets_that_are_in_no_split_stay_outside(zoo_copy):
    table = pq.read_table(zoo_copy / "models.parquet")
    outside = pa.array(["none", *["train"] * 19])
    pq.write_table(table.set_column(table.column_names.index("split"), "split", outside), zoo_copy / "models.parquet")
    assert open_zoo(zoo_copy).split(seed=3).column("split")[0] == "none"


def test_neighbours_are_views_of_the_file_and_others_copies(built):
    zoo = open_zoo(built)
    digest, rows = next(iter(zoo.by_space().items()))
    first = rows[zoo.column("shard")[rows] == 0]
    mapped = zoo.files.tensors(digest, 0)["conv1.weight"]
    view = zoo.stack(first[1:3])[1]["conv1.weight"]
    assert view.untyped_storage().data_ptr() == mapped.untyped_storage().data_ptr()
    assert torch.equal(view, mapped[1:3])
    copy = zoo.stack(first[[2, 1]])[1]["conv1.weight"]
    assert copy.untyped_storage().data_ptr() != mapped.untyped_storage().data_ptr()
    assert torch.equal(copy, mapped[[2, 1]])


def test_mapped_shards_stay_within_their_bounds(built, monkeypatch):
    zoo = open_zoo(built)
    whole = {net.id: net.tensors["conv1.weight"] for net in zoo}
    shards = len(list(built.rglob("*.safetensors")))
    assert len(zoo.files._mapped) == shards
    size = max(file.stat().st_size for file in built.rglob("*.safetensors"))
    monkeypatch.setattr(shard_files, "MAPPED_BYTES", 2 * size)
    small = open_zoo(built)
    for rows, graph in small.batches(4, seed=0):
        assert len(small.files._mapped) <= 3 < shards
        assert small.files._bytes <= 2 * size
        assert all(torch.equal(graph.tensors["conv1.weight"][i], whole[small[int(r)].id]) for i, r in enumerate(rows))


def test_with_little_address_space_shards_are_let_go_sooner(built, monkeypatch):
    """Under ``ulimit -v`` mapping fails before the bound is reached."""
    whole = {net.id: net.tensors["conv1.weight"] for net in open_zoo(built)}
    small, opening = open_zoo(built), shard_files.safe_open

    def limited(*args, **kwargs):
        if len(small.files._mapped) >= 2:
            raise RuntimeError("unable to mmap 4096 bytes from file <x>: Cannot allocate memory (12)")
        return opening(*args, **kwargs)

    monkeypatch.setattr(shard_files, "safe_open", limited)
    for rows, graph in small.batches(4, seed=0):
        assert len(small.files._mapped) <= 2
        assert all(torch.equal(graph.tensors["conv1.weight"][i], whole[small[int(r)].id]) for i, r in enumerate(rows))

    def never(*args, **kwargs):
        raise RuntimeError("unable to mmap 4096 bytes")

    monkeypatch.setattr(shard_files, "safe_open", never)
    with pytest.raises(ZooError, match=r"Cannot map shard .* address space \(ulimit -v\)"):
        open_zoo(built).files.tensors(*next(iter(small.files.nets)))


def test_batches_go_once_over_every_net(built):
    zoo = open_zoo(built)
    for seed in (None, 1):
        seen = np.concatenate([rows for rows, _ in zoo.batches(3, seed)])
        assert sorted(seen) == list(range(20))
        assert all(graph.batch_size <= 3 for _, graph in zoo.batches(3, seed))
    orders = [[tuple(rows) for rows, _ in zoo.batches(3, seed)] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_opening_reads_no_space_and_no_shard(zoo_copy):
    for file in [*zoo_copy.rglob("*.safetensors"), *(zoo_copy / "spaces").iterdir()]:
        file.unlink()
    zoo = open_zoo(zoo_copy)
    assert len(zoo.filter("train", activation="relu")) > 0
    with pytest.raises(ZooError, match=r"is missing|Cannot read the weight space"):
        zoo[0]


def test_a_zoo_travels_to_worker_processes(built):
    zoo = open_zoo(built)
    first = zoo[0]
    again = pickle.loads(pickle.dumps(zoo))[0]
    assert torch.equal(first.tensors["linear.bias"], again.tensors["linear.bias"])
    assert len(pickle.dumps(zoo)) < 100_000


def test_stack_refuses_several_spaces_and_unknown_columns_are_named(built):
    zoo = open_zoo(built)
    with pytest.raises(ZooError, match="got 2 spaces for 20 nets"):
        zoo.stack(range(20))
    with pytest.raises(ZooError, match=r"no column 'acc'. Accepted: id, .*test_accuracy"):
        zoo.rows(acc=1)
    with pytest.raises(ZooError, match="no split 'tset'"):
        zoo.rows("tset")


def test_missing_and_half_built(tmp_path):
    with pytest.raises(ZooError, match=r"No zoo at .*nothing"):
        open_zoo(tmp_path / "nothing")
    (tmp_path / "half.building").mkdir()
    with pytest.raises(ZooError, match=r"half-built.*Resume it with open_zoo"):
        open_zoo(tmp_path / "half")
    (tmp_path / "other").mkdir()
    with pytest.raises(ZooError, match=r"without models.parquet and zoo.json"):
        open_zoo(tmp_path / "other")


def test_missing_shard_is_named_with_its_count(zoo_copy):
    shard = a_shard(zoo_copy)
    shard.unlink()
    with pytest.raises(ZooError, match=f"shard .*{shard.name} is missing, the table has 3 nets in it"):
        read_all(zoo_copy)


def test_truncated_shard(zoo_copy):
    shard = a_shard(zoo_copy)
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ZooError, match=f"Cannot read shard .*{shard.name}"):
        read_all(zoo_copy)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: {k: v[:-1] for k, v in t.items()}, "holds 2 nets, the table 3"),
        (lambda t: t | {"conv1.weight": t["conv1.weight"][:, :4]}, r"'conv1.weight' as \[4, 1, 3, 3\]"),
        (lambda t: {k: v for k, v in t.items() if k != "conv2.bias"}, "lacks the tensor 'conv2.bias'"),
        (lambda t: t | {"extra": t["conv1.bias"] * 1}, "does not know: extra"),
    ],
)
def test_shard_that_disagrees_with_table_or_space(zoo_copy, damage, message):
    shard = a_shard(zoo_copy)
    save_file({k: v.contiguous() for k, v in damage(load_file(shard)).items()}, shard)
    with pytest.raises(ZooError, match=message):
        read_all(zoo_copy)


def test_table_that_lacks_rows_or_columns(zoo_copy):
    table = pq.read_table(zoo_copy / "models.parquet")
    pq.write_table(table.slice(1), zoo_copy / "models.parquet")
    with pytest.raises(ZooError, match=r"Table and shards of .* disagree"):
        read_all(zoo_copy)
    pq.write_table(table.drop_columns(["split"]), zoo_copy / "models.parquet")
    with pytest.raises(ZooError, match="lacks the columns split"):
        open_zoo(zoo_copy)
    repeated = table.set_column(3, "row", pa.array([0] * len(table), pa.int32()))
    pq.write_table(repeated, zoo_copy / "models.parquet")
    with pytest.raises(ZooError, match=r"are not 0\.\."):
        read_all(zoo_copy)


def test_table_or_space_that_cannot_be_read(zoo_copy):
    space = sorted((zoo_copy / "spaces").iterdir())[0]
    text = space.read_text()
    space.write_text("{}")
    with pytest.raises(ZooError, match="Cannot read the weight space"):
        read_all(zoo_copy)
    space.write_text(text)
    (zoo_copy / "models.parquet").write_bytes(b"no table")
    with pytest.raises(ZooError, match="Cannot open the zoo"):
        open_zoo(zoo_copy)
