"""Test scores of finished runs, split by a column of the zoo's table, such as the nets' activation.

python benchmarks/accuracy_by.py runs/fmnist14_accuracy --models operator,gauge --by activation [--json FILE]

Every run is read from its folder (those of ``accuracy.py``) and predicts its zoo's test nets; nothing is trained but
StatNN, once a seed, on the training nets of the same run.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accuracy import spread
from common import report

from metanet.prediction import load_run
from metanet.tasks.report import statnn_predictions
from metanet.tasks.scores import score
from metanet.zoo.data import ZooDataModule

Taus = dict[str, list[float]]


def predictions(folder: Path) -> tuple[ZooDataModule, np.ndarray, np.ndarray]:
    """The data of a run, and what its metanet and StatNN say of the test nets, space by space."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    task, data = load_run(folder), ZooDataModule(**config["data"])
    data.setup()
    with torch.no_grad():
        found = [task(graph).double().numpy() for graph in data.split("test").chunks()]
    statnn, _ = statnn_predictions(data, config["seed_everything"], task.quantiles)
    return data, np.concatenate(found), statnn


def taus(predicted: np.ndarray, data: ZooDataModule, by: str) -> Iterator[tuple[str, float]]:
    """Kendall's tau within the test nets of every value of a column."""
    test = data.split("test")
    order = np.concatenate(list(test.groups.values()))
    values = test.zoo.column(by)[test.rows[order]]
    for value in np.unique(values):
        chosen = values == value
        yield f"{value} ({chosen.sum()})", score(predicted[chosen], test.targets[order][chosen]).tau


def main(argv: Sequence[str] | None = None) -> int:
    """Print one row a model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("runs", type=Path, help="folder of MODEL/seed-N")
    parser.add_argument("--models", help="comma-separated; all by default")
    parser.add_argument("--by", required=True, metavar="COLUMN", help="column of the zoo's table")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    models = options.models.split(",") if options.models else sorted(p.name for p in options.runs.iterdir())
    rows: list[dict[str, Any]] = []
    trees: dict[str, Taus] = {}  # StatNN's, by seed: it is the same beside every model
    for model in models:
        found: Taus = defaultdict(list)
        for folder in sorted(p.parent for p in (options.runs / model).glob("seed-*/metrics.json")):
            data, ours, statnn = predictions(folder)
            for value, tau in taus(ours, data, options.by):
                found[value].append(tau)
            trees[folder.name] = {value: [tau] for value, tau in taus(statnn, data, options.by)}
        if found:
            rows.append(_row(model, found))
    if not rows:
        parser.error(f"no finished run of {', '.join(models)} in {options.runs}")
    joined: Taus = defaultdict(list)
    for one in trees.values():
        for value, tau in one.items():
            joined[value] += tau
    rows.append(_row("statnn", joined))
    return report(f"{options.runs.name}: test tau by {options.by}", rows, [], options.json)


def _row(model: str, found: Taus) -> dict[str, Any]:
    seeds = len(next(iter(found.values())))
    return {"model": model, "seeds": seeds, **{value: spread(taus) for value, taus in found.items()}}


if __name__ == "__main__":
    raise SystemExit(main())
