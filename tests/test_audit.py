import json

import pytest
import torch

from metanet.audit import audit
from metanet.audit_report import plot, table
from metanet.cli import main
from metanet.errors import MetanetError
from metanet.models import FlatMetanet, OperatorMetanet
from metanet.models.base import Metanet
from metanet.tasks import PropertyRegression


class FirstNeurons(Metanet):
    """Reads the first row of every tensor: not invariant to permutations, whatever it claims."""

    out_features = 1

    def forward(self, graph):
        return sum(t.flatten(2)[:, 0].square().mean(1) for t in graph.tensors.values() if t.dim() > 2)[:, None]


class Norms(Metanet):
    """Sees nothing but each tensor's norm: invariant, and blind to which neurons belong together."""

    out_features = 1

    def forward(self, graph):
        return torch.stack([t.flatten(1).square().mean(1) for t in graph.tensors.values()], -1).mean(-1, keepdim=True)


def rows(task, zoo, **options):
    found = audit(task, zoo, nets=12, **options)
    return found, {row.transformation: row for row in found.rows}


def test_an_equivariant_metanet_is_exact_where_it_claims_to_be(tiny_zoo):
    torch.manual_seed(0)
    found, by_name = rows(PropertyRegression(OperatorMetanet(width=16, heads=4)), tiny_zoo, split="train")
    assert found.ok
    assert set(by_name) == {"permutation", "scale", "sign", "widening", "duplication", "control: one tensor"}
    assert by_name["permutation"].claimed
    assert by_name["permutation"].verdict == "exact"
    assert by_name["scale"].verdict == "moves"
    assert not by_name["scale"].claimed
    for row in found.rows:
        assert (row.residuals < 1e-9).all() == (not row.control)
        assert len(row.residuals) == len(row.before) == len(row.movement)
    assert by_name["control: one tensor"].verdict == "sensitive"
    assert len(by_name["scale"].before) + len(by_name["sign"].before) == 12  # ReLU nets and tanh nets


def test_a_metanet_of_one_architecture_cannot_read_wider_nets(tiny_zoo, tmp_path):
    torch.manual_seed(0)
    task = PropertyRegression(FlatMetanet(hidden=8))
    task.metanet.build(list(tiny_zoo.spaces.values()))
    found, by_name = rows(task, tiny_zoo, split="train")
    assert by_name["widening"].verdict == by_name["duplication"].verdict == "cannot read"
    assert by_name["widening"].as_dict()["movement_max"] is None
    assert by_name["permutation"].verdict == "moves"
    assert "cannot read" in [*table(found).columns[-1].cells]
    assert plot(found, tmp_path / "audit.png").stat().st_size > 0


def test_a_false_claim_is_called_broken_and_a_blind_metanet_blind(tiny_zoo):
    found, by_name = rows(PropertyRegression(FirstNeurons()), tiny_zoo, split="train")
    assert by_name["permutation"].verdict == "CLAIM BROKEN"
    assert not found.ok
    found, by_name = rows(PropertyRegression(Norms()), tiny_zoo, split="train")
    assert by_name["permutation"].verdict == "exact"
    assert by_name["control: one tensor"].verdict == "blind"
    assert not found.ok


def test_the_task_is_left_as_it_was(tiny_zoo):
    task = PropertyRegression(OperatorMetanet(width=16, heads=4)).train()
    before = {name: t.clone() for name, t in task.state_dict().items()}
    audit(task, tiny_zoo, nets=4)
    assert task.training
    assert all(torch.equal(t, before[name]) for name, t in task.state_dict().items())


def test_command_and_picture(tiny_zoo, tmp_path, capsys, monkeypatch):
    task = PropertyRegression(OperatorMetanet(width=16, heads=4))
    monkeypatch.setattr("metanet.audit.load_run", lambda run, trust: task)
    assert main(["audit", "run", str(tiny_zoo.path), "--nets", "6", "--json", "--plot", str(tmp_path / "a.png")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"]
    assert report["rows"][0]["verdict"] == "exact"
    assert (tmp_path / "a.png").stat().st_size > 10_000
    assert main(["audit", "run", str(tiny_zoo.path), "--nets", "6"]) == 0
    assert "permutation" in capsys.readouterr().out
    task.metanet = FirstNeurons()
    assert main(["audit", "run", str(tiny_zoo.path), "--nets", "6"]) == 1


def test_bad_input(tiny_zoo, tmp_path, capsys):
    assert main(["audit", str(tmp_path), str(tiny_zoo.path)]) == 2
    assert "no run folder" in capsys.readouterr().err
    task = PropertyRegression(Norms())
    with pytest.raises(MetanetError):
        audit(task, tiny_zoo, split="nothing")
    with pytest.raises(MetanetError, match="Accepted"):
        plot(audit(task, tiny_zoo, nets=4), tmp_path / "a.xyz")
