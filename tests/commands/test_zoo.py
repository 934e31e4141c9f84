"""``metanet zoo``, through the command line."""

import json

import numpy as np
import pytest

from metanet.checkpoint import load
from metanet.cli import main
from metanet.space import WeightSpace
from metanet.zoo import ModelZoo, build_zoo, load_recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("zoos") / "tiny"
    build_zoo(load_recipe("digits-cnn").with_(nets=6, max_steps=3, shard_size=3), path, workers=0)
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


@pytest.mark.parametrize(
    "arguments",
    [
        ["info", "no-such-zoo"],
        ["info", "{folder}", "--label", "activation"],
        ["info", "{folder}", "--label", "nothing"],
        ["export", "{folder}", "999", "x.pt"],
        ["export", "{folder}", "0", "x.txt"],
        ["build", "no-such-recipe"],
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(folder, arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["zoo", *(a.format(folder=folder) for a in arguments)]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert "\n" not in error
