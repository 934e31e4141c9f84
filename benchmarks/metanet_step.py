"""Speed of metanets: forward and training step, against message passing on an edge list and against PyG's PNA.

python benchmarks/metanet_step.py [--device cuda] [--quick] [--json FILE]

Width 64, depth 4: the neurons of every metanet are updated four times. That is 4 rounds of those that update all
neurons at once, and 2 of sweeps, which pass every layer on their way to the output and again on their way back; one
sweep alone carries information further than four rounds of the others, so it is listed too. A step is forward, mean
squared error, backward and fused AdamW. Edge lists are made before, and so is what a space is known by.

Times are the best of many, all metanets in turn, CPU seconds on one thread and wall seconds on two or on a GPU.
Operations are those of matrix products; bytes are what every kernel reads and writes, in cache or not; ``of floor`` is
the time of a step over that of its matrix products at the rate of a large one, measured in this run.
Exits with 1 if, on one thread, operator metanets of one and of two sweeps are not ten times as fast as the edge list,
or a step of two sweeps on 16 CNNs takes too long (full run on the CPU).
"""

from __future__ import annotations

import functools
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from common import parser, report
from isolated import isolated
from networks import inr, small_cnn
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from torch_geometric.data import Data
from torch_geometric.nn import PNAConv, global_mean_pool
from torch_geometric.utils import degree

import metanet
from metanet.graph import NeuronGraph
from metanet.models import EdgeStateMetanet, GaugeMetanet, OperatorMetanet
from metanet.models.edge_list import EdgeListMetanet, joined

NETWORKS = {"CNN, 4970 parameters": small_cnn, "INR 2-32-32-1": inr}
WIDTH, DEPTH = 64, 4
LIST = "edge list"
SPEEDUP, STEP = 10.0, 25.0  # of operator metanets against the edge list; milliseconds of 16 CNNs on one thread
Predict = Callable[[], Tensor]
aten = torch.ops.aten
NO_KERNELS = {aten._unsafe_view, aten.detach}  # views by another name


class PNA(nn.Module):
    """PyG's ``PNAConv`` on the neuron graph, edges both ways, as NG-GNN has it: the stock of the shelf."""

    def __init__(self, edges: Data) -> None:
        super().__init__()
        index = edges.edge_index
        self.index = torch.cat([index, index.flip(0)], 1)
        counts = torch.bincount(degree(self.index[1], edges.num_nodes, torch.long))
        self.node = nn.Linear(edges.x.shape[1] + 2, WIDTH)
        self.edge = nn.Linear(edges.edge_attr.shape[1] + 2, 32)
        kinds = ["mean", "std", "max", "min"], ["identity", "amplification", "attenuation"]
        self.layers = nn.ModuleList(PNAConv(WIDTH, WIDTH, *kinds, deg=counts, edge_dim=32) for _ in range(DEPTH))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(DEPTH))
        self.head = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, 1))

    def forward(self, edges: Data) -> Tensor:
        """One number a net, ``[B, 1]``."""
        x = self.node(torch.cat([edges.x, edges.depth[:, None], edges.position[:, None]], 1))
        ways = torch.arange(2, device=edges.x.device).repeat_interleave(len(edges.edge_attr))[:, None]
        states = torch.cat([edges.edge_attr, edges.edge_depth[:, None]], 1).repeat(2, 1)
        states = self.edge(torch.cat([states, ways], 1))
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + torch.relu(layer(norm(x), self.index, states))
        return self.head(global_mean_pool(x, edges.batch))


def graph_of(make: Callable[[], tuple[nn.Module, Tensor]], nets: int, device: str = "cpu") -> NeuronGraph:
    """Random nets of a network."""
    space = metanet.trace(*make())
    generator = torch.Generator().manual_seed(0)
    tensors = {n: 0.1 * torch.randn(nets, *s, generator=generator) for n, s in space.shapes.items()}
    return NeuronGraph(space, {n: t.to(device) for n, t in tensors.items()})


def contestants(graph: NeuronGraph) -> dict[str, tuple[nn.Module, Predict]]:
    """Every metanet, with the function that predicts."""
    torch.manual_seed(0)
    device = next(iter(graph.tensors.values())).device
    edges = joined(graph).to(str(device))
    made: dict[str, nn.Module] = {
        "operator, 2 sweeps": OperatorMetanet(WIDTH, rounds=DEPTH // 2),
        "operator, 1 sweep": OperatorMetanet(WIDTH, rounds=1),
        "operator, 4 parallel rounds": OperatorMetanet(WIDTH, rounds=DEPTH, schedule="parallel"),
        "gauge, 2 sweeps": GaugeMetanet(WIDTH, rounds=DEPTH // 2),
        "edge state, dense": EdgeStateMetanet(WIDTH, rounds=DEPTH),
        LIST: EdgeListMetanet(EdgeStateMetanet(WIDTH, rounds=DEPTH)),
        "PyG PNA": PNA(edges),
    }
    inputs: dict[str, tuple[Any, ...]] = {LIST: (graph, edges), "PyG PNA": (edges,)}
    return {name: (m.to(device), functools.partial(m, *inputs.get(name, (graph,)))) for name, m in made.items()}


def stepper(module: nn.Module, predict: Predict, nets: int) -> Callable[[], None]:
    """A function that trains for one step."""
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)
    target = torch.zeros(nets, device=next(module.parameters()).device)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.mse_loss(predict()[:, 0], target).backward()
        optimizer.step()

    return step


def quietly(predict: Predict) -> Callable[[], None]:
    """The function without gradients."""

    def forward() -> None:
        with torch.no_grad():
            predict()

    return forward


def best(runs: dict[str, Callable[[], None]], repetitions: int, clock: Callable[[], float]) -> dict[str, float]:
    """Milliseconds of the fastest of several runs of each, all in turn."""
    found = dict.fromkeys(runs, float("inf"))
    for _ in range(repetitions):
        for name, run in runs.items():
            start = clock()
            run()
            found[name] = min(found[name], 1e3 * (clock() - start))
    return found


def finished() -> float:
    """Wall seconds, when the GPU has done what it was asked for."""
    torch.cuda.synchronize()
    return time.perf_counter()


def in_place(_: Any, a: Sequence[int], b: Sequence[int], **more: Any) -> int:
    """Operations of a product that is added to a tensor in place, which torch's counter leaves out."""
    return 2 * math.prod(a) * b[-1]


class Kernels(TorchDispatchMode):
    """Counts kernels, and the bytes that they read and write; views are none."""

    def __init__(self) -> None:
        super().__init__()
        self.count = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run and count one operation."""
        out = func(*args, **(kwargs or {}))
        results = [t for t in (out if isinstance(out, tuple | list) else [out]) if isinstance(t, Tensor)]
        given = [t for a in args for t in (a if isinstance(a, tuple | list) else [a]) if isinstance(t, Tensor)]
        if not func.is_view and func.overloadpacket not in NO_KERNELS:
            self.count += 1
            self.bytes += sum(t.numel() * t.element_size() for t in (*given, *results))
        return out


def counted(step: Callable[[], None]) -> dict[str, float]:
    """Operations, bytes and kernels of a step."""
    with FlopCounterMode(display=False, custom_mapping={aten.addmm_: in_place, aten.baddbmm_: in_place}) as flops:
        step()
    with Kernels() as kernels:
        step()
    return {"MFLOP": flops.get_total_flops() / 1e6, "MB": kernels.bytes / 1e6, "kernels": kernels.count}


def rate(clock: Callable[[], float], device: str = "cpu") -> float:
    """GFLOP/s of a large product, on the threads there are."""
    size = 1024 if device == "cpu" else 8192
    a, out = torch.randn(size, size, device=device), torch.empty(size, size, device=device)
    fastest = best({"": lambda: torch.mm(a, a, out=out)}, 12, clock)[""]
    return 2 * size**3 / fastest / 1e6


def measure(name: str, nets: int, threads: int, repetitions: int, device: str = "cpu") -> list[dict[str, Any]]:
    """Rows of one network, batch and number of threads."""
    torch.set_num_threads(threads)
    clock = finished if device != "cpu" else time.process_time if threads == 1 else time.perf_counter
    gflops, graph = rate(clock, device), graph_of(NETWORKS[name], nets, device)
    made = contestants(graph)
    steps = {key: stepper(*pair, nets) for key, pair in made.items()}
    forwards = {key: quietly(predict) for key, (_, predict) in made.items()}
    for run in (*steps.values(), *forwards.values()):
        run()
    forward, step = best(forwards, repetitions, clock), best(steps, repetitions, clock)
    rows = []
    for key in made:
        count = counted(steps[key])
        rows.append(
            {
                "nets": f"{nets} x {name}",
                **({"threads": threads} if device == "cpu" else {}),
                "metanet": key,
                "forward ms": forward[key],
                "step ms": step[key],
                "x forward": forward[LIST] / forward[key],
                "x step": step[LIST] / step[key],
                **count,
                "of floor": step[key] / (count["MFLOP"] / gflops),
                "GFLOP/s": gflops,
            }
        )
    return rows


def variant(kind: str, nets: int, repetitions: int, device: str = "cpu") -> dict[str, Any]:
    """The operator metanet on CNNs and one thread, beside itself compiled, or in bfloat16."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    graph, pair = graph_of(small_cnn, nets, device), []
    for changed in (False, True):
        torch.manual_seed(0)
        module = OperatorMetanet(WIDTH, rounds=DEPTH // 2).to(device)
        mine = graph
        if changed and kind == "compiled":
            for part in (module.nodes, module.pool, module.head):  # rounds are functions of their own
                part.compile(dynamic=False)
        elif changed and kind == "bfloat16":
            module, mine = module.bfloat16(), graph.to(torch.bfloat16)

        def predict(module: nn.Module = module, mine: NeuronGraph = mine, auto: bool = changed) -> Tensor:
            with torch.autocast(device, torch.bfloat16, enabled=auto and kind == "autocast"):
                return module(mine).float()

        pair.append((module, predict))
    begin = time.perf_counter()
    runs = {"plain": pair[0], "changed": pair[1]}
    steps = {key: stepper(*made, nets) for key, made in runs.items()}
    forwards = {key: quietly(predict) for key, (_, predict) in runs.items()}
    for run in (*steps.values(), *forwards.values()):
        run()
    first = time.perf_counter() - begin
    clock = time.perf_counter if device == "cpu" else finished  # CPU time is coarse where it is limited
    forward, step = (best(r, repetitions, clock) for r in (forwards, steps))
    error = float((pair[0][1]() - pair[1][1]()).abs().max())
    return {
        "nets": nets,
        "forward ms": forward["changed"],
        "step ms": step["changed"],
        "x plain forward": forward["plain"] / forward["changed"],
        "x plain step": step["plain"] / step["changed"],
        "seconds before the first": first,
        "difference": error,
    }


def attempted(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What it returns, or why it failed."""
    try:
        return run()
    except Exception as error:
        return {"state": "refused", "reason": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"[:300]}


def variants(repetitions: int, device: str) -> list[dict[str, Any]]:
    """On the CPU each in a process of its own, which has a limit: compiling takes minutes on a busy machine."""
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    torch.set_num_threads(1)
    found = []
    for kind, nets in ((k, n) for n in (16, 128) for k in ("compiled", "bfloat16", "autocast")):
        run = functools.partial(variant, kind, nets, repetitions, device)
        found.append({"variant": kind, **(isolated(run, 240) if device == "cpu" else attempted(run))})
        print(found[-1], flush=True)
    return found


def failures(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Where operator metanets are slower than asked."""
    wrong = []
    for row in (r for r in rows if r["threads"] == 1):
        for what in ("forward", "step") if "sweep" in row["metanet"] and row["metanet"].startswith("operator") else ():
            if row[f"x {what}"] < SPEEDUP:
                times = f"{what} {row[f'x {what}']:.1f} times as fast, asked {SPEEDUP:g}"
                wrong.append(f"{row['nets']}, {row['metanet']}: {times}.")
        if row["metanet"] == "operator, 2 sweeps" and row["nets"].startswith("16 x CNN") and row["step ms"] > STEP:
            wrong.append(f"{row['nets']}: a step takes {row['step ms']:.1f} ms, asked {STEP:g}.")
    return wrong


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, compare, report."""
    known = parser("Speed of metanets against an edge list and PyG.")
    known.add_argument("--device", default="cpu", help="cpu or cuda")
    args = known.parse_args(argv)
    device = args.device
    if device != "cpu" and not (device.startswith("cuda") and torch.cuda.is_available()):
        known.error(f"--device: got {device}; accepted: cpu, or cuda where torch finds a GPU")
    extra = [] if args.quick else variants(20, device)
    cases = [
        (n, nets, threads) for threads in ((1, 2) if device == "cpu" else (1,)) for n in NETWORKS for nets in (16, 128)
    ]
    rows: list[dict[str, Any]] = []
    for name, nets, threads in cases[:1] if args.quick else cases:
        rows += measure(name, 2 if args.quick else nets, threads, 1 if args.quick else 400 // nets, device)
    wrong = failures(rows) if device == "cpu" and not args.quick else []
    return report("Metanets, width 64, depth 4", rows, wrong, args.json, device, variants=extra)


if __name__ == "__main__":
    sys.exit(main())
