"""How long it takes to understand a network: metanet's weight space beside Torch-Pruning's dependency graph.

``python benchmarks/depgraph.py [--pick median|smallest|all] [--models a,b] [--quick] [--json FILE] [--seconds S]``
needs timm, torchvision and torch_pruning, which the package does not depend on. By default it takes, of every family
of timm, the model of median size under 100 M parameters, at the input size of its pretrained weights. ``--pick
smallest`` takes the smallest of every family on reduced images, which flatters a tool that runs the network for real;
``--pick all`` takes every model at the input size of its weights.

Each of the two runs in a forked process of its own with a time limit, one after the other on the same module and
inputs; seconds are CPU seconds of one thread. metanet's are those of ``metanet.trace``: recording the graph, axes and
gauges. Torch-Pruning's are those of ``DependencyGraph().build_dependency``, which runs the model on real numbers.
Both have understood one small network before, so that what is loaded on first use is not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from architectures import LARGE, Architecture, parameters_of, suite
from common import report
from isolated import isolated
from torch import nn

import metanet

TABLE = Path(__file__).parent / "results" / "coverage.json"
LIMIT = 60  # CPU seconds for either
QUICK = ("resnet18", "mobilenetv3_small_050", "vit_tiny_patch16_224")


def timed(architecture: Architecture, understand: Callable[[nn.Module, Any], Any], whole: bool) -> dict[str, Any]:
    """Seconds that one of the two takes, on the first module that it accepts.

    Args:
        architecture: The architecture.
        understand: What is timed.
        whole: Whether to give it the module with inputs of full size alone.
    """
    failure: Exception | None = None
    pairs = list(architecture.build())[-1:] if whole else architecture.build()
    for module, inputs in pairs:
        begin = time.process_time()
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                understand(module, inputs)
        except Exception as error:  # windows that do not fit a small image
            failure = failure or error
            continue
        return {"state": "built", "seconds": time.process_time() - begin, "parameters": parameters_of(module)}
    raise failure or RuntimeError("no module was built")


def warm_up() -> None:
    """Let both understand one small network."""
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    ).eval()
    for understand in (metanet.trace, dependency_graph):
        understand(network, torch.randn(1, 3, 16, 16))


def dependency_graph(module: nn.Module, inputs: Any) -> Any:
    """Torch-Pruning's dependency graph of a module."""
    import torch_pruning  # it needs torchvision, which suite() makes ready

    return torch_pruning.DependencyGraph().build_dependency(module, example_inputs=inputs)


def compare(architecture: Architecture, whole: bool) -> dict[str, Any]:
    """One row: both, one after the other."""
    ours = isolated(lambda: timed(architecture, metanet.trace, whole), LIMIT)
    theirs = isolated(lambda: timed(architecture, dependency_graph, whole), LIMIT)
    row: dict[str, Any] = {"model": architecture.name, "family": architecture.family}
    row["parameters"] = ours.get("parameters", theirs.get("parameters", 0))
    for name, found in (("metanet", ours), ("Torch-Pruning", theirs)):
        row[f"{name} s"] = round(found["seconds"], 3) if found["state"] == "built" else found["state"]
    row["reason"] = theirs.get("reason", "")
    return row


def picked(pick: str) -> list[str]:
    """Models of the committed table of coverage: of every family the smallest or the median one, or all of them.

    The median is that of the models under 100 M parameters, the smaller one of two; families without any have none.
    """
    families: dict[str, list[tuple[int, str]]] = {}
    for row in json.loads(TABLE.read_text())["models"]:
        if "parameters" in row and (pick != "median" or row["parameters"] < LARGE):
            families.setdefault(row["family"], []).append((row["parameters"], row["model"]))
    models = [sorted(families[family]) for family in sorted(families)]
    if pick == "all":
        return [name for family in models for _, name in family]
    return [family[0 if pick == "smallest" else (len(family) - 1) // 2][1] for family in models]


def figures(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians over the models that both built, and how often either failed."""
    ours, theirs = ([r[f"{name} s"] for r in rows] for name in ("metanet", "Torch-Pruning"))
    both = [(a, b) for a, b in zip(ours, theirs, strict=True) if isinstance(a, float) and isinstance(b, float)]
    found = []
    for name, own, place in (("metanet", ours, 0), ("Torch-Pruning", theirs, 1)):
        times = [pair[place] for pair in both]
        found.append(
            {
                "": name,
                "models": len(rows),
                "built": sum(isinstance(s, float) for s in own),
                "out of time": own.count("out of time"),
                "failed": sum(s in ("refused", "crashed") for s in own),
                "built by both": len(both),
                "median s": statistics.median(times) if times else 0.0,
                "total s": sum(times),
                "longest s": max((s for s in own if isinstance(s, float)), default=0.0),
                "faster on": sum(pair[place] < pair[1 - place] for pair in both),
            }
        )
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Compare on the models asked for and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--pick", choices=("smallest", "median", "all"), default="median", help="models of every family"
    )
    parser.add_argument("--models", help="comma-separated names, instead of those picked")
    parser.add_argument("--quick", action="store_true", help="three small models, for a smoke test")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no model after that many seconds")
    asked = parser.parse_args(argv)
    torch.set_num_threads(1)  # forked processes must not inherit threads
    architectures = suite("timm")
    names = asked.models.split(",") if asked.models else QUICK if asked.quick else picked(asked.pick)
    whole = asked.pick != "smallest" and not asked.quick
    warm_up()
    end, rows = time.monotonic() + asked.seconds, []
    for name in names:
        if time.monotonic() > end:
            break
        rows.append(compare(architectures[name], whole))
        print(*rows[-1].values(), file=sys.stderr, flush=True)
    wrong = [f"{r['model']}: metanet {r['metanet s']}" for r in rows if not isinstance(r["metanet s"], float)]
    version = importlib.metadata.version("torch_pruning")
    title = "Seconds to understand a network of timm"
    return report(
        title, figures(rows), wrong, asked.json, pick=asked.pick, limit=LIMIT, torch_pruning=version, models=rows
    )


if __name__ == "__main__":
    sys.exit(main())
