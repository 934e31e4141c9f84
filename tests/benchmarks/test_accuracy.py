"""The accuracy table: its runs are done once, failures are said, StatNN stands beside."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import yaml

from metanet.training import main as train

ROOT = Path(__file__).resolve().parents[2]
MODELS = sorted((ROOT / "configs" / "metanets").glob("*.yaml"))
CONFIG = str(ROOT / "configs" / "digits_accuracy.yaml")


@pytest.fixture
def accuracy(monkeypatch, tiny_zoo, tmp_path):
    """The script, with a folder of two small models."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("accuracy")
    for name, options in {"deepsets": {"width": 8, "edge_width": 4, "rounds": 1}, "wrong": {"widht": 8}}.items():
        metanet = {"class_path": "metanet.models.DeepSetsMetanet", "init_args": options}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"model": {"metanet": metanet}}))
    monkeypatch.setattr(module, "MODELS", tmp_path)
    yield module
    for name in ("accuracy", "accuracy_by", "common"):  # no package: gone with the path
        sys.modules.pop(name, None)


def test_runs_are_done_once_and_failures_are_said(accuracy, tiny_zoo, tmp_path, capfd):
    runs, file = tmp_path / "runs", tmp_path / "table.json"
    common = ["--config", CONFIG, "--seeds", "0,1", "--runs", str(runs), "--json", str(file)]
    command = [*common, "--data.zoo", str(tiny_zoo.path), "--trainer.max_epochs", "1"]
    assert accuracy.main([*common, "--models", "deepsets", "--no-train"]) == 1  # nothing is there
    assert not file.exists()

    assert accuracy.main([*command, "--models", "deepsets"]) == 0
    found = json.loads(file.read_text())["rows"]
    assert [row["model"] for row in found] == ["deepsets", "statnn"] or found[0]["model"] == "statnn"
    ours = next(row for row in found if row["model"] == "deepsets")
    assert ours["seeds"] == 2
    assert ours["epochs"] == 1
    assert len(ours["each seed"].split()) == 2
    assert len(list(runs.glob("digits_accuracy/deepsets/seed-*/checkpoints/best.ckpt"))) == 2

    files = sorted(runs.rglob("*"))
    before = [f.stat().st_mtime_ns for f in files]
    assert accuracy.main([*command, "--models", "deepsets,wrong"]) == 1
    assert [f.stat().st_mtime_ns for f in files if f.is_file()] == [
        t for f, t in zip(files, before, strict=True) if f.is_file()
    ]
    assert "wrong: 2 of 2 runs are not done" in capfd.readouterr().err
    assert "widht" in (runs / "digits_accuracy" / "wrong" / "seed-0" / "log.txt").read_text()
    assert json.loads(file.read_text())["rows"] == found

    split = importlib.import_module("accuracy_by")
    assert split.main([str(runs / "digits_accuracy"), "--by", "activation", "--json", str(file)]) == 0
    ours, statnn = json.loads(file.read_text())["rows"]
    assert [name.split()[0] for name in ours] == ["model", "seeds", "relu", "tanh"]
    assert (ours["model"], statnn["model"]) == ("deepsets", "statnn")
    assert ours["seeds"] == statnn["seeds"] == 2
    assert all(" ± " in ours[name] for name in list(ours)[2:])


@pytest.mark.parametrize("wrong", [["--models", "deepsets,nobody"], ["--models", "deepsets", "--jobs", "0"]])
def test_wrong_options_are_said_before_anything_is_trained(accuracy, wrong, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        accuracy.main(["--config", CONFIG, "--runs", str(tmp_path / "runs"), *wrong])
    assert "accepted: " in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.stem)
def test_every_model_can_be_built_and_says_what_it_is(model):
    assert model.read_text().startswith("# ")
    found = train(["--config", CONFIG, "--config", str(model)], run=False)
    assert type(found.model.metanet).__name__ in model.read_text()
    assert found.model.metanet.out_features == 1
