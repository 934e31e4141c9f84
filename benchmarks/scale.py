"""Time and memory of the operator metanet against the number of parameters it reads, from 5 k to 400 M.

python benchmarks/scale.py [--quick] [--json FILE]

Chains of three convolutions of growing width, one net at a time, and ResNet-50 and ViT-B/16, each in a process of its
own. Seconds are CPU seconds of one thread. Memory is the highest resident set during the first pass less that before
it, which holds the weights: what the metanet takes besides them. The slopes are those of straight lines through
logarithms: of time over the chains of a million parameters and more whose operators are kept, as below the number of
operations on tensors counts, which is the same for all, and weights that are embedded at every use take four times as
long; of memory over all chains. ``--json`` also writes a picture beside the file.
Exits with 1 if ResNet-50 takes too long or too much, or if a slope is too steep (full run).
"""

from __future__ import annotations

import gc
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin starve each other on a busy machine

import torch
from common import options, report
from isolated import isolated
from matplotlib.figure import Figure
from networks import chain, resnet50, vit_b16
from torch import Tensor, nn

import metanet
from metanet.graph import NeuronGraph
from metanet.models import OperatorMetanet

WIDTHS = (16, 44, 110, 240, 530, 1180, 2357, 4714)  # of three convolutions: 5 thousand to 400 million parameters
LARGE = {"ResNet-50": resnet50, "ViT-B/16": vit_b16}
SECONDS, MEBIBYTES = 3.0, 2048.0  # of ResNet-50, forward, on two cores
LIMIT = 600.0  # CPU seconds of one process
MiB = 2**20
Make = Callable[[], tuple[nn.Module, Tensor]]


def status(key: str) -> float:
    """MiB of a line of ``/proc/self/status``."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":")) / 1024


def memory(run: Callable[[], None]) -> float:
    """MiB that a pass takes."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the highest resident set from now on
    before = status("VmRSS")
    run()
    return status("VmHWM") - before


def seconds(run: Callable[[], None]) -> dict[str, float]:
    """CPU seconds and wall seconds of a pass: the best of two times half a second of passes, or of one long pass."""
    found, passes = [], 1
    while len(found) < 3 and sum(f["CPU s"] * passes for f in found) < 5:
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(passes):
            run()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        found.append({"CPU s": cpu / passes, "wall s": wall / passes})
        passes = max(1, int(0.5 / found[0]["wall s"]))
    found = found[1:] or found
    return {key: min(f[key] for f in found) for key in ("CPU s", "wall s")}


def measure(make: Make, schedule: str, backward: bool, threads: int) -> dict[str, Any]:
    """What one row says; runs in a process of its own."""
    torch.set_num_threads(threads)
    space = metanet.trace(*make())
    generator = torch.Generator().manual_seed(0)
    tensors = {n: torch.randn(1, *s, generator=generator) * 0.1 for n, s in space.shapes.items()}
    graph = NeuronGraph(space, tensors)
    torch.manual_seed(0)
    model = OperatorMetanet(schedule=schedule)  # type: ignore[arg-type]
    net, example = chain(8)
    small = metanet.trace(net, example)
    warm = NeuronGraph(small, {n: torch.zeros(1, *s) for n, s in small.shapes.items()})
    model(warm).sum().backward()  # libraries are loaded and buffers made

    def run() -> None:
        with torch.set_grad_enabled(backward):
            found = model(graph).sum()
            if backward:
                found.backward()

    most, best = memory(run), seconds(run)
    kept = 16 * sum(math.prod(b.shape[:3]) for b in graph.layout.blocks) <= model.limit
    return {
        "parameters": space.parameters,
        "neurons": graph.layout.size,
        "embedded": "once" if kept else "piece by piece",
        **best,
        "MiB": most,
        "MiB of weights": space.parameters * 4 / MiB,
    }


def row(name: str, make: Make, schedule: str, backward: bool = False, threads: int = 1) -> dict[str, Any]:
    """One row of the table, measured in a process of its own."""
    passes = "forward and backward" if backward else "forward"
    named = {"network": name, "schedule": schedule, "passes": passes, "threads": threads}
    found = {**named, **isolated(lambda: measure(make, schedule, backward, threads), LIMIT)}
    found.pop("cpu", None)
    print(found, flush=True)
    return found


def slope(rows: Sequence[dict[str, Any]], key: str) -> float:
    """Slope of the line through the logarithms of a column against those of the parameters."""
    x = torch.tensor([math.log(r["parameters"]) for r in rows], dtype=torch.float64)
    y = torch.tensor([math.log(max(r[key], 0.1)) for r in rows], dtype=torch.float64)
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def slopes(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Slopes of time and memory over the chains, forward, and forward and backward."""
    found = {}
    for passes in ("forward", "forward and backward"):
        mine = [r for r in rows if r["network"] == "chain" and r["passes"] == passes and "CPU s" in r]
        timed = [r for r in mine if r["parameters"] >= 1e6 and r["embedded"] == "once"]
        found[f"CPU s, {passes}"] = slope(timed, "CPU s")
        found[f"MiB, {passes}"] = slope(mine, "MiB")
    return found


def picture(rows: Sequence[dict[str, Any]], to: Path) -> None:
    """Draw seconds and MiB against parameters, both logarithmic."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = zip(figure.subplots(1, 2), ("CPU s", "MiB"), ("CPU seconds, one thread", "MiB besides"), strict=True)
    for axes, key, title in panels:
        for passes, colour in (("forward", "tab:blue"), ("forward and backward", "tab:orange")):
            good = [r for r in rows if r["passes"] == passes and key in r and r["threads"] == 1]
            line = [r for r in good if r["network"] == "chain"]
            axes.plot([r["parameters"] for r in line], [r[key] for r in line], "o-", color=colour, label=passes)
            for r in good:
                if r["network"] != "chain" and r["schedule"] == "sweep":
                    axes.plot(r["parameters"], r[key], "s", color=colour, markerfacecolor="white")
                    right = r["network"] != "ResNet-50"  # beside the upper mark, else beside the lower one
                    if right == (passes != "forward"):
                        place, offset = (r["parameters"], r[key]), (6 if right else -6, -4)
                        side = "left" if right else "right"
                        axes.annotate(r["network"], place, offset, textcoords="offset points", ha=side)
        ends = [min(r["parameters"] for r in rows), max(r["parameters"] for r in rows)]
        if key == "MiB":
            axes.plot(ends, [p * 4 / MiB for p in ends], ":", color="gray", label="the weights themselves")
        axes.set(xscale="log", yscale="log", xlabel="parameters", title=title)
        axes.legend()
    figure.savefig(to)


def failures(rows: Sequence[dict[str, Any]], found: dict[str, float]) -> list[str]:
    """What is slower, or takes more memory, than asked."""
    wrong = [f"{r['network']}: {r['state']} ({r.get('reason', '')})." for r in rows if "state" in r]
    resnet = [r for r in rows if r["network"] == "ResNet-50" and r["threads"] == 2 and "wall s" in r]
    if resnet and min(r["wall s"] for r in resnet) > SECONDS:
        wrong.append(f"ResNet-50: {min(r['wall s'] for r in resnet):.1f} s on two cores, asked {SECONDS:g}.")
    over = [r["MiB"] for r in rows if r["network"] == "ResNet-50" and r.get("MiB", 0) > MEBIBYTES]
    wrong += [f"ResNet-50: {mib:.0f} MiB besides the weights, asked {MEBIBYTES:g}." for mib in over]
    for key, steepest in (("CPU s", 1.1), ("MiB", 0.9)):
        wrong += [
            f"{k}: slope {v:.2f}, asked {steepest}." for k, v in found.items() if k.startswith(key) and v > steepest
        ]
    return wrong


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, fit, draw, report."""
    args = options("Time and memory of the operator metanet from 5 k to 400 M parameters.", argv)
    torch.set_num_threads(1)
    rows = []
    for backward in (False, True):
        for width in WIDTHS[:2] if args.quick else WIDTHS:
            rows.append(row("chain", lambda width=width: chain(width), "sweep", backward))
    if not args.quick:
        rows += [row("ResNet-50", resnet50, schedule, False, 2) for schedule in ("sweep", "parallel")]
        for name, make in LARGE.items():
            for schedule in ("sweep", "parallel"):
                rows += [row(name, make, schedule, backward) for backward in (False, True)]
    found = {} if args.quick else slopes(rows)
    print("slopes: " + ", ".join(f"{key} {value:.2f}" for key, value in found.items()))
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        picture([r for r in rows if "CPU s" in r], args.json.with_suffix(".svg"))
    shown = [r for r in rows if "CPU s" in r]
    return report("Operator metanet, one net", shown, failures(rows, found), args.json, slopes=found)


if __name__ == "__main__":
    sys.exit(main())
