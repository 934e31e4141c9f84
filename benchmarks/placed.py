"""How much of every architecture's parameters is in its neuron graph, and whether a metanet sees it.

``python benchmarks/placed.py [--suites timm,torchvision,transformers,outside] [--every] [--quick] [--seconds S]
[--log FILE] [--to FILE]`` needs the libraries named. Of timm the model of each family that the benchmark depgraph.py
names is taken (``--every``: all). A tensor is seen if a metanet with random parameters, in float64, predicts something
else once it is doubled.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import metanet
from metanet import testing
from metanet.graph import NeuronGraph, layout_of
from metanet.models import OperatorMetanet

sys.path.insert(0, str(Path(__file__).parent))
from architectures import DECODER, IMAGE, TEXT, Architecture, declare_torchvision_operations, suite

declare_torchvision_operations()  # before torchmetrics imports torchvision

from common import machine  # noqa: E402
from isolated import isolated  # noqa: E402
from markdown import table  # noqa: E402
from outside import OUTSIDE  # noqa: E402

ENOUGH = 0.99
SENSED = 12_000_000  # parameters up to which a metanet reads the model
TENSORS = 3  # doubled, of each model
LIMIT = 240  # CPU seconds a model
RESULTS = Path(__file__).parent / "results"
MEDIAN = RESULTS / "depgraph.json"  # one model a family


def examine(architecture: Architecture, most: int = SENSED) -> dict[str, Any]:
    """Coverage of one architecture, and the tensors that a metanet does not see."""
    refusal: Exception | None = None
    for module, inputs in architecture.build():
        try:
            space = metanet.trace(module, inputs)
        except metanet.MetanetError as error:  # windows that do not fit a small image
            refusal = refusal or error
            continue
        layout = layout_of(space)
        row = {"parameters": space.parameters, "coverage": layout.coverage, "left out": ", ".join(layout.unplaced)}
        return row | {"nodes": layout.size, "seen": sensed(space, most)}
    raise refusal or RuntimeError("no module was built")


@torch.no_grad()
def sensed(space: metanet.WeightSpace, most: int) -> str:
    """How many of some tensors, spread over the network, move a prediction when they are doubled."""
    if space.parameters > most:
        return "not run"
    torch.manual_seed(0)
    options = {"width": 8, "heads": 4, "rounds": 1, "schedule": "parallel"}
    predict = testing.randomised_module(OperatorMetanet(**options))  # type: ignore[arg-type]
    graph = testing.randomised_graph(space, nets=1)
    base, names = predict(graph), list(space.tensor)
    chosen = [names[round(i * (len(names) - 1) / TENSORS)] for i in range(TENSORS + 1)]
    blind = []
    for name in dict.fromkeys(chosen):
        changed = NeuronGraph(space, {**graph.tensors, name: 2 * graph.tensors[name]})
        if not ((predict(changed) - base).abs() > 1e-10 * base.abs()).all():
            blind.append(name)
    return f"{len(set(chosen)) - len(blind)} of {len(set(chosen))}" + (f", not {', '.join(blind)}" if blind else "")


def architectures_of(name: str, every: bool) -> Iterator[Architecture]:
    """The architectures of one suite."""
    if name == "outside":
        for shape, make in OUTSIDE.items():
            yield Architecture(shape, "outside", lambda make=make: iter([make()]))  # type: ignore[misc]
        return
    found = suite(name)
    if name == "timm" and not every:
        names = [row["model"] for row in json.loads(MEDIAN.read_text())["models"]]
        yield from (found[n] for n in names if n in found)
    else:
        yield from found.values()
    if name == "transformers":
        for kind in MORE:
            yield Architecture(kind, kind, lambda kind=kind: _more(kind))  # type: ignore[misc]


MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "DistilBertForMaskedLM": (
        "DistilBertConfig", {"vocab_size": 40, "dim": 24, "n_layers": 2, "n_heads": 4, "hidden_dim": 36},
    ),
    "RobertaForMaskedLM": ("RobertaConfig", TEXT),
    "ElectraForMaskedLM": ("ElectraConfig", {**TEXT, "embedding_size": 12}),
    "AlbertForMaskedLM": ("AlbertConfig", {**TEXT, "embedding_size": 12}),
    "MPNetForMaskedLM": ("MPNetConfig", TEXT),
    "DebertaV2ForMaskedLM": ("DebertaV2Config", TEXT),
    "DeiTForImageClassification": ("DeiTConfig", {**TEXT, **IMAGE}),
    "BeitForImageClassification": ("BeitConfig", {**TEXT, **IMAGE}),
    "GPTNeoXForCausalLM": ("GPTNeoXConfig", {**TEXT, "use_cache": False}),
    "PhiForCausalLM": ("PhiConfig", {**DECODER, "num_attention_heads": 3, "num_key_value_heads": 3}),
    "MixtralForCausalLM": ("MixtralConfig", {**DECODER, "num_local_experts": 3, "num_experts_per_tok": 2}),
    "OPTForCausalLM": (
        "OPTConfig",
        {
            "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 36,
            "word_embed_proj_dim": 24, "use_cache": False, "max_position_embeddings": 32,
        },
    ),
}  # fmt: skip


def _more(kind: str) -> Iterator[tuple[nn.Module, dict[str, torch.Tensor]]]:
    import transformers

    config, options = MORE[kind]
    module = getattr(transformers, kind)(getattr(transformers, config)(**options)).eval()
    image = "Image" in kind
    yield module, {"pixel_values": torch.randn(1, 3, 16, 16)} if image else {"input_ids": torch.arange(6)[None] + 3}


def judged(name: str, row: dict[str, Any]) -> list[str]:
    """What should hold of a model and does not."""
    if "coverage" not in row:
        return [f"{name}: {row.get('state', '')} {row.get('reason', '')}"]
    found = [f"{name}: {row['coverage']:.1%} of its parameters"] if row["coverage"] < ENOUGH else []
    return found + ([f"{name}: doubling moves nothing: {row['seen']}"] if ", not " in row["seen"] else [])


def run(asked: argparse.Namespace, isolate: Callable[..., dict[str, Any]] = isolated) -> list[dict[str, Any]]:
    """One row a model, until time is up; each is logged as it is done."""
    end, log = time.monotonic() + asked.seconds, asked.log
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log and log.exists() else []
    done = {(row["suite"], row["model"]) for row in rows}
    for name in asked.suites.split(","):
        models = list(architectures_of(name, asked.every))
        for architecture in models[:3] if asked.quick else models:
            if (name, architecture.name) in done:
                continue
            if time.monotonic() > end:
                return rows
            found = isolate(lambda a=architecture: examine(a, asked.sense), LIMIT)
            rows.append({"suite": name, "model": architecture.name, "family": architecture.family, **found})
            if log:
                with log.open("a") as out:
                    out.write(json.dumps(rows[-1]) + "\n")
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Examine the models asked for, print what falls short, and write one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--suites", default="outside,transformers,torchvision,timm", help="comma-separated")
    parser.add_argument("--every", action="store_true", help="all models of timm, not one a family")
    parser.add_argument("--quick", action="store_true", help="three models of each suite, for a smoke test")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no model after that many seconds")
    parser.add_argument("--sense", type=int, default=SENSED, help="parameters up to which a metanet reads a model")
    parser.add_argument("--log", type=Path, metavar="FILE", help="one line a model as it is done; these are not redone")
    parser.add_argument("--to", type=Path, metavar="FILE", help="Markdown file, such as benchmarks/results/placed.md")
    asked = parser.parse_args(argv)
    torch.set_num_threads(1)  # forked processes must not inherit threads
    warnings.simplefilter("ignore")
    metanet.trace(nn.Linear(2, 2), torch.ones(1, 2))  # what is loaded on first use is loaded once
    rows = run(asked)
    wrong = [sentence for row in rows for sentence in judged(f"{row['suite']} {row['model']}", row)]
    counted = [row for row in rows if "coverage" in row]
    least = min((row["coverage"] for row in counted), default=0.0)
    title = f"Parameters in the neuron graph: {len(counted)} models, least {least:.2%}"
    columns = ("suite", "model", "parameters", "nodes", "coverage", "left out", "seen")
    shown = [{c: row.get(c, row.get("reason", "")[:80] if c == "left out" else "") for c in columns} for row in rows]
    figures = {"title": title, "rows": shown, "wrong": wrong, "machine": machine()}
    print(title, *wrong, sep="\n")
    if asked.to is not None:
        asked.to.write_text(table(figures) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
