"""Trainings on odd data end with their results and one sentence: equal labels, one net, divergence, overflow."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from metanet.training import main

REGRESSION = str(Path(__file__).parents[2] / "configs" / "digits_accuracy.yaml")
CLASSES = """
task: classification
model:
  metanet: {class_path: metanet.models.OperatorMetanet, init_args: {width: 16, heads: 4, rounds: 1, out_features: 2}}
data: {zoo: x, target: activation, batch_size: 16}
"""
SIZE = ["--model.metanet.init_args.width=16", "--model.metanet.init_args.heads=4", "--model.metanet.init_args.rounds=1"]
DIVERGE = ["--model.optimizer=torch.optim.SGD", "--model.optimizer.init_args.lr=1e20"]
UNDEFINED = "is undefined in every epoch"
pytestmark = pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec")  # Lightning 2.6's own use of torch


@pytest.fixture
def copy(tiny_zoo, tmp_path):
    return shutil.copytree(tiny_zoo.path, tmp_path / "zoo")


@pytest.fixture
def fit(tmp_path, capsys):
    """Train two epochs; give what was printed and the scores."""
    (tmp_path / "classes.yaml").write_text(CLASSES)

    def run(zoo, config, *options):
        config = str(tmp_path / "classes.yaml") if config == "classes" else REGRESSION
        place = ["--trainer.default_root_dir", str(tmp_path / "run"), "--data.zoo", str(zoo)]
        main(["fit", "--config", config, "--trainer.max_epochs=2", *SIZE, *place, *options])
        found = capsys.readouterr()
        assert "Traceback" not in found.err
        return found.out, json.loads((tmp_path / "run" / "metrics.json").read_text())

    return run


def with_labels(zoo, column, value, splits):
    """Write the same label for all nets of some splits."""
    table = pq.read_table(zoo / "models.parquet")
    rows = table.to_pylist()
    values = [value if row["split"] in splits else row[column] for row in rows]
    place = table.column_names.index(column)
    changed = table.set_column(place, column, pa.array(values, table.schema.field(column).type))
    pq.write_table(changed, zoo / "models.parquet")


def test_equal_labels_of_validation_and_test_nets(copy, fit):
    with_labels(copy, "activation", "relu", ("validation", "test"))
    out, scores = fit(copy, "classes")
    assert UNDEFINED not in out, "an accuracy of one class is a number"
    assert 0 <= scores["metanet"]["accuracy"] <= 1
    assert 0 <= scores["run"]["validation"] <= 1
    with_labels(copy, "test_accuracy", 0.5, ("validation", "test"))
    out, scores = fit(copy, "regression")
    assert out.count(UNDEFINED) == 1
    assert "all validation nets have the same target" in out
    assert scores["run"]["validation"] is None
    assert scores["metanet"]["tau"] is None
    assert scores["metanet"]["mae"] > 0


@pytest.mark.parametrize(("config", "target"), [("classes", "activation"), ("regression", "test_accuracy")])
def test_equal_labels_of_all_training_nets_are_refused_in_one_line(copy, fit, capsys, config, target):
    with_labels(copy, target, {"activation": "relu", "test_accuracy": 0.5}[target], ("train", "validation", "test"))
    with pytest.raises(SystemExit) as stop:
        fit(copy, config)
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"error: data.target: '{target}' is")
    assert error.endswith("for every training net; choose another.")
    assert "\n" not in error


def test_one_validation_net(copy, fit):
    out, scores = fit(copy, "classes", "--data.validation_size=1")
    assert UNDEFINED not in out
    assert scores["run"]["validation"] in (0, 1)
    out, scores = fit(copy, "regression", "--data.validation_size=1")
    assert out.count(UNDEFINED) == 1
    assert "got 1 validation net)" in out
    assert scores["run"]["validation"] is None
    assert scores["metanet"]["mae"] > 0


@pytest.mark.parametrize("config", ["classes", "regression"])
def test_a_training_that_diverges_to_nan(copy, fit, config):
    out, scores = fit(copy, config, *DIVERGE)
    assert out.count(UNDEFINED) == 1
    assert "the training diverged; lower the learning rate" in out
    assert scores["run"]["validation"] is None
    assert "statnn" in scores


def test_a_net_that_overflows_float32_is_named_and_left_out(copy, fit, tiny_zoo):
    row = tiny_zoo.rows("train")[0]
    labels = tiny_zoo[row].labels
    place = tiny_zoo.column("space")[row], f"{tiny_zoo.column('shard')[row]:05d}.safetensors"
    file = copy.joinpath("weights", *place)
    tensors = load_file(file)
    tensors["conv1.weight"][tiny_zoo.column("row")[row]] *= 1e25  # its squares are infinite, itself it is not
    assert tensors["conv1.weight"].isfinite().all()
    save_file(tensors, file)
    out, scores = fit(copy, "regression", "--data.verify_shards=false")
    assert f"left out (not finite: {labels['run']}" in out or f", {labels['run']}" in out
    assert UNDEFINED not in out
    assert scores["metanet"]["mae"] > 0
    assert -1 <= scores["run"]["validation"] <= 1
