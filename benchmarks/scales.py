"""What the sizes of neurons tell: boosted trees on weights as they are, with their scales fixed, and on scales alone.

python benchmarks/scales.py [--zoo fmnist14-cnn] [--filter activation=relu] [--target test_accuracy] [--json FILE]

Scaling a ReLU neuron's incoming weights, and its outgoing ones by the inverse, leaves the function as it is. A metanet
that respects it cannot see the *frames* by which :mod:`metanet.symmetry.fixing` divides them. This asks how much frames
say of a target: seven statistics a tensor (StatNN's) of the weights, of the weights with their scales fixed, of the
logarithms of all frames, and of the last two together. Three seeds of the trees, the zoo's own splits.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from accuracy import spread
from common import report
from sklearn.ensemble import HistGradientBoostingRegressor
from torch import Tensor

from metanet.errors import MetanetError
from metanet.graph import NeuronGraph
from metanet.models.gauge import LARGEST
from metanet.models.statnn import StatNN, statistics
from metanet.symmetry.fixing import fix, fixing_of
from metanet.tasks.scores import score
from metanet.zoo.data import ZooDataModule

SEEDS = (0, 1, 2)


def tables(graphs: Sequence[NeuronGraph]) -> dict[str, np.ndarray]:
    """What the trees read, one row a net, all nets of one space."""
    parts: dict[str, list[np.ndarray]] = {"weights": [], "weights, scales fixed": [], "scales": []}
    for graph in graphs:
        fixed, frames = fix(graph.space, graph.tensors)
        steps = fixing_of(graph.space).steps
        scales = [f for s, f in zip(steps, frames, strict=True) if s.gauge.kind == "scale"]
        scales = [f.clamp(1 / LARGEST, LARGEST).log() for f in scales]  # that of a dead neuron is zero
        parts["weights"].append(_columns([graph.tensors[name] for name in graph.space.tensor]))
        parts["weights, scales fixed"].append(_columns([fixed[name] for name in graph.space.tensor]))
        parts["scales"].append(_columns(scales))
    found = {name: np.concatenate(rows) for name, rows in parts.items()}
    found["weights, scales fixed, and scales"] = np.hstack([found["weights, scales fixed"], found["scales"]])
    return found


def _columns(tensors: Sequence[Tensor]) -> np.ndarray:
    return np.hstack([statistics(tensor) for tensor in tensors])


def trees(train: np.ndarray, wanted: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """What trees with StatNN's settings predict."""
    model = HistGradientBoostingRegressor(**StatNN(seed).settings)
    return np.asarray(model.fit(train, wanted).predict(test))


def main(argv: Sequence[str] | None = None) -> int:
    """Print one row for each kind of table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--zoo", default="fmnist14-cnn", help="a zoo whose nets are, once filtered, of one space")
    parser.add_argument("--filter", default="activation=relu", metavar="COLUMN=VALUE")
    parser.add_argument("--target", default="test_accuracy")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    options = parser.parse_args(argv)
    column, _, value = options.filter.partition("=")
    if not value:
        parser.error(f"--filter: got {options.filter}; accepted: COLUMN=VALUE, such as activation=relu")
    data = ZooDataModule(options.zoo, options.target, filter={column: value})
    try:
        data.setup()
    except MetanetError as error:
        parser.error(str(error))
    if len(data.spaces) > 1:
        parser.error(f"{options.zoo}, {options.filter}: got nets of {len(data.spaces)} spaces; filter to one")
    splits = {name: list(data.split(name).graphs()) for name in ("train", "test")}
    read = {name: tables([graph for graph, _ in found]) for name, found in splits.items()}
    wanted = {name: np.concatenate([y for _, y in found]) for name, found in splits.items()}
    rows = []
    for kind, train in read["train"].items():
        scores = [score(trees(train, wanted["train"], read["test"][kind], s), wanted["test"]) for s in SEEDS]
        tau, r2 = spread([s.tau for s in scores]), spread([s.r2 for s in scores])
        rows.append({"trees read": kind, "columns": train.shape[1], "test tau": tau, "test r2": r2})
    title = f"{options.zoo}, {options.filter}: {options.target} from the sizes of neurons"
    return report(title, rows, [], options.json)


if __name__ == "__main__":
    raise SystemExit(main())
