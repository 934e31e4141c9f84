import csv
import io
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import metanet
from metanet.errors import MetanetError
from metanet.graph import NeuronGraph
from metanet.prediction import load_run, predict
from metanet.training import main as train
from metanet.zoo import export_net

CONFIG = str(Path(__file__).parents[2] / "configs" / "digits_accuracy.yaml")
pytestmark = pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec")  # Lightning 2.6's own use of torch


@pytest.fixture(scope="module")
def run(tiny_zoo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    size = ["--model.metanet.init_args.width=16", "--model.metanet.init_args.heads=4"]
    place = ["--trainer.default_root_dir", str(folder), "--data.zoo", str(tiny_zoo.path)]
    train(["fit", "--config", CONFIG, "--trainer.max_epochs=1", *size, *place])
    return folder


@pytest.fixture(scope="module")
def files(tiny_zoo, tmp_path_factory):
    """Checkpoints by name; ``relu`` and ``tanh`` say which space they hold."""
    folder = tmp_path_factory.mktemp("files")
    relu, tanh = (int(tiny_zoo.rows("test", activation=a)[0]) for a in ("relu", "tanh"))
    out = {"relu": export_net(tiny_zoo, relu, folder / "relu.pt")}
    out["tanh"] = export_net(tiny_zoo, tanh, folder / "tanh.safetensors")
    out["plain"], out["module"] = folder / "plain.pt", folder / "module.pt"
    torch.save(tiny_zoo[relu].tensors, out["plain"])
    torch.save({"model.module." + name: t for name, t in tiny_zoo[relu].tensors.items()}, out["module"])
    out["mlp"] = folder / "mlp.pt"
    torch.manual_seed(0)
    torch.save(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).state_dict(), out["mlp"])
    out["nan"] = folder / "nan.pt"
    broken = {name: tensor.clone() for name, tensor in tiny_zoo[relu].tensors.items()}
    broken["conv2.bias"][1] = float("nan")
    torch.save(broken, out["nan"])
    return out


def command(*args):
    from metanet.cli import main

    return main(["predict", *map(str, args)])


def test_table_json_and_csv_agree(run, files, capsys):
    assert command("--metanet", run, files["relu"], files["tanh"], "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["file"] for row in rows] == [str(files["relu"]), str(files["tanh"])]
    assert all(row["target"] == "test_accuracy" and row["trained_on"] for row in rows)
    assert command("--metanet", run, files["relu"], files["tanh"], "--csv") == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [float(row["predicted"]) for row in table] == [row["predicted"] for row in rows]
    assert command("--metanet", run, files["relu"]) == 0
    assert f"{rows[0]['predicted']:.4f}" in capsys.readouterr().out


def test_predictions_are_those_of_the_checkpoint_alone_and_together(run, files, tiny_zoo):
    task = load_run(run)
    rows = tiny_zoo.rows(activation="relu")[:7]
    graph = tiny_zoo.graph(rows)
    together = [p.value for p in predict(run, [graph, files["tanh"]])]
    alone = [predict(run, [graph.select(slice(i, i + 1))])[0].value for i in range(7)]
    assert together[:7] == pytest.approx(alone, rel=1e-12)
    with torch.no_grad():
        assert together[:7] == pytest.approx(task(graph).tolist(), rel=1e-4)
    assert len(set(together)) == 8
    moved = graph.permute(graph.space.sample(seed=1))
    assert not torch.equal(moved.tensors["conv1.weight"], graph.tensors["conv1.weight"])
    assert [p.value for p in predict(run, [moved])] == pytest.approx(together[:7], rel=1e-12)


def test_predicting_leaves_a_task_as_it_was(run, tiny_zoo):
    task = load_run(run).train()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    predict(task, [tiny_zoo.graph(tiny_zoo.rows(activation="tanh")[:2])])
    assert task.training
    after = task.state_dict()
    assert all(after[name].dtype == value.dtype and torch.equal(after[name], value) for name, value in before.items())


def test_a_checkpoint_file_is_as_good_as_its_folder(run, files):
    best = run / "checkpoints" / "best.ckpt"
    assert predict(best, [files["relu"]]) == predict(run, [files["relu"]])


def test_a_state_dict_needs_the_activation(run, files, capsys):
    assert command("--metanet", run, files["plain"]) == 2
    error = capsys.readouterr().err
    assert "--activation relu or --activation tanh, or --space FILE" in error
    assert len(error.splitlines()) == 1
    known = predict(run, [files["relu"]])[0]
    for name in ("plain", "module"):
        found = predict(run, [files[name]], activation="relu")[0]
        assert (found.value, found.space) == (pytest.approx(known.value, rel=1e-12), known.space)
    assert "below 'model.module.'" in found.note
    other = predict(run, [files["plain"]], activation="tanh")[0]
    assert other.value != pytest.approx(known.value, rel=1e-6)


def test_a_space_file_decides(run, files, tiny_zoo, tmp_path, capsys):
    (tmp_path / "space.json").write_text(predict(run, [files["relu"]])[0].space.to_json())
    assert command("--metanet", run, files["plain"], "--space", tmp_path / "space.json", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["note"] == "space given"
    assert command("--metanet", run, files["mlp"], "--space", tmp_path / "space.json") == 2
    assert "do not fit the space given" in capsys.readouterr().err
    (tmp_path / "space.json").write_text("{}")
    assert command("--metanet", run, files["plain"], "--space", tmp_path / "space.json") == 2
    assert "space.json" in capsys.readouterr().err


def test_an_architecture_not_trained_on_is_refused_unless_wanted(run, files, capsys):
    assert command("--metanet", run, files["mlp"]) == 2
    error = capsys.readouterr().err
    assert "not trained on" in error
    assert "relu net of" in error
    assert "--any-architecture" in error
    assert command("--metanet", run, files["mlp"], "--any-architecture", "--activation", "relu", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["trained_on"] is False
    traced = metanet.trace(nn.Linear(3, 4), torch.zeros(1, 3))
    graph = NeuronGraph(traced, {name: torch.ones(1, *shape) for name, shape in traced.shapes.items()})
    with pytest.raises(MetanetError, match="graph 0 has an architecture that this metanet was not trained on"):
        predict(run, [graph])


def test_a_larger_net_that_holds_the_tensors_too_is_not_taken_for_one(run, files, tmp_path):
    state = torch.load(files["plain"], weights_only=True)
    torch.save(state | {"extra.weight": torch.ones(2, 2)}, tmp_path / "larger.pt")
    with pytest.raises(MetanetError, match="not trained on"):
        predict(run, [tmp_path / "larger.pt"], activation="relu")
    torch.save(state | {"bn.num_batches_tracked": torch.tensor(3)}, tmp_path / "counted.pt")
    assert predict(run, [tmp_path / "counted.pt"], activation="relu")


def broken_files(folder, good):
    (folder / "empty.pt").touch()
    (folder / "text.pt").write_text("hello")
    (folder / "cut.pt").write_bytes(good.read_bytes()[:2000])
    return {
        "missing.pt": "there is no such file",
        "empty.pt": "the file is empty",
        "text.pt": "got a text file",
        "cut.pt": "truncated or damaged",
    }


def test_bad_files_give_one_line_and_exit_2(run, files, tmp_path, capsys):
    for name, message in broken_files(tmp_path, files["relu"]).items():
        assert command("--metanet", run, files["relu"], tmp_path / name) == 2
        out, error = capsys.readouterr()
        assert out == ""
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert name in error
        assert message in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plain", "--activation", "gelu"], "with the activation relu, tanh; got --activation gelu"),
        (["relu", "--activation", "tanh"], "says that its activation is 'relu'"),
        (["nan", "--activation", "relu"], "'conv2.bias' has values that are not finite"),
        (["relu", "--json", "--csv"], "choose one"),
    ],
)
def test_bad_options(run, files, capsys, arguments, message):
    assert command("--metanet", run, files[arguments[0]], *arguments[1:]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_or_file_that_is_no_run(run, files, tmp_path, capsys):
    (tmp_path / "cut.ckpt").write_bytes((run / "checkpoints" / "best.ckpt").read_bytes()[:5000])
    cases = {tmp_path: "is no run folder", tmp_path / "nope": "No run at", tmp_path / "cut.ckpt": "Cannot read"}
    for place, message in (cases | {files["relu"]: "Cannot read"}).items():
        assert command("--metanet", place, files["relu"]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_a_run_does_not_import_what_it_names(run, files, tmp_path):
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    content["hyper_parameters"]["metanet"]["class_path"] = "somewhere.Evil"
    torch.save(content, tmp_path / "evil.ckpt")
    with pytest.raises(MetanetError, match=r"names the class 'somewhere.Evil'.*--trust"):
        predict(tmp_path / "evil.ckpt", [files["relu"]])
    with pytest.raises(MetanetError, match="does not fit this version"):
        predict(tmp_path / "evil.ckpt", [files["relu"]], trust=True)
