import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v limits the address space on Linux")
def test_quick_run_writes_its_figures(tmp_path):
    out = tmp_path / "figures.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "zoo_read.py"), "--quick", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())
    assert figures["wrong"] == []
    assert [row["seconds"] > 0 for row in figures["rows"]] == [True] * 4
    assert figures["rows"][2]["nets/s"] > 0
