"""Zoos of implicit neural representations: small folders in their layouts."""

import gzip
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from metanet.errors import ZooError
from metanet.zoo import import_zoo
from metanet.zoo.readers.networks import siren
from metanet.zoo.readers.small_cnn_zoo import _permutation

OFFICIAL = Path(__file__).parents[4] / "shared" / "data" / "official-splits"


def seq(prefix=("seq.0", "seq.1", "seq.2"), out=1):
    shapes = [(32, 2), (32, 32), (out, 32)]
    return {f"{p}.{k}": torch.randn(s if k == "weight" else s[0]) for p, s in zip(prefix, shapes, strict=True)
            for k in ("weight", "bias")}  # fmt: skip


def test_mnist_in_the_naming_of_dws(tmp_path):
    states = {}
    for part, label, image in [*(("training", i % 10, i) for i in range(24)), ("testing", 7, 3), ("testing", 2, 10)]:
        folder = tmp_path / "mnist-inrs" / f"mnist_png_{part}_{label}_{image}" / "checkpoints"
        folder.mkdir(parents=True)
        states[part, image] = seq()
        torch.save(states[part, image], folder / "model.pth")
    zoo = import_zoo("dws-inrs", tmp_path / "mnist-inrs", tmp_path / "out")
    assert len(zoo) == 26
    assert len(zoo.rows("test")) == 2
    assert len(zoo.rows("validation")) == 2  # one in twelve of the training nets
    net = zoo[int(zoo.rows(label=7, split="test")[0])]
    assert net.labels["image"] == 3
    assert torch.equal(net.tensors["seq.1.weight"], states["testing", 3]["seq.1.weight"])
    assert net.space.certified
    assert {g.kind for g in net.space.gauges} == {"sign", "phase"}, "a sine is odd and periodic"


def test_the_function_of_dws_is_a_sine_network_plus_one_half():
    state, x = seq(), torch.rand(5, 2) * 2 - 1
    net, _ = siren(list(state.items()), offset=0.5).module()
    net.load_state_dict(state)
    h = torch.sin(30 * (x @ state["seq.0.weight"].T + state["seq.0.bias"]))
    h = torch.sin(30 * (h @ state["seq.1.weight"].T + state["seq.1.bias"]))
    torch.testing.assert_close(net(x), h @ state["seq.2.weight"].T + state["seq.2.bias"] + 0.5)


@pytest.mark.parametrize("packed", [False, True])
def test_fashion_mnist_in_the_naming_of_dws(tmp_path, packed):
    for part, numbers in (("train", range(4)), ("test", range(2))):
        (tmp_path / "fmnist_inrs" / part).mkdir(parents=True)
        for number in numbers:
            torch.save(seq() | {"label": number + 3}, tmp_path / "fmnist_inrs" / part / f"model_{number}.pth")
    named = {"train": [0, 2], "val": [1, 3]}
    splits = {s: {"path": [f"x/fmnist_inrs/train/model_{i}.pth" for i in ids], "label": []} for s, ids in named.items()}
    splits["test"] = {"path": ["x/fmnist_inrs/test/model_0.pth", "x/fmnist_inrs/test/model_1.pth"], "label": []}
    file = tmp_path / ("fmnist_splits.json" + (".gz" if packed else ""))
    text = json.dumps(splits).encode()
    file.write_bytes(gzip.compress(text) if packed else text)
    zoo = import_zoo("dws-inrs", tmp_path / "fmnist_inrs", tmp_path / "out", splits=file)
    assert len(zoo.rows("test")) == 2
    assert sorted(zoo.filter("train").column("image")) == [0, 2]
    assert sorted(zoo.filter("validation").column("image")) == [1, 3]
    assert all(net.labels["label"] == net.labels["image"] + 3 for net in zoo)
    assert all("label" not in net.tensors for net in zoo)


def test_the_naming_of_nfn_with_further_views(tmp_path):
    root = tmp_path / "siren_cifar_wts"
    names = ("net.0.linear", "net.1.linear", "net.2")
    for folder, image in [("6s", 44999), ("9s", 45000), ("9s", 50000), ("aug0_6s", 44999), ("aug12_9s", 50000)]:
        (root / f"randinit_smaller_{folder}").mkdir(parents=True, exist_ok=True)
        torch.save(seq(names, out=3), root / f"randinit_smaller_{folder}" / f"net{image}.pth")
    zoo = import_zoo("nfn-inrs", root, tmp_path / "out")
    rows = {net.id: net.labels for net in zoo}
    assert {name: row["split"] for name, row in rows.items()} == {
        "randinit_smaller_6s/net44999": "train", "randinit_smaller_aug0_6s/net44999": "train",
        "randinit_smaller_9s/net45000": "validation", "randinit_smaller_9s/net50000": "test",
        "randinit_smaller_aug12_9s/net50000": "test",
    }  # fmt: skip
    assert rows["randinit_smaller_aug12_9s/net50000"] | {"diverged": 0} == {
        "split": "test", "run": "image 50000", "label": 9, "image": 50000, "view": 12, "diverged": 0,
    }  # fmt: skip
    assert rows["randinit_smaller_6s/net44999"]["view"] is None
    (space,) = zoo.spaces.values()
    assert (space.certified, [a.size for a in space.free_axes]) == (True, [32, 32])
    assert len(import_zoo("nfn-inrs", root, tmp_path / "first", views=False)) == 3


def arena(root, start, count, layout):
    size = sum(int(np.prod(shape)) for _, shape in layout)
    params = np.random.default_rng(start).normal(size=(count, size)).astype(np.float32)
    with h5py.File(root / f"nef_{start}-{start + count}.hdf5", "w") as file:
        file["params"], file["labels"] = params, np.arange(start, start + count) % 10
        file["param_config"] = np.array([json.dumps(layout).encode()], dtype="S500")
    return params


def test_neural_field_arena_is_read_in_the_order_of_its_files(tmp_path):
    root = tmp_path / "MNIST"
    root.mkdir()
    layout = [["linear_0.bias", [8]], ["linear_0.kernel", [2, 8]], ["linear_1.bias", [1]], ["linear_1.kernel", [8, 1]]]
    later, first = arena(root, 10, 3, layout), arena(root, 0, 10, layout)
    zoo = import_zoo("neural-field-arena", root, tmp_path / "out", train=8, validation=3)
    assert list(zoo.column("image")) == list(range(13))
    assert [len(zoo.rows(s)) for s in ("train", "validation", "test")] == [8, 3, 2]
    assert list(zoo.column("label")) == [i % 10 for i in range(13)]
    for number, row in ((3, first[3]), (12, later[2])):
        tensors = zoo[number].tensors
        np.testing.assert_array_equal(tensors["linear_0.bias"], row[:8])
        np.testing.assert_array_equal(tensors["linear_0.kernel"], row[8:24].reshape(2, 8))
        np.testing.assert_array_equal(tensors["linear_1.kernel"], row[25:33].reshape(8, 1))
    (space,) = zoo.spaces.values()
    assert [a.size for a in space.free_axes] == [8]
    whole = import_zoo("neural-field-arena", root, tmp_path / "whole")
    assert set(whole.column("split")) == {"train"}, "MNIST: the first 55,000 train"


def test_arena_rows_that_do_not_fit_their_layout_are_unreadable(tmp_path):
    root = tmp_path / "CIFAR10"
    root.mkdir()
    layout = [["linear_0.bias", [8]], ["linear_0.kernel", [2, 8]]]
    arena(root, 0, 2, layout)
    with h5py.File(root / "nef_0-2.hdf5", "a") as file:
        del file["param_config"]
        file["param_config"] = np.array([json.dumps(layout[:1]).encode()], dtype="S500")
    with pytest.raises(ZooError, match="describes 8 values, a row of params has 24"):
        import_zoo("neural-field-arena", root, tmp_path / "out")


@pytest.mark.parametrize("format", ["dws-inrs", "nfn-inrs", "neural-field-arena"])
def test_empty_folders_are_refused(tmp_path, format):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ZooError, match="holds no"):
        import_zoo(format, tmp_path / "empty", tmp_path / "out")


def test_tensors_of_another_network_are_listed(tmp_path):
    (tmp_path / "fmnist_inrs" / "train").mkdir(parents=True)
    torch.save(seq(), tmp_path / "fmnist_inrs" / "train" / "model_0.pth")
    torch.save({"seq.0.weight": torch.zeros(3, 2)}, tmp_path / "fmnist_inrs" / "train" / "model_1.pth")
    zoo = import_zoo("dws-inrs", tmp_path / "fmnist_inrs", tmp_path / "out")
    assert [entry["id"] for entry in zoo.unreadable] == ["train/model_1.pth"]
    assert "no chain of linear layers" in zoo.unreadable[0]["reason"]


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="the folder of published splits is not there")
def test_published_split_files_have_the_quirk_that_the_reader_expects():
    text = gzip.decompress((OFFICIAL / "nfn_mnist_split.csv.gz").read_bytes()).decode().split()
    order = _permutation(Path("x"), [[line] for line in text], 269_973)
    assert len(order) == 269_974
    assert order[0] == 0
    assert order.count(0) == 2
    assert sorted(order)[1:] == list(range(269_973))
