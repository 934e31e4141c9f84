"""The audit table: one row a run, and a broken claim is wrong."""

import json
import subprocess
import sys
from pathlib import Path

from metanet.training import main as train

ROOT = Path(__file__).resolve().parents[2]


def test_one_row_a_run(tiny_zoo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, cls in {"operator": "OperatorMetanet", "flat": "FlatMetanet"}.items():
        small = ["--model.metanet.width=8", "--model.metanet.heads=2"] if name == "operator" else []
        train(
            ["fit", "--config", str(ROOT / "configs" / "digits_accuracy.yaml"), "--data.zoo", str(tiny_zoo.path),
             "--model.metanet", f"metanet.models.{cls}", *small, "--trainer.max_epochs", "1",
             "--trainer.default_root_dir", str(tmp_path / name / "seed-0")]
        )  # fmt: skip
    out = tmp_path / "audit.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "audit.py"), "operator/seed-0", "flat/seed-0"]
    command += ["--zoo", str(tiny_zoo.path), "--nets", "4", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())
    operator, flat = figures["rows"]
    assert operator["model"] == "operator"
    assert operator["claims"] == "permutation"
    assert operator["permutation"] < 1e-10 < operator["scale"]
    assert operator["residual of the functions"] < 1e-9
    assert flat["claims"] == ""
    assert flat["permutation"] > 1e-3
    assert figures["wrong"] == []
