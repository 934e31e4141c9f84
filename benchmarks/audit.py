"""How exactly trained metanets keep what they claim: ``metanet audit`` on one run of every model, as one table.

python benchmarks/audit.py runs/fmnist14_accuracy/*/seed-0 --zoo fmnist14-cnn [--json benchmarks/results/audit.json]

A number is the largest movement of a prediction, in standard deviations of the predictions over nets, when nets are
rewritten (float64). The control does change the function: a metanet that did not notice would be blind.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import report

from metanet.audit import CONTROL, Audit, audit

COLUMNS = ("permutation", "scale", "sign", "widening", "duplication", CONTROL)


def row(model: str, found: Audit) -> dict[str, Any]:
    """One model's movements and what it claims."""
    rows = {r.transformation: r.as_dict() for r in found.rows}
    residuals = [r["residual_max"] for name, r in rows.items() if name != CONTROL and r["residual_max"] is not None]
    return {
        "model": model,
        "metanet": found.metanet,
        "claims": ", ".join(name for name in COLUMNS if name in rows and rows[name]["claimed"]),
        **{name: _cell(rows.get(name)) for name in COLUMNS},
        "residual of the functions": max(residuals) if residuals else "not known",
        "claims hold": "yes" if found.ok else "no",
    }


def _cell(found: dict[str, Any] | None) -> float | str:
    if found is None:
        return ""
    return found["verdict"] if found["movement_max"] is None else found["movement_max"]


def main(argv: Sequence[str] | None = None) -> int:
    """Audit the runs, print the table; 1 if a claim is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders of train.py, named MODEL/seed-N")
    parser.add_argument("--zoo", required=True, help="zoo that nets are drawn from, its name or folder")
    parser.add_argument("--nets", type=int, default=64, help="how many nets of its test split")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    found = {run.parent.name: audit(run, options.zoo, nets=options.nets) for run in options.runs}
    rows = [row(model, result) for model, result in found.items()]
    wrong = [
        f"{model}: {r.transformation}: {r.verdict}"
        for model, result in found.items()
        for r in result.rows
        if r.verdict in ("CLAIM BROKEN", "blind")
    ]
    zoo = next(iter(found.values())).zoo
    return report(f"audit of trained metanets on {options.nets} test nets of {zoo}", rows, wrong, options.json)


if __name__ == "__main__":
    raise SystemExit(main())
