import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def figures(script: str, out: Path) -> dict:
    """What a quick run writes."""
    command = [sys.executable, str(BENCHMARKS / script), "--quick", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=out.parent)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


def test_steps_of_every_metanet_are_counted_against_the_edge_list(tmp_path):
    rows = {row["metanet"]: row for row in figures("metanet_step.py", tmp_path / "out.json")["rows"]}
    assert len(rows) == 7
    assert rows["edge list"]["x step"] == 1.0
    assert all(row["MFLOP"] > 0 and row["kernels"] > 100 for row in rows.values())
    assert rows["edge list"]["MB"] > 3 * rows["operator, 2 sweeps"]["MB"]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_time_and_memory_are_drawn_against_parameters(tmp_path):
    rows = figures("scale.py", tmp_path / "out.json")["rows"]
    assert [row["passes"] for row in rows] == ["forward"] * 2 + ["forward and backward"] * 2
    assert rows[0]["parameters"] < rows[1]["parameters"] < 1e5
    assert all(row["CPU s"] > 0 for row in rows)
    assert "<svg" in (tmp_path / "out.svg").read_text()


def test_models_are_picked_by_their_size(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("depgraph")
    sizes = {"a": {"a1": 3e6, "a2": 1e6, "a3": 2e6, "a4": 9e6, "a5": 2e8}, "b": {"b1": 2e8}}
    rows = [{"model": m, "family": f, "parameters": n} for f, own in sizes.items() for m, n in own.items()]
    (tmp_path / "table.json").write_text(json.dumps({"models": [*rows, {"model": "broken", "family": "c"}]}))
    monkeypatch.setattr(module, "TABLE", tmp_path / "table.json")
    assert module.picked("smallest") == ["a2", "b1"]
    assert module.picked("median") == ["a3"]
    assert module.picked("all") == ["a2", "a3", "a1", "a4", "a5", "b1"]
    for name in ("depgraph", "architectures", "isolated", "common"):  # no package: gone with the path
        sys.modules.pop(name, None)


@pytest.mark.skipif(importlib.util.find_spec("torch_pruning") is None, reason="torch_pruning is no dependency")
def test_seconds_beside_torch_pruning(tmp_path):
    rows = {row[""]: row for row in figures("depgraph.py", tmp_path / "out.json")["rows"]}
    assert rows["metanet"]["built"] == rows["Torch-Pruning"]["built"] == 3
