"""The main job learns: weights alone tell which network is better, better than their statistics do."""

import json
from pathlib import Path

import pytest
import torch

from metanet import testing
from metanet.training import main

CONFIG = Path(__file__).parents[2] / "configs" / "digits_accuracy.yaml"


@pytest.mark.learning
def test_the_metanet_beats_statnn_on_the_default_zoo(tmp_path):
    cli = main(["fit", "--config", str(CONFIG), "--trainer.default_root_dir", str(tmp_path)])
    scores = json.loads((tmp_path / "metrics.json").read_text())
    assert scores["zoo"] == "digits-cnn"
    assert scores["statnn"]["tau"] > 0.5, "the baseline itself must have learned"
    assert scores["metanet"]["tau"] > scores["statnn"]["tau"]
    assert scores["metanet"]["r2"] > 0.7

    metanet = cli.model.metanet.double().eval()  # the trained one: permutations and neighbours do not move it
    zoo = cli.datamodule.split("test").zoo
    for rows in zoo.by_space(zoo.rows(split="test")).values():
        graph = zoo.graph(rows[:40]).to(torch.float64)
        assert testing.assert_invariant(metanet, graph) < 1e-12
        assert testing.assert_batch_independent(metanet, graph) < 1e-12
