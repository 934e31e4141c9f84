"""What the benchmark scripts share: options, the machine's name, one table for people, one JSON file for programs."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from metanet.tasks.report import cpu_name


def parser(description: str) -> argparse.ArgumentParser:
    """The options ``[--quick] [--json FILE]``."""
    found = argparse.ArgumentParser(description=description, allow_abbrev=False)
    found.add_argument("--quick", action="store_true", help="seconds instead of minutes, for a smoke test")
    found.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    return found


def options(description: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse ``[--quick] [--json FILE]``."""
    return parser(description).parse_args(argv)


def machine(device: str = "cpu") -> dict[str, Any]:
    """Describe what a figure was measured on."""
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.startswith("cuda") else {}
    return gpu | {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def report(
    title: str,
    rows: Sequence[dict[str, Any]],
    wrong: Sequence[str],
    to: Path | None,
    device: str = "cpu",
    **more: Any,
) -> int:
    """Print the table and what went wrong; write the JSON file.

    Args:
        title: Title of the table.
        rows: One mapping of column to value a row, all with the same columns.
        wrong: Results that should hold and do not, a sentence each.
        to: JSON file, or ``None``.
        device: What was measured on, ``cpu`` or ``cuda``.
        more: Further fields of the JSON file.

    Returns:
        Exit code: 1 if anything is wrong.
    """
    where = machine(device)
    table = Table(title=title, caption=", ".join(f"{key} {value}" for key, value in where.items()))
    for column in rows[0]:
        table.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    for sentence in wrong:
        print(f"WRONG: {sentence}", file=sys.stderr)
    if to is not None:
        to.parent.mkdir(parents=True, exist_ok=True)
        figures = {"title": title, "machine": where, "rows": list(rows), "wrong": list(wrong), **more}
        to.write_text(json.dumps(figures, indent=1) + "\n")
    return 1 if wrong else 0
