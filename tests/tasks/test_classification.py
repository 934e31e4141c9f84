"""Classes of nets: scores, targets that are text, training, and all that reads a run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss
from torch import nn

from metanet.audit import audit
from metanet.cli import main as command
from metanet.errors import ConfigError, ZooError
from metanet.models import OperatorMetanet
from metanet.models.base import Metanet
from metanet.prediction import load_run, predict
from metanet.tasks import PropertyClassification
from metanet.tasks.scores import classified
from metanet.training import chosen_task, main
from metanet.zoo.data import ZooDataModule

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec"),  # Lightning 2.6's own use of torch
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # a zoo in memory needs none
    pytest.mark.filterwarnings("ignore:The number of training batches"),  # the zoo is tiny
]

CONFIG = """
task: classification
seed_everything: 0
model:
  metanet:
    class_path: metanet.models.OperatorMetanet
    init_args: {width: 16, heads: 4, rounds: 1, out_features: 2}
  optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.02}}
data: {zoo: ZOO, target: activation, batch_size: 4}
trainer: {max_epochs: 30}
"""


class Activations(Metanet):
    """Knows the class: whether the space has signs."""

    out_features = 2

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, graph):
        odd = any(g.kind == "sign" for g in graph.space.gauges)
        return self.scale * torch.tensor([[1.0 - odd, float(odd)]], dtype=self.scale.dtype).repeat(graph.batch_size, 1)


@pytest.fixture(scope="module")
def run(tiny_zoo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("class")
    (folder / "c.yaml").write_text(CONFIG.replace("ZOO", str(tiny_zoo.path)))
    main(["fit", "--config", str(folder / "c.yaml"), "--trainer.default_root_dir", str(folder / "run")])
    return folder / "run"


def test_scores_are_those_of_sklearn():
    random = np.random.default_rng(0)
    p, y = random.dirichlet([1, 1, 1], 40), random.integers(0, 3, 40)
    found = classified(p, y)
    assert found.accuracy == pytest.approx(accuracy_score(y, p.argmax(1)))
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(y, p.argmax(1)))
    assert found.nll == pytest.approx(log_loss(y, p))


def test_targets_are_numbers_of_the_training_nets_values(tiny_zoo):
    data = ZooDataModule(str(tiny_zoo.path), target="optimizer", classify=True)
    data.setup()
    assert data.classes == tuple(sorted(set(tiny_zoo.filter("train").column("optimizer"))))
    part = data.split("test")
    assert [data.classes[int(t)] for t in part.targets] == list(tiny_zoo.column("optimizer")[part.rows])


def test_what_is_no_class_is_refused(tiny_zoo):
    data = ZooDataModule(str(tiny_zoo.path), target="learning_rate", classify=True)
    with pytest.raises(ZooError, match="too many for classes"):
        data.setup()
    with pytest.raises(ZooError, match="'nothing'"):
        ZooDataModule(str(tiny_zoo.path), target="nothing", classify=True).setup()
    data = ZooDataModule(str(tiny_zoo.path), target="activation", classify=True)
    data.setup()
    with pytest.raises(ConfigError, match=r"got out_features=3. Accepted: 2, one for each .*\(relu, tanh\)"):
        PropertyClassification(OperatorMetanet(width=16, heads=4, out_features=3)).prepare(data)
    with pytest.raises(ConfigError, match="smoothing"):
        PropertyClassification(Activations(), smoothing=1.0)
    number = ZooDataModule(str(tiny_zoo.path))
    number.setup()
    with pytest.raises(ConfigError, match=r"data\.classify"):
        PropertyClassification(Activations()).prepare(number)


def test_a_run_learns_reports_and_is_read_again(run, tiny_zoo, tmp_path, capsys):
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["metanet"]["accuracy"] == 1.0, "the space of a net tells its activation"
    assert metrics["statnn"]["accuracy"] == 1.0
    assert metrics["run"]["monitor"] == "val_accuracy"
    assert "accuracy 1.000" in (run / "predicted.svg").read_text()
    task = load_run(run)
    assert isinstance(task, PropertyClassification)
    assert task.classes == ("relu", "tanh")
    row = int(tiny_zoo.rows("test")[0])
    for item in predict(run, [tiny_zoo.graph(np.array([row]))]):
        assert item.value == tiny_zoo[row].labels["activation"]
        assert 0.5 < item.probability <= 1
    file = tmp_path / "net.safetensors"
    command(["zoo", "export", str(tiny_zoo.path), str(row), str(file)])
    capsys.readouterr()
    command(["predict", "--metanet", str(run), str(file)])
    out = capsys.readouterr().out
    assert tiny_zoo[row].labels["activation"] in out
    assert "%)" in out


def test_an_audit_looks_at_all_logits(tiny_zoo):
    torch.manual_seed(0)
    task = PropertyClassification(OperatorMetanet(width=16, heads=4, out_features=2))
    found = audit(task, tiny_zoo, split="train", nets=8)
    rows = {row.transformation: row for row in found.rows}
    assert rows["permutation"].before.shape == (8, 2)
    assert rows["permutation"].verdict == "exact"
    assert rows["control: one tensor"].verdict == "sensitive"


def test_the_last_configuration_that_names_a_task_decides(tmp_path):
    named, silent, broken = (tmp_path / name for name in ("named.yaml", "silent.yaml", "broken.yaml"))
    named.write_text("task: classification\n")
    silent.write_text("seed_everything: 1\n")
    broken.write_text("a: [1\n")
    assert chosen_task(["fit", "--config", str(named), f"--config={silent}"]) == "classification"
    assert chosen_task(["fit", "--config", str(named), "--task=regression"]) == "regression"
    assert chosen_task(["fit", "--config", str(broken), "--config", str(Path("none.yaml"))]) == "regression"
    assert chosen_task({"task": "classification"}) == "classification"


def test_an_unknown_task_is_refused(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("task: guess\n")
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(tmp_path / "c.yaml")])
    assert "regression" in capsys.readouterr().err
