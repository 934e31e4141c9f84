import io
import json
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch.nn.functional import conv2d

from metanet.errors import ConfigError, GraphError, ZooError
from metanet.zoo import Progress, open_zoo
from metanet.zoo import data as data_module
from metanet.zoo.augment import augment
from metanet.zoo.data import SpaceBatches, ZooDataModule
from metanet.zoo.display import show_build
from metanet.zoo.statistics import WeightStatistics, weight_statistics


@pytest.fixture
def module(tiny_zoo):
    made = ZooDataModule(str(tiny_zoo.path), batch_size=8, seed=3)
    made.setup()
    return made


def test_batches_hold_one_space_and_every_net_once(module, tiny_zoo):
    seen = []
    for (graph,), targets, ids in module.train_dataloader():
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
        return [tuple(b[1] if seed is not None else b) for b in batches]

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


def test_mixed_batches_hold_several_spaces_with_targets_in_order(tiny_zoo):
    made = ZooDataModule(str(tiny_zoo.path), batch_size=8, seed=3, mixed=True)
    made.setup()
    seen, spaces = [], []
    for batch in made.train_dataloader():
        assert len({graph.space.digest for graph in batch.graphs}) == len(batch.graphs)
        assert sum(graph.batch_size for graph in batch.graphs) == len(batch.targets) == len(batch.ids) <= 8
        rows = torch.cat([graph.tensors["conv1.weight"] for graph in batch.graphs])
        for i, name in enumerate(batch.ids):
            net = tiny_zoo[int(tiny_zoo.rows(id=name)[0])]
            assert torch.equal(rows[i], net.tensors["conv1.weight"])
            assert batch.targets[i] == pytest.approx(net.labels["test_accuracy"])
        seen += batch.ids
        spaces.append(len(batch.graphs))
    assert sorted(seen) == sorted(tiny_zoo.filter("train").table["id"].to_pylist())
    assert max(spaces) == 2
    mixed = next(b for b in made.train_dataloader() if len(b.graphs) == 2)
    with pytest.raises(ConfigError, match="holds nets of 2 weight spaces"):
        _ = mixed.graph
    assert all(len(batch.graphs) == 1 for batch in made.val_dataloader())


@pytest.mark.parametrize("kinds", [["permutation"], ["scale", "sign"], ["permutation", "scale", "sign"]])
def test_augmented_nets_are_other_weights_of_the_same_function(tiny_zoo, kinds):
    made = ZooDataModule(str(tiny_zoo.path), batch_size=8, seed=3, augment=kinds)
    made.setup()
    loader = made.train_dataloader()
    moved = {}
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch)
        moved[epoch] = {name: batch.graph.state_dict(i) for batch in loader for i, name in enumerate(batch.ids)}
    image = torch.rand(4, 1, 8, 8, dtype=torch.float64)
    for name, state in moved[0].items():
        net = tiny_zoo[int(tiny_zoo.rows(id=name)[0])]
        conv = net.tensors["conv1.weight"]
        assert not torch.equal(state["conv1.weight"], conv)
        assert not torch.equal(state["conv1.weight"], moved[1][name]["conv1.weight"])
        out = [forward(s, image, net.labels["activation"]) for s in (net.tensors, state)]
        torch.testing.assert_close(out[0], out[1], rtol=1e-4, atol=1e-5)  # weights are float32
    plain = ZooDataModule(str(tiny_zoo.path), batch_size=8, seed=3)
    plain.setup()
    for ours, theirs in zip(made.val_dataloader(), plain.val_dataloader(), strict=True):
        assert torch.equal(ours.graph.tensors["conv1.weight"], theirs.graph.tensors["conv1.weight"])


def forward(state, image, activation):
    """The net of the digits recipe, written out."""
    act, state = {"relu": torch.relu, "tanh": torch.tanh}[activation], {k: v.double() for k, v in state.items()}
    x = act(conv2d(image, state["conv1.weight"], state["conv1.bias"], padding=1))
    for layer in ("conv2", "conv3"):
        x = act(conv2d(x, state[f"{layer}.weight"], state[f"{layer}.bias"], stride=2, padding=1))
    return x.mean((2, 3)) @ state["linear.weight"].T + state["linear.bias"]


def test_each_net_is_moved_by_its_own_draw(tiny_zoo):
    rows = tiny_zoo.rows(activation="relu")[[0, 0, 0]]
    graph = tiny_zoo.graph(rows)
    moved = augment(graph, ["permutation"], [(0, 0, 0), (0, 0, 1), (0, 0, 0)])
    assert torch.equal(moved.tensors["conv1.bias"][0], moved.tensors["conv1.bias"][2])
    assert not torch.equal(moved.tensors["conv1.bias"][0], moved.tensors["conv1.bias"][1])
    assert torch.equal(graph.tensors["conv1.bias"], tiny_zoo.graph(rows).tensors["conv1.bias"])


def test_a_filter_chooses_the_nets(tiny_zoo):
    best = [tiny_zoo.filter(split).column("test_accuracy").max() for split in ("train", "validation", "test")]
    wanted = {"optimizer": ["sgd", "adam", "rmsprop"], "test_accuracy": {"min": float(min(best))}}
    made = ZooDataModule(str(tiny_zoo.path), filter=wanted)
    made.setup()
    accuracy = tiny_zoo.column("test_accuracy")
    want = [i for i in tiny_zoo.rows("train") if accuracy[i] >= min(best)]
    assert list(made.split("train").ids) == [tiny_zoo[int(i)].id for i in want]
    assert 0 < len(want) < len(tiny_zoo.rows("train"))


def test_weight_statistics_are_those_of_the_training_nets(tiny_zoo):
    made = ZooDataModule(str(tiny_zoo.path), seed=3)
    made.setup()
    found = made.weight_statistics
    train = tiny_zoo.filter("train")
    for digest, rows in train.by_space().items():
        graph = train.graph(rows)
        for name, tensor in graph.tensors.items():
            assert found[digest].mean[name] == pytest.approx(tensor.double().mean().item(), abs=1e-9)
            assert found[digest].std[name] == pytest.approx(tensor.double().std(correction=0).item(), rel=1e-9)
            flat = found[digest].normalise(graph).tensors[name].double()
            assert flat.mean().item() == pytest.approx(0, abs=1e-5)
            assert flat.std(correction=0).item() == pytest.approx(1, abs=1e-5)
        move = graph.space.sample(0)
        again = found[digest].normalise(graph.permute(move))
        moved = found[digest].normalise(graph).permute(move)
        assert torch.equal(again.tensors["conv2.weight"], moved.tensors["conv2.weight"])
    whole = tiny_zoo.graph(next(iter(tiny_zoo.by_space().values())))
    assert found[whole.space.digest].mean["conv1.weight"] != pytest.approx(float(whole.tensors["conv1.weight"].mean()))


def test_statistics_of_chunks_are_those_of_the_whole(tiny_zoo):
    graph = tiny_zoo.graph(next(iter(tiny_zoo.by_space().values())))
    (whole,) = weight_statistics([graph]).values()
    (parts,) = weight_statistics([graph.select(slice(0, 3)), graph.select(slice(3, None))]).values()
    assert parts.std == pytest.approx(whole.std, rel=1e-12)
    assert parts.mean == pytest.approx(whole.mean, rel=1e-9, abs=1e-12)
    other = WeightStatistics({"conv1.bias": 0.0}, {"conv1.bias": 1.0})
    with pytest.raises(GraphError, match="no statistics of tensor"):
        other.normalise(graph)


def test_a_worker_gets_places_and_not_the_zoo(tiny_zoo, monkeypatch):
    monkeypatch.setattr(data_module, "IN_MEMORY", 0)
    made = ZooDataModule(str(tiny_zoo.path), seed=3)
    made.setup()
    split = made.split("train")
    list(split.chunks())  # its files are mapped now
    sent = pickle.dumps(split)
    again = pickle.loads(sent)
    assert again.zoo.table.column_names == ["space", "shard", "row"]
    assert len(sent) < sum(4 * split.zoo.spaces[d].parameters * len(g) for d, g in split.groups.items()) / 4
    where = next(iter(split.groups.values()))[[2, 0]]
    assert again[where].ids == split[where].ids
    assert torch.equal(again[where].graph.tensors["conv1.weight"], split[where].graph.tensors["conv1.weight"])


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
    with pytest.raises(ZooError, match=r"00002.safetensors is damaged: its SHA-256 is"):
        ZooDataModule(str(copy)).setup()
    made = ZooDataModule(str(copy), verify_shards=False)
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
        (
            {"augment": ["reflection"]},
            ConfigError,
            "data.augment: got .*reflection.*Accepted: permutation, scale, sign",
        ),
        ({"filter": {"optimiser": "adam"}}, ZooError, "no column 'optimiser'"),
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

    monkeypatch.setattr(data_module, "open_zoo", lambda name, **k: build(name, **k) if "build" in k else open_zoo(name))
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
