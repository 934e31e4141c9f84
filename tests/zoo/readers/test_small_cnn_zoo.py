"""The Small CNN Zoo, on a small folder in its layout."""

import gzip
import json
import random

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d, linear

from metanet.audit import audit
from metanet.errors import ZooError
from metanet.models import OperatorMetanet
from metanet.tasks import PropertyRegression
from metanet.zoo import import_zoo, open_zoo
from metanet.zoo.functions import function_of

LAYOUT = """varname,start_idx,end_idx,size,shape
sequential/conv2d/bias:0,0,4,4,"(4,)"
sequential/conv2d/kernel:0,4,40,36,"(3, 3, 1, 4)"
sequential/conv2d_1/bias:0,40,45,5,"(5,)"
sequential/conv2d_1/kernel:0,45,225,180,"(3, 3, 4, 5)"
sequential/dense/bias:0,225,228,3,"(3,)"
sequential/dense/kernel:0,228,243,15,"(5, 3)"
"""


@pytest.fixture
def folder(tmp_path):
    """Twelve runs with the checkpoints 60 and 86."""
    weights = np.random.default_rng(0).normal(size=(24, 243)).astype(np.float32)
    weights[5, 7] = np.inf
    rows = ["config.activation,config.l2reg,modeldir,step,test_accuracy"]
    rows += [f"{('relu', 'tanh')[i // 2 % 2]},1e-4,run{i // 2},{(60, 86)[i % 2]},{i / 100}" for i in range(24)]
    path = tmp_path / "zoo"
    path.mkdir()
    np.save(path / "weights.npy", weights)
    (path / "layout.csv").write_text(LAYOUT)
    (path / "metrics.csv.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    return path


def forward(row, image, act):
    """The published network, computed from the flat row in TensorFlow's layout."""
    x = image
    for bias, start, shape in ((0, 4, (3, 3, 1, 4)), (40, 45, (3, 3, 4, 5))):
        kernel = torch.from_numpy(row[start : start + np.prod(shape)].reshape(shape).copy()).permute(3, 2, 0, 1)
        x = act(conv2d(x, kernel, torch.from_numpy(row[bias : bias + shape[-1]].copy()), stride=2))
    dense = torch.from_numpy(row[228:243].reshape(5, 3).copy())
    return linear(x.mean((2, 3)), dense.T, torch.from_numpy(row[225:228].copy()))


def test_weights_are_transposed_to_what_computes_the_same(folder, tmp_path):
    zoo = import_zoo("small-cnn-zoo", folder, tmp_path / "out")
    weights, image = np.load(folder / "weights.npy"), torch.randn(2, 1, 28, 28)
    assert len(zoo) == 24
    assert len(zoo.spaces) == 2
    assert all(space.certified for space in zoo.spaces.values())
    for number in (0, 3):
        net = zoo[number]
        act = {"relu": torch.relu, "tanh": torch.tanh}[net.labels["activation"]]
        assert {link.activation for link in net.space.links} == {net.labels["activation"], None}
        x = image
        for layer in ("conv1", "conv2"):
            x = act(conv2d(x, net.tensors[f"{layer}.weight"], net.tensors[f"{layer}.bias"], stride=2))
        out = linear(x.mean((2, 3)), net.tensors["linear.weight"], net.tensors["linear.bias"])
        torch.testing.assert_close(out, forward(weights[number], image, act))
        function = function_of(zoo, net.space)  # what an audit compares nets with
        want = forward(weights[number].astype(np.float64), function.inputs, act)
        torch.testing.assert_close(function.outputs(net.tensors), want)


def test_an_audit_knows_the_functions_of_an_imported_zoo(folder, tmp_path):
    torch.manual_seed(0)
    task = PropertyRegression(OperatorMetanet(width=16, heads=4))
    found = audit(task, import_zoo("small-cnn-zoo", folder, tmp_path / "out"), split="train", nets=8)
    rows = {row.transformation: row for row in found.rows}
    assert {"permutation", "scale", "sign", "widening", "duplication"} < rows.keys()
    for row in rows.values():
        assert len(row.residuals) == len(row.before) > 0
        assert (row.residuals < 1e-9).all() == (not row.control)


def test_labels_runs_and_divergence(folder, tmp_path):
    zoo = import_zoo("small-cnn-zoo", folder, tmp_path / "out")
    assert zoo.table.to_pylist()[5] | {"space": ""} == {
        "id": "05", "space": "", "shard": 0, "row": 3, "split": "none", "run": "run2", "activation": "relu",
        "l2reg": 1e-4, "step": 86, "test_accuracy": 0.05, "diverged": True,
    }  # fmt: skip
    assert zoo.column("diverged").sum() == 1


def test_without_a_published_split_whole_runs_are_drawn(folder, tmp_path):
    zoo = import_zoo("small-cnn-zoo", folder, tmp_path / "out")
    assert "at random by run" in zoo.card["notes"][-1]
    assert {s: len(zoo.rows(s)) for s in ("train", "validation", "test")} == {"train": 15, "validation": 4, "test": 4}
    runs = [set(zoo.column("run")[zoo.rows(s)]) for s in ("train", "validation", "test")]
    assert not runs[0] & runs[1] | runs[0] & runs[2] | runs[1] & runs[2]


def test_the_split_of_nfn_takes_its_header_for_a_row(folder, tmp_path):
    order = list(np.random.default_rng(1).permutation(24))
    (folder / "cifar10_split.csv").write_text("\n".join(["0", *map(str, order)]))
    zoo = import_zoo("small-cnn-zoo", folder, tmp_path / "out")
    final = [i for i in [0, *order] if i % 2 == 1]  # the odd rows are of step 86
    first, test = final[: len(final) // 2], final[len(final) // 2 :]
    random.Random(0).shuffle(first)
    assert sorted(zoo.rows("test")) == sorted(test)
    assert sorted(zoo.rows("train")) == sorted(first[: int(0.8 * len(first))])
    assert sorted(zoo.rows("validation")) == sorted(first[int(0.8 * len(first)) :])
    assert sum(zoo.column("split") == "none") == 12


def test_the_row_that_the_split_of_nfn_repeats_is_tested_on_if_either_place_is(folder, tmp_path):
    rows = gzip.decompress((folder / "metrics.csv.gz").read_bytes()).decode().replace(",60,", ",86,")
    (folder / "metrics.csv.gz").write_bytes(gzip.compress(rows.encode()))
    (folder / "split.csv").write_text("\n".join(["0", *map(str, range(1, 24)), "0"]))
    zoo = import_zoo("small-cnn-zoo", folder, tmp_path / "out")
    assert len(zoo.rows("test")) == 13  # 25 indices: 12 and 13, of which the last is row 0
    assert zoo[0].labels["split"] == "test"
    assert len(zoo.rows("train")) + len(zoo.rows("validation")) == 11


def test_a_split_given_row_by_row(folder, tmp_path):
    (folder / "split.csv").write_text("row,split\n0,validation\n3,test\n23,train\n")
    zoo = import_zoo("small-cnn-zoo", folder, tmp_path / "out")
    assert [list(zoo.rows(s)) for s in ("train", "validation", "test")] == [[23], [0], [3]]
    other = tmp_path / "other.csv"
    other.write_text("row,split\n1,test\n")
    zoo = import_zoo("small-cnn-zoo", folder, tmp_path / "again", split=other)
    assert list(zoo.rows("test")) == [1]
    assert json.loads((zoo.path / "zoo.json").read_text())["imported"]["options"] == {"split": str(other)}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: np.save(p / "weights.npy", np.zeros((24, 5))), r"shape \[24, 5\].*say \[24, 243\]"),
        (lambda p: np.save(p / "weights.npy", np.array([{}] * 24)), "Cannot read .*weights.npy"),
        (lambda p: (p / "layout.csv").unlink(), "Cannot read .*layout.csv"),
        (lambda p: (p / "layout.csv").write_text("varname,start_idx\nlstm/kernel,0\n"), "Accepted: columns varname"),
        (lambda p: (p / "split.csv").write_text("row,split\n24,test\n"), "got row '24'. Accepted: whole numbers below"),
        (lambda p: (p / "metrics.csv.gz").write_bytes(b"no gzip"), "Cannot read .*metrics.csv.gz"),
    ],
)
def test_damaged_folders_are_refused(folder, tmp_path, damage, message):
    damage(folder)
    with pytest.raises(ZooError, match=message):
        import_zoo("small-cnn-zoo", folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.importing").exists()


def test_an_unknown_activation_is_unreadable_and_the_import_goes_on(folder, tmp_path):
    rows = gzip.decompress((folder / "metrics.csv.gz").read_bytes()).decode().replace("relu", "mish", 1)
    (folder / "metrics.csv.gz").write_bytes(gzip.compress(rows.encode()))
    zoo = import_zoo("small-cnn-zoo", folder, tmp_path / "out")
    assert len(zoo) == 23
    assert [entry["id"] for entry in open_zoo(tmp_path / "out").unreadable] == ["00"]
    assert "got 'mish'" in zoo.unreadable[0]["reason"]


def test_an_imported_zoo_is_opened_where_one_of_a_recipe_would_be_built(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("METANET_DATA", str(tmp_path / "data"))
    import_zoo("small-cnn-zoo", folder, tmp_path / "data" / "zoos" / "published")
    assert len(open_zoo("published", build=True)) == 24
