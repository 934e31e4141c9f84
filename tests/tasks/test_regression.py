import math
from functools import partial

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from sklearn.metrics import mean_absolute_error, r2_score
from torch import nn

from metanet.errors import CheckpointError, ConfigError
from metanet.models import Metanet
from metanet.tasks import PropertyRegression
from metanet.tasks.base import jitter, rate_factor
from metanet.tasks.scores import score
from metanet.zoo.data import ZooBatch, ZooDataModule

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec"),  # Lightning 2.6's own use of torch
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # a zoo in memory needs none
    pytest.mark.filterwarnings("ignore:The number of training batches"),  # the zoo is tiny
]


class Moments(Metanet):
    """Mean and spread of every tensor, then a linear map: the smallest metanet that learns."""

    def __init__(self, out_features=1):
        super().__init__()
        self.out_features = out_features
        self.head = nn.Linear(16, out_features)

    def forward(self, graph):
        parts = [graph.tensors[name].flatten(1) for name in graph.space.tensor]
        return self.head(torch.cat([torch.stack([p.mean(1), p.std(1)], 1) for p in parts], 1))


class Spy(Moments):
    """Notes what it is given, and whether in training."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, graph):
        self.seen.append((self.training, graph))
        return super().forward(graph)


def trainer(**options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}
    return pl.Trainer(enable_model_summary=False, num_sanity_val_steps=0, **(quiet | options))


@pytest.fixture
def data(tiny_zoo):
    return ZooDataModule(str(tiny_zoo.path), batch_size=8, seed=0)


def test_scores_are_those_of_scipy_and_sklearn():
    random = np.random.default_rng(0)
    true = random.integers(0, 6, 50).astype(float)  # many ties
    predicted = np.round(true + random.normal(size=50))
    found = score(predicted, true)
    assert found.tau == pytest.approx(kendalltau(predicted, true, variant="b").statistic)
    assert found.r2 == pytest.approx(r2_score(true, predicted))
    assert found.mae == pytest.approx(mean_absolute_error(true, predicted))
    assert found.count == 50


def test_scores_that_do_not_exist_are_none_in_json():
    assert score([1, 1, 1], [1, 2, 3]).as_dict()["tau"] is None
    assert score([1, 2, 3], [1, 1, 1]).as_dict() == {"tau": None, "r2": None, "mae": pytest.approx(1.0)}


def test_validation_scores_are_of_the_whole_split_not_of_batches(data):
    task = PropertyRegression(Moments())
    run = trainer(max_epochs=1)
    run.fit(task, data)
    with torch.no_grad():
        batches = list(data.val_dataloader())
        assert len(batches) > 1
        predicted = torch.cat([task(b.graph) for b in batches])
    true = torch.cat([b.targets for b in batches])
    assert float(run.callback_metrics["val_tau"]) == pytest.approx(kendalltau(predicted, true).statistic, abs=1e-6)
    assert float(run.callback_metrics["val_r2"]) == pytest.approx(score(predicted, true).r2, abs=1e-5)
    assert float(run.callback_metrics["val_mae"]) == pytest.approx(score(predicted, true).mae, abs=1e-6)


@torch.no_grad()
def mean_loss(task, data):
    """The loss over the training nets, batch by batch."""
    losses = [task._loss(task.metanet(b.graph), b.targets) for b in data.train_dataloader()]
    return float(torch.stack(losses).mean())


@pytest.mark.parametrize("loss", ["mse", "huber", "bce", "gaussian"])
def test_every_loss_trains_and_predicts_in_the_unit_of_the_target(data, loss):
    torch.manual_seed(0)
    metanet = Moments(2 if loss == "gaussian" else 1)
    task = PropertyRegression(metanet, loss=loss, optimizer=partial(torch.optim.Adam, lr=0.03))
    trainer(max_epochs=1, limit_train_batches=1).fit(task, data)
    first = mean_loss(task, data)
    trainer(max_epochs=40).fit(task, data)
    assert mean_loss(task, data) < first - 0.01
    mean, std = data.target_statistics
    assert (float(task.mean), float(task.std)) == (pytest.approx(mean), pytest.approx(std))
    with torch.no_grad():
        predicted = torch.cat([task(b.graph) for b in data.train_dataloader()])
    assert float(predicted.mean()) == pytest.approx(mean, abs=std)
    if loss == "bce":
        assert 0 < float(predicted.min()) < float(predicted.max()) < 1


def test_losses_are_those_of_the_formulas(data):
    data.setup()
    batch: ZooBatch = next(iter(data.val_dataloader()))
    mean, std = 0.4, 0.2
    outputs = torch.randn(len(batch.targets), 2)
    raw, found = outputs[:, 0], {}
    for loss in ("mse", "huber", "bce", "gaussian"):
        task = PropertyRegression(Moments(2 if loss == "gaussian" else 1), loss=loss)
        task.mean.fill_(mean)
        task.std.fill_(std)
        found[loss] = float(task._loss(outputs if loss == "gaussian" else outputs[:, :1], batch.targets))
    z = (batch.targets - mean) / std - raw
    p = torch.sigmoid(raw + math.log(mean / (1 - mean)))
    y = batch.targets
    huber = torch.where(z.abs() < 1, z**2 / 2, z.abs() - 0.5)
    assert found["mse"] == pytest.approx(float((z**2).mean()), rel=1e-5)
    assert found["huber"] == pytest.approx(float(huber.mean()), rel=1e-5)
    normal = torch.distributions.Normal(raw, torch.exp(outputs[:, 1] / 2))
    likelihood = -normal.log_prob((y - mean) / std) - math.log(2 * math.pi) / 2
    assert found["gaussian"] == pytest.approx(float(likelihood.mean()), rel=1e-4)
    assert found["bce"] == pytest.approx(float(-(y * p.log() + (1 - y) * (1 - p).log()).mean()), rel=1e-4)


class Fixed(nn.Module):
    """A metanet that answers the same, whatever it is given."""

    def __init__(self, answers):
        super().__init__()
        self.answers, self.out_features = torch.tensor(answers, dtype=torch.float64), len(answers[0])

    def forward(self, graph):
        return self.answers


def task_of(answers, loss, mean, std):
    task = PropertyRegression(Fixed(answers), loss=loss).double()
    task.mean.fill_(mean)
    task.std.fill_(std)
    return task


def test_deviations_are_roots_of_variances_in_the_unit_of_the_target():
    """``deviation = std exp(log variance / 2)``, ``value = mean + std z``; the log-variance counts up to ten."""
    task = task_of([[0.5, math.log(4)], [-2.0, math.log(1 / 9)], [0.0, 50.0], [0.0, -50.0]], "gaussian", 70.0, 30.0)
    found, deviation = task.with_deviation(None)
    torch.testing.assert_close(found.tolist(), [85.0, 10.0, 70.0, 70.0], rtol=1e-12, atol=0)
    wanted = [30.0 * 2, 30.0 / 3, 30.0 * math.exp(5), 30.0 * math.exp(-5)]
    torch.testing.assert_close(deviation.tolist(), wanted, rtol=1e-12, atol=0)
    rows = task.describe(None)
    assert [r["value"] for r in rows] == found.tolist()
    assert [r["deviation"] for r in rows] == deviation.tolist()


@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_values_are_in_the_unit_of_the_target(loss):
    found, deviation = task_of([[0.5], [-2.0]], loss, 70.0, 30.0).with_deviation(None)
    torch.testing.assert_close(found.tolist(), [85.0, 10.0], rtol=1e-12, atol=0)
    assert deviation is None


def test_probabilities_start_from_the_mean():
    """``sigmoid(z + logit(mean))``: an answer of zero is the mean of the training nets."""
    found = task_of([[0.0], [math.log(3)]], "bce", 0.25, 0.1)(None)
    torch.testing.assert_close(found.tolist(), [0.25, 0.5], rtol=1e-6, atol=0)


def test_a_gaussian_learns_where_it_errs(data):
    """Deviations are in the target's unit, and about as large as the errors that the metanet makes."""
    torch.manual_seed(0)
    task = PropertyRegression(Moments(2), loss="gaussian", optimizer=partial(torch.optim.Adam, lr=0.03))
    trainer(max_epochs=60).fit(task, data)
    with torch.no_grad():
        found = [(*task.with_deviation(b.graph), b.targets) for b in data.train_dataloader()]
    predicted, deviation, true = (torch.cat(parts) for parts in zip(*found, strict=True))
    ratio = ((predicted - true) / deviation).square().mean().sqrt()
    assert 0.5 < float(ratio) < 2
    assert PropertyRegression(Moments()).with_deviation(found_graph(data))[1] is None


def test_mixed_batches_train_every_space_at_once(tiny_zoo, monkeypatch):
    data = ZooDataModule(str(tiny_zoo.path), batch_size=8, seed=0, mixed=True)
    task = PropertyRegression(Moments(), noise=0.1)
    run = trainer(max_epochs=1)
    run.fit(task, data)
    batch = next(b for b in data.train_dataloader() if len(b.graphs) == 2)
    task.noise = 0.0
    monkeypatch.setattr(task, "log", lambda *_, **__: None)  # there is no trainer any more
    with torch.no_grad():
        loss = task.training_step(batch, 0)
        raw = torch.cat([task.metanet(graph) for graph in batch.graphs])
    assert float(loss) == pytest.approx(float(task._loss(raw, batch.targets)))
    by_name = dict(zip(tiny_zoo.column("id"), tiny_zoo.column("test_accuracy"), strict=True))
    assert batch.targets.tolist() == pytest.approx([by_name[name] for name in batch.ids])


def found_graph(data):
    return next(iter(data.val_dataloader())).graph


def test_rate_rises_then_falls_to_zero():
    factors = [rate_factor(step, 100, 0.1) for step in range(101)]
    assert factors[:11] == sorted(factors[:11])
    assert factors[0] == pytest.approx(1 / 11)
    assert factors[10] == 1
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0)
    assert rate_factor(7, math.inf, 0.1) == 1


def test_the_schedule_reaches_zero_at_the_end_of_training(data):
    task = PropertyRegression(Moments(), optimizer=partial(torch.optim.SGD, lr=0.1))
    run = trainer(max_epochs=2)
    run.fit(task, data)
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


def test_a_checkpoint_carries_statistics_and_spaces(data):
    task = PropertyRegression(Moments())
    trainer(max_epochs=1).fit(task, data)
    kept = {"state_dict": task.state_dict()}
    task.on_save_checkpoint(kept)
    other = PropertyRegression(Moments())
    other.load_state_dict(kept["state_dict"])
    other.on_load_checkpoint(kept)
    assert float(other.mean) == float(task.mean) != 0
    assert set(other.spaces) == set(data.spaces)
    assert len(other.spaces) == 2
    with pytest.raises(CheckpointError, match="no checkpoint of a metanet run"):
        other.on_load_checkpoint({})


def test_noise_is_in_units_of_each_nets_spread_and_only_there_in_training(tiny_zoo, data):
    torch.manual_seed(0)
    graph = tiny_zoo.graph(tiny_zoo.rows(activation="relu"))
    moved = jitter(graph, 0.2, seed=0)
    name = "conv3.weight"
    ratio = (moved.tensors[name] - graph.tensors[name]).flatten(1).std(1) / graph.tensors[name].flatten(1).std(1)
    torch.testing.assert_close(ratio, torch.full_like(ratio, 0.2), rtol=0.1, atol=0)
    task = PropertyRegression(Spy(), noise=0.2)
    trainer(max_epochs=1).fit(task, data)
    true = torch.cat(
        [tensors for split in data.splits.values() for tensors in [g.tensors[name] for g, _ in split.graphs()]]
    )
    for training, graph in task.metanet.seen:
        known = [(true == tensor).flatten(1).all(1).any() for tensor in graph.tensors[name]]
        assert not any(known) if training else all(known)
    assert {training for training, _ in task.metanet.seen} == {True, False}


def test_values_are_learned_unless_ranks_are_asked_for():
    task = PropertyRegression(Moments())
    assert (task.quantiles, task.loss, task.noise, task.warmup) == (None, "mse", 0.0, 0.05)


def test_bad_options(tiny_zoo):
    with pytest.raises(ConfigError, match=r"model.noise: got -1"):
        PropertyRegression(Moments(), noise=-1)
    with pytest.raises(ConfigError, match=r"model.warmup: got 1.0"):
        PropertyRegression(Moments(), warmup=1.0)
    with pytest.raises(ConfigError, match="got out_features=3"):
        PropertyRegression(Moments(3))
    data = ZooDataModule(str(tiny_zoo.path), target="test_loss")
    task = PropertyRegression(Moments(), target="test_loss", loss="bce")
    with pytest.raises(ConfigError, match="bce needs targets in"):
        trainer(max_epochs=1).fit(task, data)
    data = ZooDataModule(str(tiny_zoo.path), target="momentum")
    with pytest.raises(ConfigError, match=r"'momentum' is 0.9 for every training net"):
        trainer(max_epochs=1).fit(PropertyRegression(Moments(), target="momentum"), data)
