"""The main job: configs, the whole run on a tiny zoo, and what goes wrong."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from metanet.training import main

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
DIGITS = str(ROOT / "configs" / "digits_accuracy.yaml")
SMALL = [
    "--model.metanet.init_args.width=16",
    "--model.metanet.init_args.heads=4",
    "--model.metanet.init_args.rounds=1",
]

pytestmark = pytest.mark.filterwarnings(
    # Lightning 2.6's own use of torch, once the command's own filters have ended
    "ignore:.*isinstance.treespec, LeafSpec"
)


@pytest.fixture
def home(tiny_zoo, tmp_path, monkeypatch):
    """A working folder, and a data folder in which the default zoo is the tiny one."""
    (tmp_path / "data" / "zoos").mkdir(parents=True)
    (tmp_path / "data" / "zoos" / "digits-cnn").symlink_to(tiny_zoo.path)
    monkeypatch.setenv("METANET_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("metanet.zoo.data.open_zoo", lambda name, **_: tiny_zoo)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fit(*options, config=DIGITS):
    return main(["fit", "--config", config, *SMALL, *options])


def failure(capsys, *args):
    with pytest.raises(SystemExit) as stop:
        main(list(args))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("error:") == 1
    assert "Traceback" not in error
    return error


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_can_be_built_and_says_what_it_is(config):
    cli = main(["--config", str(config)], run=False)
    assert (cli.model.metanet.out_features > 1) == (cli.task == "classification") == cli.datamodule.classify
    assert cli.model.target == cli.datamodule.target
    head = config.read_text().split("\nseed_everything")[0]
    assert "expected" in head.lower()
    assert f"configs/{config.name}" in head


def test_train_py_is_a_program():
    found = subprocess.run(
        [sys.executable, ROOT / "train.py", "fit", "--help"], capture_output=True, text=True, check=True
    )
    assert "--model.metanet" in found.stdout


def test_the_main_job(home, capsys):
    cli = fit("--trainer.max_epochs=2", "--seed_everything=3")
    out = capsys.readouterr().out
    folder = home / "runs" / "digits_accuracy" / "seed-3"
    assert "epoch 2/2  step " in out
    assert out.count("Kendall tau") == 1
    assert "StatNN" in out
    assert str(Path("runs/digits_accuracy/seed-3")) in out
    metrics = json.loads((folder / "metrics.json").read_text())
    assert list(metrics) == ["metanet", "statnn", "seed", "zoo", "run"]
    facts = metrics["run"]
    with open(folder / "csv" / "version_0" / "metrics.csv") as file:
        taus = [float(row["val_tau"]) for row in csv.DictReader(file) if row["val_tau"]]
    assert facts["validation"] == pytest.approx(max(taus), abs=1e-6)
    assert (facts["epochs"], facts["epoch"]) == (2, taus.index(max(taus)))
    assert facts["parameters"] == sum(p.numel() for p in cli.model.metanet.parameters())
    assert facts["seconds_per_epoch"] > 0
    assert (metrics["seed"], metrics["zoo"]) == (3, "digits-cnn")
    assert all(list(metrics[name]) == ["tau", "r2", "mae"] for name in ("metanet", "statnn"))
    assert metrics["metanet"]["mae"] == pytest.approx(cli.model.test_scores.mae)
    assert (folder / "predicted.png").read_bytes()[1:4] == b"PNG"
    assert "OperatorMetanet: Kendall tau" in (folder / "predicted.svg").read_text()
    with open(folder / "csv" / "version_0" / "metrics.csv") as file:
        assert [row["val_tau"] for row in csv.DictReader(file) if row["val_tau"]]
    assert list((folder / "tensorboard").glob("events.*"))
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert saved["seed_everything"] == 3
    assert saved["trainer"]["max_epochs"] == 2
    content = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert len(content["metanet_spaces"]) == 2
    assert not list(folder.rglob("*.tmp"))


def test_the_checkpoint_tested_is_the_best_of_validation(home, capsys):
    cli = fit("--trainer.max_epochs=3")
    best = torch.load(cli.trainer.checkpoint_callback.best_model_path, weights_only=True)
    weights = {name: value for name, value in cli.model.state_dict().items() if name in best["state_dict"]}
    assert all(torch.equal(best["state_dict"][name], value) for name, value in weights.items())


def test_a_run_interrupted_goes_on_from_its_last_epoch(home, monkeypatch, capsys):
    whole = fit("--trainer.max_epochs=3", "--trainer.default_root_dir=whole")
    assert whole.trainer.global_step > 0

    def stop(_, trainer, task):
        if trainer.current_epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("metanet.tasks.callbacks.RunNotes.on_train_epoch_start", stop)
        with pytest.raises(SystemExit) as stopped:
            fit("--trainer.max_epochs=3")
    assert stopped.value.code == 1
    assert "--ckpt_path last" in capsys.readouterr().out
    resumed = fit("--trainer.max_epochs=3", "--ckpt_path=last")
    out = capsys.readouterr().out
    assert "epoch 3/3" in out
    assert "epoch 2/3" not in out
    assert sorted(p.name for p in (home / "runs" / "digits_accuracy").iterdir()) == ["seed-0"]
    for name in ("last", "best"):
        a, b = (
            torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]
            for folder in (home / "whole", home / "runs" / "digits_accuracy" / "seed-0")
        )
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert resumed.trainer.global_step == whole.trainer.global_step


def test_a_second_run_keeps_the_first(home, capsys):
    for _ in range(2):
        fit("--trainer.max_epochs=1")
    assert sorted(p.name for p in (home / "runs" / "digits_accuracy").iterdir()) == ["seed-0", "seed-0.2"]


def test_test_reads_a_checkpoint(home, capsys):
    fit("--trainer.max_epochs=1")
    expected = json.loads(Path("runs/digits_accuracy/seed-0/metrics.json").read_text())["metanet"]
    best = "runs/digits_accuracy/seed-0/checkpoints/best.ckpt"
    cli = main(["test", "--config", DIGITS, *SMALL, "--ckpt_path", best])
    assert cli.model.test_scores.mae == pytest.approx(expected["mae"])


def test_fast_dev_run_writes_nothing(home, capsys):
    fit("--trainer.fast_dev_run=true")
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trainer.max_epoch=3"], "unrecognized arguments: --trainer.max_epoch"),
        (["--model.metanet.init_args.widht=3"], "Option 'widht' is not accepted"),
        (["--model.metanet=metanet.models.OperatorMetant"], "Did you mean metanet.models.OperatorMetanet?"),
        (["--model.metanet=OperatorMetant"], "Did you mean metanet.models.OperatorMetanet?"),
        (["--model.metanet.init_args.heads=7"], "heads must divide width"),
        (["--model.target=x"], 'must be given via "data.target"'),
        (["--model.loss=l1"], "'mse', 'huber', 'bce'"),
        (["--data.batch_size=0"], "data.batch_size: got 0"),
        (["--data.target=nope"], "no column 'nope'"),
        (["--config=nope.yaml"], "nope.yaml"),
    ],
)
def test_bad_options_give_one_message_and_exit_2(home, capsys, options, message):
    assert message in failure(capsys, "fit", "--config", DIGITS, *options)


def test_an_unknown_key_in_a_config_is_named(home, capsys):
    content = yaml.safe_load(Path(DIGITS).read_text())
    content["model"]["lerning_rate"] = 0.1
    Path("bad.yaml").write_text(yaml.safe_dump(content))
    error = failure(capsys, "fit", "--config", "bad.yaml")
    assert "lerning_rate" in error
    assert len(error.splitlines()) < 8


def test_a_run_folder_that_cannot_be_made_is_said(home, capsys):
    Path("file").write_text("")
    error = failure(capsys, "fit", "--config", DIGITS, "--trainer.default_root_dir=file/run")
    assert "Cannot write the run folder file/run" in error


def test_a_zoo_whose_table_and_shards_disagree_is_refused(tiny_zoo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    copy = shutil.copytree(tiny_zoo.path, tmp_path / "zoo")
    next(copy.rglob("*.safetensors")).unlink()
    error = failure(capsys, "fit", "--config", DIGITS, "--data.zoo", str(copy))
    assert "disagree" in error


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of folders work otherwise there")
def test_a_data_folder_without_permission_is_said(tmp_path, monkeypatch, capsys):
    (tmp_path / "data").write_text("a file where a folder should be")  # unlike a mode, this also stops root
    monkeypatch.setenv("METANET_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    error = failure(capsys, "fit", "--config", DIGITS)
    assert "METANET_DATA" in error
