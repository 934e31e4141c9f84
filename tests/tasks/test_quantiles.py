import pytest
import torch

from metanet.errors import ConfigError
from metanet.models import OperatorMetanet
from metanet.tasks import PropertyRegression
from metanet.tasks.quantiles import Quantiles
from metanet.zoo.data import ZooDataModule


def fitted(values):
    found = Quantiles().double()
    found.fit(values)
    return found


def test_levels_are_even_and_values_come_back():
    values = torch.randn(5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = fitted(values)
    levels = found.level(values)
    assert torch.allclose(levels.sort().values, torch.linspace(0, 1, 5000, dtype=torch.float64), atol=0.005)
    assert torch.allclose(found.value(levels), values, atol=1e-9)


def test_order_is_kept_beyond_the_ends_and_equal_values_share_the_middle():
    values = torch.tensor([0.1] * 40 + [0.5, 0.7, 0.71, 0.72, 0.73, 0.8] * 10, dtype=torch.float64)
    found = fitted(values)
    assert found.level(values[:1]).item() == pytest.approx(0.2, abs=0.01)
    asked = torch.tensor([-1.0, 0.0, 0.1, 0.3, 0.5, 0.705, 0.8, 0.9, 2.0], dtype=torch.float64)
    assert (found.level(asked).diff() > 0).all()
    levels = torch.linspace(-0.5, 1.5, 400, dtype=torch.float64)
    assert (found.value(levels).diff() >= 0).all()
    assert found.value(levels[levels > 1]).unique().numel() == (levels > 1).sum(), "ties would cost tau"
    assert found.level(torch.tensor([0.7, 0.71])).dtype == torch.float32


def test_regression_on_ranks_learns_levels_and_predicts_values(tiny_zoo):
    data = ZooDataModule(str(tiny_zoo.path), batch_size=8)
    data.setup()
    task = PropertyRegression(OperatorMetanet(width=8, heads=2), ranks=True)
    task.trainer = type("Trainer", (), {"datamodule": data})()
    task.setup("fit")
    targets = torch.as_tensor(data.split("train").targets)
    assert task.mean.item() == pytest.approx(0.5, abs=0.05)
    levels = task.quantiles.level(targets)
    raw = ((levels - task.mean) / task.std).float()[:, None]
    assert torch.allclose(task._decode(raw), targets.float(), atol=1e-3)
    assert task._loss(raw, targets.float()).item() < 1e-6
    assert task._loss(raw + 1, targets.float()).item() == pytest.approx(1, abs=1e-3)
    clone = PropertyRegression(OperatorMetanet(width=8, heads=2), ranks=True)
    clone.load_state_dict(task.state_dict())
    assert torch.equal(clone.quantiles.values, task.quantiles.values)


def test_ranks_have_no_deviations():
    with pytest.raises(ConfigError, match="gaussian"):
        PropertyRegression(OperatorMetanet(width=8, heads=2, out_features=2), loss="gaussian", ranks=True)
