"""Tables of benchmark results as one Markdown file.

python benchmarks/markdown.py benchmarks/results/accuracy-*.json --to benchmarks/results/accuracy.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def table(figures: dict[str, Any]) -> str:
    """Title, rows and machine of one JSON file that ``common.report`` wrote."""
    rows = figures["rows"]
    lines = [f"## {figures['title']}", "", _line(list(rows[0])), _line(["---"] * len(rows[0]))]
    lines += [_line([f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()]) for row in rows]
    lines += [f"\nMissing: {sentence}." for sentence in figures["wrong"]]
    where = ", ".join(f"{name} {value}" for name, value in figures["machine"].items())
    return "\n".join([*lines, "", f"Machine: {where}."])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("files", type=Path, nargs="+", help="JSON files of benchmarks")
    parser.add_argument("--to", type=Path, required=True, metavar="FILE", help="Markdown file")
    options = parser.parse_args(argv)
    parts = [table(json.loads(file.read_text())) for file in options.files]
    options.to.write_text("\n\n".join(parts) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
