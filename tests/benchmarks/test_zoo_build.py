import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_quick_run_writes_its_figures(tmp_path):
    out = tmp_path / "figures.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "zoo_build.py"), "--quick", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "builder" in done.stdout
    figures = json.loads(out.read_text())
    assert figures["wrong"] == []
    assert all(row["of the loop"] > 0 for row in figures["rows"])
    assert {row[""] for row in figures["rows"]} >= {"plain loop", "builder"}
    assert figures["machine"]["torch"]
