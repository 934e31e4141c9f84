"""Real files of strangers, where the collection beside the repository is present."""

import csv
from pathlib import Path

import pytest
import torch

from metanet.checkpoint import load

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
CHECKPOINTS, AGENTS = SHARED / "checkpoints", SHARED / "zoos" / "sb3-agents"
needs_files = pytest.mark.skipif(not CHECKPOINTS.is_dir(), reason=f"the collection {CHECKPOINTS} is not here")
needs_agents = pytest.mark.skipif(not AGENTS.is_dir(), reason=f"the collection {AGENTS} is not here")

ELSEWHERE = {"admet-ai/admet_classification__model_0.pt": 2}
"""Values that the list counts and the net does not have: two in the metrics among the hyperparameters."""

FORMATS = {
    **{"pt state_dict": "pytorch", "pt pickle": "pytorch", "safetensors": "safetensors", "onnx": "onnx"},
    **{"npz": "numpy", "keras-h5": "keras-h5", "sb3-zip": "stable-baselines3"},
}


def rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


@needs_files
def test_every_file_loads_with_all_its_values() -> None:
    listed = rows(CHECKPOINTS / "MANIFEST.tsv")
    assert len(listed) == 26
    for row in listed:
        got = load(CHECKPOINTS / row["file"])
        assert got.format == FORMATS[row["format"]], row["file"]
        assert got.numel == int(row["parameters"]) - ELSEWHERE.get(row["file"], 0), row["file"]
        assert not any(tensor.isnan().any() for tensor in got.tensors.values()), row["file"]


@needs_files
def test_the_same_tensors_as_pytorch_reads() -> None:
    compared = 0
    for row in rows(CHECKPOINTS / "MANIFEST.tsv"):
        if row["format"] == "pt state_dict":
            wanted = torch.load(CHECKPOINTS / row["file"], map_location="cpu", weights_only=True)
            got = load(CHECKPOINTS / row["file"]).tensors
            assert list(got) == list(wanted)
            assert all(torch.equal(got[name], value) for name, value in wanted.items()), row["file"]
            compared += 1
    assert compared > 8


@needs_files
def test_one_net_as_pth_and_onnx() -> None:
    folder = CHECKPOINTS / "ultra-light-face"
    ours = load(folder / "version-slim-320.pth").tensors
    theirs = load(folder / "version-slim-320_without_postprocessing.onnx").tensors
    assert set(ours) - set(theirs) == {name for name in ours if name.endswith("num_batches_tracked")}
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


@needs_agents
def test_every_agent_loads() -> None:
    listed = rows(AGENTS / "agents.tsv")
    assert len(listed) == 111
    for row in listed:
        got = load(AGENTS / row["folder"] / "policy.pth")
        assert got.numel == int(row["parameters"]), row["folder"]
