"""A training whose score is undefined ends with its files; nets that overflow are named and left out."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from metanet.prediction import predict
from metanet.tasks.quantiles import Quantiles
from metanet.tasks.scores import classified, score
from metanet.training import main
from metanet.zoo.data import is_tame

CONFIG = str(Path(__file__).parents[2] / "configs" / "digits_accuracy.yaml")
SIZE = ["--model.metanet.init_args.width=16", "--model.metanet.init_args.heads=4", "--model.metanet.init_args.rounds=1"]
SGD = ["--model.optimizer=torch.optim.SGD", "--model.optimizer.init_args.lr=1e10"]
pytestmark = pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec")  # Lightning 2.6's own use of torch


@pytest.mark.parametrize(
    ("options", "said", "epoch"),
    [(["--data.validation_size=1"], "got 1 validation net", 1), ([*SGD, "--model.ranks=true"], "diverged", 0)],
)
def test_a_training_without_a_score_keeps_its_results(tiny_zoo, tmp_path, capsys, options, said, epoch):
    place = ["--trainer.default_root_dir", str(tmp_path), "--data.zoo", str(tiny_zoo.path)]
    main(["fit", "--config", CONFIG, "--trainer.max_epochs=2", *SIZE, *place, *options])
    out = capsys.readouterr().out
    assert "val_tau is undefined in every epoch" in out
    assert said in out
    facts = json.loads((tmp_path / "metrics.json").read_text())["run"]
    assert (facts["validation"], facts["epoch"]) == (None, epoch)
    if epoch:
        graph = tiny_zoo.graph([0, 0, 0])
        graph.tensors["conv2.weight"][1] = torch.inf
        found = predict(tmp_path, [graph])
        assert found[1].value is None
        assert found[1].note == "'conv2.weight' has values that are not finite (got inf or nan)"
        assert found[0].value == found[2].value == predict(tmp_path, [tiny_zoo.graph([0])])[0].value


def test_scores_of_predictions_that_are_not_finite():
    assert np.isnan([score([1, np.nan], [1, 2]).mae, score([], []).tau]).all()
    assert np.isnan(classified(np.full((2, 2), np.nan), [0, 1]).accuracy)
    assert classified([[np.nan, np.nan], [0.1, 0.9]], [0, 1]).accuracy == 0.5
    assert Quantiles().value(torch.tensor([torch.nan, 0.5])).isnan().tolist() == [True, False]


def test_weights_whose_squares_overflow_are_told():
    stacked = torch.tensor([[1.0, 2.0], [1e25, 0.0], [torch.inf, 0.0], [torch.nan, 0.0], [1e18, 0.0]])
    assert is_tame(stacked).tolist() == [True, False, False, False, True]
    assert is_tame(torch.tensor([[1e300]], dtype=torch.float64)).tolist() == [False]
