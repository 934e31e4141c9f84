"""That the fuzzer opens every format, finds each kind of fault that is planted, and reports nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx")
pytest.importorskip("h5py")
ROOT = Path(__file__).parents[2]
FORMATS = {
    *("pt", "pth", "ckpt", "module.pt", "pkl", "npz", "npy", "h5", "keras", "torchscript", "stable-baselines3"),
    *("onnx", "safetensors", "safetensors, with its space", "index"),
}
PLURALS = {"traceback": "tracebacks", "crash": "crashes", "breach": "breaches", "hang": "hangs"}


def fuzz(*options: str) -> subprocess.CompletedProcess[str]:
    """Run the fuzzer in a process of its own, since it forks."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(ROOT / "benchmarks" / "fuzz.py"), "--workers", "1", *options]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of the run and of the undamaged files, made by the first call."""
    return str(tmp_path_factory.mktemp("fuzz") / "work")


def read(file: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Rows by format, and findings."""
    figures = json.loads(file.read_text())
    return {row["format"]: row for row in figures["rows"]}, figures["wrong"]


def test_every_format_is_opened_without_a_finding(work: str, tmp_path: Path) -> None:
    files = ["--json", str(tmp_path / "a.json"), "--markdown", str(tmp_path / "a.md")]
    run = fuzz("--mutants", "30", "--work", work, *files)
    assert run.returncode == 0, run.stderr
    rows, wrong = read(tmp_path / "a.json")
    assert wrong == []
    assert {name: row["mutants"] for name, row in rows.items()} == dict.fromkeys(FORMATS, 2) | {"all": 30}
    assert rows["all"]["load: read"] > 0
    assert [rows["all"][plural] for plural in PLURALS.values()] == [0, 0, 0, 0]
    assert "30 of 30 mutants, 0 wrong" in run.stderr
    assert "| all | 30 |" in (tmp_path / "a.md").read_text()


def test_every_planted_fault_is_found_in_its_column(work: str, tmp_path: Path) -> None:
    options = ["--plant", ",".join(PLURALS), "--patience", "20", "--json", str(tmp_path / "a.json")]
    run = fuzz("--mutants", "16", "--work", work, "--markdown", str(tmp_path / "a.md"), *options)
    assert run.returncode == 1, run.stderr
    rows, wrong = read(tmp_path / "a.json")
    assert [rows["all"][plural] for plural in PLURALS.values()] == [1, 1, 1, 1]
    found = {text.split(", ")[0]: text for text in wrong}
    places = {kind: found[kind].split(" ")[2] for kind in PLURALS}
    assert places == {"traceback": "0", "crash": "4", "breach": "8", "hang": "12"}
    assert "KeyError: 'planted'" in found["traceback"]
    assert "ended with -11" in found["crash"]
    assert rows["all"]["most memory, MiB"] > 1000
    assert rows["all"]["mutants"] == 16  # those behind a crash and behind a hang are opened too
    assert (tmp_path / "a.md").read_text().count("Missing: ") == 4


def test_an_unknown_fault_is_refused(work: str) -> None:
    run = fuzz("--mutants", "4", "--work", work, "--plant", "melt")
    assert run.returncode == 1
    assert "--plant takes traceback, crash, breach, hang" in run.stderr
