"""NumPy, Stable-Baselines3 and TorchScript."""

import json
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from metanet.checkpoint import load
from metanet.errors import CheckpointError


def test_npz(tmp_path: Path) -> None:
    arrays = {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">f4"),
        "half": np.ones(2, np.float16),
        "flag": np.array([True, False]),
        "count": np.array(7),
        "empty": np.zeros((0, 4)),
        "complex": np.array([1 + 2j]),
    }
    for name, write in (("a.npz", np.savez), ("b.npz", np.savez_compressed)):
        write(tmp_path / name, **arrays)
        got = load(tmp_path / name)
        assert got.format == "numpy"
        assert list(got.tensors) == list(arrays)
        for key, value in arrays.items():
            assert np.array_equal(got.tensors[key].numpy(), value)
    np.save(tmp_path / "c.npy", arrays["w"])
    assert torch.equal(load(tmp_path / "c.npy").tensors["array"], torch.from_numpy(arrays["w"]))


def test_arrays_of_text_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", names=np.array(["a", "b"]))
    with pytest.raises(CheckpointError, match=r"array 'names' has type <U1. Accepted: bool"):
        load(tmp_path / "a.npz")


def test_stable_baselines(tmp_path: Path) -> None:
    policy = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    torch.save(policy.state_dict(), tmp_path / "policy.pth")
    torch.save({"state": {0: torch.ones(9)}}, tmp_path / "policy.optimizer.pth")
    data = {"gamma": 0.99, "n_steps": 16, "policy_class": {":type:": "x", ":serialized:": "gASV"}, "seed": None}
    with zipfile.ZipFile(tmp_path / "agent.zip", "w") as archive:
        archive.writestr("data", json.dumps(data))
        for name in ("policy.pth", "policy.optimizer.pth"):
            archive.write(tmp_path / name, name)
        archive.writestr("_stable_baselines3_version", "2.1.0")
    got = load(tmp_path / "agent.zip")
    assert got.format == "stable-baselines3"
    assert list(got.tensors) == list(policy.state_dict())
    assert torch.equal(got.tensors["2.weight"], policy[2].weight.detach())
    assert got.metadata == {
        "gamma": "0.99",
        "n_steps": "16",
        "stable_baselines3_version": "2.1.0",
        "left_out": "policy.optimizer.pth",
    }


def scripted(path: Path, frozen: bool = False) -> nn.Module:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Identity() if frozen else nn.BatchNorm2d(2))  # freezing folds norms
    module = nn.Sequential(inner).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch announces the end of TorchScript; its files stay
        script = torch.jit.script(module)
        (torch.jit.freeze(script) if frozen else script).save(path)
    return module


def test_torchscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = scripted(tmp_path / "a.pt")
    monkeypatch.setattr(torch.jit, "load", None)
    got = load(tmp_path / "a.pt")
    assert got.format == "torchscript"
    assert set(got.tensors) == set(module.state_dict())
    assert all(torch.equal(got.tensors[name], value) for name, value in module.state_dict().items())


def test_frozen_torchscript(tmp_path: Path) -> None:
    module = scripted(tmp_path / "a.pt", frozen=True)
    got = load(tmp_path / "a.pt")
    assert got.metadata == {"torchscript": "frozen"}
    assert list(got.tensors) == [f"constants.{index}" for index in range(len(got.tensors))]
    assert any(torch.equal(value, module.state_dict()["0.0.weight"]) for value in got.tensors.values())
