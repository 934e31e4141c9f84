import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "coverage.py"


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is no dependency")
def test_one_model_is_certified(tmp_path):
    out = tmp_path / "figures.json"
    command = [sys.executable, "-W", "ignore", str(SCRIPT), "--models", "resnet18,no_such_model", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 1
    assert "no_such_model: refused" in done.stderr
    models = {row["model"]: row for row in json.loads(out.read_text())["models"]}
    assert models["resnet18"]["state"] == "certified"
    assert models["resnet18"]["neurons"] == 2880
