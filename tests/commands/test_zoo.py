"""``metanet zoo``, through the command line."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from metanet.checkpoint import load
from metanet.cli import main
from metanet.space import WeightSpace
from metanet.zoo import ModelZoo, build_zoo, load_recipe
from metanet.zoo.display import show_download
from metanet.zoo.recipe import recipes_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("zoos") / "tiny"
    build_zoo(load_recipe("digits-cnn").with_(nets=6, max_steps=3, shard_size=3), path, workers=0)
    text = (recipes_folder() / "digits-cnn" / "recipe.yaml").read_text()
    (path / "bad.yaml").write_text("name: [")
    (path / "impossible.yaml").write_text(text.replace("kernel: 3", "kernel: 30"))
    return str(path)


def test_info_shows_card_and_histogram(folder, capsys):
    assert main(["zoo", "info", folder]) == 0
    out = capsys.readouterr().out
    assert "6 nets" in out
    assert "splits:" in out
    assert "█" in out


def test_info_as_json(folder, capsys):
    assert main(["zoo", "info", folder, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["nets"] == 6
    assert sum(found["splits"].values()) == sum(found["spaces"].values()) == 6


def test_info_counts_nets_that_are_in_no_split(folder, capsys, monkeypatch):
    column = ModelZoo.column
    outside = np.array(["train"] * 5 + ["none"])
    monkeypatch.setattr(ModelZoo, "column", lambda zoo, name: outside if name == "split" else column(zoo, name))
    assert main(["zoo", "info", folder]) == 0
    assert "5 train, 1 none" in capsys.readouterr().out


def test_export_carries_the_space(folder, tmp_path, capsys):
    assert main(["zoo", "export", folder, "2", str(tmp_path / "net.safetensors")]) == 0
    checkpoint = load(tmp_path / "net.safetensors")
    space = WeightSpace.from_json(checkpoint.metadata["metanet.space"])
    assert {n: tuple(t.shape) for n, t in checkpoint.tensors.items()} == space.shapes


def test_parts_are_built_and_merged(folder, tmp_path, capsys):
    text = (recipes_folder() / "digits-cnn" / "recipe.yaml").read_text()
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(text.replace("nets: 2000", "nets: 4\nmax_steps: 1").replace("shard_size: 75", "shard_size: 1"))
    parts = [str(tmp_path / f"part{i}") for i in (1, 2)]
    for i, part in enumerate(parts, start=1):
        build = ["zoo", "build", str(recipe), "--shard", f"{i}/2", "--out", part, "--workers", "0"]
        assert main(build) == 0
        out = capsys.readouterr().out
        assert f"building zoo digits-cnn {i}/2: 2/2 nets" in out
        assert "0 s left" in out
        assert f"part {i}/2; merge all parts" in out
    assert main(["zoo", "merge", str(tmp_path / "zoo"), *parts]) == 0
    out = capsys.readouterr().out
    assert "merging zoo zoo: 4/4 nets" in out
    assert f"{tmp_path / 'zoo'}: 4 nets" in out


def test_a_download_is_shown_file_by_file(capsys):
    with show_download() as progress:
        for done in (0, 500_000, 1_000_000):
            progress("images.gz", done, 1_000_000)
    assert capsys.readouterr().out == "downloaded images.gz: 1.0 MB\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["info", "no-such-zoo"],
        ["info", "{folder}", "--label", "activation"],
        ["info", "{folder}", "--label", "nothing"],
        ["export", "{folder}", "999", "x.pt"],
        ["export", "{folder}", "0", "x.txt"],
        ["build", "no-such-recipe"],
        ["build", "digits-cnn", "--shard", "3/2"],
        ["build", "digits-cnn", "--shard", "half"],
        ["build", "digits-cnn", "--device", "nonsense"],
        ["build", "{folder}/bad.yaml"],
        ["build", "{folder}/impossible.yaml"],
        ["build", "digits-cnn", "--out", "{folder}/zoo.json/zoo"],
        ["merge", "x/merged", "{folder}"],
        ["merge", "x/merged", "no-such-part"],
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(folder, arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METANET_DATA", str(tmp_path))  # not the user's zoos
    assert main(["zoo", *(a.format(folder=folder) for a in arguments)]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert "\n" not in error


def test_info_draws_the_labels_asked_for_as_a_picture_too(folder, tmp_path, capsys):
    arguments = ["--label", "learning_rate", "--label", "steps", "--plot", str(tmp_path / "labels.svg")]
    assert main(["zoo", "info", folder, *arguments]) == 0
    out = capsys.readouterr().out
    assert out.index("\nlearning_rate\n") < out.index("\nsteps\n")
    assert out.count(" to ") == 20
    assert "</svg>" in (tmp_path / "labels.svg").read_text()


@pytest.fixture
def nets(tmp_path):
    path = tmp_path / "nets"
    path.mkdir()
    for number in range(3):
        torch.save(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).state_dict(), path / f"{number}.pt")
    (path / "labels.csv").write_text("file,reward\n0.pt,1.5\n1.pt,\n2.pt,2.5\n3.pt,0\n")
    return path


def test_import_list_info_and_verify(nets, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("METANET_DATA", str(tmp_path / "data"))
    assert main(["zoo", "list"]) == 0
    assert "no zoos in" in capsys.readouterr().out
    assert main(["zoo", "import", "folder", str(nets), "mine", "--option", "activation=tanh"]) == 0
    out = capsys.readouterr().out
    assert "importing zoo mine: 4/4 nets" in out
    assert "3 nets of 1 weight spaces, 1 unreadable" in out
    assert "unreadable: 3.pt: Cannot read" in out
    assert main(["zoo", "list"]) == 0
    assert "mine" in capsys.readouterr().out
    assert main(["zoo", "info", "mine"]) == 0
    out = capsys.readouterr().out
    assert "\nreward\n" in out
    assert "split at random by run" in out
    assert main(["zoo", "verify", "mine"]) == 0
    assert "all well, 3 nets" in capsys.readouterr().out
    shard = next((tmp_path / "data" / "zoos" / "mine").rglob("*.safetensors"))
    tensors = load_file(shard)
    tensors["0.bias"][1, 2] = float("nan")
    save_file(tensors, shard)
    assert main(["zoo", "verify", "mine"]) == 1
    out = capsys.readouterr().out
    assert "the content is not that of the checksum" in out
    assert "1 nets have weights that are not finite and are not marked as diverged: 1.pt" in out
    assert "2 problems" in out


def test_formats_are_listed(capsys):
    assert main(["zoo", "list", "--formats"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("small-cnn-zoo", "stable-baselines3", "modelzoos", "folder"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import", "no-format", "{nets}", "x"], "Unknown zoo format: got 'no-format'. Accepted: "),
        (["import", "folder", "nowhere", "x"], "there is no such file or folder"),
        (["import", "small-cnn-zoo", "{nets}", "x"], "layout.csv"),
        (["import", "folder", "{nets}", "x", "--option", "activation"], "Accepted, as KEY=VALUE: labels, activation"),
        (["import", "folder", "{nets}", "x", "--option", "depth=3"], "Accepted, as KEY=VALUE: labels, activation"),
        (["import", "small-cnn-zoo", "{nets}", "x", "--option", "padding=one"], "'one' is no int"),
        (["verify", "no-such-zoo"], "No zoo at"),
        (["info", "{folder}", "--plot", "no/such/folder/x.png"], "Cannot write no/such/folder/x.png"),
        (["info", "{folder}", "--plot", "x.unknown"], "Cannot write x.unknown"),
    ],
)
def test_wrong_input_is_explained_in_one_line(nets, folder, arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METANET_DATA", str(tmp_path / "data"))
    assert main(["zoo", *(a.format(nets=nets, folder=folder) for a in arguments)]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert message in error
    assert "\n" not in error
