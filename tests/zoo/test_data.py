import io
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from metanet.errors import ConfigError, ZooError
from metanet.zoo import Progress, open_zoo
from metanet.zoo import data as data_module
from metanet.zoo.data import SpaceBatches, ZooDataModule
from metanet.zoo.display import show_build


@pytest.fixture
def module(tiny_zoo):
    made = ZooDataModule(str(tiny_zoo.path), batch_size=8, seed=3)
    made.setup()
    return made


def test_batches_hold_one_space_and_every_net_once(module, tiny_zoo):
    seen = []
    for graph, targets, ids in module.train_dataloader():
        assert graph.batch_size == len(targets) == len(ids) <= 8
        for i, name in enumerate(ids):
            net = tiny_zoo[int(tiny_zoo.rows(id=name)[0])]
            assert net.space == graph.space
            assert targets[i] == pytest.approx(net.labels["test_accuracy"])
            torch.testing.assert_close(graph.tensors["conv1.weight"][i], net.tensors["conv1.weight"], rtol=0, atol=0)
        seen += ids
    assert sorted(seen) == sorted(tiny_zoo.filter("train").table["id"].to_pylist())
    assert len(module.train_dataloader()) == len(list(module.train_dataloader()))


def test_shuffle_changes_with_the_epoch_and_follows_the_seed():
    groups = {"a": np.arange(0, 20), "b": np.arange(20, 33)}

    def order(seed, epoch):
        batches = SpaceBatches(groups, 4, seed)
        batches.set_epoch(epoch)
        return [tuple(b) for b in batches]

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)
    assert sorted(sum(order(0, 1), ())) == list(range(33))
    assert order(None, 1)[0] == (0, 1, 2, 3)
    assert [len(b) for b in order(None, 0)] == [4, 4, 4, 4, 4, 4, 4, 4, 1]


def test_weights_read_from_disk_equal_those_in_memory(module, tiny_zoo, monkeypatch):
    monkeypatch.setattr(data_module, "IN_MEMORY", 0)
    other = ZooDataModule(str(tiny_zoo.path), batch_size=8, seed=3)
    other.setup()
    assert other.split("train").held is None
    assert module.split("train").held is not None
    for a, b in zip(module.train_dataloader(), other.train_dataloader(), strict=True):
        assert a.ids == b.ids
        assert all(torch.equal(a.graph.tensors[n], b.graph.tensors[n]) for n in a.graph.tensors)


def test_workers_give_the_same_batches(module, tiny_zoo):
    other = ZooDataModule(str(tiny_zoo.path), batch_size=8, seed=3, num_workers=1)
    other.setup()
    assert [b.ids for b in other.val_dataloader()] == [b.ids for b in module.val_dataloader()]


def test_target_statistics_are_those_of_the_training_nets(module, tiny_zoo):
    train = tiny_zoo.filter("train").column("test_accuracy")
    assert module.target_statistics == pytest.approx((train.mean(), train.std()))


def test_subsets_are_drawn_with_the_seed(tiny_zoo):
    def ids(seed, size):
        made = ZooDataModule(str(tiny_zoo.path), train_size=size, seed=seed)
        made.setup()
        return made.split("train").ids

    assert len(ids(0, 5)) == 5
    assert ids(0, 5) == ids(0, 5)
    assert ids(0, 5) != ids(1, 5)
    assert len(ids(0, 10_000)) == len(tiny_zoo.rows("train"))


def test_nets_that_are_not_finite_are_left_out_and_counted(tiny_zoo, tmp_path):
    copy = shutil.copytree(tiny_zoo.path, tmp_path / "zoo")
    rows = tiny_zoo.rows("train")
    table = tiny_zoo.table.to_pylist()
    table[rows[0]]["test_accuracy"] = float("nan")
    table[rows[1]]["diverged"] = True
    pq.write_table(pa.Table.from_pylist(table, schema=tiny_zoo.table.schema), copy / "models.parquet")
    entry = table[rows[2]]
    shard = copy / "weights" / entry["space"] / f"{entry['shard']:05d}.safetensors"
    tensors = load_file(shard)
    tensors["conv1.bias"][entry["row"]] = float("inf")
    save_file(tensors, shard)
    made = ZooDataModule(str(copy))
    made.setup()
    already = int(np.sum(tiny_zoo.column("diverged")))
    assert made.excluded == 3 + already
    assert set(made.split("train").ids) == {table[i]["id"] for i in rows[3:]}
    assert f"{3 + already} left out" in made.summary()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"target": "accuracy"}, ZooError, "no column 'accuracy'. Accepted: .*test_accuracy"),
        ({"target": "activation"}, ZooError, "target 'activation' is not a number.*Accepted: .*test_accuracy"),
        ({"batch_size": 0}, ConfigError, "data.batch_size: got 0"),
        ({"test_size": -1}, ConfigError, "data.test_size: got -1"),
    ],
)
def test_bad_options(tiny_zoo, options, error, message):
    with pytest.raises(error, match=message):
        ZooDataModule(str(tiny_zoo.path), **options).setup()


def test_a_split_without_nets_is_refused(tiny_zoo, tmp_path):
    copy = shutil.copytree(tiny_zoo.path, tmp_path / "zoo")
    table = [row | {"split": "train"} for row in tiny_zoo.table.to_pylist()]
    pq.write_table(pa.Table.from_pylist(table, schema=tiny_zoo.table.schema), copy / "models.parquet")
    with pytest.raises(ZooError, match="no usable net in its split 'validation'"):
        ZooDataModule(str(copy)).setup()


def test_the_zoo_is_built_on_first_use(monkeypatch, tmp_path, tiny_zoo, capsys):
    monkeypatch.setenv("METANET_DATA", str(tmp_path))

    def build(name, build, progress):
        assert build
        shutil.copytree(tiny_zoo.path, tmp_path / "zoos" / name)
        progress(Progress(40, 40, 40, 2.0))
        return open_zoo(name)

    monkeypatch.setattr(data_module, "open_zoo", lambda name, **k: build(name, **k) if k else open_zoo(name))
    made = ZooDataModule("digits-cnn")
    made.prepare_data()
    made.setup()
    assert "building zoo digits-cnn: 40/40 nets  20.0 nets/s" in capsys.readouterr().out
    assert json.loads((tmp_path / "zoos" / "digits-cnn" / "zoo.json").read_text())["name"] == "digits-cnn"


def test_progress_is_a_bar_in_a_terminal_and_lines_elsewhere():
    def shown(terminal):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
        with show_build("z", console) as progress:
            assert console.file.getvalue() == ""
            for done in range(0, 1001, 10):
                progress(Progress(done, 1000, done, 1.0 + done / 100))
        return console.file.getvalue()

    lines = shown(False).splitlines()
    assert len(lines) == 20
    assert "\x1b" not in lines[0]
    assert lines[9].startswith("building zoo z: 500/1000 nets  83.3 nets/s  6 s left")
    assert "1000/1000" in shown(True)
    assert "\x1b" in shown(True)
