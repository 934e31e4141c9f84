import importlib.util
import json
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "markdown.py"


def test_rows_become_lines(tmp_path):
    spec = importlib.util.spec_from_file_location("markdown_script", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    figures = {"title": "T", "machine": {"cpu": "c"}, "rows": [{"a": "x", "b": 1.23456}], "wrong": ["y: not done"]}
    (tmp_path / "t.json").write_text(json.dumps(figures))
    assert script.main([str(tmp_path / "t.json"), "--to", str(tmp_path / "t.md")]) == 0
    assert (tmp_path / "t.md").read_text().splitlines() == [
        "## T", "", "| a | b |", "| --- | --- |", "| x | 1.23 |", "", "Missing: y: not done.", "", "Machine: cpu c.",
    ]  # fmt: skip
