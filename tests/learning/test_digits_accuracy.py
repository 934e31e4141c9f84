"""The main job learns: weights alone tell which network is better, better than their statistics do."""

import json
from pathlib import Path

import pytest

from metanet.training import main

CONFIG = Path(__file__).parents[2] / "configs" / "digits_accuracy.yaml"


@pytest.mark.learning
def test_the_metanet_beats_statnn_on_the_default_zoo(tmp_path):
    main(["fit", "--config", str(CONFIG), "--trainer.default_root_dir", str(tmp_path)])
    scores = json.loads((tmp_path / "metrics.json").read_text())
    assert scores["zoo"] == "digits-cnn"
    assert scores["statnn"]["tau"] > 0.5, "the baseline itself must have learned"
    assert scores["metanet"]["tau"] > scores["statnn"]["tau"]
    assert scores["metanet"]["r2"] > 0.7
